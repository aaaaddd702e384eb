"""What an output folder remembers: which file was made from what, with which settings, under which plan.

``.robustsr.jsonl`` in the folder grows by one JSON line per event and is never rewritten; a line that a killed
run left half-written is passed over. At a URL, where files do not grow, it is replaced now and then.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from .files import append_line, sha256
from .remote import Place, State, Url, below, delivered, fetched, place, same, state
from .types import RobustSRError

NAME = ".robustsr.jsonl"
_DONE = {"target", "target_bytes", "source", "source_bytes", "source_version", "source_sha256", "settings"}
SELDOM = 20  # a manifest at a URL is replaced after so many seconds, and so many times as long as replacing it took


@dataclass
class Manifest:
    """The record of one output folder, read once and appended to."""

    folder: Place
    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # by target, relative to the folder
    ours: dict[str, str] = field(default_factory=dict)  # target to source of all that was ever begun
    begun: set[str] = field(default_factory=set)  # targets that were begun anew since they were done
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)  # by settings digest
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _text: str = field(default="", repr=False)  # of the whole file, where that is at a URL
    _new: bool = False  # that file says less
    _due: float = math.inf  # when it is replaced next

    @classmethod
    def read(cls, folder: Place) -> Manifest:
        """The manifest of a folder; an empty one if it has none. RobustSRError: it cannot be read."""
        manifest, record = cls(folder), folder / NAME
        if isinstance(record, Url) and not record.exists():
            return manifest
        if isinstance(record, Path) and (record.is_symlink() or (record.exists() and not record.is_file())):
            raise RobustSRError(f"{record} is no plain file: remove it")
        try:
            with fetched(record) as path:
                text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return manifest
        except OSError as error:
            raise RobustSRError(f"cannot read {record}: {error.strerror}") from error
        if isinstance(record, Url):
            manifest._text = text
        for line in text.split("\n"):
            try:
                manifest._note(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # half a line, or one of another version: the file it spoke of is simply redone
        return manifest

    def is_done(self, source: Place, target: Place, settings: str) -> bool:
        """Whether ``target`` is whole and was made from ``source`` as it is now with these settings."""
        event = self.done.get(self._key(target))
        if event is None or event["settings"] != settings or not target.is_file():
            return False
        now = state(source)
        if state(target).size != event["target_bytes"] or now.size != event["source_bytes"]:
            return False
        if now.version and now.version == event["source_version"]:
            return True
        with fetched(source) as path:
            return bool(sha256(path) == event["source_sha256"])

    def made(self, source: Place, target: Place) -> bool:
        """Whether ``target`` is a result of ours from ``source``, whatever the settings and however it is now."""
        if self.ours.get(self._key(target)) == self._relative(source):
            return True
        known = self.source_of(target)
        return known is not None and same(known, source)

    def changed(self, target: Place) -> bool:
        """Whether somebody else has changed a result of ours, as far as its size tells."""
        key = self._key(target)
        event = None if key in self.begun else self.done.get(key)
        return event is not None and bool(state(target).size != event["target_bytes"])

    def unfinished(self, target: Place) -> bool:
        """Whether a result of ours was begun last, not done."""
        return self._key(target) in self.begun

    def source_of(self, target: Place) -> Place | None:
        """What a result of ours was made from, resolved; None: it is none. No server is asked for that."""
        source = self.ours.get(self._key(target))
        if source is None:
            return None
        here = Path() if isinstance(self.folder, Url) else self.folder  # at a URL it is a whole path
        try:
            return Url(source) if "://" in source else (here / source).resolve()
        except ValueError:  # no name that a file could have
            return None

    @property
    def origins(self) -> dict[Place, Place | None]:
        """All results of ours, with what each was made from."""
        return {self.folder / target: self.source_of(self.folder / target) for target in self.ours}

    def begin(self, source: Place, target: Place) -> None:
        """Records that ``target`` is about to appear: a kill between that and `wrote` leaves it known as ours."""
        self.add({"event": "begin", "target": self._key(target), "source": self._relative(source)})

    def wrote(self, source: Place, read: State, digest: str, target: Place, settings: str) -> None:
        """Records a finished file; ``read`` and ``digest`` are those of the source when it was read."""
        self.add(
            {
                "event": "done",
                "target": self._key(target),
                "target_bytes": state(place(str(target))).size,  # asked anew
                "source": self._relative(source),
                "source_bytes": read.size,
                "source_version": read.version,
                "source_sha256": digest,
                "settings": settings,
            }
        )

    def use(self, settings: str, plan: dict[str, Any], described: dict[str, Any]) -> None:
        """Records the plan these settings are carried out with from now on."""
        self.add({"event": "plan", "settings": settings, "plan": plan, "described": described})

    def add(self, event: dict[str, Any]) -> None:
        """Records an event, unless it says nothing new."""
        with self._lock:
            if self._note(event):
                self._keep(event)

    def _note(self, event: dict[str, Any]) -> bool:
        """Takes in what an event says, and returns whether that is new."""
        if event["event"] == "plan":
            new: bool = self.plans.get(event["settings"]) != event["plan"]
            self.plans[event["settings"]] = dict(event["plan"])
            return new
        done, target, source = event["event"] == "done", event["target"], event["source"]
        if not isinstance(target, str) or not isinstance(source, str):
            raise TypeError("names are texts")
        new = done or self.ours.get(target) != source or (target in self.done and target not in self.begun)
        self.ours[target] = source
        if done and event.keys() >= _DONE:
            self.done[target] = event
        (self.begun.discard if done else self.begun.add)(target)
        return new

    def _key(self, target: Place) -> str:
        return below(target, self.folder)

    def _relative(self, source: Place) -> str:
        if isinstance(source, Url):
            return str(source.resolve())
        if isinstance(self.folder, Url):
            return str(source.absolute())
        try:
            return Path(os.path.relpath(source, self.folder)).as_posix()
        except ValueError:  # another drive
            return str(source.absolute())

    def _keep(self, event: dict[str, Any]) -> None:
        """Adds a line, in ASCII, for file names need not be valid text."""
        path, line = self.folder / NAME, json.dumps(event, sort_keys=True)
        if isinstance(path, Url):
            self._text += "\n" * (self._text[-1:] not in ("", "\n")) + line + "\n"
            self._new = True
            if time.monotonic() > self._due:
                self.flush()
            return
        append_line(path, line)

    def flush(self) -> None:
        """Makes sure that what was recorded so far is there. RobustSRError: it cannot be written."""
        with self._lock:
            if not self._new:
                return
            start = time.monotonic()
            with delivered(self.folder / NAME) as path:
                path.write_text(self._text, encoding="utf-8", newline="\n")
            self._new, self._due = False, time.monotonic() + SELDOM * max(1, time.monotonic() - start)


@dataclass
class Events(Manifest):
    """A manifest without a file: its events wait for somebody to `add` them to the one that has it."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def _keep(self, event: dict[str, Any]) -> None:
        self.events.append(event)


def earlier_results(pictures: Sequence[Path], root: Path) -> list[Path]:
    """Those of ``pictures``, found in ``root`` or below, that robustsr made from others of them.

    RobustSRError: a manifest cannot be read.
    """
    above = {folder for path in pictures for folder in path.parents if folder == root or root in folder.parents}
    origins: dict[Place, Place | None] = {}
    for folder in above:
        origins |= Manifest.read(folder).origins
    among = {path.resolve() for path in pictures} if origins else set()
    return [path for path in pictures if origins.get(path) in among]


@contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Keeps other runs on this machine out of an output folder. RobustSRError: one is at work there.

    The lock lies among the temporary files, not in the folder, and ends with the process however that ends.
    """
    mark = hashlib.sha256(os.fsencode(str(folder.resolve()))).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    locks = Path(tempfile.gettempdir()) / f"robustsr-{user}"
    try:
        locks.mkdir(mode=0o700, exist_ok=True)
        lock = filelock.FileLock(locks / f"{mark}.lock", timeout=0)
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
