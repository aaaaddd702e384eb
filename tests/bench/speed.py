"""The speed table: every line is a ratio against something named, the median of pairs run in turns.

python -m tests.bench.speed [MODEL] [--device cuda]

Naive is what one writes with spandrel and torch alone: its modules as they load (float32, NCHW, eager), one pass after
the other, torch.median over the stack. It runs in a process of its own, as it would, and once more beside the engine,
whose settings of the allocator then help it, too.
"""

import argparse
import datetime
import multiprocessing
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from robustsr import attacks, certificate, craft, losses, objectives
from robustsr.certify import Claim
from robustsr.engine import auto_precision, buffers_kept, devices
from robustsr.models import load
from robustsr.plan import compose, make_plan
from robustsr.probes import photograph_like
from robustsr.settings import Smoothing

SIGMA, EPS, STEPS, DRAWS = 0.03, 10 / 255, 10, 9


def scenes(size, device):
    """The picture that is upscaled, and eight that are attacked."""
    eight = F.interpolate(photograph_like(128), size=64).expand(8, -1, -1, -1).contiguous()
    return photograph_like(size).to(device), eight.to(device)


def done(device):
    """Returns when the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


class Naive:
    """Does the same as the engine with spandrel and torch."""

    def __init__(self, name, size, device):
        module = load(name, device=device, precision="fp32").module  # spandrel's
        self.model = module.requires_grad_(True).to(memory_format=torch.contiguous_format)
        self.x, self.eight = scenes(size, device)

    def median(self, n):
        with torch.inference_mode():
            outputs = [self.model(self.x + SIGMA * torch.randn_like(self.x)) for _ in range(n)]
            return torch.median(torch.stack(outputs), 0).values if n > 1 else outputs[0]

    def adaptive(self):
        x = self.eight[:1]
        with torch.no_grad():
            hr = (self.model(x) + 0.05).clamp(0, 1)
        adv = x
        for _ in range(STEPS):
            adv = adv.detach().requires_grad_(True)
            outputs = torch.stack([self.model(adv + SIGMA * torch.randn_like(adv)) for _ in range(DRAWS)])
            (gradient,) = torch.autograd.grad(F.l1_loss(torch.median(outputs, 0).values, hr), adv)
            adv = (x + (adv.detach() + EPS / 4 * gradient.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
        return adv

    def pgd(self):
        x = self.eight
        with torch.no_grad():
            hr = (self.model(x) + 0.05).clamp(0, 1)
        adv = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(STEPS):
            adv.requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.l1_loss(self.model(adv), hr), adv)
            adv = adv.detach() + EPS / 4 * gradient.sign()
            adv = (x + (adv - x).clamp(-EPS, EPS)).clamp(0, 1)
        return adv


def serve(pipe, name, size, device):
    """What the naive process does: a method of `Naive` with its arguments, again and again."""
    naive = Naive(name, size, device)
    torch.backends.cudnn.conv.fp32_precision = "tf32"  # as torch starts, and robustsr does not leave it
    pipe.send(None)
    while word := pipe.recv():
        getattr(naive, word[0])(*word[1:])
        done(device)
        pipe.send(None)


def pairs(first, second, count):
    """The median of first's time over second's, and the medians of both, over ``count`` pairs after one to warm up."""
    times = []
    for number in range(count + 1):
        line = []
        for act in (first, second):
            start = time.perf_counter()
            act()
            line.append(time.perf_counter() - start)
        if number:
            times.append(line)
    return [statistics.median(v) for v in ([a / b for a, b in times], *zip(*times, strict=True))]


def peak(device):
    """The most memory that was in use so far, MB: of the GPU, or of this process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin at the parent's peak
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def growth(name, smoothing, device):
    """How much higher memory peaks, in MB, for 1024x1024 input pixels than for 512x512."""
    network, peaks = load(name, device=device), []
    for side in (512, 1024):
        picture, plan = photograph_like(side).to(device), make_plan(network, smoothing)
        with torch.inference_mode(), buffers_kept():
            compose(network, smoothing, plan, (side, side))(picture)
        peaks.append(peak(device))
    return peaks[1] - peaks[0]


