"""Which files become which, every name decided and every clash found before a model loads; what became of each."""

from __future__ import annotations

import errno
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from .formats import FORMATS, HEIC, OUTPUT_FORMATS
from .manifest import NAME, Manifest
from .naming import Job as Job
from .naming import name_of, tails, tell_apart
from .remote import Place, Url, below, place, same
from .types import RobustSRError, UsageError


@dataclass(frozen=True)
class Result:
    """What became of a job; sizes are (width, height), ``seconds`` of network time.

    ``error`` says why it failed; ``trace`` is the traceback where that was not foreseen, a bug to report.
    """

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    trace: str = ""


def plan_jobs(
    inputs: Sequence[str],
    out: str | None,
    *,
    recursive: bool = False,
    suffix: str | None = None,
    format: str | None = None,
    label: str = "x4",
) -> tuple[list[Job], list[str]]:
    """The jobs of a command line, and warnings: of paths and URLs. Nothing is read but folders, nothing is written.

    Without ``out`` a folder's results go to NAME_upscaled/ beside it and a file's to NAME_``label``.EXT. ``suffix``
    goes before the ending. Raises RobustSRError for what cannot be meant: nothing there, no pictures, two inputs
    for one output that no ending tells apart.
    """
    if format is not None and format.lower().lstrip(".") not in OUTPUT_FORMATS:
        raise UsageError(f"cannot write {format!r}; formats: {', '.join(OUTPUT_FORMATS)}")
    if suffix and (bad := set(suffix) & set("/\\:\0")):
        raise UsageError(f"--suffix {suffix!r} cannot be a part of a name: leave out {' '.join(sorted(bad))}")
    warnings: list[str] = []
    single = _single_file(inputs, out, format)
    if single is not None:
        return [single], warnings
    paths = [p for text in inputs for p in _expand(text)]
    given = _output(out) if out is not None else None
    ends = given is not None and given.suffix.lower()[1:] in OUTPUT_FORMATS and not _slashed(out)
    like_a_file = given is not None and (given.exists() or ends)
    if given is not None and like_a_file and not given.is_dir():
        raise RobustSRError(f"{out} names one file, but there may be several results: give a folder")
    folders = [p for p in paths if p.is_dir()]
    own = tails([folder.resolve() for folder in folders])
    jobs: list[Job] = []
    origins: dict[Job, Place] = {}  # of earlier results; those that lie where new ones go are out in any case
    manifest = cache(Manifest.read)
    for path in paths:
        if path.is_dir():
            named = path if path.name not in ("", "..") else path.resolve()
            root = given or named.parent / f"{named.name}_upscaled"
            root = root / own[path.resolve()] if given and len(folders) > 1 else root
            inside = _within(root, path)
            for source, origin in _pictures(path, root, recursive, warnings):
                folder = root / below(source.parent, path)
                extra = f"_{label}" if suffix is None and same(folder, source.parent) else suffix or ""
                jobs.append(Job(source, folder / name_of(source, extra, format), given or root))
                if origin is not None:
                    origins[jobs[-1]] = source.resolve() if inside else origin
        else:
            root = given or path.parent
            beside = suffix is None and same(root, path.parent)
            jobs.append(Job(path, root / name_of(path, f"_{label}" if beside else suffix or "", format), root))
            if len(paths) > 1 and (origin := manifest(path.parent).source_of(path)) is not None:
                # a pattern that matches inputs matches yesterday's results too
                origins[jobs[-1]] = path.resolve() if beside else origin
    among = {job.source.resolve() for job in jobs}
    earlier = {job for job, origin in origins.items() if origin in among}
    if earlier:
        count, first = _count(len(earlier), "earlier result"), min(str(job.source) for job in earlier)
        warnings.append(f"{count} left out (first: {first})")
    jobs = list({(job.source.resolve(), job.target): job for job in jobs if job not in earlier}.values())
    if not jobs:
        raise RobustSRError(f"{'; '.join(warnings)}, and there is nothing else: to upscale them give another -o")
    return tell_apart(jobs, manifest, warnings), warnings


def _single_file(inputs: Sequence[str], out: str | None, format: str | None) -> Job | None:
    """One file to one named file, if that is what is asked."""
    if out is None or len(inputs) != 1:
        return None
    source, target = _place(inputs[0]), _output(out)
    if target.is_dir() or not source.is_file():
        return None
    ending = target.suffix.lower().lstrip(".")
    if not ending or _slashed(out):
        return None
    if ending not in OUTPUT_FORMATS:
        known = ", ".join(OUTPUT_FORMATS)
        raise UsageError(f"cannot write {out!r}: formats are {known}; a folder of such a name needs a / at its end")
    if format is not None and OUTPUT_FORMATS[ending] != OUTPUT_FORMATS[format.lower().lstrip(".")]:
        raise UsageError(f"-o {out} and -f {format} contradict each other")
    if same(target, source):
        raise RobustSRError(f"{out} is the input itself: choose another output")
    return Job(source, target, target.parent)


def _slashed(out: str | None) -> bool:
    """Whether it can only mean a folder."""
    return out is not None and out.endswith(("/", os.sep))


