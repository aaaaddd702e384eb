"""Reports as text for terminals and files. Data in, text out; only ``save`` touches files.

Names of models and files come from outside: every renderer escapes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from .files import StrPath, atomic, strict_json
from .report import ARROWS, Cell, Gallery, Plot, Report, Table, Value, plain
from .webpage import to_html

_LABEL = 16  # columns of a terminal that a row's label has at least


def to_rich(table: Table, *, notes: bool = True) -> Group:
    """A table for the terminal, with or without its ``notes``. Numbers keep their width and labels fold.

    ``fit`` makes tables narrow enough.
    """
    boxes = _boxes(table)
    # Rich has no cells that span columns: a line of all groups is cut at the columns' edges, which touch.
    line = "".join(
        "  " + (f" {plain(name)} ".center(room, "─") if name else " " * room)
        for (name, count), start in zip(table.groups, table.starts, strict=True)
        for room in [sum(boxes[start : start + count]) - 2]
    )
    shown = RichTable(box=None, padding=0, pad_edge=False)
    shown.add_column(Text(("\n" if line.strip() else "") + plain(table.label)), overflow="fold")
    for column, box, end in zip(table.columns, boxes, accumulate(boxes), strict=True):
        group = Text(line[end - box : end] + "\n", style="dim") if line.strip() else Text()
        shown.add_column(group.append(plain(column.head).rjust(box), style="bold"), width=box, no_wrap=True)
    for section, rows in table.sections:
        if section:
            shown.add_row(Text(plain(section), style="italic"))
        for row in rows:
            label = Padding(Text(plain(row.label)), (0, 0, 0, 2 if section else 0))
            cells = [
                Text(plain(cell.text).rjust(box), style=("", "bold", "underline")[cell.best])
                for cell, box in zip(row.cells, boxes, strict=True)
            ]
            shown.add_row(label, *cells, style="dim" if row.published else "" if row.ranked else "italic")
    below = table.footnotes if notes else []
    # A title of the table's own would be folded to its width.
    return Group(Text(plain(table.title), style="bold"), shown, *(Text(plain(note), style="dim") for note in below))


def fit(table: Table, width: int) -> list[Table]:
    """The table in parts that fit a terminal of ``width``, as few as can be: no named group of columns is cut.

    A row is left out where a part of it is n/a throughout and another is not.
    """
    parts: list[list[int]] = [[]]
    boxes, column = _boxes(table), 0
    for count in [n for name, size in table.groups for n in ([size] if name else [1] * size)]:
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
            rows=[
                replace(row, cells=cells)
                for row in table.rows
                for cells in [[row.cells[j] for j in part]]
                if _says(cells) or not _says(row.cells)
            ],
            notes=table.notes if part is parts[-1] else (),
        )
        for part in parts
    ]


def _says(cells: Sequence[Cell]) -> bool:
    return any(cell.value is not None for cell in cells)


def to_markdown(table: Table) -> str:
    """A table in GitHub's Markdown, aligned so that it also reads as plain text."""
    heads = [table.label, *(column.full + ARROWS[column.better] for column in table.columns)]
    grid = [[escaped(head) for head in heads]]
    for section, rows in table.sections:
        if section:
            grid.append([f"**{escaped(section)}**", *("" for _ in table.columns)])
        grid += [[escaped(row.label), *(_marked(cell) for cell in row.cells)] for row in rows]
    widths = [max(3, *(len(line[j]) for line in grid)) for j in range(len(heads))]
    grid.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = (
        " | ".join(text.rjust(w) if j else text.ljust(w) for j, (text, w) in enumerate(zip(line, widths, strict=True)))
        for line in grid
    )
    notes = "".join(f"- {escaped(note)}\n" for note in table.footnotes)
    return "".join(f"| {line} |\n" for line in lines) + ("\n" + notes if notes else "")


