"""A batch of jobs: the bounded pipeline of reading, upscaling and writing, one `Result` per job."""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from . import images
from .files import sha256
from .images import Info, Picture
from .jobs import Job, Result
from .manifest import Manifest, digest
from .models import Loaded
from .noise import ALGORITHM
from .pipeline import upscale_picture
from .plan import Plan, cost, refuse_too_large
from .remote import Place, State, Url, delivered, fetched, state
from .resume import announce, judged, opened, sort_out, taken
from .settings import Smoothing, Target
from .types import MAX_PIXELS, Cancelled, RobustSRError


@dataclass(frozen=True)
class Output:
    """How results are written; see `robustsr.images.write`. ``format`` None: the input's."""

    format: str | None = None
    quality: int | None = None
    lossless: bool = False
    background: str = "white"
    strip: bool = False
    max_pixels: int = MAX_PIXELS  # of an input, and of an output before any final resize


@dataclass(frozen=True)
class Task:
    """What is done to every picture of a batch. ``requested``: what was asked of precision, tiles and seed."""

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
            "target": vars(Target() if self.target.scale == self.network.scale else self.target),
            "output": {k: v for k, v in vars(self.output).items() if k != "max_pixels"},
            **self.requested,
        }


@dataclass(frozen=True)
class _Read:
    picture: Picture
    state: State
    digest: str


def examine(source: Path, target: Place, task: Task) -> tuple[Info, tuple[int, int]]:
    """The header of an input and the size of its result.

    RobustSRError: whatever can be known to fail before a pixel is read, too many pixels for one.
    """
    limit, native, output = task.output.max_pixels, task.network.scale, task.output
    info = images.inspect(source, max_pixels=limit)
    w, h = info.width, info.height
    try:
        refuse_too_large(task.target, w, h, native, limit)
    except RobustSRError as error:
        raise RobustSRError(f"{source}: {error}") from None
    size = task.target.size(w, h, native)
    path = Path(target.name) if isinstance(target, Url) else target
    images.check(path, *size, quality=output.quality, lossless=output.lossless, background=output.background)
    return info, size


def run(
    jobs: Sequence[Job],
    task: Task,
    *,
    overwrite: bool = False,
    on_window: Callable[[Job, int, int], None] | None = None,
) -> Iterator[Result]:
    """Carries out jobs, the next decoded and the last encoded beside the network, and yields a result for each:
    first those that need nothing or must not be done, then the others in order.

    Jobs whose output is there already, made from the same input with the same settings, are skipped; a file that
    robustsr did not make from that input is never replaced; unless ``overwrite``. A file that cannot be read,
    upscaled or written is a Result with an error; a full disk, and a folder in which another run is at work, raise
    RobustSRError. ``on_window(job, done, total)`` may raise to stop: the file in work is dropped, finished ones stay.
    The plan an output folder remembers for these settings on this device is used in place of the task's.
    """
    wanted = task.settings()
    name = digest(wanted)
    with ExitStack() as stack:
        manifests = stack.enter_context(opened(jobs))
        todo = yield from sort_out(jobs, manifests, name, overwrite)
        announce([job for job in todo if isinstance(job.root, Url)], manifests)
        reader = stack.enter_context(ThreadPoolExecutor(1, "read"))
        writer = stack.enter_context(ThreadPoolExecutor(1, "write"))
        upcoming = reader.submit(_read, todo[0], task) if todo else None
        writing: tuple[Job, Future[Result]] | None = None
        for job, following in zip_longest(todo, todo[1:]):
            assert upcoming is not None
            source = _settle(job, upcoming.result)
            upcoming = reader.submit(_read, following, task) if following else None
            manifest = manifests[job.root]
            large: tuple[Picture, float] | Result
            if isinstance(source, Result):
                large = source
            else:
                step = partial(_upscale, job, source, task, manifest, name, wanted, on_window)
                try:
                    large = _settle(job, step)
                except (KeyboardInterrupt, Cancelled):
                    if writing is not None:  # is finished all the same, and should be counted
                        yield _settle(writing[0], writing[1].result)
                    raise
            if writing is not None:
                yield _settle(writing[0], writing[1].result)
                writing = None
            if isinstance(large, Result):
                yield large
            elif isinstance(source, _Read):
                picture, seconds = large
                writing = job, writer.submit(_write, job, source, picture, seconds, task, manifest, name)
                # A quick write is reported at once; a slow one goes on beside the next picture.
                if wait([writing[1]], timeout=0.02 * seconds).done:
                    yield _settle(job, writing[1].result)
                    writing = None
                del picture
            del source, large  # not held while the next one is waited for
        if writing is not None:
            yield _settle(writing[0], writing[1].result)


def carry_out(job: Job, task: Task, manifest: Manifest) -> Result:
    """One job, all by itself: the same as among others in `run`."""
    wanted = task.settings()
    name = digest(wanted)
    source = _settle(job, partial(_read, job, task))
    if isinstance(source, Result):
        return source
    large = _settle(job, partial(_upscale, job, source, task, manifest, name, wanted, None))
    if isinstance(large, Result):
        return large
    return _settle(job, partial(_write, job, source, *large, task, manifest, name))


