"""Seconds of a training step with fast convolutions, against the same step with torch's own, in pairs of one process.

python -m tests.bench.training FOLDER [-r certsr] [--set key=value ...]
"""

import argparse
import statistics
import time
from unittest import mock

from robustsr_training.loop import Session
from robustsr_training.recipe import Recipe

from robustsr import kernels
from robustsr.engine import buffers_kept


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of HR pictures")
    parser.add_argument("-r", "--recipe", action="append", help="certsr, gan and psnr unless given")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--pairs", type=int, default=5)
    wanted = parser.parse_args()
    for name in wanted.recipe or ["certsr", "gan", "psnr"]:
        settings = ["precision=fp32", "compile=false", f"data.hr={wanted.folder}", *wanted.set]
        session = Session.begin(Recipe.load(name, settings), "cpu")
        patches = session.batches.stream(0, 2 * wanted.pairs + 2)

        def step():
            lr, hr = next(patches)
            start = time.perf_counter()
            session.step(lr, hr)
            session.state.step += 1
            return time.perf_counter() - start

        def plainly():
            with mock.patch.object(kernels, "available", return_value=False):
                return step()

        with buffers_kept():
            step(), plainly()
            pairs = [(plainly(), step()) for _ in range(wanted.pairs)]
        plain, fast = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name}: {plain:.2f} s a step with torch's convolutions, {fast:.2f} s with the fast ones: {ratio:.2f}x")


if __name__ == "__main__":
    main()