def report_to_markdown(report: Report) -> str:
    """A report in Markdown: plots as tables of their numbers, galleries as their captions."""
    blocks = [f"# {escaped(report.title)}", escaped(report.lead)]
    for section in report.sections:
        if isinstance(section, Gallery):
            blocks += [f"## {escaped(section.title)}", *([escaped(section.crop)] if section.crop else [])]
            for label, panels in section.rows:
                blocks.append(f"**{escaped(label)}** (pictures in report.html)")
                blocks.append("\n".join(f"- {escaped(p.label)}: {escaped(p.caption or 'no figures')}" for p in panels))
        else:
            table = section.table() if isinstance(section, Plot) else section
            blocks += [f"## {escaped(table.title)}", to_markdown(table).rstrip()]
    blocks += ["## Protocol", "\n".join(f"- {escaped(k)}: {escaped(str(v))}" for k, v in report.protocol.items())]
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", report.command)), default=0))
    return "\n\n".join(block for block in [*blocks, f"{fence}sh\n{report.command}\n{fence}"] if block) + "\n"


def to_csv(table: Table) -> str:
    """A table as CSV with all digits: section, label, whether measured or published, then a column per column.

    Behind each column of means the standard errors.
    """
    errors = [any(row.cells[j].error is not None for row in table.rows) for j in range(len(table.columns))]
    heads = [(c.full, f"{c.full} standard error")[: 1 + more] for c, more in zip(table.columns, errors, strict=True)]
    lines: list[list[Value]] = [["section", table.label or "label", "source", *chain.from_iterable(heads)]]
    for row in table.rows:
        pairs = [(c.value, c.error)[: 1 + more] for c, more in zip(row.cells, errors, strict=True)]
        lines.append(
            [row.section, row.label, "published" if row.published else "measured", *chain.from_iterable(pairs)]
        )
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_harmless(value) for value in line] for line in lines)
    return buffer.getvalue()


def to_json(report: Report) -> str:
    """A report as strict JSON with all digits, but without pixels; nan and inf are strings."""
    sections: list[dict[str, Any]] = []
    for section in report.sections:
        if isinstance(section, Gallery):
            rows = [(label, [(p.label, p.caption, p.image.size) for p in panels]) for label, panels in section.rows]
            keys = ("label", "caption", "size")
            shown = [{"label": label, "panels": [dict(zip(keys, p, strict=True)) for p in ps]} for label, ps in rows]
            sections.append({"type": "gallery", "title": section.title, "crop": section.crop, "rows": shown})
        else:
            sections.append({"type": type(section).__name__.lower(), **asdict(section)})
    record = {"title": report.title, "lead": report.lead, "command": report.command, "protocol": report.protocol}
    return strict_json({**record, "sections": sections})


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


def escaped(text: str) -> str:
    """One line of Markdown, in tables too, that shows a text letter by letter."""
    text = plain(text).strip().replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*~$\[\]|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    return re.sub(r"^([-+=#]+(?=\s|$)|>|\d+(?=[.)]\s))", _begun, text)


def _begun(mark: re.Match[str]) -> str:
    """What would begin a heading, a list or a quotation, without that."""
    return f"{mark[0]}\\" if mark[0].isdigit() else f"\\{mark[0]}"


def _harmless(value: Value) -> Value:
    """Spreadsheets run what begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _marked(cell: Cell) -> str:
    text = escaped(cell.text)
    return {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(cell.best, text)


def _boxes(table: Table) -> list[int]:
    """The width of each column on a terminal, with the gap before it."""
    boxes: list[int] = []
    for (name, count), start in zip(table.groups, table.starts, strict=True):
        for j in range(start, start + count):
            cells = [row.cells[j] for row in table.rows]
            texts = [table.columns[j].head, *(cell.text for cell in cells)]
            boxes.append(max(cell_len(plain(text)) for text in texts) + (1 if name and j > start else 2))
        boxes[-1] += max(0, cell_len(plain(name)) + 4 - sum(boxes[start:]))
    return boxes
