"""Reports: what is marked, what is escaped, what is kept, and that nothing is cut."""

import csv
import html
import io
import json
import math
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import markdown_it
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from robustsr import render as render_module
from robustsr.render import escaped, fit, report_to_markdown, save, to_csv, to_json, to_markdown, to_rich
from robustsr.report import Cell, Column, Gallery, Panel, Plot, Report, Row, Table
from robustsr.types import RobustSRError
from robustsr.webpage import to_html, to_svg

EVIL = "<script>alert(1)</script>\"'&|*x*"


def column_of(values, better="high", digits=2, published=()):
    rows = [Row.of(str(i), [value], published=i in published) for i, value in enumerate(values)]
    return Table("t", [Column("PSNR", better=better, digits=digits)], rows)


def marks(table, j=0):
    return [row.cells[j].best for row in table.rows]


def wide():
    """Twelve columns in four groups, as the second table of the paper."""
    names = (("PSNR", "high"), ("SSIM", "high"), ("LPIPS", "low"))
    columns = [Column(name, group, better) for group in ("FGSM", "BIM", "PGD", "CW") for name, better in names]
    values = np.random.default_rng(0).uniform(0.1, 1, (7, 12)) * np.tile([30, 1, 1], 4)
    rows = [Row.of(f"method number {i}", line, section="Ours" if i < 5 else "Paper") for i, line in enumerate(values)]
    return Table("Attacks", columns, rows, ["100 pictures"], "Method")


def picture(side=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def sample(name="model"):
    table = Table(name, [Column("PSNR", name, "high")], [Row.of(name, [1 / 3]), Row.of("b", [None])], [name], name)
    plot = Plot(name, name, name, [(name, [0, 1, 2], [1.0, math.nan, 3.0]), ("b", [0, 1], [1, 1])], [name])
    panels = [Panel(name, picture(2), name), Panel("b", Image.fromarray(picture(8, 1)), "1 dB")]
    gallery = Gallery(name, [(name, panels)], name)
    return Report(name, name, [table, plot, gallery], {name: name, "path": Path("x")}, name)


def printed(table, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_rich(table))
    return console.file.getvalue()


# Marks


def test_the_best_and_the_second_are_marked_by_direction():
    assert marks(column_of([1, 3, 2])) == [0, 1, 2]
    assert marks(column_of([1, 3, 2], "low")) == [1, 0, 2]
    assert marks(column_of([1, 3, 2], None)) == [0, 0, 0]


def test_what_looks_equal_is_ranked_equal():
    assert marks(column_of([0.601, 0.604, 0.58, 0.5])) == [1, 1, 2, 0]
    assert marks(column_of([0.601, 0.604, 0.58, 0.5], digits=3)) == [2, 1, 0, 0]
    assert marks(column_of([-0.001, 0.0, -1])) == [1, 1, 0]


def test_the_worst_is_never_marked():
    assert marks(column_of([2, 1])) == [1, 0]
    assert marks(column_of([2, 2])) == marks(column_of([2, None])) == [0, 0]


def test_only_numbers_are_ranked():
    assert marks(column_of([None, math.nan, "9", 2, 1, 0])) == [0, 0, 0, 1, 2, 0]
    assert marks(column_of([math.inf, 2, 1])) == [1, 2, 0]


def test_published_rows_are_not_ranked():
    table = column_of([1, 9, 2, 3], published={1})
    assert marks(table) == [0, 0, 2, 1]
    assert "not ranked" in table.footnotes[-1]


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=8), st.sampled_from(["high", "low"]))
def test_no_unmarked_value_beats_a_marked_one(values, better):
    table = column_of(values, better)
    by_mark = {mark: [float(row.cells[0].text) for row in table.rows if row.cells[0].best == mark] for mark in (1, 2)}
    ranked = [float(row.cells[0].text) for row in table.rows if row.cells[0].value is not None]
    best = max if better == "high" else min
    if by_mark[1]:
        assert set(by_mark[1]) == {best(ranked)}
        assert set(by_mark[2]) <= {best(rest) for rest in [[x for x in ranked if x != best(ranked)]] if rest}


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 'a' has 2 cells, the table 1 columns"):
        Table("t", [Column("PSNR")], [Row.of("a", [1, 2])])


# Terminal


def test_numbers_are_whole_at_100_columns():
    table = wide()
    text = printed(table, 100)
    assert max(map(len, text.splitlines())) <= 100
    shown = re.findall(r"\d+\.\d\d", text)
    assert sorted(shown) == sorted(cell.text for row in table.rows for cell in row.cells)
    assert all(head in text for head in ("FGSM", "BIM", "PGD", "CW", "PSNR↑", "LPIPS↓", "100 pictures"))


