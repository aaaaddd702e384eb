"""Reports as one page for browsers, and their plots. Names of models and files come from outside: all are escaped."""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from base64 import b64encode
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from .report import Gallery, Panel, Plot, Report, plain

if TYPE_CHECKING:
    from PIL.Image import Image

Strip: TypeAlias = "tuple[str, int, list[tuple[Panel, str]]]"  # label, width on the page, panels and data URIs
PICTURE_BUDGET = 32 * 2**20  # bytes; browsers open a page of this size at once
_INK = "#010203"  # stands for the colour of the page's text
_SERIES = ("#0072b2", "#d55e00", "#00805f", "#a8477f", "#a87300", "#2f93cf", "#6b6b6b")  # after Okabe and Ito
_MARKERS = "osD^vPX*<"
_LINE = 0.075  # of a plot's height: a line of text


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
        axes.set_xlabel(plain(plot.x_label), labelpad=7, **ink)
        figure.text(0.003, 0.95, plain(plot.y_label), **ink)
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
        style=style,
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _short(label: str) -> str:
    return plain(label if len(label) <= 28 else f"{label[:27]}…")


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
