"""What the command line prints: words, tables, JSON lines; bars are progress's."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from .batch import Forecast
    from .models import Loaded
    from .settings import Smoothing

for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # file names may hold what a console cannot show

EACH = 0.007  # seconds that a picture takes besides its network: it is read, written and recorded
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # all but tab and newline


def harmless(text: str) -> str:
    """Text without what terminals obey: the name of a file may hold anything."""
    return _CONTROLS.sub("\ufffd", text)


def line(text: str) -> str:
    """`harmless` text without an end of a line in it."""
    return harmless(text).replace("\n", "\ufffd")


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - rich's
        super().print(*(harmless(item) if isinstance(item, str) else item for item in objects), **options)


out = _Console(highlight=False, emoji=False)
err = _Console(stderr=True, highlight=False, emoji=False)


def say(text: str, style: str = "", to: Console | None = None) -> None:
    """A line for the person, on standard error, so that standard output stays machine-readable."""
    (to or err).print(line(text), style=style, markup=False, soft_wrap=True)


def emit(record: dict[str, Any]) -> None:
    """A JSON line on standard output, in ASCII: file names and consoles may hold anything."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.8 s, 45 s, 12 min, 3.5 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Plain(Table):
    """A table that shows text as it is: brackets in the name of a file are no markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:  # noqa: ANN401 - rich's
        super().add_row(*(Text(harmless(cell)) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*columns: str, title: str = "") -> Table:
    """An empty table in the house style; columns whose name starts with '>' align right."""
    made = _Plain(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def forecast(
    rows: Sequence[Forecast], network: Loaded, smoothing: Smoothing | None, speed: float | None, where: str = ""
) -> Iterator[str]:
    """The lines before a job: how much there is, how long it takes here, and what cheaper flags would cost.

    ``speed`` None: that is not known; sizes at URLs are not either. ``where``: the words for what computes.
    """
    from .models import kept_slow, noise_inside

    good = [row for row in rows if not (row.done or row.error)]
    known = all(row.size for row in good)
    megapixels = sum(row.size[0] * row.size[1] for row in good if row.size) / 1e6
    seconds = sum(row.cost for row in good) / speed + EACH * len(good) if speed and known else 0.0
    there, damaged = sum(row.done for row in rows), sum(row.damaged for row in rows)
    replaced = sum(row.replaces for row in rows) - damaged
    if not good:
        failing = sum(bool(row.error) for row in rows)
        counts = [f"{there} of {len(rows)} {'is' if there == 1 else 'are'} there already"] * bool(there or not failing)
        counts += [f"{failing} of {len(rows)} {'fails' if failing == 1 else 'fail'}"] * bool(failing)
        yield f"nothing {'to do' if there or not failing else 'can be done'}: {', '.join(counts)}"
        return
    pictures = f"{len(good)} picture{'s' * (len(good) != 1)}"
    if there:
        pictures += f" ({there} more {'is' if there == 1 else 'are'} there already)"
    how = "not smoothed"
    settled = bool(getattr(smoothing, "tolerance", None))
    if made := smoothing or noise_inside(network):
        sigma = "auto, at most " * bool(getattr(smoothing, "calibration", None)) + f"{made.sigma:g}"
        how = f"{made.reduce} of {'up to ' * settled}{made.samples}, sigma {sigma}"
    pictures += (
        f", {megapixels:.1f} megapixels out" * known
        + f", {'at most' if settled else 'about'} {duration(seconds)}" * bool(seconds)
    )
    yield f"{pictures}: {network.name} x{network.scale} on {where or f'{network.device} ({network.precision})'}, {how}"
    if not where and sys.platform == "linux" and kept_slow(network):
        yield "note: no C compiler (gcc, or ROBUSTSR_CC) works here: with one, this model would be twice as fast"
    if smaller := sum(row.size[0] < row.info.width for row in good if row.size and row.info):
        are = "1 picture becomes" if smaller == 1 else f"{smaller} pictures become"
        yield f"note: {are} smaller than before: enlarged by {network.name}, then shrunk"
    if replaced:
        what = f"{replaced} earlier result{'s' * (replaced != 1)}"
        yield f"note: {what}, made with other settings or of another input, will be replaced (another -o keeps them)"
    if damaged:
        what = f"{damaged} earlier result{'s' * (damaged != 1)}"
        yield f"note: {what}, damaged or of a run that was interrupted, will be made again"
    if smoothing and smoothing.sigma > 0 and smoothing.samples > 1 and seconds > 30:
        four, once = (f"about {duration(seconds * n / smoothing.samples)}" for n in (4, 1))
        yield "cheaper: " + f"--samples 4 {four}, " * (smoothing.samples > 4) + f"without --smooth {once}"


def dry_run(rows: Sequence[Forecast], speed: float | None, *, as_json: bool) -> None:
    """What would be done, per file; ``speed`` as in `forecast`."""
    shown = table("input", "output", "size", ">about")
    for row in rows:
        seconds = row.cost / speed if speed and (row.size or not row.cost) else None
        if as_json:
            emit(
                {
                    "input": str(row.job.source),
                    "output": str(row.job.target),
                    "status": "skipped" if row.done else "failed" if row.error else "planned",
                    "seconds": None if seconds is None else round(seconds, 2),
                    "output_size": row.size,
                    "error": row.error or None,
                }
            )
        otherwise = "failed" if row.error else "is there already" if row.done else "?"
        size = f"{row.size[0]}x{row.size[1]}" if row.size else otherwise
        shown.add_row(line(str(row.job.source)), line(str(row.job.target)), size, duration(seconds) if seconds else "")
    if not as_json:
        out.print(shown)
        for row in rows:
            if row.error:
                say(f"failed: {row.error}", to=out)
