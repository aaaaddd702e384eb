"""Reports as text for terminals, files and browsers. Data in, text out; only ``save`` touches files.

Names of models and files come from outside: every renderer escapes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import warnings
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import resources
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from .files import StrPath, atomic
from .report import ARROWS, Cell, Gallery, Panel, Plot, Report, Table, Value

if TYPE_CHECKING:
    from PIL.Image import Image

Strip: TypeAlias = "tuple[str, int, list[tuple[Panel, str]]]"  # label, width on the page, panels and data URIs
PICTURE_BUDGET = 32 * 2**20  # bytes; browsers open a page of this size at once
_LABEL = 16  # columns of a terminal that a row's label has at least
_INK = "#010203"  # stands for the colour of the page's text
_SERIES = ("#0072b2", "#d55e00", "#00805f", "#a8477f", "#a87300", "#2f93cf", "#6b6b6b")  # after Okabe and Ito
_MARKERS = "osD^vPX*<"
_LINE = 0.075  # of a plot's height: a line of text


def to_rich(table: Table, *, notes: bool = True) -> RichTable:
    """A table for the terminal, with or without its ``notes``. Numbers keep their width and labels fold.

    ``fit`` makes tables narrow enough.
    """
    boxes = _boxes(table)
    # Rich has no cells that span columns: a line of all groups is cut at the columns' edges, which touch.
    line = "".join(
        "  " + (f" {_plain(name)} ".center(room, "─") if name else " " * room)
        for (name, count), start in zip(table.groups, table.starts, strict=True)
        for room in [sum(boxes[start : start + count]) - 2]
    )
    shown = RichTable(
        title=Text(_plain(table.title), style="bold"),
        title_justify="left",
        caption=Text("\n".join(map(_plain, table.footnotes)), style="dim") if notes else None,
        caption_justify="left",
        box=None,
        padding=0,
        pad_edge=False,
    )
    shown.add_column(Text(("\n" if line.strip() else "") + _plain(table.label)), overflow="fold")
    for column, box, end in zip(table.columns, boxes, accumulate(boxes), strict=True):
        group = Text(line[end - box : end] + "\n", style="dim") if line.strip() else Text()
        shown.add_column(group.append(_plain(column.head).rjust(box), style="bold"), width=box, no_wrap=True)
    for section, rows in table.sections:
        if section:
            shown.add_row(Text(_plain(section), style="italic"))
        for row in rows:
            label = Padding(Text(_plain(row.label)), (0, 0, 0, 2 if section else 0))
            cells = [_stack(cell, box) for cell, box in zip(row.cells, boxes, strict=True)]
            shown.add_row(label, *cells, style="dim" if row.published else "" if row.ranked else "italic")
    return shown


def fit(table: Table, width: int) -> list[Table]:
    """The table, cut between its groups of columns into as few as fit a terminal of ``width`` columns."""
    parts: list[list[int]] = [[]]
    boxes, column = _boxes(table), 0
    for _, count in table.groups:
        group = list(range(column, column := column + count))
        if parts[-1] and _LABEL + sum(boxes[j] for j in parts[-1] + group) > width:
            parts.append([])
        parts[-1] += group
    if len(parts) == 1:
        return [table]
    return [
        replace(
            table,
            columns=[table.columns[j] for j in part],
            rows=[replace(row, cells=[row.cells[j] for j in part]) for row in table.rows],
            notes=table.notes if part is parts[-1] else (),
        )
        for part in parts
    ]


def to_markdown(table: Table) -> str:
    """A table in GitHub's Markdown, aligned so that it also reads as plain text."""
    heads = [table.label, *(column.full + ARROWS[column.better] for column in table.columns)]
    grid = [[_escape(head) for head in heads]]
    for section, rows in table.sections:
        if section:
            grid.append([f"**{_escape(section)}**", *("" for _ in table.columns)])
        grid += [[_escape(row.label), *(_marked(cell) for cell in row.cells)] for row in rows]
    widths = [max(3, *(len(line[j]) for line in grid)) for j in range(len(heads))]
    grid.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = (
        " | ".join(text.rjust(w) if j else text.ljust(w) for j, (text, w) in enumerate(zip(line, widths, strict=True)))
        for line in grid
    )
    notes = "".join(f"- {_escape(note)}\n" for note in table.footnotes)
    return "".join(f"| {line} |\n" for line in lines) + ("\n" + notes if notes else "")


