"""How close n draws come to the true smoothed picture: RMS error in 1/255 against 400 independent draws.

python -m tests.bench.draws assets/samples/landscape.png -m psnr --sigma 0.03

Beside what ships (independent draws, antithetic pairs): draws stratified per value, pairs whose sizes are stratified
likewise, orthogonal pairs, Sobol points, and for the mean the first-order term as a control variate.
"""

import argparse
import math
import warnings

import numpy as np
import torch
from scipy.stats import qmc

from robustsr.models import load
from robustsr.smoothing import Smoothed, median

from .quality import read


def pairs(half):
    return torch.stack([half, -half], 1).flatten(0, 1)


def strata(n, shape, generator):
    """(n, *shape) uniforms, one in each of n equal parts of [0, 1], in an order of their own for every value."""
    order = torch.rand(n, *shape, generator=generator).argsort(0)
    return ((order + torch.rand(n, *shape, generator=generator)) / n).clamp(1e-6, 1 - 1e-6)


def stratified(n, shape, generator):
    return torch.special.ndtri(strata(n, shape, generator))


def stratified_pairs(n, shape, generator):
    sizes = torch.special.ndtri(0.5 + strata(n // 2, shape, generator) / 2)
    return pairs(sizes * (torch.rand(sizes.shape, generator=generator) < 0.5).float().mul(2).sub(1))


def orthogonal_pairs(n, shape, generator):
    normal = torch.randn(math.prod(shape), n // 2, generator=generator)
    return pairs((torch.linalg.qr(normal).Q * normal.norm(dim=0)).T.reshape(n // 2, *shape))


def sobol(n, shape, generator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants powers of 2, at which it is no better
        points = qmc.Sobol(math.prod(shape), seed=0).random(n)  # scrambled
    return torch.special.ndtri(torch.from_numpy(points.astype(np.float32)).clamp(1e-6, 1 - 1e-6)).view(n, *shape)


TRIED = {
    "stratified": stratified,
    "stratified pairs": stratified_pairs,
    "orthogonal pairs": orthogonal_pairs,
    "Sobol": sobol,
}


def gradients(net, x, sigma, noise):
    """The change of the output along each noise to first order, by a small step: of mean zero."""
    return [(net(x + 1e-3 * g) - net(x)) * (sigma / 1e-3) for g in noise]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("-m", "--model", default="psnr")
    parser.add_argument("--sigma", type=float, default=0.03)
    args = parser.parse_args()
    net = load(args.model, device="cpu", precision="fp32")
    x = read(args.picture)[..., :72, :72]
    counts = (4, 6, 10, 20)
    print(f"{args.model}, sigma {args.sigma:g}, {args.picture}: RMS error in 1/255 of n draws")
    print(f"{'':28s}" + "".join(f"{n:7d}" for n in counts))

    def show(name, results, reference):
        errors = [(result - reference).square().mean().sqrt() * 255 for result in results]
        print(f"{name:28s}" + "".join(f"{e:7.2f}" for e in errors), flush=True)

    with torch.inference_mode():
        for reduce in ("median", "mean"):
            reference = Smoothed(net, args.sigma, 400, reduce, "independent", seed=12345)(x)
            for draws in ("independent", "antithetic"):
                show(f"{reduce}, {draws}", [Smoothed(net, args.sigma, n, reduce, draws)(x) for n in counts], reference)
            how = median if reduce == "median" else lambda values: torch.stack(values).mean(0)
            for name, make in TRIED.items():
                noises = [make(n, x.shape[1:], torch.Generator().manual_seed(0)) for n in counts]
                results = [how([net(x + args.sigma * g) for g in noise]) for noise in noises]
                show(f"{reduce}, {name}", results, reference)
            if reduce == "mean":  # twice the passes
                noises = [torch.randn(n, *x.shape[1:], generator=torch.Generator().manual_seed(0)) for n in counts]
                results = [
                    how([net(x + args.sigma * g) - c for g, c in zip(z, gradients(net, x, args.sigma, z), strict=True)])
                    for z in noises
                ]
                show("mean, control variate", results, reference)


if __name__ == "__main__":
    main()
