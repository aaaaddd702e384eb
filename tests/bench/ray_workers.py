"""Throughput of two Ray workers of one thread each, as a multiple of one's.

Starting, loading and waiting for the other's last picture are left out.

python -m tests.bench.ray_workers
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from robustsr import cluster, spread
from robustsr.batch import Output, Task
from robustsr.jobs import plan_jobs
from robustsr.models import load
from robustsr.plan import make_plan
from robustsr.settings import Smoothing, Target


def rate(folder, workers, model):
    """Pictures per second, from when each worker is through with its first two until one has nothing left to do."""
    network, smoothing = load(model, device="cpu"), Smoothing("median", 0.03, 6)
    requested = {"precision": "auto", "tile": None, "tile_pad": None}
    task = Task(network, smoothing, Target(), Output(), make_plan(network, smoothing), requested)
    with tempfile.TemporaryDirectory() as out, cluster.connected(cluster.HERE, processors=workers):
        jobs, _ = plan_jobs([str(folder)], out)
        times = []
        for result in spread.run(jobs, task, spread.Recipe.of(task, model, None, "cpu"), workers=workers):
            assert result.status == "done", result.error
            times.append(time.perf_counter())
    counted = times[2 * workers - 1 : len(times) - workers + 1]
    return (len(counted) - 1) / (counted[-1] - counted[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="psnr")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        for i in range(args.pictures):
            pixels = rng.integers(0, 256, (args.size, args.size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(place) / f"{i:03}.png")
        print(f"{args.model}, median of 6, {args.pictures} pictures of {args.size}x{args.size}; pictures per second")
        rates = []
        for number in range(args.runs):
            rates.append([rate(place, workers, args.model) for workers in (1, 2)])
            one, two = rates[-1]
            print(f"run {number + 1}: one worker {one:.2f}, two {two:.2f}, ratio {two / one:.2f}", flush=True)
        print(f"median ratio {statistics.median(two / one for one, two in rates):.2f}")


if __name__ == "__main__":
    main()
