"""Many pictures as a job of the server's: it goes on without the browser, which finds it again by its name."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import threading
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from robustsr import batch, console
from robustsr.images import FORMATS
from robustsr.jobs import Job, plan_jobs
from robustsr.naming import fitted
from robustsr.render import escaped
from robustsr.types import Cancelled, RobustSRError

from .desk import Desk, Token
from .options import Options

MOST_FILES = 5000
REFUSED = r'[<>:"|?*\x00-\x1f]' if os.name == "nt" else ":"  # in names of files; a colon would be a stream there
HEAD = ("file", "state", "size", "seconds", "notes")


@dataclass
class Row:
    """What became of a file so far."""

    name: str
    state: str = "waiting"
    size: str = ""
    seconds: str = ""
    notes: str = ""


@dataclass
class BatchJob:
    """A batch; ``state``: waiting, running, done, cancelled or failed, then ``error`` says why."""

    folder: Path
    token: Token
    rows: dict[str, Row]
    command: str
    notes: list[str] = field(default_factory=list)
    state: str = "waiting"
    about: str = ""
    error: str = ""
    zip: Path | None = None

    @property
    def active(self) -> bool:
        return self.state in ("waiting", "running")

    def table(self) -> list[list[str]]:
        return [[row.name, row.state, row.size, row.seconds, row.notes] for row in self.rows.values()]

    def words(self, say: Callable[[str], str] = escaped) -> str:
        """Where it stands, as Markdown, in which what ``say`` makes of texts."""
        counts = Counter(row.state for row in self.rows.values())
        parts = [f"{counts['done']} of {len(self.rows)} upscaled"]
        parts += [f"{counts['failed']} failed"] * bool(counts["failed"])
        first = {"done": "Finished", "cancelled": "Cancelled", "failed": "Stopped"}.get(self.state, "")
        text = f"**{first or self.state.capitalize()}**: {', '.join(parts)}. {say(self.error or self.about)}"
        if self.state == "waiting":
            text = f"**{self.about.capitalize() or 'Waiting'}**, {len(self.rows)} to upscale."
        return "\n\n".join([text, *map(say, self.notes)])


class Batches:
    """The last batch of each browser, by names that cannot be guessed."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._jobs = desk, dict[str, BatchJob]()
        self._lock, self._beginning = threading.Lock(), set[str]()

    def find(self, name: str | None) -> BatchJob | None:
        """The batch of that name; None: there is none."""
        return self._jobs.get(name or "")

    def close(self) -> None:
        """Asks all batches to stop."""
        for job in self._jobs.values():
            job.token.cancel()

    def start(self, name: str, files: Sequence[Path], options: Options) -> None:
        """Begins a batch of that browser. RobustSRError: one is at work, nothing to do, or a senseless option."""
        if not name:
            raise RobustSRError("the page is not yet ready: load it again")
        with self._lock:
            if name in self._beginning or ((before := self.find(name)) and before.active):
                raise RobustSRError("a batch of this browser is at work: wait until it has ended, or cancel it")
            self._beginning.add(name)
        try:
            self._start(name, files, options)
        finally:
            self._beginning.discard(name)

    def _start(self, name: str, files: Sequence[Path], options: Options) -> None:
        options.target, options.output  # noqa: B018 - refused before anything waits
        folder = self._desk.folder()
        self._desk.held.add(folder)
        try:
            notes = collected(files, folder / "in", self._desk.max_upload * 10)
            options = replace(options, suffix=options.named)
            jobs, warnings = plan_jobs(
                [str(folder / "in")], str(folder / "out"), recursive=True, format=options.ending, suffix=options.suffix
            )
            rows = {str(job.target): Row(str(Path(str(job.source)).relative_to(folder / "in"))) for job in jobs}
            command = options.command("photos/", "--recursive", device=self._desk.device)
            made = BatchJob(folder, Token(), rows, command, [*notes, *(_inside(w, folder) for w in warnings)])
        except RobustSRError as error:
            self._desk.held.discard(folder)
            raise RobustSRError(_inside(str(error), folder)) from error
        self._jobs[name] = made
        threading.Thread(target=self._run, args=(made, jobs, options), name="batch", daemon=True).start()

    def _run(self, made: BatchJob, jobs: list[Job], options: Options) -> None:
        def say(done: float | None, text: str) -> None:
            made.about = text

        state = "done"
        try:
            with self._desk.line.turn(made.token, say):
                made.state, made.about = "running", f"Loading {options.model}."
                self._upscale(made, jobs, options)
        except Cancelled:
            state = "cancelled"
        except RobustSRError as error:
            state, made.error = "failed", _inside(str(error), made.folder)
        except Exception as error:
            traceback.print_exc()
            state, made.error = "failed", f"This is a bug in robustsr: {type(error).__name__}."
        made.about = ""
        for row in made.rows.values():
            if row.state in ("waiting", "running"):
                row.state = state
        try:
            made.zip = packed([p for p in map(Path, made.rows) if p.is_file()], made.folder / "upscaled.zip")
        except OSError as error:
            made.error = f"The archive could not be written: {error.strerror}."
        else:
            for part in ("in", "out"):  # the archive is what stays, until the server ends
                shutil.rmtree(made.folder / part, ignore_errors=True)
        made.state = state  # last: whoever sees it may download

    def _upscale(self, made: BatchJob, jobs: list[Job], options: Options) -> None:
        task = options.task(self._desk)
        started = time.perf_counter()
        costs = {row.job.target: row.cost for row in batch.estimate(jobs, task)}
        through = 0.0

        def tick(job: Job, done: int, total: int) -> None:
            made.token.check()
            made.rows[str(job.target)].state = "running"
            made.about = f"{job.source.name}."
            if done:  # else it finds out how many draws the picture needs
                ahead = sum(costs.values()) / max(1e-9, through + costs[job.target] * done / total) - 1
                left = (time.perf_counter() - started) * ahead
                made.about = f"{job.source.name}: step {done}/{total}; about {console.duration(left)} left."

        for result in batch.run(jobs, task, on_window=tick):
            row = made.rows[str(result.job.target)]
            through += costs[result.job.target]
            row.state, row.seconds = result.status, f"{result.seconds:.1f}" if result.seconds else ""
            row.size = f"{result.output_size[0]} x {result.output_size[1]}" if result.output_size else ""
            row.notes = _inside("; ".join([*result.notes, *([result.error] if result.error else [])]), made.folder)


