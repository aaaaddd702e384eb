"""Many pictures as a job of the server's: it goes on without the browser, which finds it again by its name."""

from __future__ import annotations

import secrets
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from robustsr import batch, console
from robustsr.images import FORMATS
from robustsr.jobs import Job, plan_jobs
from robustsr.types import Cancelled, RobustSRError

from .desk import Desk, Token
from .options import Options

MOST_FILES = 5000
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

    def words(self) -> str:
        """Where it stands, in a line."""
        counts = Counter(row.state for row in self.rows.values())
        parts = [f"{counts['done']} of {len(self.rows)} upscaled"]
        parts += [f"{counts['failed']} failed"] * bool(counts["failed"])
        first = {"done": "Finished", "cancelled": "Cancelled", "failed": "Stopped"}.get(self.state, "")
        text = f"**{first or self.state.capitalize()}**: {', '.join(parts)}. {self.error or self.about}"
        return "\n\n".join([text, *self.notes])


class Batches:
    """The batches of a server, by names that cannot be guessed."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._jobs = desk, dict[str, BatchJob]()

    def find(self, name: str | None) -> BatchJob | None:
        return self._jobs.get(name or "")

    def start(self, files: Sequence[Path], options: Options) -> str:
        """Begins a batch and returns its name. RobustSRError: nothing to do, or an option that makes no sense."""
        folder = self._desk.folder()
        inputs, notes = unpacked(files, folder / "in", self._desk.max_upload * 10)
        options.target, options.output  # noqa: B018 - refused before anything waits
        out = folder / "out"
        jobs, warnings = plan_jobs(
            [str(p) for p in inputs], str(out), format=options.ending, suffix=options.suffix or "_upscaled"
        )
        rows = {str(job.target): Row(_shown(job.source, folder)) for job in jobs}
        command = options.command("photos/")
        made = BatchJob(folder, Token(), rows, command, [*notes, *warnings])
        name = secrets.token_urlsafe(16)
        self._jobs = {n: j for n, j in self._jobs.items() if j.active or j.folder.is_dir()} | {name: made}
        threading.Thread(target=self._run, args=(made, jobs, options), name="batch", daemon=True).start()
        return name

    def _run(self, made: BatchJob, jobs: list[Job], options: Options) -> None:
        def say(done: float | None, text: str) -> None:
            made.about = text

        try:
            with self._desk.line.turn(made.token, say):
                made.state, made.about = "running", f"Loading {options.model}."
                self._upscale(made, jobs, options)
            made.state, made.about = "done", ""
        except Cancelled:
            made.state = "cancelled"
        except RobustSRError as error:
            made.state, made.error = "failed", str(error).replace(f"{made.folder}/", "")
        except Exception as error:
            traceback.print_exc()
            made.state, made.error = "failed", f"This is a bug in robustsr: {type(error).__name__}: {error}"
        try:
            made.zip = packed([p for p in map(Path, made.rows) if p.is_file()], made.folder / "upscaled.zip")
        except OSError as error:
            made.error = f"The archive could not be written: {error.strerror}."
        for row in made.rows.values():
            if row.state in ("waiting", "running"):
                row.state = made.state

    def _upscale(self, made: BatchJob, jobs: list[Job], options: Options) -> None:
        task = options.task(self._desk)
        started = time.perf_counter()
        costs = {row.job.target: row.cost for row in batch.estimate(jobs, task)}
        through = 0.0

        def tick(job: Job, done: int, total: int) -> None:
            made.token.check()
            made.rows[str(job.target)].state = "running"
            ahead = sum(costs.values()) / max(1e-9, through + costs[job.target] * done / total) - 1
            left = (time.perf_counter() - started) * ahead
            made.about = f"{job.source.name}: tile {done}/{total}; about {console.duration(left)} left."

        for result in batch.run(jobs, task, on_window=tick):
            row = made.rows[str(result.job.target)]
            through += costs[result.job.target]
            row.state, row.seconds = result.status, f"{result.seconds:.1f}" if result.seconds else ""
            row.size = f"{result.output_size[0]} x {result.output_size[1]}" if result.output_size else ""
            source = result.job.source
            row.notes = "; ".join([*result.notes, *([result.error] if result.error else [])])
            row.notes = row.notes.replace(str(source), source.name).replace(f"{made.folder}/", "")


def unpacked(files: Sequence[Path], folder: Path, limit: int) -> tuple[list[Path], list[str]]:
    """The pictures among uploaded files, those in zip archives unpacked into ``folder``, and notes on what is left out.

    RobustSRError: an archive is damaged, or larger than ``limit`` bytes; no pictures, or too many.
    """
    found: list[Path] = []
    others = 0
    for path in files:
        if path.suffix.lower() != ".zip":
            found.append(path)
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
                if sum(entry.file_size for entry in entries) > limit:
                    raise RobustSRError(f"{path.name} unpacks to more than {limit >> 20} MB")
                for entry in entries:
                    name = PurePosixPath(entry.filename.replace("\\", "/"))
                    if name.suffix.lower().lstrip(".") not in FORMATS or name.name.startswith((".", "__")):
                        others += 1
                        continue
                    parts = [part for part in name.parts if part not in ("..", "/", "") and ":" not in part]
                    target = folder.joinpath(*parts)
                    if target.exists():
                        target = target.with_name(f"{target.stem}_{len(found)}{target.suffix}")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, open(target, "wb") as out:
                        while block := source.read(1 << 20):
                            out.write(block)
                            if out.tell() > entry.file_size:
                                raise RobustSRError(f"{path.name} holds more than it says")
                    found.append(target)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
            raise RobustSRError(f"{path.name} cannot be unpacked: {error}") from None
    if not found:
        raise RobustSRError("there are no pictures: choose files, or a zip archive of them")
    if len(found) > MOST_FILES:
        raise RobustSRError(f"{len(found)} pictures are more than {MOST_FILES} at once: use the command line")
    return found, [f"{others} file{'s' * (others != 1)} of other kinds in the archive left out"] if others else []


def packed(paths: Sequence[Path], target: Path) -> Path | None:
    """A zip archive of results, without compressing what is compressed already; None: there are none."""
    if not paths:
        return None
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return target


def _shown(source: object, folder: Path) -> str:
    """What a picture is called: its place in the archive, or its name."""
    path = Path(str(source))
    return str(path.relative_to(folder / "in")) if path.is_relative_to(folder / "in") else path.name