def report_to_markdown(report: Report) -> str:
    """A report in Markdown: plots as tables of their numbers, galleries as their captions."""
    blocks = [f"# {_escape(report.title)}", _escape(report.lead)]
    for section in report.sections:
        if isinstance(section, str):
            blocks += [_escape(paragraph) for paragraph in _paragraphs(section)]
        elif isinstance(section, Gallery):
            blocks += [f"## {_escape(section.title)}", *([_escape(section.crop)] if section.crop else [])]
            for label, panels in section.rows:
                blocks.append(f"**{_escape(label)}** (pictures in report.html)")
                blocks.append("\n".join(f"- {_escape(p.label)}: {_escape(p.caption or 'no figures')}" for p in panels))
            blocks += [f"- {_escape(note)}" for note in section.notes]
        else:
            table = section.table() if isinstance(section, Plot) else section
            blocks += [f"## {_escape(table.title)}", to_markdown(table).rstrip()]
    blocks += ["## Protocol", "\n".join(f"- {_escape(k)}: {_escape(str(v))}" for k, v in report.protocol.items())]
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", report.command)), default=0))
    return "\n\n".join(block for block in [*blocks, f"{fence}sh\n{report.command}\n{fence}"] if block) + "\n"


def to_csv(table: Table) -> str:
    """A table as CSV with all digits: section, label, whether measured or published, then a column per column."""
    each = 1 + table.compared
    heads = [head for column in table.columns for head in (column.full, f"{column.full} (published)")[:each]]
    lines: list[list[Value]] = [["section", table.label or "label", "source", *heads]]
    for row in table.rows:
        values = [value for cell in row.cells for value in (cell.value, cell.published)[:each]]
        lines.append([row.section, row.label, "published" if row.published else "measured", *values])
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_harmless(value) for value in line] for line in lines)
    return buffer.getvalue()


def to_json(report: Report) -> str:
    """A report as strict JSON with all digits, but without pixels; nan and inf are strings."""
    sections: list[dict[str, Any]] = []
    for section in report.sections:
        if isinstance(section, str):
            sections.append({"type": "text", "text": section})
        elif isinstance(section, Gallery):
            rows = [(label, [(p.label, p.caption, p.image.size) for p in panels]) for label, panels in section.rows]
            keys = ("label", "caption", "size")
            shown = [{"label": label, "panels": [dict(zip(keys, p, strict=True)) for p in ps]} for label, ps in rows]
            sections.append({"type": "gallery", "title": section.title, "crop": section.crop, "rows": shown})
            sections[-1]["notes"] = section.notes
        else:
            sections.append({"type": type(section).__name__.lower(), **asdict(section)})
    record = {"title": report.title, "lead": report.lead, "command": report.command, "protocol": report.protocol}
    return json.dumps(_strict({**record, "sections": sections}), indent=1, allow_nan=False) + "\n"


