"""The width of certified bounds as a picture with a scale beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

STRIP, NARROWEST = 52, 260  # pixels of the scale below the picture, and of a picture that its words fit under


def heat(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """``values (...)`` in [0, 1] as colours ``(..., 3)``: dark to bright, also for the colour-blind."""
    from matplotlib import colormaps  # slow to import

    colours: NDArray[np.uint8] = colormaps["inferno"](np.clip(values, 0, 1), bytes=True)
    return colours[..., :3]


def width_map(width: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``width (3, h, w)``, upper minus lower in 8-bit levels, as a picture of the widest channel with its scale.

    The scale runs from 0 to the largest width, rounded up to tens.
    """
    widest = width.max(0)
    h, w = widest.shape
    top = min(255, max(10, -(-int(widest.max()) // 10) * 10))
    full = max(w, NARROWEST)
    sheet = np.full((h + STRIP, full, 3), 255, np.uint8)
    left = (full - w) // 2
    sheet[:h, left : left + w] = heat(widest / top)
    sheet[h + 6 : h + 18, 8 : full - 8] = heat(np.linspace(0, 1, full - 16))
    image = Image.fromarray(sheet)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for value, x, anchor in ((0, 8, "la"), (top // 2, full // 2, "ma"), (top, full - 8, "ra")):
        draw.text((x, h + 20), str(value), fill="black", font=font, anchor=anchor)
    words = "levels (of 255) between the bounds"
    draw.text((full // 2, h + 35), words, fill="black", font=font, anchor="ma")
    return np.asarray(image)
