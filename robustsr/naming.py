"""What results are called: endings, names of a length that file systems take, and none that is another's."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from .catalogue import entry_of
from .files import mark_of
from .formats import FORMATS, OUTPUT_FORMATS
from .manifest import Manifest
from .remote import Place, Url
from .types import RobustSRError

LONGEST_NAME = 255  # bytes, on every common file system


@dataclass(frozen=True)
class Job:
    """One picture to make: ``target`` from ``source``; ``root`` is the output folder that keeps the manifest."""

    source: Place
    target: Place
    root: Place


def label(model: str, sizes: Mapping[str, float | None]) -> str:
    """What is put behind the name of a result beside its source: x4; upscaled, where the factor is not known before.

    ``sizes``: the fields of a `settings.Target`.
    """
    entry = entry_of(model)
    factor = sizes.get("scale") or (entry.scale if entry and not any(sizes.values()) else None)
    return f"x{factor:g}" if factor else "upscaled"


def name_of(source: Place, suffix: str, format: str | None) -> str:
    """The output's name: stem, suffix, ending."""
    ending = (format or source.suffix.lstrip(".")).lower().lstrip(".")
    if ending not in OUTPUT_FORMATS:
        ending = "jpg" if FORMATS.get(ending) in ("JPEG", "HEIC") else "png"
    elif format is None:
        ending = source.suffix.lstrip(".")  # as it was written
    return fitted(source.stem, f"{suffix}.{ending}")


def fitted(stem: str, tail: str) -> str:
    """Both as a name; a stem too long for the file system is cut and marked."""
    room = LONGEST_NAME - len(os.fsencode(tail))
    if len(os.fsencode(stem)) <= room:
        return stem + tail
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:6]
    return os.fsencode(stem)[: room - len(mark)].decode(errors="ignore") + mark + tail


def tails(folders: list[Place]) -> dict[Place, str]:
    """What the results' folder of each input folder is called: its name, where others share it with as much of what is
    above as tells them apart.
    """
    parts = {folder: [p.strip(":") for p in re.split(r"[/\\\\]+", str(folder)) if p.strip(":")] for folder in folders}
    found = {folder: folder.name for folder in folders}
    for count in range(2, max(map(len, parts.values()), default=0) + 1):
        shared = Counter(found.values())
        for folder, tail in found.items():
            if shared[tail] > 1:
                found[folder] = "/".join(parts[folder][-count:])
    return found


def _key(target: Place) -> str:
    """A key that is equal for targets which a file system that takes A for a could confuse.

    Names always fold, for results may be copied to such a system; folders only where theirs is one.
    """
    folder = target.parent
    return f"{str(folder).casefold() if _folds(folder) else folder}/{target.name.casefold()}"


@lru_cache(4096)
def _folds(folder: Place) -> bool:
    """Whether the file system of a folder, which need not be there yet, may take A for a."""
    if isinstance(folder, Url):
        return False
    for here in (folder.absolute(), *folder.absolute().parents):
        if here.name.swapcase() != here.name and os.path.exists(here):
            other = here.with_name(here.name.swapcase())
            return os.path.exists(other) and os.path.samefile(here, other)
    return True


def tell_apart(jobs: list[Job], manifest: Callable[[Place], Manifest], warnings: list[str]) -> list[Job]:
    """Gives inputs that would share an output their old ending as part of the name: a_png.webp, a_jpg.webp.

    But one that has been made under the plain name keeps it.
    """
    by_target: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_target[_key(job.target)].append(job)
    result: list[Job] = []
    taken: dict[str, Job] = {}
    sources = {job.source.resolve() for job in jobs}
    marks = {mark_of(job.source) for job in jobs if isinstance(job.source, Path)} - {None}
    for job in jobs:
        rivals = by_target[_key(job.target)]
        if len(rivals) > 1 and not manifest(job.root).made(job.source, job.target):
            tail = f"_{job.source.suffix.lstrip('.').lower()}{job.target.suffix}"
            job = replace(job, target=job.target.with_name(fitted(job.target.stem, tail)))
            other = taken.get(_key(job.target))
            if other and other.source.name != job.source.name:  # a.JPG beside a.jpg
                mark = "~" + hashlib.sha256(os.fsencode(job.source.name)).hexdigest()[:6]
                job = replace(job, target=job.target.with_name(fitted(job.target.stem, mark + job.target.suffix)))
        key = _key(job.target)
        if job.target.resolve() in sources or (isinstance(job.target, Path) and mark_of(job.target) in marks):
            raise RobustSRError(f"{job.target} would overwrite an input: choose another -o, or a --suffix")
        if key in taken:
            raise RobustSRError(
                f"{job.source} and {taken[key].source} would both become {job.target}: "
                "rename one, or give each a folder of its own"
            )
        taken[key] = job
        result.append(job)
    clashes = sum(len(r) for r in by_target.values() if len(r) > 1)
    if clashes:
        plain = {job.target for job in jobs}
        example = next(job.target.name for job in result if job.target not in plain)
        warnings.append(f"{clashes} inputs would share a name, so their old endings are put into it, as in {example}")
    return result
