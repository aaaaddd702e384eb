"""What the browser is shown of pictures: bounded 8-bit previews, and places at 1:1 beside each other."""

from __future__ import annotations

import html
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustsr import images
from robustsr.images import Picture
from robustsr.scene import Pixels

PREVIEW = 1400  # pixels of a preview's longer side
REGION = 1024  # pixels a side of what is shown at 1:1 at once
PAPER = 255  # under transparency

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Stored:
    """8-bit pixels ``(h, w, 3)`` in a file, of which any part is read without the rest."""

    path: Path

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        h, w = self._pixels.shape[:2]
        return w, h

    def preview(self) -> Image.Image:
        """The whole, at most PREVIEW pixels a side."""
        return bounded(self._pixels)

    def region(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The pixels of ``box`` (left, top, right, bottom)."""
        left, top, right, bottom = box
        return Image.fromarray(np.ascontiguousarray(self._pixels[top:bottom, left:right]))

    @property
    def _pixels(self) -> Bytes:
        pixels: Bytes = np.load(self.path, mmap_mode="r")
        return pixels


@dataclass(frozen=True)
class Enlarged:
    """A picture enlarged to ``size``, of which only what is shown is computed."""

    small: Stored
    size: tuple[int, int]
    how: Image.Resampling = Image.Resampling.BICUBIC

    def preview(self) -> Image.Image:
        w, h = self.size
        factor = min(1, PREVIEW / max(w, h))
        shown = (max(1, round(w * factor)), max(1, round(h * factor)))
        return self.small.region((0, 0, *self.small.size)).resize(shown, self.how)

    def region(self, box: tuple[int, int, int, int]) -> Image.Image:
        sw, sh = self.small.size
        fx, fy = sw / self.size[0], sh / self.size[1]
        left, top, right, bottom = box
        whole = self.small.region((0, 0, sw, sh))
        wanted = (right - left, bottom - top)
        return whole.resize(wanted, self.how, box=(left * fx, top * fy, right * fx, bottom * fy))


View = Stored | Enlarged


def bounded(pixels: Bytes) -> Image.Image:
    """Pixels as a picture of at most PREVIEW pixels a side."""
    step = max(1, max(pixels.shape[:2]) // (2 * PREVIEW))  # thinned first: hundreds of megapixels come by
    made = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    made.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
    return made


def store(picture: Picture, folder: Path) -> Stored:
    """Keeps the 8-bit sRGB of a picture, laid on white where it is transparent."""
    return keep(flat(picture), folder)


def keep(pixels: Pixels, folder: Path) -> Stored:
    """Keeps 8-bit pixels ``(h, w, 3)``."""
    path = folder / f"{secrets.token_hex(6)}.npy"
    np.save(path, pixels)
    return Stored(path)


def flat(picture: Picture, rows: int = 512) -> Bytes:
    """8-bit sRGB ``(h, w, 3)``, on white where it is transparent."""
    out = np.empty(picture.rgb.shape, np.uint8)
    for top in range(0, len(out), rows):
        part = picture.rgb[top : top + rows].clip(0, 1) * 255
        if picture.alpha is not None:
            alpha = picture.alpha[top : top + rows, :, None]
            part = part * alpha + PAPER * (1 - alpha)
        out[top : top + rows] = np.floor(part + 0.5)
    return out


def read(path: Path, folder: Path, max_pixels: int) -> Stored:
    """Keeps what a file shows."""
    return store(images.read(path, max_pixels=max_pixels), folder)


def saved(picture: Image.Image, folder: Path) -> str:
    """A PNG of its own name; its path, as components take it."""
    path = folder / f"{secrets.token_hex(6)}.png"
    picture.save(path, "PNG", compress_level=1)
    return str(path)


def region_at(size: tuple[int, int], x: float = 0.5, y: float = 0.5) -> tuple[int, int, int, int]:
    """The box of at most REGION pixels a side around a place given as shares of width and height."""
    starts = [round(min(max(at * n - REGION / 2, 0), max(n - REGION, 0))) for at, n in zip((x, y), size, strict=True)]
    left, top = starts
    return left, top, min(left + REGION, size[0]), min(top + REGION, size[1])


@dataclass(frozen=True)
class Loupe:
    """Views of one size, each under its label, and the folder for what is shown of them."""

    panes: Sequence[tuple[str, View]]
    folder: Path

    def show(self, x: float = 0.5, y: float = 0.5) -> str:
        """HTML: each view at 1:1 around one place, moved and enlarged together (loupe.js), and an overview."""
        size = self.panes[0][1].size
        box = region_at(size, x, y)
        whole = box == (0, 0, *size)
        shown = "".join(
            f'<figure><div class="pane" tabindex="0" role="img" aria-label="{html.escape(label)}, 1:1">'
            f'<img alt="" draggable="false" src="{address(saved(view.region(box), self.folder))}"></div>'
            f"<figcaption>{html.escape(label)}</figcaption></figure>"
            for label, view in self.panes
        )
        overview = ""
        if not whole:
            small = self.panes[-1][1].preview()
            small.thumbnail((220, 220))
            left, top, right, bottom = (100 * v / n for v, n in zip(box, (*size, *size), strict=True))
            overview = (
                f'<div class="overview" title="Click to look elsewhere"><img alt="Overview: click to look elsewhere" '
                f'src="{address(saved(small, self.folder))}"><span style="left:{left:.2f}%;top:{top:.2f}%;'
                f'width:{right - left:.2f}%;height:{bottom - top:.2f}%"></span></div>'
            )
        place = f"{size[0]} x {size[1]} pixels in all"
        bar = (
            '<div class="bar"><button type="button" data-zoom="1">1:1</button><button type="button" data-zoom="2">2:1'
            '</button><button type="button" data-zoom="4">4:1</button>'
            f"<span>{place}. Drag to see more; arrow keys and + - work too.</span></div>"
        )
        return f'<div class="loupe">{bar}<div class="panes">{shown}</div>{overview}</div>'


def address(path: str) -> str:
    """Where the browser finds a file of the server's folder."""
    return f"gradio_api/file={quote(path)}"
