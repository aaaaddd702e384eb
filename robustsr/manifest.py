"""What an output folder remembers: which file was made from what, with which settings, under which plan.

``.robustsr.jsonl`` in the folder grows by one JSON line per event and is never rewritten; a line that a killed
run left half-written is passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from .catalogue import sha256
from .types import RobustSRError

NAME = ".robustsr.jsonl"
_DONE = {"target", "target_bytes", "source", "source_bytes", "source_mtime_ns", "source_sha256", "settings"}


@dataclass
class Manifest:
    """The record of one output folder, read once and appended to."""

    folder: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # by target, relative to the folder
    ours: dict[str, str] = field(default_factory=dict)  # target to source of all that was ever begun
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)  # by settings digest
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder; an empty one if it has none. RobustSRError: it cannot be read."""
        manifest = cls(folder)
        try:
            text = (folder / NAME).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return manifest
        except OSError as error:
            raise RobustSRError(f"cannot read {folder / NAME}: {error.strerror}") from error
        for line in text.split("\n"):
            try:
                event = json.loads(line)
                if event["event"] == "plan":
                    manifest.plans[event["settings"]] = dict(event["plan"])
                    continue
                manifest.ours[event["target"]] = event["source"]
                if event["event"] == "done" and event.keys() >= _DONE:
                    manifest.done[event["target"]] = event
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # half a line, or one of another version: the file it spoke of is simply redone
        return manifest

    def is_done(self, source: Path, target: Path, settings: str) -> bool:
        """Whether ``target`` is whole and was made from ``source`` as it is now with these settings."""
        event = self.done.get(self._key(target))
        if event is None or event["settings"] != settings or not target.is_file():
            return False
        now = source.stat()
        if target.stat().st_size != event["target_bytes"] or now.st_size != event["source_bytes"]:
            return False
        return bool(now.st_mtime_ns == event["source_mtime_ns"] or sha256(source) == event["source_sha256"])

    def made(self, source: Path, target: Path) -> bool:
        """Whether ``target`` is a result of ours from ``source``, whatever the settings and however it is now."""
        return self.ours.get(self._key(target)) == self._relative(source)

    def begin(self, source: Path, target: Path) -> None:
        """Records that ``target`` is about to appear: a kill between that and `wrote` leaves it known as ours."""
        event = {"event": "begin", "target": self._key(target), "source": self._relative(source)}
        if self.ours.get(event["target"]) != event["source"]:
            self._append(event)
            self.ours[event["target"]] = event["source"]

    def wrote(self, source: Path, stat: os.stat_result, digest: str, target: Path, settings: str) -> None:
        """Records a finished file; ``stat`` and ``digest`` are those of the source when it was read."""
        event: dict[str, Any] = {
            "event": "done",
            "target": self._key(target),
            "target_bytes": target.stat().st_size,
            "source": self._relative(source),
            "source_bytes": stat.st_size,
            "source_mtime_ns": stat.st_mtime_ns,
            "source_sha256": digest,
            "settings": settings,
        }
        self._append(event)
        self.done[event["target"]] = event

    def use(self, settings: str, plan: dict[str, Any], described: dict[str, Any]) -> None:
        """Records the plan these settings are carried out with from now on."""
        if self.plans.get(settings) != plan:
            self.plans[settings] = plan
            self._append({"event": "plan", "settings": settings, "plan": plan, "described": described})

    def _key(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()

    def _relative(self, source: Path) -> str:
        try:
            return Path(os.path.relpath(source, self.folder)).as_posix()
        except ValueError:  # another drive
            return str(source.absolute())

    def _append(self, event: dict[str, Any]) -> None:
        """Adds a line, in ASCII, for file names need not be valid text."""
        path = self.folder / NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, open(path, "ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # ends a line that a kill cut short
                file.write(json.dumps(event, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise RobustSRError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs on this machine out of an output folder. RobustSRError: one is at work there.

    The lock lies among the temporary files, not in the folder, and ends with the process however that ends.
    """
    mark = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"robustsr-{user}-{mark}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RobustSRError(f"another robustsr is at work in {folder}: let it finish, or give another -o") from None
    try:
        yield
    finally:
        lock.release()


def digest(settings: dict[str, Any]) -> str:
    """A short name for settings: equal settings, equal names."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
