"""Contact sheets: labelled rows of pictures on white, and differences made visible. Pure drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .report import Panel

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
NARROWEST, WIDEST = 200, 400  # pixels of a panel: enlarged up to WIDEST, captions have at least NARROWEST
MARGIN, GAP = 16, 10
INK, FAINT = "#111111", "#5c5c5c"


def amplified(delta: NDArray[np.float32], factor: int | None = None) -> tuple[NDArray[np.uint8], int]:
    """A difference ``(h, w, 3)`` in [-1, 1] as a picture whose mid-gray is 0, and by what it was multiplied.

    ``factor``: the largest whole number that clips nothing, if omitted.
    """
    if factor is None:
        largest = float(np.abs(delta).max(initial=0))
        factor = max(1, int(0.5 / largest + 1e-4)) if largest else 1
    levels = 128 + np.rint(255.0 * factor * delta.astype(np.float64))
    return levels.clip(0, 255).astype(np.uint8), factor


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Panel]]], *, title: str = "", notes: Sequence[str] = ()
) -> Image.Image:
    """Rows of panels with their labels above and captions below, as in `report.Gallery`, and notes at the end.

    Pixels are enlarged by whole factors to squares; a panel of fewer pixels is as large as the widest, as nearly as a
    whole factor allows. RGB.
    """
    heading, bold, small = (ImageFont.load_default(size) for size in (18, 14, 12))
    sizes = [panel.image.size for _, panels in rows for panel in panels] or [(1, 1)]
    widest, highest = (max(size[axis] for size in sizes) for axis in (0, 1))
    zoom = max(1, WIDEST // widest)
    cell, high = max(widest * zoom, NARROWEST), highest * zoom
    columns = max((len(panels) for _, panels in rows), default=1)
    width = 2 * MARGIN + columns * cell + (columns - 1) * GAP

    blocks: list[tuple[int, int, str, Font, str]] = []  # x, y, text, font, colour
    pasted: list[tuple[int, int, Image.Image]] = []
    y = MARGIN

    def write(texts: Sequence[tuple[int, int, str]], font: Font, colour: str) -> None:
        """Texts beside each other, each (x, room, text), folded; moves below the longest."""
        nonlocal y
        folded = [(x, _folded(text, font, room)) for x, room, text in texts if text]
        blocks.extend(
            (x, y + i * _line(font), line, font, colour) for x, lines in folded for i, line in enumerate(lines)
        )
        y += max((len(lines) for _, lines in folded), default=0) * _line(font)

    write([(MARGIN, width - 2 * MARGIN, title)], heading, INK)
    for label, panels in rows:
        y += GAP
        write([(MARGIN, width - 2 * MARGIN, label)], bold, INK)
        at = [(MARGIN + j * (cell + GAP), cell) for j in range(len(panels))]
        write([(*place, panel.label) for place, panel in zip(at, panels, strict=True)], small, INK)
        y += 3
        for (x, _), panel in zip(at, panels, strict=True):
            pasted.append((x, y, _enlarged(panel.image, widest * zoom, high)))
        y += max((p.height for _, top, p in pasted if top == y), default=0) + 3
        write([(*place, panel.caption) for place, panel in zip(at, panels, strict=True)], small, FAINT)
    y += GAP
    for note in notes:
        write([(MARGIN, width - 2 * MARGIN, note)], small, FAINT)

    sheet = Image.new("RGB", (width, y + MARGIN), "white")
    for x, top, picture in pasted:
        sheet.paste(picture, (x, top))
    draw = ImageDraw.Draw(sheet)
    for x, top, text, font, colour in blocks:
        draw.text((x, top), text, fill=colour, font=font)
    return sheet


def _enlarged(picture: Image.Image, width: int, height: int) -> Image.Image:
    """By the largest whole factor that fits."""
    factor = max(1, min(width // picture.width, height // picture.height))
    size = (picture.width * factor, picture.height * factor)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _line(font: Font) -> int:
    return round(1.35 * getattr(font, "size", 12))


def _folded(text: str, font: Font, room: int) -> list[str]:
    """Lines no wider than ``room`` pixels: cut between words, and inside those that are too long."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if font.getlength(longer) <= room:
                lines[-1] = longer
                continue
            if lines[-1]:
                lines.append("")
            for letter in word:
                if lines[-1] and font.getlength(lines[-1] + letter) > room:
                    lines.append("")
                lines[-1] += letter
    return lines
