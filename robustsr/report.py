"""What a measurement shows people, as data: tables, plots and pictures. ``render`` and ``webpage`` write it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Value: TypeAlias = "float | str | None"
Section: TypeAlias = "Table | Plot | Gallery"

ARROWS = {"high": "↑", "low": "↓", None: ""}


@dataclass(frozen=True)
class Cell:
    """One value; ``None`` shows as n/a.

    ``digits`` after the point; the column's if omitted. ``error``: the standard error of a mean. ``best`` is set by the
    table: 1 best, 2 second, 0 neither.
    """

    value: Value = None
    digits: int | None = None
    error: float | None = None
    best: int = 0

    @property
    def text(self) -> str:
        return number(self.value, self.digits)


@dataclass(frozen=True)
class Column:
    """A column, under the header ``group`` it shares with its neighbours. ``digits`` None: as many as needed."""

    name: str
    group: str = ""
    better: Literal["high", "low"] | None = None
    digits: int | None = 2

    @property
    def head(self) -> str:
        return self.name + ARROWS[self.better]

    @property
    def full(self) -> str:
        """The name where headers have one line."""
        return f"{self.group} {self.name}".strip()


@dataclass(frozen=True)
class Row:
    """A row; rows of one ``section`` stand together. ``published`` rows are a paper's; they are not ``ranked``."""

    label: str
    cells: Sequence[Cell]
    section: str = ""
    published: bool = False
    ranked: bool = True

    @staticmethod
    def of(
        label: str,
        values: Iterable[Value],
        *,
        section: str = "",
        published: bool = False,
        ranked: bool = True,
    ) -> Row:
        """A row of plain values."""
        return Row(label, tuple(map(Cell, values)), section, published, ranked)


@dataclass(frozen=True)
class Table:
    """A table under ``title``, the protocol in ``notes`` below it; ``label`` heads the first column.

    Marks the best and the second value of each column with a direction among the rows that are ranked and not
    published, by the values as they are shown: equal digits are equal ranks. The worst value is never marked.
    ValueError: a row of another length than ``columns``.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    label: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(f"row {row.label!r} has {len(row.cells)} cells, the table {len(self.columns)} columns")
        ranked = []
        for j, column in enumerate(self.columns):
            cells = [(row.published or not row.ranked, settled(row.cells[j], column)) for row in self.rows]
            keys = {key for unranked, cell in cells if not unranked and (key := rank_key(cell)) is not None}
            order = sorted(keys, reverse=column.better == "high")[:-1][:2] if column.better else []
            ranks: dict[float | None, int] = {key: rank for rank, key in enumerate(order, 1)}
            ranked.append(
                [replace(cell, best=0 if unranked else ranks.get(rank_key(cell), 0)) for unranked, cell in cells]
            )
        rows = (replace(row, cells=tuple(cells[i] for cells in ranked)) for i, row in enumerate(self.rows))
        object.__setattr__(self, "rows", tuple(rows))

    @property
    def sections(self) -> list[tuple[str, list[Row]]]:
        return [(name, list(rows)) for name, rows in groupby(self.rows, key=lambda row: row.section)]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Each group of columns and how many it has."""
        return [(name, len(list(columns))) for name, columns in groupby(self.columns, key=lambda c: c.group)]

    @property
    def starts(self) -> list[int]:
        """The first column of each group."""
        return [0, *accumulate(count for _, count in self.groups)][:-1]

    @property
    def footnotes(self) -> list[str]:
        """The notes, how large the standard errors are, and what the marks mean."""
        marks = {cell.best for row in self.rows for cell in row.cells}
        legend = {
            "bold: best": 1 in marks,
            "underlined: second": 2 in marks,
            "published rows: not ranked": any(row.published for row in self.rows),
            "rows in italics: not ranked": any(not row.ranked and not row.published for row in self.rows),
        }
        used = "; ".join(text for text, holds in legend.items() if holds)
        largest: dict[str, str] = {}  # by metric, as digits
        for j, column in enumerate(self.columns):
            if errors := [error for row in self.rows if (error := row.cells[j].error) is not None]:
                top = max(*errors, float(largest.get(column.name, 0)), 0)
                largest[column.name] = number(top, column.digits)
        most = ", ".join(f"{name} {text}" for name, text in largest.items())
        note = f"Standard errors of the means over pictures: at most {most}; each is in the CSV and JSON files."
        return [*self.notes, *([note] if most else []), *([used.capitalize() + "."] if used else [])]


@dataclass(frozen=True)
class Plot:
    """Lines through points: ``series`` are (label, xs, ys); nan leaves a gap."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        series = tuple((label, tuple(map(float, xs)), tuple(map(float, ys))) for label, xs, ys in self.series)
        object.__setattr__(self, "series", series)

    def table(self) -> Table:
        """The same numbers as a table: a row per x, a column per series."""
        lines = [dict(zip(xs, ys, strict=True)) for _, xs, ys in self.series]
        rows = [Row.of(f"{x:g}", [line.get(x) for line in lines]) for x in sorted({x for line in lines for x in line})]
        columns = [Column(label or self.y_label, digits=3) for label, _, _ in self.series]
        return Table(self.title, columns, rows, self.notes, self.x_label)


@dataclass(frozen=True)
class Panel:
    """One picture, uint8 ``(h, w)`` or ``(h, w, 3)``, or a Pillow image; ``caption`` holds its figures."""

    label: str
    picture: NDArray[Any] | Image
    caption: str = ""

    @property
    def image(self) -> Image:
        """The picture as Pillow's. ValueError: it is an array, but not uint8."""
        from PIL import Image

        if isinstance(self.picture, Image.Image):
            return self.picture
        if self.picture.dtype != "uint8":
            raise ValueError(f"the picture of panel {self.label!r} is {self.picture.dtype}, expected uint8")
        return Image.fromarray(self.picture)


@dataclass(frozen=True)
class Gallery:
    """Rows of panels that zoom and pan together; every panel shows the same part of the scene, named by ``crop``.

    ``rows`` are (label, panels). Pixels are shown as squares; a panel of fewer of them, such as the input, as large as
    the widest of its row, so its width should divide that one's.
    """

    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    crop: str = ""


@dataclass(frozen=True)
class Report:
    """What one command found, with ``protocol`` and ``command`` to find it again."""

    title: str
    lead: str
    sections: Sequence[Section]
    protocol: Mapping[str, object]
    command: str


def number(value: Value, digits: int | None) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, str):
        return value
    return f"{value:g}" if digits is None else f"{value:z.{digits}f}"


def settled(cell: Cell, column: Column) -> Cell:
    value = cell.value if cell.value is None or isinstance(cell.value, str) else float(cell.value)
    return replace(cell, value=value, digits=column.digits if cell.digits is None else cell.digits)


def rank_key(cell: Cell) -> float | None:
    """What a cell is ranked by: its number as shown."""
    return float(cell.text) if isinstance(cell.value, float) and not math.isnan(cell.value) else None


def plain(text: str) -> str:
    """One line of what can be printed: no control characters, no halves of surrogate pairs."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
