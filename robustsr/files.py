"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from .types import RobustSRError

StrPath: TypeAlias = "str | os.PathLike[str]"


@contextmanager
def atomic(path: StrPath) -> Iterator[Path]:
    """Yield a new path beside ``path``; what was written there replaces ``path`` at the end, or nothing happens.

    RobustSRError: the operating system refuses (disk full, no such folder, no permission).
    """
    path = Path(path)
    part = path.parent / f".robustsr-{secrets.token_hex(4)}.part"
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"the disk that holds {path.parent} is full"
        raise RobustSRError(f"cannot write {path}: {reason}") from error
    finally:
        part.unlink(missing_ok=True)


def remove_stale(folder: StrPath, *, older_than: float = 3600) -> None:
    """Remove what killed runs left in a folder: temporary files that nobody wrote to for so many seconds."""
    for part in Path(folder).glob(".robustsr-*.part"):
        if time.time() - part.stat().st_mtime > older_than:
            part.unlink(missing_ok=True)
