"""Which files become which: every output name is decided, and every clash found, before a model loads."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from .images import FORMATS, OUTPUT_FORMATS
from .manifest import NAME, Manifest
from .remote import Place, Url, below, place
from .types import RobustSRError

LONGEST_NAME = 255  # bytes, on every common file system


@dataclass(frozen=True)
class Job:
    """One picture to make: ``target`` from ``source``; ``root`` is the output folder that keeps the manifest."""

    source: Place
    target: Place
    root: Place


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
        raise RobustSRError(f"cannot write {format!r}; formats: {', '.join(OUTPUT_FORMATS)}")
    if suffix and (bad := set(suffix) & set("/\\:\0")):
        raise RobustSRError(f"--suffix {suffix!r} cannot be a part of a name: leave out {' '.join(sorted(bad))}")
    warnings: list[str] = []
    single = _single_file(inputs, out, format)
    if single is not None:
        return [single], warnings
    paths = [p for text in inputs for p in _expand(text)]
    given = place(out) if out else None
    like_a_file = given is not None and (given.exists() or given.suffix.lower()[1:] in OUTPUT_FORMATS)
    if given is not None and like_a_file and not given.is_dir():
        raise RobustSRError(f"{out} names one file, but there may be several results: give a folder")
    folders = [p for p in paths if p.is_dir()]
    jobs: list[Job] = []
    earlier = 0
    manifest = cache(Manifest.read)
    for path in paths:
        if len(paths) > 1 and path.name in manifest(path.parent).ours:
            earlier += 1  # a pattern that matches inputs matches yesterday's results too
        elif path.is_dir():
            named = path if path.name not in ("", "..") else path.resolve()
            root = given or named.parent / f"{named.name}_upscaled"
            if given and len(folders) > 1:
                root = root / path.resolve().name
            for source in _pictures(path, root, recursive, warnings):
                folder = root / below(source.parent, path)
                extra = f"_{label}" if suffix is None and _same(folder, source.parent) else suffix or ""
                jobs.append(Job(source, folder / _name(source, extra, format), given or root))
        else:
            root = given or path.parent
            beside = suffix is None and _same(root, path.parent)
            jobs.append(Job(path, root / _name(path, f"_{label}" if beside else suffix or "", format), root))
    if earlier:
        warnings.append(f"{_count(earlier, 'earlier result')} of robustsr left out")
    jobs = list({(job.source.resolve(), job.target): job for job in jobs}.values())
    return _tell_apart(jobs, warnings), warnings


def _single_file(inputs: Sequence[str], out: str | None, format: str | None) -> Job | None:
    """One file to one named file, if that is what is asked."""
    if out is None or len(inputs) != 1:
        return None
    source, target = place(inputs[0]), place(out)
    if target.is_dir() or not source.is_file():
        return None
    ending = target.suffix.lower().lstrip(".")
    if not ending:
        return None
    if ending not in OUTPUT_FORMATS:
        raise RobustSRError(f"cannot write {out!r}: formats are {', '.join(OUTPUT_FORMATS)}; a folder has no ending")
    if format is not None and OUTPUT_FORMATS[ending] != OUTPUT_FORMATS[format.lower().lstrip(".")]:
        raise RobustSRError(f"-o {out} and -f {format} contradict each other")
    if _same(target, source):
        raise RobustSRError(f"{out} is the input itself: choose another output")
    return Job(source, target, target.parent)


def _expand(text: str) -> Sequence[Place]:
    """The places an argument names: itself, or the matches of a pattern (for shells that do not expand)."""
    path = place(text)
    if isinstance(path, Path):
        path = path.expanduser()
    if path.is_dir() or path.is_file():
        return [path]
    if path.exists():
        raise RobustSRError(f"{text} is neither a file nor a folder")
    matches: Sequence[Place]
    if isinstance(path, Url):
        matches = path.matches()
    elif path.is_symlink():
        raise RobustSRError(f"{text} is a link to {os.readlink(path)}, which is not there")
    else:
        matches = [Path(m) for m in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise RobustSRError(f"no file or folder {text!r}")
    pictures = [m for m in matches if m.is_dir() or (m.is_file() and m.suffix.lower().lstrip(".") in FORMATS)]
    if not pictures:
        raise RobustSRError(f"no pictures among the {len(matches)} files that {text!r} matches")
    return pictures


def _pictures(folder: Place, root: Place, recursive: bool, warnings: list[str]) -> list[Place]:
    """The picture files of a folder, sorted, without hidden ones, our own outputs and linked folders."""
    found: list[Place] = []
    made: set[Place] = set()  # by manifests from here up
    ours = deeper = 0
    others: Counter[str] = Counter()
    for here, files in _files(folder, root, recursive):
        if any(file.name == NAME for file in files):
            made.update(here / target for target in Manifest.read(here).ours)
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
            elif file in made:
                ours += 1
            elif file.is_file():  # not a pipe or a dead link
                found.append(file)
    if ours:
        warnings.append(f"{folder}: {_count(ours, 'earlier result')} of robustsr left out")
    if others:
        kinds = ", ".join(f"{n} {ending}" for ending, n in sorted(others.items()))
        warnings.append(f"{folder}: {_count(others.total(), 'file')} of other kinds left alone ({kinds})")
    if found and deeper:
        warnings.append(f"{folder}: {_count(deeper, 'picture')} in folders below left alone: -r takes them too")
    if not found and not ours:
        hint = f"; {deeper} in folders below: add -r" if deeper else f" (looked for {', '.join(FORMATS)})"
        raise RobustSRError(f"no pictures in {str(folder)!r}{hint}")
    return found


def _files(folder: Place, root: Place, recursive: bool) -> Iterator[tuple[Place, Sequence[Place]]]:
    """The files of a folder and of the folders below that are not hidden or ``root``, by folder, sorted.

    Not ``recursive``: of those just below only, and at a URL, where a listing costs time, of none.
    """
    if isinstance(folder, Url):
        inner = _within(root, folder) and not _same(root, folder)
        for url, urls in folder.tree(deep=recursive).items():
            hidden = any(name.startswith(".") and name != "." for name in below(url, folder).split("/"))
            if not hidden and not (inner and _within(url, root)):
                yield url, urls
        return
    for path, names, files in os.walk(folder):
        here = Path(path)
        names[:] = sorted(n for n in names if not n.startswith(".") and not _same(here / n, root))
        yield here, [here / name for name in sorted(files)]
        if not recursive and here != folder:
            names.clear()


def _name(source: Place, suffix: str, format: str | None) -> str:
    """The output's name: stem, suffix, ending; a stem too long for the file system is cut and marked."""
    ending = (format or source.suffix.lstrip(".")).lower().lstrip(".")
    if ending not in OUTPUT_FORMATS:
        ending = "png"
    elif format is None:
        ending = source.suffix.lstrip(".")  # as it was written
    return _fit(source.stem, f"{suffix}.{ending}")


