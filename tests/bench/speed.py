"""The speed table: every line is a ratio against something named, the median of pairs run in turns in this process.

python -m tests.bench.speed [MODEL]

Naive is what one writes with spandrel and torch alone: its model as it loads (float32, NCHW, eager), one pass after the
other, torch.median over the stack.
"""

import argparse
import datetime
import platform
import resource
import statistics
import time

import spandrel
import torch
import torch.nn.functional as F

from robustsr import attacks, certificate, kernels, losses
from robustsr.catalogue import find
from robustsr.certify import Claim
from robustsr.engine import buffers_kept, devices
from robustsr.models import load, photograph_like
from robustsr.plan import Smoothing, compose, make_plan
from robustsr.torchvision_schema import import_torchvision

SIGMA, EPS = 0.03, 10 / 255


def pairs(first, second, count):
    """The median of first's time over second's, and the medians of both, over ``count`` pairs after one to warm up."""
    times = []
    for number in range(count + 1):
        row = []
        for act in (first, second):
            start = time.perf_counter()
            act()
            row.append(time.perf_counter() - start)
        if number:
            times.append(row)
    return [statistics.median(v) for v in ([a / b for a, b in times], *zip(*times, strict=True))]


def row(what, ratio, a, b, goal):
    print(f"{what:66s} {a:8.2f} s {b:8.2f} s {ratio:7.2f}   {goal}", flush=True)


def naive_median(model, x, n):
    return torch.median(torch.stack([model(x + SIGMA * torch.randn_like(x)) for _ in range(n)]), 0).values


def naive_pgd(model, x, hr, steps=10):
    adv = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        adv.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.l1_loss(model(adv), hr), adv)
        adv = adv.detach() + EPS / 4 * gradient.sign()
        adv = (x + (adv - x).clamp(-EPS, EPS)).clamp(0, 1)
    return adv


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="certsr")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="LR pixels a side")
    args = parser.parse_args()
    import_torchvision()
    model = spandrel.ModelLoader("cpu").load_from_file(find(args.model)[0]).model.eval()
    network = load(args.model, device="cpu")
    exact = network.with_precision("fp32")
    x = photograph_like(args.size)
    count = args.pairs

    def through(smoothing):
        with torch.inference_mode(), buffers_kept():
            return compose(network, smoothing, make_plan(network, smoothing), x.shape[-2:])(x)

    def bare(n):
        with torch.inference_mode(), buffers_kept():
            for _ in range(n):
                network(x)

    def naive(n):
        with torch.inference_mode():
            return naive_median(model, x, n) if n > 1 else model(x)

    print(f"{datetime.date.today()}, {devices()[-1].description}, {platform.machine()}, torch {torch.__version__}")
    compiler = "" if kernels.available() else ", no C compiler"
    print(
        f"{network.name}, {args.size}x{args.size} LR x{network.scale}, {network.precision}, {network.engine}{compiler}"
    )
    print(f"medians of {count} pairs\n{'':66s} {'first':>10s} {'second':>10s} {'ratio':>7s}   goal")
    work = 2 * args.size**2 * sum(p.numel() for p in model.parameters() if p.ndim == 4) / 1e9
    one = pairs(lambda: naive(1), lambda: bare(1), 2 * count + 1)
    row("one pass: naive / engine", *one, "")
    n21 = Smoothing("median", SIGMA, 21, "independent")
    row("median of 21: naive / engine, the same 21", *pairs(lambda: naive(21), lambda: through(n21), count), "3.2")
    overhead = pairs(lambda: through(n21), lambda: bare(21), count)
    row("median of 21 / its 21 bare passes", *overhead, "1.05")
    entry = network.entry
    own = Smoothing("median", SIGMA, entry.samples if entry else 20)
    how = f"naive 21 / engine, {own.samples} antithetic draws, the model's own"
    row(how, *pairs(lambda: naive(21), lambda: through(own), count), "15" if own.samples == 4 else "")

    eight = F.interpolate(photograph_like(128), size=64).expand(8, -1, -1, -1).contiguous()
    with torch.no_grad():
        hr = (model(eight) + 0.05).clamp(0, 1)
    objective = attacks.against(exact, hr, losses.l1)

    def ours():
        with buffers_kept():
            attacks.pgd(eight, objective, EPS)

    row(
        "PGD-10 on 8 pictures of 64x64: naive / engine, float32",
        *pairs(lambda: naive_pgd(model, eight, hr), ours, count),
        "1.4",
    )

    claim = Claim(0.06, SIGMA, n=1000, shipped=101)
    small = eight[:1]

    def passes():
        with torch.inference_mode(), buffers_kept():
            for _ in range(1101 // 16 + 1):
                exact(small.expand(16, -1, -1, -1))

    certified = pairs(lambda: certificate.certify(small, exact, claim), passes, max(1, count // 2))
    row("certificate of 64x64, n = 1,000 + 101 / its bare passes", *certified, "1")

    print(
        f"\none pass: {work:.0f} GFLOP of direct convolution, "
        f"{work / one[1]:.0f} a second naive, {work / one[2]:.0f} by the engine"
    )
    peaks = []
    for side in (512, 1024):
        picture = photograph_like(side)
        plan = make_plan(network, own)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with torch.inference_mode(), buffers_kept():
            compose(network, own, plan, (side, side))(picture)
        peaks.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    large = 3 * 4 * (network.scale * 1024) ** 2 / 2**20
    print(
        f"peak memory grew by {peaks[1]:.0f} MB from 512x512 to 1024x1024, "
        f"of which {large:.0f} MB are the picture itself"
    )


if __name__ == "__main__":
    main()
