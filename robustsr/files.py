"""Files that are written whole or not at all, or line by line."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from .types import RobustSRError

StrPath: TypeAlias = "str | os.PathLike[str]"
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0) if os.name == "nt" else ()  # s; virus scanners and indexers hold what is new


def part_of(name: str) -> str:
    """The name under which a file is written beside its place; short, for names may be as long as they can be."""
    return f".robustsr-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}.part"


def mark_of(path: StrPath) -> tuple[int, int] | None:
    """What tells a file or folder from all others of this machine; None: it is not there, or nothing does."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return (stat.st_dev, stat.st_ino) if stat.st_ino else None  # some network disks number nothing


def move(source: Path, target: Path) -> None:
    """Renames a file, over what is there; where others' programs hold one of the two, on Windows, it waits a little."""
    for pause in PAUSES:
        with suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(pause)
    return os.replace(source, target)


@contextmanager
def atomic(path: StrPath, *, make_folder: bool = False) -> Iterator[Path]:
    """Yield a new path beside ``path``; what was written there replaces ``path`` at the end, or nothing happens.

    RobustSRError: the operating system refuses (disk full, no such folder, no permission).
    """
    path = Path(path)
    part = path.parent / part_of(path.name)
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # of a run that was killed
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        move(part, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                with suppress(OSError):  # some network file systems have no such thing
                    os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"the disk that holds {path.parent} is full"
        raise RobustSRError(f"cannot write {path}: {reason}") from error
    finally:
        with suppress(OSError):  # the folder may be no folder
            part.unlink(missing_ok=True)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder whose files move to ``folder`` at the end, or are gone. RobustSRError: the disk refuses."""
    there = folder.parent.is_dir()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".robustsr-", dir=folder.parent) as name:
            yield Path(name)
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(name).iterdir()):
                move(path, folder / path.name)
    except OSError as error:
        raise RobustSRError(f"cannot write into {folder}: {error.strerror or error}") from error
    finally:
        if not there:
            with suppress(OSError):  # it is not empty: the usual end
                folder.parent.rmdir()


def append_line(path: Path, line: str) -> None:
    """Adds a line of ASCII to a file, which is made; after one that a kill cut short it begins anew.

    RobustSRError: the operating system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line.encode("ascii") + b"\n")
    except OSError as error:
        raise RobustSRError(f"cannot write {path}: {error.strerror}") from error


def strict_json(values: Any) -> str:  # noqa: ANN401
    """The text of a JSON file; what JSON cannot hold, such as the infinite PSNR of equal pictures, as strings."""
    return json.dumps(_strict(values), indent=1, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