def _read(job: Job, task: Task) -> _Read:
    before = state(job.source)
    with fetched(job.source) as path:
        examine(path, job.target, task)
        sha = sha256(path)
        return _Read(images.read(path, max_pixels=task.output.max_pixels), before, sha)


def _upscale(
    job: Job,
    source: _Read,
    task: Task,
    manifest: Manifest,
    name: str,
    wanted: dict[str, Any],
    on_window: Callable[[Job, int, int], None] | None,
) -> tuple[Picture, float]:
    """The large picture and the seconds it took, by the plan that the folder remembers or begins to remember."""
    plan = _remembered(manifest.plans.get(name, {}), task.plan)
    manifest.use(name, asdict(plan), wanted)
    start = time.perf_counter()
    hook = None if on_window is None else lambda done, total: on_window(job, done, total)
    try:
        picture, used = upscale_picture(source.picture, task.network, task.smoothing, task.target, plan, hook)
    except RobustSRError as error:
        raise RobustSRError(f"{job.source}: {error}") from error
    if (used.tile, used.batch) != (plan.tile, plan.batch):  # memory ran out: the next picture need not try in vain
        manifest.use(name, asdict(replace(used, precision=plan.precision)), wanted)
    return picture, time.perf_counter() - start


def _remembered(record: dict[str, Any], plan: Plan) -> Plan:
    """The plan with the smaller windows that a folder's record has of it, after memory ran out; else itself."""
    tile, batch = record.get("tile"), record.get("batch")
    if type(tile) is not int or type(batch) is not int or not (0 < tile <= plan.tile and 0 < batch <= plan.batch):
        return plan
    smaller = replace(plan, tile=tile, batch=batch)
    return smaller if record == asdict(smaller) else plan


def _write(
    job: Job, source: _Read, picture: Picture, seconds: float, task: Task, manifest: Manifest, name: str
) -> Result:
    output = task.output
    with delivered(job.target) as path:
        manifest.begin(job.source, job.target)
        notes = images.write(
            picture,
            path,
            quality=output.quality,
            lossless=output.lossless,
            background=output.background,
            strip=output.strip,
        )
    manifest.wrote(job.source, source.state, source.digest, job.target, name)
    sizes = [(p.rgb.shape[1], p.rgb.shape[0]) for p in (source.picture, picture)]
    return Result(job, "done", seconds, sizes[0], sizes[1], (*picture.notes, *notes))


Value = TypeVar("Value")


def _settle(job: Job, step: Callable[[], Value]) -> Value | Result:
    """A step's value, or the Result of a job that failed; a full or read-only disk ends the whole run.

    Nothing that one file does may stop the others; what was not foreseen keeps its traceback.
    """
    try:
        return step()
    except Cancelled:
        raise
    except RobustSRError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return Result(job, "failed", error=str(error))
    except OSError as error:
        return Result(job, "failed", error=f"{job.source}: {error.strerror or error}")
    except Exception as error:
        what = f"{job.source}: {type(error).__name__}: {error}"
        return Result(job, "failed", error=what, trace="".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Forecast:
    """What a job will take: ``cost`` as in `plan.cost`; ``done``: nothing; ``error``: why it will fail.

    Of an input at a URL ``size`` is not known, and ``cost`` is its size in bytes.
    """

    job: Job
    info: Info | None = None
    size: tuple[int, int] | None = None
    cost: float = 0.0
    done: bool = False
    replaces: bool = False  # an earlier result: one made with other settings, or of an input that changed since
    damaged: bool = False  # an earlier result that is no longer whole, or that an interrupted run left
    error: str = ""


def estimate(jobs: Sequence[Job], task: Task, *, overwrite: bool = False) -> list[Forecast]:
    """What each job will take, from the headers alone; those of inputs at URLs are left to who upscales them."""
    name = digest(task.settings())
    manifests = {root: Manifest.read(root) for root in {job.root for job in jobs}}
    rows = []
    for job, made in judged(jobs, manifests, name, overwrite):
        if made is not None:
            rows.append(Forecast(job, done=made.status == "skipped", error=made.error))
            continue
        try:
            replaces = not overwrite and taken(job.target)
            manifest = manifests[job.root]
            damaged = replaces and (manifest.changed(job.target) or manifest.unfinished(job.target))
            if isinstance(job.source, Url):
                rows.append(Forecast(job, cost=float(state(job.source).size), replaces=replaces, damaged=damaged))
                continue
            info, size = examine(job.source, job.target, task)
            price = cost(task.network, task.smoothing, info.width, info.height, task.target, info.alpha)
            rows.append(Forecast(job, info, size, price, replaces=replaces, damaged=damaged))
        except RobustSRError as error:
            rows.append(Forecast(job, error=str(error)))
    return rows
