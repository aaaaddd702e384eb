"""A batch of jobs: resume, the bounded pipeline of reading, upscaling and writing, one `Result` per job."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal

from . import images
from .catalogue import sha256
from .images import Info, Picture
from .jobs import Job
from .manifest import Manifest, digest
from .models import Loaded
from .noise import ALGORITHM
from .pipeline import Plan, Smoothing, Target, cost, upscale_picture
from .types import RobustSRError


@dataclass(frozen=True)
class Output:
    """How results are written; see `robustsr.images.write`. ``format`` None: the input's."""

    format: str | None = None
    quality: int | None = None
    lossless: bool = False
    background: str = "white"
    strip: bool = False
    max_pixels: int = 400_000_000  # of an input, and of an output before any final resize


@dataclass(frozen=True)
class Result:
    """What became of a job; sizes are (width, height), ``seconds`` of network time."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Task:
    """What is done to every picture of a batch. ``requested``: what was asked of precision and tiles."""

    network: Loaded
    smoothing: Smoothing | None
    target: Target
    output: Output
    plan: Plan
    requested: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Everything asked for that decides a result, as plain values: recorded, and compared on resume."""
        return {
            "model": self.network.digest,
            "smoothing": vars(self.smoothing) | {"noise": ALGORITHM} if self.smoothing else None,
            "target": vars(self.target),
            "output": {k: v for k, v in vars(self.output).items() if k != "max_pixels"},
            **self.requested,
        }


@dataclass(frozen=True)
class _Read:
    picture: Picture
    stat: os.stat_result
    digest: str


def examine(job: Job, task: Task) -> tuple[Info, tuple[int, int]]:
    """The header of a job's input and the size of its result; RobustSRError if either has too many pixels."""
    limit, native = task.output.max_pixels, task.network.scale
    info = images.inspect(job.source, max_pixels=limit)
    factor = native ** task.target.passes(info.width, info.height, native)
    size = task.target.size(info.width, info.height, native)
    largest = max(info.width * info.height * factor**2, size[0] * size[1])
    if largest > limit:
        raise RobustSRError(
            f"{job.source}: {info.width}x{info.height} enlarged {factor} times has {largest:,} pixels, "
            f"over the limit of {limit:,}: raise --max-pixels if memory allows "
            f"(about {largest * 16 / 2**30:.0f} GB)"
        )
    return info, size


def run(
    jobs: Sequence[Job],
    task: Task,
    *,
    overwrite: bool = False,
    on_tile: Callable[[Job, int, int], None] | None = None,
) -> Iterator[Result]:
    """Carries out jobs, the next decoded and the last encoded beside the network, and yields a result for each:
    first those that need nothing, then the others in order.

    Jobs whose output is there already, made from the same input with the same settings, are skipped unless
    ``overwrite``. A file that cannot be read, upscaled or written is a Result with an error; a full disk raises
    RobustSRError, as every further file would fail alike. ``on_tile(job, done, total)`` may raise to stop: the
    file in work is dropped, finished ones stay. The plan an output folder remembers for these settings and this
    device is used in place of the task's.
    """
    plan, output = task.plan, task.output
    wanted = task.settings()
    name = digest(wanted)
    manifests = {root: Manifest.read(root) for root in {job.root for job in jobs}}
    waiting: list[tuple[Job, Result | Future[Result]]] = []  # at most one: what the writer is at
    todo = _unfinished(jobs, task, overwrite)
    left = set(todo)
    yield from (Result(job, "skipped") for job in jobs if job not in left)

    def read(job: Job) -> _Read:
        examine(job, task)
        stat, sha = job.source.stat(), sha256(job.source)
        return _Read(images.read(job.source, max_pixels=output.max_pixels), stat, sha)

    def write(job: Job, source: _Read, picture: Picture, seconds: float) -> Result:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        notes = images.write(
            picture,
            job.target,
            quality=output.quality,
            lossless=output.lossless,
            background=output.background,
            strip=output.strip,
        )
        manifests[job.root].wrote(job.source, source.stat, source.digest, job.target, name)
        sizes = [(p.rgb.shape[1], p.rgb.shape[0]) for p in (source.picture, picture)]
        return Result(job, "done", seconds, sizes[0], sizes[1], (*source.picture.notes, *notes))

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        upcoming = reader.submit(read, todo[0]) if todo else None
        for job, following in zip_longest(todo, todo[1:]):
            assert upcoming is not None
            source = _settle(job, upcoming)
            upcoming = reader.submit(read, following) if following else None
            made: Result | Future[Result]
            if isinstance(source, Result):
                made = source
            else:
                manifest = manifests[job.root]
                now = Plan(**manifest.plans.get(name, asdict(plan)))
                if (now.device, now.engine) != (plan.device, plan.engine):
                    now = plan
                manifest.use(name, asdict(now), wanted)
                done = _upscale(job, source, replace(task, plan=now), on_tile)
                if isinstance(done, Result):
                    made = done
                else:
                    picture, used, seconds = done
                    manifest.use(name, asdict(now) | {"tile": used.tile, "batch": used.batch}, wanted)
                    made = writer.submit(write, job, source, picture, seconds)
                    del picture
                del done
            del source
            yield from _drain(waiting)
            waiting.append((job, made))
        yield from _drain(waiting)