def _fit(stem: str, tail: str) -> str:
    room = LONGEST_NAME - len(os.fsencode(tail))
    if len(os.fsencode(stem)) <= room:
        return stem + tail
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:6]
    return os.fsencode(stem)[: room - len(mark)].decode(errors="ignore") + mark + tail


def _tell_apart(jobs: list[Job], warnings: list[str]) -> list[Job]:
    """Gives inputs that would share an output their old ending as part of the name: a_png.webp, a_jpg.webp."""
    by_target: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_target[str(job.target).casefold()].append(job)  # some file systems do not tell A from a
    result: list[Job] = []
    taken: dict[str, Job] = {}
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        rivals = by_target[str(job.target).casefold()]
        if len(rivals) > 1:
            tail = f"_{job.source.suffix.lstrip('.').lower()}{job.target.suffix}"
            job = replace(job, target=job.target.with_name(_fit(job.target.stem, tail)))
        key = str(job.target).casefold()
        if job.target.resolve() in sources:
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
        example = next(j.target.name for j in result if j.target not in {o.target for o in jobs})
        warnings.append(f"{clashes} inputs would share a name, so their old endings are put into it, as in {example}")
    return result


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _same(a: Place, b: Place) -> bool:
    return a.resolve() == b.resolve()


def _within(a: Place, b: Place) -> bool:
    """Whether ``a`` is ``b`` or below it."""
    return f"{a.resolve()}/".startswith(f"{b.resolve()}".rstrip("/") + "/")
