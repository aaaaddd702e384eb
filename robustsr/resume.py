"""The records of output folders, opened and announced to, and what they say: which jobs are left to do."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from . import images
from .jobs import Job, Result
from .manifest import Manifest, locked
from .remote import Place, Url, fetched, looked_up
from .types import RobustSRError


@contextmanager
def opened(jobs: Sequence[Job]) -> Iterator[dict[Place, Manifest]]:
    """The manifests of the jobs' output folders, which are ours alone, on this machine, while the block lasts."""
    roots = sorted({job.root for job in jobs}, key=str)
    with ExitStack() as stack:
        for root in roots:
            stack.enter_context(locked(root))
        manifests = {root: Manifest.read(root) for root in roots}
        try:
            yield manifests
        finally:
            for manifest in manifests.values():
                manifest.flush()


def announce(jobs: Sequence[Job], manifests: dict[Place, Manifest]) -> None:
    """Records all that will be made before the first of it is, where later might be too late: a record at a URL is
    not written file by file, and a worker's comes when its file is there already."""
    for job in jobs:
        manifests[job.root].begin(job.source, job.target)
    for manifest in manifests.values():
        manifest.flush()


def sort_out(
    jobs: Sequence[Job], manifests: dict[Place, Manifest], settings: str, overwrite: bool
) -> Generator[Result, None, list[Job]]:
    """Yields the results of jobs that need nothing, or must not be done, and returns the others."""
    todo: list[Job] = []
    for job, before in judged(jobs, manifests, settings, overwrite):
        if before is None:
            todo.append(job)
        else:
            yield before
    return todo


def judged(
    jobs: Sequence[Job], manifests: dict[Place, Manifest], settings: str, overwrite: bool
) -> Iterator[tuple[Job, Result | None]]:
    """Each job, and its result if it needs nothing or must not be done."""
    if overwrite:
        yield from ((job, None) for job in jobs)
        return
    targets = looked_up([job.target for job in jobs])
    for job, target in zip(jobs, targets, strict=True):
        known = replace(job, target=target)
        yield known, _made_before(known, manifests[job.root], settings)


def _made_before(job: Job, manifest: Manifest, settings: str) -> Result | None:
    """The result of a job that needs nothing, or must not be done; None: it is to be done."""
    try:
        if not taken(job.target) or not job.source.is_file():
            return None
        if manifest.is_done(job.source, job.target, settings):
            return Result(job, "skipped")
        if not manifest.made(job.source, job.target):
            why = f"and was not made from {job.source}"
        elif manifest.changed(job.target) and _whole(job.target):
            why = "and is no longer as robustsr made it"
        else:
            return None
    except OSError as error:
        return Result(job, "failed", error=f"cannot read {job.source}: {error.strerror or error}")
    return Result(job, "failed", error=f"{job.target} is there, {why}: --overwrite replaces it")


def _whole(target: Place) -> bool:
    """Whether it is a picture, and not what a broken copy left of one."""
    try:
        with fetched(target) as path:
            images.read(path, max_pixels=1 << 40)
    except RobustSRError:
        return False
    return True


def taken(target: Place) -> bool:
    """Whether something has that name, a broken link too."""
    return target.exists() if isinstance(target, Url) else os.path.lexists(target)
