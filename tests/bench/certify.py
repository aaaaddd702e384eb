"""What a certificate costs: peak memory, time against the bare network passes, and the share of the histogram.

python -m tests.bench.certify [MODEL] [N] [SIDE]     the model "tiny" shows memory at n = 10,000 within minutes
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from robustsr import certificate
from robustsr.bounds import Histogram
from robustsr.certify import Claim
from robustsr.models import load


def tiny(folder):
    """A Compact of 4 features and 1 convolution: next to nothing but outputs."""
    from safetensors.torch import save_file

    from robustsr.torchvision_schema import import_torchvision

    import_torchvision()
    from spandrel.architectures.Compact import Compact

    path = Path(folder) / "tiny.safetensors"
    save_file(Compact(num_feat=4, num_conv=1, upscale=4).state_dict(), path)
    return path


def timed(owner, name, spent):
    """Replaces a function by itself with a stop watch."""
    inner = getattr(owner, name)

    def call(*arguments):
        start = time.perf_counter()
        result = inner(*arguments)
        spent[name] = spent.get(name, 0) + time.perf_counter() - start
        return result

    setattr(owner, name, call)


def main(model="tiny", n="10000", side="128"):
    n, side = int(n), int(side)
    with tempfile.TemporaryDirectory() as folder:
        network = load(tiny(folder) if model == "tiny" else model, device="cpu", precision="fp32")
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent = {}
    for owner, name in ((Histogram, "add"), (Histogram, "order_statistic"), (certificate, "gaussian")):
        timed(owner, name, spent)
    claim = Claim(0.06, 0.03, n=n, shipped=101)
    start, busy = time.perf_counter(), time.process_time()
    made = certificate.certify(x, network, claim)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    passes, batch = n + 101, max(4, certificate.PASS // side**2)
    start = time.process_time()  # of the processor: others may be at work on it
    with torch.inference_mode():
        done = 0
        while done < min(passes, 400):
            network(x.expand(batch, -1, -1, -1))
            done += batch
    bare = (time.process_time() - start) / done * passes
    print(f"{network.name}, {side}x{side} LR x{network.scale}, n = {n} + 101, windows of {made.window}")
    print(f"peak resident memory {peak:.0f} MB ({before:.0f} MB before), {seconds:.1f} s")
    print(f"{busy:.1f} s of processor time, {busy / bare:.2f} times the bare network passes ({bare:.1f} s)")
    print("shares: " + ", ".join(f"{name} {time_ / seconds:.1%}" for name, time_ in spent.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