def collected(files: Sequence[Path], folder: Path, limit: int) -> list[str]:
    """Puts uploaded files, and the pictures in zip archives, into ``folder``, and returns notes on what is left out.

    RobustSRError: an archive is damaged, or all are larger than ``limit`` bytes; no pictures, or too many.
    """
    folder.mkdir(parents=True)
    pictures = [path for path in files if path.suffix.lower() != ".zip"]
    others, count, size = 0, len(pictures), 0
    for path in pictures:
        target = _free(folder / path.name)
        try:
            os.link(path, target)  # uploads are deleted by their age, whoever still needs them
        except OSError:
            shutil.copyfile(path, target)
    for path in (p for p in files if p not in pictures):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
                wanted = [entry for entry in entries if _is_picture(PurePosixPath(entry.filename))]
                others, count = others + len(entries) - len(wanted), count + len(wanted)
                size += sum(entry.file_size for entry in wanted)
                if size > limit:
                    raise RobustSRError(f"{path.name} unpacks to more than {limit >> 20} MB")
                if count > MOST_FILES:
                    raise RobustSRError(f"more than {MOST_FILES} pictures at once: use the command line")
                for entry in wanted:
                    _unpack(archive, entry, folder)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            RuntimeError,  # among them that of compressions that zipfile does not know
            OSError,
            EOFError,
            ValueError,  # names that are not in their encoding
            LookupError,  # fields that are cut off
        ) as e:
            reason = getattr(e, "strerror", None) or e
            raise RobustSRError(f"{path.name} cannot be unpacked: {reason}") from None
    if not count:
        raise RobustSRError("there are no pictures: choose files, or a zip archive of them")
    return [f"{others} file{'s' * (others != 1)} of other kinds in the archive left out"] if others else []


def _is_picture(name: PurePosixPath) -> bool:
    return name.suffix.lower().lstrip(".") in FORMATS and not name.name.startswith((".", "__"))


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """Writes an entry below ``folder``, whatever its name says, and no more than it says to hold."""
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    wanted = (part for part in parts if part not in ("/", "") and not part.startswith("."))
    inside = [re.sub(REFUSED, "_", part) for part in wanted if not re.fullmatch("[A-Za-z]:", part)]
    *above, name = inside
    target = _free(folder.joinpath(*(fitted(part, "") for part in above), fitted(*os.path.splitext(name))))
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, open(target, "wb") as out:
        while block := source.read(1 << 20):
            out.write(block)
            if out.tell() > entry.file_size:
                raise RobustSRError(f"{entry.filename} holds more than it says")


def _free(path: Path) -> Path:
    """The path, or one with a number where there is something of that name."""
    number, made = 1, path
    while made.exists():
        number += 1
        made = path.with_name(fitted(path.stem, f"_{number}{path.suffix}"))
    return made


def packed(paths: Sequence[Path], target: Path) -> Path | None:
    """A zip archive of results, without compressing what is compressed already; None: there are none."""
    if not paths:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            archive.write(path, path.relative_to(target.parent / "out"))
    return target


def _inside(text: str, folder: Path) -> str:
    """A text without the batch's folder."""
    for part in ("in", "out"):
        text = text.replace(f"{folder / part}{os.sep}", "").replace(str(folder / part), "the upload")
    return text