def _place(text: str) -> Place:
    path = place(text)
    return path.expanduser() if isinstance(path, Path) else path


def _output(text: str) -> Place:
    if text in ("", "-"):
        raise UsageError(f"-o {text!r} is no file or folder: results go to files; for one named -, write ./-")
    return _place(text)


def _expand(text: str) -> Sequence[Place]:
    """The places an argument names: itself, or the matches of a pattern (for shells that do not expand)."""
    if not text:
        raise RobustSRError("an input is empty: is a variable not set? The current folder is .")
    path = _place(text)
    try:
        if path.is_dir() or path.is_file():
            return [path]
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise RobustSRError(f"cannot look at {text}: {error.strerror}") from None
    if path.exists():
        raise RobustSRError(f"{text} is neither a file nor a folder")
    matches: Sequence[Place]
    if isinstance(path, Url):
        matches = path.matches()
    elif path.is_symlink():
        raise RobustSRError(f"{text} is a link to {os.readlink(path)}, which is not there")
    else:
        there = next(p for p in (*path.parents, Path()) if p.is_dir())  # its name is no pattern, though it may look so
        pattern = os.path.join(glob.escape(str(there)), str(path.relative_to(there)))
        matches = [Path(m) for m in sorted(glob.glob(pattern, recursive=True))]
    if not matches:
        raise RobustSRError(f"no file or folder {text!r}")
    pictures = [m for m in matches if m.is_dir() or (m.is_file() and m.suffix.lower().lstrip(".") in FORMATS)]
    if not pictures:
        raise RobustSRError(f"no pictures among the {len(matches)} files that {text!r} matches")
    return pictures


def _pictures(folder: Place, root: Place, recursive: bool, warnings: list[str]) -> list[tuple[Place, Place | None]]:
    """The picture files of a folder, sorted, without hidden ones and linked folders; results of ours with origins."""
    found: list[tuple[Place, Place | None]] = []
    made: dict[Place, Place | None] = {}  # from what, by manifests from here up
    deeper = broken = 0
    others: Counter[str] = Counter()
    for here, files in _files(folder, root, recursive, warnings):
        if any(file.name == NAME for file in files):
            made |= Manifest.read(here).origins
        for file in files:
            ending = file.suffix.lower()
            if file.name.startswith("."):
                continue
            if ending.lstrip(".") not in FORMATS:
                if here == folder or recursive:
                    others[ending or "no ending"] += 1
                continue
            if here != folder and not recursive:
                deeper += 1
            elif file.is_file():
                found.append((file, made.get(file)))
            elif isinstance(file, Path) and file.is_symlink():  # the rest are pipes and the like
                broken += 1
    heic = "; `pip install pillow-heif` takes HEIC too" if {f".{ending}" for ending in HEIC} & others.keys() else ""
    if others:
        kinds = ", ".join(f"{n} {ending}" for ending, n in sorted(others.items()))
        warnings.append(f"{folder}: {_count(others.total(), 'file')} of other kinds left alone ({kinds}){heic}")
    if broken:
        warnings.append(f"{folder}: {_count(broken, 'broken link')} left alone")
    if found and deeper:
        warnings.append(f"{folder}: {_count(deeper, 'picture')} in folders below left alone: -r takes them too")
    if not found:
        hint = f"; {deeper} in folders below: add -r" if deeper else f" (looked for {', '.join(FORMATS)})"
        raise RobustSRError(f"no pictures in {str(folder)!r}{hint}{heic}")
    return found


def _files(folder: Place, root: Place, recursive: bool, warnings: list[str]) -> Iterator[tuple[Place, Sequence[Place]]]:
    """The files of a folder and of the folders below that are not hidden or ``root``, by folder, sorted.

    Not ``recursive``: of those just below only, and at a URL, where a listing costs time, of none.
    """
    if isinstance(folder, Url):
        inner = _within(root, folder) and not same(root, folder)
        for url, urls in folder.tree(deep=recursive).items():
            hidden = any(name.startswith(".") and name != "." for name in below(url, folder).split("/"))
            if not hidden and not (inner and _within(url, root)):
                yield url, urls
        return

    def refused(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise RobustSRError(f"cannot look into {folder}: {error.strerror}") from error
        warnings.append(f"cannot look into {error.filename}: {error.strerror}")

    for path, names, files in os.walk(folder, onerror=refused):
        here = Path(path)
        if not os.access(here, os.X_OK):  # its names can be read, but not what they stand for
            refused(PermissionError(errno.EACCES, os.strerror(errno.EACCES), path))
            names.clear()
            continue
        names[:] = sorted(n for n in names if not n.startswith(".") and not same(here / n, root))
        if recursive:
            linked = [n for n in names if (here / n).is_symlink()]
            warnings += [f"{here / n} is a link to a folder, which is not entered" for n in linked]
        yield here, [here / name for name in sorted(files)]
        if not recursive and here != folder:
            names.clear()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _within(a: Place, b: Place) -> bool:
    """Whether ``a`` is ``b`` or below it."""
    a, b = a.resolve(), b.resolve()
    if isinstance(a, Path) and isinstance(b, Path):
        return a.is_relative_to(b)
    return f"{a}/".startswith(f"{b}".rstrip("/") + "/")