def test_narrow_terminals_get_several_tables():
    parts = fit(wide(), 60)
    assert [column.group for part in parts for column in part.columns] == [c.group for c in wide().columns]
    assert len(parts) == 2 and all(max(map(len, printed(part, 60).splitlines())) <= 60 for part in parts)
    assert [part.notes for part in parts] == [(), ["100 pictures"]]
    assert [marks(part) for part in parts] == [marks(wide(), j) for j in (0, 6)]
    assert fit(wide(), 120) == [wide()]
    columns = [Column(f"eps_rel {i}") for i in range(7)]  # no group holds them together
    loose = fit(Table("loose", columns, [Row.of("a row", range(7))]), 60)
    assert [column for part in loose for column in part.columns] == columns and len(loose) == 2
    assert all(max(map(len, printed(part, 60).splitlines())) <= 60 for part in loose)
    rows = [Row.of("all", range(7)), Row.of("the last", [None] * 6 + [1]), Row.of("unknown", [None] * 7)]
    labels = [[row.label for row in part.rows] for part in fit(Table("loose", columns, rows), 60)]
    assert labels == [["all", "unknown"], ["all", "the last", "unknown"]]


def test_a_title_longer_than_its_table_stays_on_one_line():
    assert printed(Table("a title of some length", [Column("s")], [Row.of("a", [1])]), 80).startswith(
        "a title of some length\n"
    )


def test_terminals_get_no_markup_and_no_escapes():
    text = printed(Table("[red]t", [Column("[b]")], [Row.of("\x1b[31m[red]a\nb", [1])]), 80)
    assert "[red]t" in text and "[red]a b" in text and "[b]" in text and "\x1b" not in text


# Text files


