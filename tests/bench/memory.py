"""Resident memory over a batch of 500 pictures, and the peak of one 100-megapixel output.

python -m tests.bench.memory
"""

import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from robustsr.batch import Output, Task, run
from robustsr.jobs import plan_jobs
from robustsr.models import load
from robustsr.plan import make_plan
from robustsr.settings import Target

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # as `robustsr upscale` does


def resident():
    """Megabytes now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main():
    net = load("psnr", device="cpu")
    task = Task(net, None, Target(), Output(), make_plan(net, None))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        print("500 pictures of 24 to 64 pixels a side, all sizes mixed")
        folder = Path(place) / "in"
        folder.mkdir()
        for i in range(500):
            size = tuple(rng.integers(24, 65, 2))
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
        jobs, _ = plan_jobs([str(folder)], None)
        start, curve = time.perf_counter(), []
        for result in run(jobs, task):
            assert result.status == "done", result.error
            curve.append(resident())
        print(f"500 pictures in {time.perf_counter() - start:.0f} s; resident memory after each, MB:")
        print("  " + "  ".join(f"{i + 1}: {curve[i]:.0f}" for i in (0, 49, 99, 199, 299, 399, 499)))

        before = resident()
        Image.fromarray(rng.integers(0, 256, (2500, 2500, 3), dtype=np.uint8)).save(folder / "large.png")
        jobs, _ = plan_jobs([str(folder / "large.png")], place, suffix="_big")
        start = time.perf_counter()
        (result,) = run(jobs, task)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pixels = result.output_size[0] * result.output_size[1] / 1e6
        print(f"{pixels:.0f} megapixels out in {time.perf_counter() - start:.0f} s, ", end="")
        print(f"peak {peak:.0f} MB ({before:.0f} MB before)")


if __name__ == "__main__":
    main()
