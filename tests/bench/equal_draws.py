"""How few draws do as well as 21 independent ones: for pictures clean and noisy, and attacked in every way.

python -m tests.bench.equal_draws ../shared/data/dev/cid22 -m certsr --sigma 0.06

A scheme is equal where it is at most .1 dB and .005 LPIPS worse in every column, of which the last is the worst attack.
"""

import argparse
import tempfile
from pathlib import Path

from robustsr import losses
from robustsr.evaluate import run
from robustsr.pairs import Pictures
from robustsr.results import Results
from robustsr.settings import Smoothing
from robustsr.study import Study

REFERENCE = (21, "independent")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("-m", "--model", default="certsr")
    parser.add_argument("--sigma", type=float, default=0.06)
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 4, 6, 10, 20])
    parser.add_argument("--attack", default="pgd:eps=10/255,eot_iter=4")
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("-o", "--out", type=Path, help="keeps the records, so that more counts cost only themselves")
    args = parser.parse_args()
    schemes = [REFERENCE, *((n, "antithetic") for n in args.counts)]
    defences = {s: Smoothing("median", args.sigma, *s) for s in schemes}
    study = Study(
        Pictures(args.pictures, 4, crop=args.crop, limit=args.limit),
        (args.model,),
        ("clean", "noise:sigma=0.03", args.attack),
        tuple(defences.values()),
        on="base,eot,seed",
        lpips=losses.best_lpips(),
    )
    columns = [
        ("clean", "base"),
        ("noise:sigma=0.03", "base"),
        *((args.attack, v) for v in ("base", "eot", "seed", "worst")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        results = Results([at.record for at in run(study, args.out or Path(folder))], Path(folder))
    print(f"{args.model}, median, sigma {args.sigma:g}, {args.limit} times {args.crop} px: PSNR / LPIPS-{study.lpips}")
    print(f"{'':16s}" + "".join(f"{s.partition(':')[0] + ' ' + v:>15s}" for s, v in columns))
    rows = {}
    for scheme, defence in defences.items():
        rows[scheme] = [
            tuple(results.mean(m, args.model, defence, spec, variant) for m in ("psnr", "lpips"))
            for spec, variant in columns
        ]
        print(f"{scheme[0]:3d} {scheme[1]:12s}" + "".join(f"{p:8.2f} / {q:.3f}" for p, q in rows[scheme]), flush=True)
    equal = [
        s
        for s in schemes[1:]
        if all(p >= p21 - 0.1 and q <= q21 + 0.005 for (p, q), (p21, q21) in zip(rows[s], rows[REFERENCE], strict=True))
    ]
    fewest = f"{equal[0][0]} {equal[0][1]}" if equal else "none of these"
    print(f"equal to 21 independent draws in every column: {fewest}")


if __name__ == "__main__":
    main()