def test_markdown_and_csv_hold_the_table():
    table = wide()
    lines = [line.split("|")[1:-1] for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len({tuple(map(len, line)) for line in lines}) == 1  # aligned, and no cell more or less
    body = [[re.sub(r"\*\*|</?ins>", "", cell).strip() for cell in line] for line in lines[2:] if line[1].strip()]
    assert body == [[row.label, *(cell.text for cell in row.cells)] for row in table.rows]

    read = list(csv.DictReader(io.StringIO(to_csv(table))))
    for line, row in zip(read, table.rows, strict=True):
        assert (line["section"], line["Method"], line["source"]) == (row.section, row.label, "measured")
        for cell, column in zip(row.cells, table.columns, strict=True):
            assert float(line[column.full]) == cell.value  # all digits


@pytest.mark.parametrize(
    "text",
    ["_a_.png", "__init__.png", "my_photo_1.png", "~~x~~", "# x", "- x", "+ x", "1. x", "2) x", "> x", "---", "-0.5"]
    + ["![x](y)", "`x`", "*a*", "<b>x</b>", "a & b", "$$x$$", "3.5 dB", "a - b"],
)
def test_markdown_shows_texts_letter_by_letter(text):
    shown = markdown_it.MarkdownIt().enable("strikethrough").render(escaped(text))
    assert shown == f"<p>{html.escape(text, quote=False)}</p>\n".replace("&gt;", "&gt;")


def test_standard_errors_are_in_the_files_and_their_largest_below():
    columns = [Column("PSNR", g, "high") for g in ("Clean", "PGD")] + [Column("LPIPS", "PGD", "low", 3)]
    rows = [Row("a", [Cell(20.0, error=0.25), Cell(18.0, error=0.5), Cell(0.2, error=0.01)])]
    table = Table("t", columns, [*rows, Row("b", [Cell(21.0), Cell(None), Cell(0.1, error=0.02)])])
    note = "Standard errors of the means over pictures: at most PSNR 0.50, LPIPS 0.020; each is in the CSV and JSON"
    note += " files."
    assert note in table.footnotes and note in printed(table, 150) and note in to_markdown(table)
    first, second = csv.DictReader(io.StringIO(to_csv(table)))
    assert (first["PGD PSNR"], first["PGD PSNR standard error"], first["PGD LPIPS standard error"]) == (
        "18.0",
        "0.5",
        "0.01",
    )
    assert (second["Clean PSNR"], second["Clean PSNR standard error"]) == ("21.0", "")
    report = Report("t", "", [table], {}, "c")
    assert json.loads(to_json(report))["sections"][0]["rows"][0]["cells"][1]["error"] == 0.5
    assert 'title="standard error 0.25"' in to_html(report)


def test_text_files_are_escaped():
    table = column_of([1])
    table = Table("t", table.columns, [Row.of(EVIL, [1]), Row.of("=cmd()", [-1])])
    text = to_markdown(table)
    assert "<script" not in text and "\\|\\*x\\*" in text
    labels = [line["label"] for line in csv.DictReader(io.StringIO(to_csv(table)))]
    assert labels == [EVIL, "'=cmd()"]  # a spreadsheet would run it
    assert "<script" not in report_to_markdown(sample(EVIL)).replace(f"sh\n{EVIL}", "")


def test_json_is_complete_and_strict():
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    read = json.loads(to_json(sample()), parse_constant=refuse)
    assert {key: read[key] for key in ("title", "lead", "command")} == dict.fromkeys(
        ("title", "lead", "command"), "model"
    )
    assert read["protocol"] == {"model": "model", "path": "x"}
    table, plot, gallery = read["sections"]
    assert [section["type"] for section in read["sections"]] == ["table", "plot", "gallery"]
    assert [row["cells"][0]["value"] for row in table["rows"]] == [1 / 3, None]
    assert table["columns"][0] == {"name": "PSNR", "group": "model", "better": "high", "digits": 2}
    assert plot["series"][0] == ["model", [0, 1, 2], [1, "nan", 3]]
    assert gallery["rows"][0]["panels"][1] == {"label": "b", "caption": "1 dB", "size": [8, 8]}


# Page


class Page(HTMLParser):
    """Tags with their attributes, and the text that is not script or style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)


def test_nothing_from_outside_becomes_markup():
    good, bad = Page(to_html(sample("x" * len(EVIL)))), Page(to_html(sample(EVIL)))
    assert [tag for tag, _ in bad.tags] == [tag for tag, _ in good.tags]
    assert [sorted(attrs) for _, attrs in bad.tags] == [sorted(attrs) for _, attrs in good.tags]
    assert sum(EVIL in word for word in bad.words) > 10


def test_the_page_asks_nothing_of_the_network_and_holds_every_picture():
    page = to_html(sample())
    found = Page(page)
    assert not re.search(r"//\w", re.sub(r'xmlns(:xlink)?="[^"]*"|//\s.*', "", page))
    for _, attrs in found.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/webp;base64,"))
    assert re.findall(r"@import|url\((?!#)", page) == []
    pictures = [attrs["src"] for tag, attrs in found.tags if tag == "img"]
    for uri, wanted in zip(pictures, (picture(2), picture(8, 1)), strict=True):
        assert np.array_equal(Image.open(io.BytesIO(b64decode(uri.split(",")[1]))), wanted)  # lossless


def test_only_the_script_of_the_page_may_run():
    page = to_html(sample(EVIL))
    (script,) = re.findall(r"(?s)<script>(.*?)</script>", page)
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in page


def test_ids_are_unique_and_links_lead_somewhere():
    report = sample()
    attrs = [attrs for _, attrs in Page(to_html(report)).tags]
    ids = [each["id"] for each in attrs if "id" in each]
    assert len(ids) == len(set(ids))
    links = [each[name][1:] for each in attrs for name in ("href", "xlink:href") if name in each]
    assert set(links) <= set(ids)


def test_rows_of_pictures_over_the_budget_are_left_out_whole():
    rows = [(f"row {i}", [Panel("a", picture(32, i)), Panel("b", picture(32, 9))]) for i in range(3)]
    page = to_html(Report("r", "", [Gallery("g", rows)], {}, "x"), budget=10_000)
    assert page.count("<img") == 2 and "2 more rows of pictures left out" in page


def test_pictures_must_be_of_bytes():
    with pytest.raises(ValueError, match="'a' is float64, expected uint8"):
        to_html(Report("r", "", [Gallery("g", [("", [Panel("a", np.zeros((2, 2)))])])], {}, "x"))


def test_empty_parts_are_fine():
    report = Report("r", "", [Table("t", [Column("a")], []), Plot("p", "x", "y", []), Gallery("g", [])], {}, "")
    assert "<table" in to_html(report) and report_to_markdown(report) and to_json(report)


# Plots


def test_plots_wear_the_colours_of_the_page():
    lines = [('a & id="#0072b2"', [0, 1], [0, 1]), ("漢", [0, 1], [1, 1])]
    svg = to_svg(Plot("t", "$x", "y", lines))
    assert svg.startswith("<svg") and "currentColor" in svg and "var(--series-1, #d55e00)" in svg
    assert '>a &amp; id="#0072b2"<' in svg and "$x" in svg and "<style" not in svg and "#010203" not in svg
    assert svg == to_svg(Plot("t", "$x", "y", lines))


def test_labels_of_lines_keep_clear_of_each_other():
    plot = Plot("t", "x", "y", [(f"line {i}", [0, 1], [0, 1 + i / 1000]) for i in range(10)])
    places = [float(y) for y in re.findall(r'<text[^>]*? y="([\d.]+)"[^>]*>line \d', to_svg(plot))]
    assert len(places) == 10 and min(abs(a - b) for a in places for b in places if a != b) > 10


def test_a_plot_is_a_table_too():
    table = Plot("t", "sigma", "y", [("a", [0, 0.5], [1, 2]), ("b", np.array([0.5]), np.array([3]))]).table()
    assert [(row.label, [cell.value for cell in row.cells]) for row in table.rows] == [
        ("0", [1, None]),
        ("0.5", [2, 3]),
    ]


# Files


def test_save_writes_everything(tmp_path):
    paths = save(sample("a/b \udc80"), tmp_path / "new")  # as the name of a file that is no text
    assert [path.name for path in paths] == ["report.json", "report.md", "01-a-b.csv", "02-a-b.csv", "report.html"]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    assert all(path.read_text("utf-8") for path in paths)


def test_save_writes_nothing_where_something_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(render_module, "to_html", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(sample(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_save_says_where_it_cannot_write(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(RobustSRError, match=r"cannot write .*report\.json"):
        save(sample(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_it_starts_fast():
    slow = {"torch", "typer", "matplotlib", "jinja2", "PIL"}
    code = f"import sys, robustsr.report; print(sorted({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