def to_svg(plot: Plot) -> str:
    """A plot as an SVG element whose colours and fonts are those of the page it is in, light or dark."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Text stays text. Matplotlib has no setting of this kind per figure; the context puts the old one back.
    # The warnings are about glyphs of labels, which it measures with a font that the page will not use.
    settings = {"svg.fonttype": "none", "text.usetex": False}
    with rc_context(settings), warnings.catch_warnings(action="ignore", category=UserWarning):
        figure = Figure(figsize=(6.2, 3.6))
        # All plots have one width, so that their text has one size; labels take their room from the lines.
        width = 0.86 - 0.013 * max((len(_short(label)) for label, _, _ in plot.series), default=0)
        axes = figure.add_axes((0.09, 0.14, width, 0.75))
        ink: dict[str, Any] = {"color": _INK, "fontsize": 10, "parse_math": False}
        looks: list[dict[str, Any]] = [
            {"color": _SERIES[i % 7], "marker": _MARKERS[i % 7], "markersize": 4.5} for i in range(len(plot.series))
        ]
        for i, (_, xs, ys) in enumerate(plot.series):
            axes.plot(xs, ys, ("-", "--", ":")[i // 7 % 3], linewidth=1.8, **looks[i])
        axes.spines[["left", "right", "top"]].set_visible(False)
        axes.spines["bottom"].set(color=_INK, linewidth=0.8, alpha=0.6)
        axes.tick_params(colors=_INK, labelsize=10, length=0, pad=6)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(useOffset=False)
        axes.grid(axis="y", color=_INK, alpha=0.14, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(_plain(plot.x_label), labelpad=7, **ink)
        figure.text(0.003, 0.95, _plain(plot.y_label), **ink)
        for i, label, height in _ends(plot, *axes.get_ylim()):
            place: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
            axes.plot([1 + 0.025 / width], [height], **looks[i], **place)
            axes.text(1 + 0.04 / width, height, _short(label), va="center_baseline", **ink, **place)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :])
    # Several plots share a page, so ids are unique, yet the same for the same plot.
    mark = hashlib.sha256(repr(plot).encode("utf-8", "replace")).hexdigest()[:8]
    ids: dict[str, str] = {}
    colours = {colour: f"var(--series-{i}, {colour})" for i, colour in enumerate(_SERIES)} | {_INK: "currentColor"}

    def adapt(tag: re.Match[str]) -> str:
        text = re.sub("#[0-9a-f]{6}", lambda found: colours.get(found[0], found[0]), tag[0])
        named = r'(\bid="|url\(#|href="#)([^")]+)'
        return re.sub(named, lambda found: found[1] + ids.setdefault(found[2], f"p{mark}-{len(ids)}"), text)

    return re.sub("<[^>]+>", adapt, svg)


def to_html(report: Report, *, budget: int = PICTURE_BUDGET) -> str:
    """A report as one HTML page that asks nothing of the network.

    Rows of pictures beyond ``budget`` bytes in all are left out whole, and the page says so.
    """
    import jinja2

    folder = resources.files(__package__)
    template, style, script = ((folder / f"report.{end}").read_text("utf-8") for end in ("html.j2", "css", "js"))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    strips: dict[int, list[Strip]] = {}
    for i, section in enumerate(report.sections):
        if isinstance(section, Gallery):
            strips[i], budget = _strips(section, budget)
    return environment.from_string(template).render(
        report=report,
        sections=[(type(section).__name__, section) for section in report.sections],
        strips=strips,
        svg=to_svg,
        paragraphs=_paragraphs,
        style=style,
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def save(report: Report, folder: StrPath) -> list[Path]:
    """Write report.json, report.md, a CSV file per table and plot, and last report.html; returns their paths.

    Each file is written whole or not at all, and none before all are rendered. RobustSRError: cannot write.
    """
    texts = {"report.json": to_json(report), "report.md": report_to_markdown(report)}
    tables = [s.table() if isinstance(s, Plot) else s for s in report.sections if isinstance(s, Table | Plot)]
    for i, table in enumerate(tables, 1):
        slug = re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")[:60].rstrip("-")
        texts[f"{i:02d}-{slug or 'table'}.csv"] = to_csv(table)
    texts["report.html"] = to_html(report)
    for name, text in texts.items():
        with atomic(Path(folder) / name, make_folder=True) as part:
            part.write_bytes(text.encode("utf-8", "replace"))  # file names may hold what is no text
    return [Path(folder) / name for name in texts]


def _plain(text: str) -> str:
    """One line of what can be printed: no control characters, no halves of surrogate pairs."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _escape(text: str) -> str:
    return re.sub(r"([\\`*\[\]|])", r"\\\1", _plain(text).replace("&", "&amp;").replace("<", "&lt;"))