def _settle(job: Job, future: Future[Any]) -> Any:  # noqa: ANN401
    """A future's value, or the Result of a job that failed; a full or read-only disk ends the whole run."""
    try:
        return future.result()
    except RobustSRError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return Result(job, "failed", error=str(error))
    except OSError as error:
        return Result(job, "failed", error=f"{job.source}: {error.strerror or error}")


def _drain(waiting: list[tuple[Job, Result | Future[Result]]]) -> Iterator[Result]:
    while waiting:
        job, made = waiting.pop(0)
        yield made if isinstance(made, Result) else _settle(job, made)


def _upscale(
    job: Job, source: _Read, task: Task, on_tile: Callable[[Job, int, int], None] | None
) -> Result | tuple[Picture, Plan, float]:
    start = time.perf_counter()
    hook = None if on_tile is None else lambda done, total: on_tile(job, done, total)
    try:
        picture, used = upscale_picture(source.picture, task.network, task.smoothing, task.target, task.plan, hook)
    except RobustSRError as error:
        return Result(job, "failed", error=f"{job.source}: {error}")
    return picture, used, time.perf_counter() - start


def _unfinished(jobs: Sequence[Job], task: Task, overwrite: bool) -> list[Job]:
    """The jobs whose output is not there yet, or not from this input with these settings."""
    name = digest(task.settings())
    manifests = {root: Manifest.read(root) for root in {job.root for job in jobs}}

    def done(job: Job) -> bool:
        return job.source.is_file() and manifests[job.root].is_done(job.source, job.target, name)

    return [job for job in jobs if overwrite or not done(job)]


@dataclass(frozen=True)
class Forecast:
    """What a job will take: ``cost`` as in `pipeline.cost`; ``done``: nothing; ``error``: why it will fail."""

    job: Job
    info: Info | None = None
    size: tuple[int, int] | None = None
    cost: float = 0.0
    done: bool = False
    error: str = ""


def estimate(jobs: Sequence[Job], task: Task, *, overwrite: bool = False) -> list[Forecast]:
    """What each job will take, from the headers alone."""
    todo = set(_unfinished(jobs, task, overwrite))
    rows = []
    for job in jobs:
        if job not in todo:
            rows.append(Forecast(job, done=True))
            continue
        try:
            info, size = examine(job, task)
            price = cost(task.network, task.smoothing, info.width, info.height, task.target, info.alpha)
            rows.append(Forecast(job, info, size, price))
        except RobustSRError as error:
            rows.append(Forecast(job, error=str(error)))
    return rows
