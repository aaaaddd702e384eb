"""How close n draws come to the true smoothed picture: RMS error in 1/255 against 400 independent draws.

python -m tests.bench.draws assets/samples/landscape.png -m psnr --sigma 0.03
"""

import argparse

import torch

from robustsr.models import load
from robustsr.smoothing import Smoothed

from .quality import read


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture")
    parser.add_argument("-m", "--model", default="psnr")
    parser.add_argument("--sigma", type=float, default=0.03)
    args = parser.parse_args()
    net = load(args.model, device="cpu", precision="fp32")
    x = read(args.picture)[..., :96, :96]
    counts = (4, 6, 10, 20, 21)
    print(f"{args.model}, sigma {args.sigma:g}, {args.picture}: RMS error in 1/255 of n draws")
    print(f"{'':24s}" + "".join(f"{n:7d}" for n in counts))
    with torch.inference_mode():
        for reduce in ("median", "mean"):
            reference = Smoothed(net, args.sigma, 400, reduce, "independent", seed=12345)(x)
            for draws in ("independent", "antithetic"):
                errors = [
                    (Smoothed(net, args.sigma, n, reduce, draws)(x) - reference).square().mean().sqrt() * 255
                    for n in counts
                ]
                print(f"{reduce + ', ' + draws:24s}" + "".join(f"{e:7.2f}" for e in errors), flush=True)


if __name__ == "__main__":
    main()