def _harmless(value: Value) -> Value:
    """Spreadsheets run what begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _marked(cell: Cell) -> str:
    text = _escape(cell.text)
    return f"{ {1: f'**{text}**', 2: f'<ins>{text}</ins>'}.get(cell.best, text) } {cell.aside}".rstrip()


def _boxes(table: Table) -> list[int]:
    """The width of each column on a terminal, with the gap before it."""
    boxes: list[int] = []
    for (name, count), start in zip(table.groups, table.starts, strict=True):
        for j in range(start, start + count):
            cells = [row.cells[j] for row in table.rows]
            texts = [table.columns[j].head, *(cell.text for cell in cells), *(cell.aside for cell in cells)]
            boxes.append(max(cell_len(_plain(text)) for text in texts) + (1 if name and j > start else 2))
        boxes[-1] += max(0, cell_len(_plain(name)) + 4 - sum(boxes[start:]))
    return boxes


def _stack(cell: Cell, box: int) -> Text:
    """The value, and the published one under it: two side by side would be too wide for the tables of papers."""
    value = _plain(cell.text)
    text = Text(" " * (box - cell_len(value))).append(value, style=("", "bold", "underline")[cell.best])
    return text.append(f"\n{cell.aside.rjust(box)}", style="dim") if cell.aside else text


def _strict(value: Any) -> Any:  # noqa: ANN401
    """What JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _short(label: str) -> str:
    return _plain(label if len(label) <= 28 else f"{label[:27]}…")


def _ends(plot: Plot, low: float, high: float) -> list[tuple[int, str, float]]:
    """(series, label, where it stands as a part of the axes' height): beside the line's end, clear of the others."""
    found = [(i, label, [y for y in ys if math.isfinite(y)]) for i, (label, _, ys) in enumerate(plot.series) if label]
    ends = sorted(((i, label, (ys[-1] - low) / (high - low)) for i, label, ys in found if ys), key=lambda end: end[2])
    heights = list(accumulate((height for _, _, height in ends), lambda below, height: max(height, below + _LINE)))
    # Pushed up from below, then down from the top where they left it.
    tops = [max(1.0, *(end[2] for end in ends)) - _LINE * above for above in range(len(ends))][::-1] if ends else []
    return [(i, label, min(pair)) for (i, label, _), *pair in zip(ends, heights, tops, strict=True)]


def _strips(gallery: Gallery, budget: int) -> tuple[list[Strip], int]:
    """The gallery's rows while their pictures fit the budget, and what is left of it."""
    sizes = [[panel.image.width for panel in panels] for _, panels in gallery.rows if panels]
    room = 1140 // max(map(len, sizes), default=1) - 12  # beside each other on a laptop's screen
    zoom = max(1, min(max(room, 180), 560) // max(map(max, sizes), default=1))
    strips: list[Strip] = []
    for label, panels in gallery.rows:
        shown = [(panel, _data_uri(panel.image)) for panel in panels]
        budget -= sum(len(uri) for _, uri in shown)
        if budget < 0:
            break
        strips.append((label, zoom * max((panel.image.width for panel in panels), default=1), shown))
    return strips, max(0, budget)


def _data_uri(image: Image) -> str:
    kind = "webp" if max(image.size) <= 16_383 else "png"  # the longest side WebP can have
    buffer = io.BytesIO()
    image.convert("RGBA" if "A" in image.getbands() else "RGB").save(buffer, kind, lossless=True)
    return f"data:image/{kind};base64,{b64encode(buffer.getvalue()).decode()}"