def show(what, measured, goal=""):
    ratio, first, second = measured
    print(f"{what:64s} {first:7.2f} s {second:7.2f} s {ratio:7.2f}  {goal}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="certsr")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="LR pixels a side")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    network, count, device = load(args.model, device=args.device), args.pairs, args.device
    exact = network.with_precision("fp32")
    x, eight = scenes(args.size, device)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    context.Process(target=serve, args=(theirs, args.model, args.size, device), daemon=True).start()
    theirs.close()
    pipe.recv()

    def naive(*word):
        pipe.send(word)
        pipe.recv()

    beside = Naive(args.model, args.size, device)

    def naive_here(*word):
        getattr(beside, word[0])(*word[1:])
        done(device)

    def against(what, word, act, goal="", count=count):
        """The line of what naive and the engine both do, against naive in its own process and in this one."""
        measured = [pairs(lambda way=way: way(*word), act, count) for way in (naive, naive_here)]
        show(f"{what}: naive / engine", measured[0], goal)
        show(f"{what}: naive in this process / engine", measured[1], goal)
        return measured[0]

    def smoothed(smoothing):
        with torch.inference_mode(), buffers_kept():
            compose(network, smoothing, make_plan(network, smoothing), x.shape[-2:])(x)
            done(device)

    def bare(n, network=network):
        with torch.inference_mode(), buffers_kept():
            for _ in range(n):
                network(x)
            done(device)

    about = next(d.description for d in devices() if d.name.startswith(device))
    print(f"{datetime.date.today()}, {about}, {platform.machine()}, torch {torch.__version__}")
    print(f"{network.name}, {args.size}x{args.size} LR x{network.scale}: {network.precision}, {network.engine}")
    print(f"medians of {count} pairs\n{'':64s} {'first':>9s} {'second':>9s} {'ratio':>7s}  goal")
    one = against("one pass", ("median", 1), lambda: bare(1), count=2 * count + 1)
    if auto_precision(x.device) == "bf16" != network.precision:
        half = network.with_precision("bf16")
        show("one pass: engine in bfloat16 / engine", pairs(lambda: bare(1, half), lambda: bare(1), count))
    n21 = Smoothing("median", SIGMA, 21, "independent")
    against("median of 21", ("median", 21), lambda: smoothed(n21), "3.2")
    show("median of 21: engine / its 21 passes alone", pairs(lambda: smoothed(n21), lambda: bare(21), count), "1.05")
    own = Smoothing("median", SIGMA, network.entry.samples if network.entry else 20)
    against(f"21 against {own.samples} antithetic", ("median", 21), lambda: smoothed(own), "15 for 4 draws")

    with torch.no_grad():
        hr = (exact(eight) + 0.05).clamp(0, 1)
    objective = objectives.against(exact, hr, losses.l1)

    @buffers_kept()
    def attacked():
        attacks.pgd(eight, objective, EPS, STEPS)
        done(device)

    against("PGD-10, 8 pictures of 64x64, float32", ("pgd",), attacked, "1.4")

    up = craft.attackable(exact, eight.shape[-2:], Smoothing("median", SIGMA, DRAWS, "independent"))
    fresh = objectives.against(objectives.Fresh(up, DRAWS, 0), hr[:1], losses.l1)

    @buffers_kept()
    def adaptive():
        attacks.pgd(eight[:1], fresh, EPS, STEPS, start=0)
        done(device)

    against(f"PGD-10 through the median of {DRAWS} fresh draws, 64x64", ("adaptive",), adaptive)

    claim, small = Claim(0.06, SIGMA, n=1000, shipped=101), eight[:1]

    def passes():
        with torch.inference_mode(), buffers_kept():
            for _ in range((claim.n + claim.shipped) // 16):
                exact(small.expand(16, -1, -1, -1))
            done(device)

    certified = pairs(lambda: certificate.certify(small, exact, claim), passes, count)
    show("certificate, 64x64, n = 1,000 + 101: engine / its passes alone", certified, "1")

    work = 2 * args.size**2 * sum(p.numel() for p in beside.model.parameters() if p.ndim == 4) / 1e9
    rates = f"{work / one[1]:.0f} a second naive, {work / one[2]:.0f} by the engine"
    print(f"\none pass: {work:.0f} GFLOP by direct convolution, {rates}")
    with context.Pool(1) as pool:  # a process whose peak is no other line's
        grown = pool.apply(growth, (args.model, own, device))
    large = 3 * 4 * (network.scale * 1024) ** 2 / 2**20
    more = f"{grown:.0f} MB more; the result alone takes {large * 3 / 4:.0f} more"
    print(f"peak memory, 1024x1024 instead of 512x512: {more}")
    pipe.send(None)


if __name__ == "__main__":
    main()
