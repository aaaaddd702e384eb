"""What the server keeps between requests: one line for all work, loaded models, working folders, who asked to stop."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from robustsr.models import Loaded, load
from robustsr.plan import pixels_per_second
from robustsr.types import Cancelled

LOADED = 4  # models kept in memory
WEEK = 7 * 24 * 3600.0
Say = Callable[[float | None, str], None]  # told how much is done, 0 to 1, and what goes on


class Token:
    """Whether somebody asked a job to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def cancel(self) -> None:
        self._asked.set()

    @property
    def cancelled(self) -> bool:
        return self._asked.is_set()

    def check(self) -> None:
        """Raises Cancelled if it was asked for."""
        if self.cancelled:
            raise Cancelled


class Line:
    """One job at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._changed, self._waiting = threading.Condition(), deque[object]()
        self.closed = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def turn(self, token: Token, say: Say) -> Iterator[None]:
        """Waits for its turn, and says how many are before it. Cancelled: somebody asked meanwhile."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
        try:
            while True:
                token.check()
                if self.closed:
                    raise Cancelled
                with self._changed:
                    if self._waiting[0] is ticket:
                        break
                    before = self._waiting.index(ticket)
                    say(None, f"waiting: {before} job{'s' * (before != 1)} before this one")
                    self._changed.wait(0.3)
            yield
        finally:
            with self._changed:
                self._waiting.remove(ticket)
                self._changed.notify_all()


@dataclass
class Desk:
    """The state of one server. ``root``: its own folder, which nobody else writes to and which goes when it ends.

    ``max_pixels``: of inputs and results. ``max_upload``: bytes. ``keep``: seconds after which unused files go.
    """

    root: Path
    max_pixels: int = 200_000_000
    max_upload: int = 200 << 20
    keep: float = 4 * 3600
    device: str = "auto"
    line: Line = field(default_factory=Line)
    held: set[Path] = field(default_factory=set)  # folders of batches, which may be fetched days later
    _given: dict[str, deque[Path]] = field(default_factory=dict)
    _needed: list[Path] = field(default_factory=list)  # folders of uploads whose jobs wait or are at work
    _speeds: dict[tuple[str, str, str], float] = field(default_factory=dict)
    _models: OrderedDict[tuple[str, str, str, str | None], Loaded] = field(default_factory=OrderedDict)
    _tokens: dict[str, Token] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def model(self, name: str, precision: str = "auto", denoise: str | None = None, device: str = "") -> Loaded:
        """A loaded model; the last few stay in memory. RobustSRError: as `robustsr.models.load`."""
        key = (name, device or self.device, precision, denoise)
        with self._loading:
            if key not in self._models:
                self._models[key] = load(name, device=key[1], precision=precision, denoise=denoise)
            self._models.move_to_end(key)
            while len(self._models) > LOADED:
                self._models.popitem(last=False)
            return self._models[key]

    def folder(self) -> Path:
        """A new folder that only its maker knows."""
        made = self.root / "work" / secrets.token_urlsafe(12)
        made.mkdir(parents=True)
        return made

    def settle(self, who: str, folder: Path) -> None:
        """What ``who`` was given in ``folder`` stays, and the last before it, which may be on its way; others go."""
        with self._lock:
            given = self._given.setdefault(who, deque())
            given.append(folder)
            old = given.popleft() if len(given) > 2 else None
        if old:
            shutil.rmtree(old, ignore_errors=True)

    def speed(self, network: Loaded) -> float | None:
        """Its LR pixels per second, measured once; None: not yet, for another job is at work."""
        key = (network.digest, str(network.device), network.precision)
        with self._loading:
            if key not in self._speeds and not self.line.busy:
                self._speeds[key] = pixels_per_second(network)
            return self._speeds.get(key)

    def begin(self, who: str) -> None:
        """A job of ``who`` is about to come: from now on `cancel` reaches it."""
        with self._lock:
            self._tokens[who] = Token()

    def cancel(self, who: str) -> None:
        """Asks the jobs whose name begins with ``who``, waiting ones too, to stop."""
        with self._lock:
            for name, token in self._tokens.items():
                if name.startswith(who):
                    token.cancel()

    @contextmanager
    def job(self, who: str, say: Say, *uploads: Path | None) -> Iterator[Token]:
        """The turn of a job of ``who``, whose ``uploads`` stay until it has ended. Cancelled: it was asked to stop."""
        needed = [path.parent for path in uploads if path]
        with self._lock:
            token = self._tokens.setdefault(who, Token())
            self._needed += needed
        try:
            with self.line.turn(token, say):
                yield token
        finally:
            with self._lock:
                for folder in needed:
                    self._needed.remove(folder)
                if self._tokens.get(who) is token:
                    del self._tokens[who]

    def sweep(self) -> None:
        """Deletes uploads, results, previews untouched for ``keep`` seconds, a week where they are held."""
        for folder in (self.root, self.root / "work"):
            for path in folder.iterdir() if folder.is_dir() else ():
                keep = max(self.keep, WEEK) if path in self.held else self.keep
                if path.name != "work" and path not in self._needed and time.time() - _touched(path) > keep:
                    shutil.rmtree(path, ignore_errors=True)

    def close(self, seconds: float = 5) -> None:
        """Asks all jobs to stop, and waits a little for the one at work; none begins any more."""
        self.line.closed = True
        self.cancel("")
        end = time.monotonic() + seconds
        while self.line.busy and time.monotonic() < end:
            time.sleep(0.05)


def _touched(path: Path) -> float:
    """When something in it last changed, in seconds since 1970."""
    try:
        return max(p.stat().st_mtime for p in (path, *path.rglob("*")))
    except OSError:  # somebody else deletes it at this moment
        return time.time()
