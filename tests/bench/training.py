"""Seconds of a training step with fast convolutions, against the same step with torch's own, in pairs of one process.

python -m tests.bench.training FOLDER [-r certsr] [--set key=value ...]
"""

import argparse
import statistics
import time
from contextlib import ExitStack, contextmanager
from unittest import mock

from robustsr_training.loop import Session
from robustsr_training.recipe import Recipe

from robustsr import kernels, losses
from robustsr.engine import buffers_kept


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of HR pictures")
    parser.add_argument("-r", "--recipe", action="append", help="certsr, gan and psnr unless given")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--pairs", type=int, default=5)
    wanted = parser.parse_args()
    for name in wanted.recipe or ["certsr", "gan", "psnr"]:
        recipe = Recipe.load(name, ["precision=fp32", "compile=false", f"data.hr={wanted.folder}", *wanted.set])
        with buffers_kept():
            runs = (times(recipe, wanted.pairs, fast) for fast in (False, True))
            pairs = list(zip(*runs, strict=True))
        slow, quick = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name}: {slow:.2f} s a step with torch's convolutions, {quick:.2f} s with the fast ones: {ratio:.2f}x")


def times(recipe, count, fast):
    """Seconds of so many steps, each when it is asked for, after one that fills the caches."""
    with convolutions(fast):
        session = Session.begin(recipe, "cpu")
    for number, batch in enumerate(session.batches.stream(0, count + 1)):
        with convolutions(fast):
            start = time.perf_counter()
            session.step(*batch)
            seconds = time.perf_counter() - start
        session.state.step += 1
        if number:
            yield seconds


@contextmanager
def convolutions(fast):
    """Those of torch where they are not to be ``fast``, for VGG19 too, which is kept from run to run."""
    with ExitStack() as stack:
        if not fast:
            stack.enter_context(mock.patch.object(kernels, "available", return_value=False))
            stack.enter_context(mock.patch.object(losses, "accelerated", return_value=None))
        yield


if __name__ == "__main__":
    main()
