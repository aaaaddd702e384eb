"""Progress: a bar on a terminal, a line now and then elsewhere; results as they come, and their sum."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from . import console

if TYPE_CHECKING:
    from .jobs import Result


def _dim(text: str) -> TextColumn:
    return TextColumn(text, style="dim", markup=False)  # names of files are in it


PULSE = 60.0  # seconds between lines of progress where there is no bar
INSTANT = 0.05  # seconds in which nothing new is done


class Pulse:
    """Where no terminal shows a bar, a line of progress now and then."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._known = 0.0  # of an earlier run, which takes no time

    def __call__(self, share: float, text: str) -> None:
        """``share`` of the work, in [0, 1], is done."""
        now = time.perf_counter()
        if now - self._start < INSTANT:
            self._known = share
        elif not console.err.is_terminal and share > self._known and now - self._last >= PULSE:
            self._last = now
            left = console.duration((now - self._start) * (1 - share) / (share - self._known))
            console.say(f"{share:.0%} done, about {left} left: {text}")


class Bar:
    """A progress bar over a batch: work done in cost units, pictures, the one in work, pictures per second."""

    def __init__(self, progress: Progress, costs: dict[Any, float]) -> None:
        self._progress, self._costs, self._start = progress, costs, time.perf_counter()
        self._through: set[Any] = set()  # of the network; their results may come a picture later
        self._completed = 0.0  # the costs of these
        self._pictures, self._pulse, self._total = 0, Pulse(), max(sum(costs.values()), 1e-9)
        self._task = progress.add_task("", total=self._total, pictures="", now="")

    def window(self, key: Any, name: str, done: int, total: int) -> None:  # noqa: ANN401
        """``done`` of ``total`` windows, a tile and a draw each, of the picture ``name`` are through."""
        if done == total:
            self._done(key)
        part = 0.0 if done == total else self._costs[key] * done / total
        name = console.line(name)
        self._show(part, f"{name}  {done / total:.0%}" if total > 1 else name)

    def picture(self, key: Any) -> None:  # noqa: ANN401
        """A picture is done, skipped or given up."""
        self._done(key)
        self._pictures += 1
        self._show(0.0)

    def close(self) -> None:
        """Takes the bar off the screen."""
        self._progress.stop()

    def line(self, text: str, style: str = "") -> None:
        """Prints a line above the bar."""
        console.say(text, style, self._progress.console)

    def _done(self, key: Any) -> None:  # noqa: ANN401
        if key not in self._through:
            self._through.add(key)
            self._completed += self._costs[key]

    def _show(self, part: float, now: str = "") -> None:
        completed = self._completed + part
        rate = f"{self._pictures / (time.perf_counter() - self._start):.2f}/s  " if self._pictures else ""
        pictures = f"{self._pictures}/{len(self._costs)} pictures"
        self._progress.update(self._task, completed=completed, pictures=pictures, now=rate + now)
        self._pulse(completed / self._total, pictures)


@contextmanager
def bar(costs: dict[Any, float]) -> Iterator[Bar]:
    """A bar on a terminal; elsewhere a line each minute."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.fields[pictures]}"),
        TimeRemainingColumn(),
        _dim("{task.fields[now]}"),
    )
    with Progress(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as progress:
        yield Bar(progress, costs)


@contextmanager
def work_bar() -> Iterator[Any]:
    """A bar for measurements: yields ``update(done, total, text)``, in any unit of work."""
    columns = (SpinnerColumn(), BarColumn(), TimeRemainingColumn(), _dim("{task.description}"))
    with Progress(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as progress:
        task, pulse = progress.add_task("", total=None), Pulse()

        def update(done: float, total: float, text: str) -> None:
            progress.update(task, completed=done, total=total, description=console.line(text))
            pulse(done / max(total, 1e-9), text)

        yield update


@contextmanager
def steps_bar(total: int, *, shown: bool = True) -> Iterator[Any]:
    """A bar for a training run: yields ``update(step, text)``. Not ``shown``: by another process."""
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), _dim("{task.description}"))
    hidden = not (shown and console.err.is_terminal)
    with Progress(*columns, console=console.err, transient=True, disable=hidden) as progress:
        task = progress.add_task("starting", total=total)
        yield lambda step, text: progress.update(task, completed=step, description=text)


@contextmanager
def bytes_bar(name: str) -> Iterator[Any]:
    """A bar for a download: yields ``update(done, total)``."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err, disable=not console.err.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


class Tally:
    """Counts results, prints each as it comes (failures and notes always, all of them as JSON) and the summary.

    ``total``: how many there will be, unless something stops it.
    """

    def __init__(self, total: int, *, as_json: bool) -> None:
        self.start, self._total, self._json = time.perf_counter(), total, as_json
        self.done = self.skipped = self.failed = 0
        self.seconds = 0.0
        self._results: list[Result] = []

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start

    def add(self, result: Result, bar: Bar) -> None:
        """Takes one result in."""
        setattr(self, result.status, getattr(self, result.status) + 1)
        self.seconds += result.seconds
        self._results.append(result)
        if self._json:
            console.emit(
                {
                    "input": str(result.job.source),
                    "output": str(result.job.target),
                    "status": result.status,
                    "seconds": round(result.seconds, 3),
                    "input_size": result.input_size,
                    "output_size": result.output_size,
                    "notes": result.notes,
                    "error": result.error or None,
                }
            )
        if result.error:
            bar.line(f"failed: {result.error}", "red")
        if result.trace:
            bar.line("This is a bug in robustsr, please report it:", "dim")
            for line in result.trace.splitlines():
                bar.line(line, "dim")
        for note in result.notes:
            bar.line(f"note: {result.job.source.name}: {note}", "yellow")

    def summary(self) -> None:
        """The closing line."""
        counts = {"done": self.done, "skipped": self.skipped, "failed": self.failed}
        left = self._total - len(self._results)
        if self._json:
            counts |= {"left": left} if left else {}
            console.emit({"summary": counts, "seconds": round(self.elapsed, 2)})
        if self.failed and sum(len(result.notes) for result in self._results) > 20:  # among which they are lost
            failures = console.table("failed", "why")
            for result in (r for r in self._results if r.status == "failed"):
                why = result.error.replace(f"cannot read {result.job.source}: ", "")
                failures.add_row(console.line(str(result.job.source)), console.line(why))
            console.err.print(failures)
        parts = [f"{self.done} upscaled in {console.duration(self.elapsed)}"]
        if self.skipped:
            parts.append(f"{self.skipped} {'was' if self.skipped == 1 else 'were'} there already")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if left:
            parts.append(f"{left} to go")
        there = [result.job for result in self._results if result.status != "failed"]
        places = {str(job.root) for job in there} if len(there) > 1 else {str(job.target) for job in there}
        where = f" -> {', '.join(sorted(places))}" if there else ""
        console.say(", ".join(parts) + where, "red" if self.failed else "green")
