"""Files <-> float pictures: upright, in sRGB, with alpha apart; and back with all that the file said.

The bytes of each format are in ``formats``, EXIF and its like in ``metadata``, ICC profiles in ``colour``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from . import colour, formats, metadata
from .colour import ROWS, Float, Space
from .files import StrPath
from .files import atomic as atomic
from .formats import DEEP, LONGEST_SIDE, Pixels, Source
from .formats import FORMATS as FORMATS
from .formats import OUTPUT_FORMATS as OUTPUT_FORMATS
from .formats import Info as Info
from .metadata import Metadata as Metadata
from .types import MAX_PIXELS, RobustSRError


@dataclass(frozen=True, slots=True)
class Picture:
    """``rgb (h, w, 3)`` sRGB-encoded in [0, 1], beyond it for colours outside sRGB; ``alpha (h, w)`` in [0, 1].

    ``gray``: the three channels are equal, and one is written. ``notes``: what was changed, for the user.
    """

    rgb: Float
    alpha: Float | None
    gray: bool
    bits: int  # 8 or 16
    meta: Metadata
    format: str  # as in Info
    notes: tuple[str, ...] = ()


# --- reading ---


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Source]:
    """The open file, unless it has too many pixels; whatever goes wrong inside names the file."""
    try:
        with open(path, "rb") as file:
            source = formats.source(file)
            width, height = source.info.width, source.info.height
            if width < 1 or height < 1:
                raise RobustSRError(f"its size is {width} x {height}")
            if width * height > max_pixels:
                size = f"{width} x {height} = {width * height:,} pixels"
                raise RobustSRError(f"it has {size}, the limit is {max_pixels:,}")
            yield source
    except RobustSRError as error:
        raise RobustSRError(f"cannot read {path}: {error}") from error
    except MemoryError as error:
        raise RobustSRError(f"cannot read {path}: not enough memory for its pixels") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise RobustSRError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # decoders meet hostile bytes here, and raise whatever comes
        reason = str(error) or type(error).__name__
        raise RobustSRError(f"cannot read {path}: it is damaged or cut off ({reason})") from error


def inspect(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Info:
    """Read the header only. RobustSRError: not a readable picture, or more than ``max_pixels`` pixels."""
    with _opened(Path(path), max_pixels) as source:
        _, orientation, _ = metadata.mended(source.meta)
        info = source.info
    return replace(info, width=info.height, height=info.width) if orientation > 4 else info


def read(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode the first picture of a file, upright and in sRGB; its content, not its name, decides the format.

    RobustSRError: no such file, no readable picture, more than ``max_pixels`` pixels, damaged or cut off.
    """
    with _opened(Path(path), max_pixels) as source:
        stored = source.pixels()
        if stored.shape[2] - source.info.alpha not in (1, 3, 4):
            raise RobustSRError("it is damaged: its pixels are of another kind than its header says")
    info, (meta, orientation, notes) = source.info, metadata.mended(source.meta)
    notes = source.notes + notes
    if source.frames > 1:
        which = "main one" if info.format == "heic" else "first"
        notes += (f"only the {which} of {source.frames} frames was read",)
    stored = _turned(stored, orientation)
    alpha = None
    if info.alpha:
        stored, alpha = stored[..., :-1], _floats(stored[..., -1])
    rgb, icc, changes = _in_srgb(stored, meta.icc, alpha if source.premultiplied else None)
    if _is_gray(stored, 2 if info.format in ("webp", "avif", "heic") else 0):  # these round each channel for itself
        rgb = rgb[..., 1:2].repeat(3, -1)
    return Picture(rgb, alpha, info.gray, info.bits, replace(meta, icc=icc), info.format, notes + changes)


def _is_gray(stored: Pixels, most: int) -> bool:
    """Whether channels of RGB, as stored, differ by ``most`` levels or less. Later a profile adds traces of colour."""
    if stored.shape[-1] != 3:
        return False
    few = stored[::16, ::16]  # which mostly settle it
    return all(int((some.max(-1) - some.min(-1)).max()) <= most for some in (few, stored))


def _in_srgb(
    stored: Pixels, icc: bytes | None, multiplied: Float | None
) -> tuple[Float, bytes | None, tuple[str, ...]]:
    """Stored colours as sRGB ``(h, w, 3)``, the profile to write them back with, and notes."""
    space: Space = {1: "gray", 3: "rgb", 4: "cmyk"}[stored.shape[-1]]  # type: ignore[assignment]
    notes: tuple[str, ...] = ()
    convert = False
    if icc:
        try:
            convert = not colour.is_srgb(icc, space)
        except ValueError as error:
            icc, notes = None, (f"unusable ICC profile ignored: {error}",)
    if space == "cmyk":
        notes += ("CMYK became sRGB",)
        if icc:
            return colour.to_srgb(stored, icc, space), None, notes
        return _floats(np.asarray(Image.fromarray(stored, "CMYK").convert("RGB"))), None, notes
    floats = _floats(stored)
    if multiplied is not None:
        floats /= np.where(multiplied > 0, multiplied, 1)[..., None]
        np.minimum(floats, 1, out=floats)  # rounding makes colours that are more than their alpha
    if icc and convert:
        floats = colour.to_srgb(floats, icc, space)
    return floats.repeat(3, -1) if space == "gray" else floats, icc, notes


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Upright pixels from those of a file with this EXIF orientation."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    down, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if right else 1])


def _floats(pixels: Pixels) -> Float:
    floats = pixels.astype(np.float32)
    floats /= np.iinfo(pixels.dtype).max
    return floats


def bleed(rgb: Float, alpha: Float) -> Float:
    """``rgb (h, w, 3)`` with the colours of visible pixels extended to where ``alpha (h, w)`` is 0; others as they are.

    Otherwise what hides under transparent pixels, mostly black, seeps into visible edges when upscaled. Each
    2 x 2 block is averaged, weighted by alpha, until no hole is left, and holes are filled from the coarser level,
    linearly (after the pull-push algorithm of Gortler et al. 1996).
    """
    hole = alpha == 0
    if not hole.any() or hole.all():
        return rgb
    height, width = alpha.shape
    even = (0, height % 2), (0, width % 2)
    weight = np.pad(alpha, even).reshape((height + 1) // 2, 2, -1, 2).sum((1, 3))
    total = np.pad(rgb * alpha[..., None], (*even, (0, 0))).reshape((height + 1) // 2, 2, -1, 2, 3).sum((1, 3))
    coarse = bleed(total / np.where(weight > 0, weight, 1)[..., None], weight)
    return np.where(hole[..., None], _doubled(_doubled(coarse, 0), 1)[:height, :width], rgb)


def _doubled(a: Float, axis: int) -> Float:
    """Twice as many values along an axis, interpolated linearly."""
    a = a.swapaxes(0, axis)
    out = np.repeat(a * np.float32(0.75), 2, 0)
    out[2::2] += a[:-1] * np.float32(0.25)
    out[1:-1:2] += a[1:] * np.float32(0.25)
    out[[0, -1]] = a[[0, -1]]
    return out.swapaxes(0, axis)


# --- writing ---


def check(path: StrPath, width: int, height: int, *, quality: int | None, lossless: bool, background: str) -> None:
    """RobustSRError if ``write`` would refuse this file name, size or option, whatever the pixels."""
    path = Path(path)
    name = OUTPUT_FORMATS.get(path.suffix[1:].lower())
    if name is None:
        raise RobustSRError(f"cannot write {path}: its ending must be one of {', '.join(OUTPUT_FORMATS)}")
    if quality is not None and not 1 <= quality <= 100:
        raise RobustSRError(f"quality is {quality}; it must be from 1 to 100")
    if lossless and name in ("JPEG", "AVIF"):
        raise RobustSRError(f"cannot write {path}: {name} is never without loss here; use png, webp or tif")
    if max(width, height) > (longest := LONGEST_SIDE.get(name, 1 << 31)):
        what = f"{width} x {height} pixels, but {name} holds at most {longest:,} a side"
        raise RobustSRError(f"cannot write {path}: {what}; use png or tif")
    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise RobustSRError(f"background {background!r} is no colour; give a CSS name or #rrggbb") from error


def write(
    picture: Picture,
    path: StrPath,
    *,
    quality: int | None = None,
    lossless: bool = False,
    background: str = "white",
    strip: bool = False,
) -> tuple[str, ...]:
    """Write a picture in the format of the path's ending, whole or not at all; return notes on what was lost.

    ``quality`` 1 to 100 for JPEG (95), WebP (90) and AVIF (85); ``lossless`` for WebP (PNG and TIFF always are);
    ``background``, a CSS colour, shows through where JPEG has no alpha; ``strip`` leaves only the ICC profile.
    Values outside [0, 1] are clipped, after the way back to the profile's colours.
    RobustSRError: a wrong option, a size the format cannot hold, or the disk refuses.
    """
    path = Path(path)
    height, width = picture.rgb.shape[:2]
    check(path, width, height, quality=quality, lossless=lossless, background=background)
    name = OUTPUT_FORMATS[path.suffix[1:].lower()]
    paper = np.array(ImageColor.getrgb(background)[:3], np.float32) / np.float32(255)
    notes: list[str] = []
    flat = name == "JPEG" and picture.alpha is not None
    if flat and float(np.min(picture.alpha)) < 1:  # type: ignore[arg-type]
        notes.append(f"transparency was filled with {background}")
    if picture.bits == 16 and name not in DEEP:
        notes.append(f"16 bits became 8, for {name} has no more")
    bits = picture.bits if name in DEEP else 8
    single = picture.gray and (name in DEEP or (name == "JPEG" and not (flat and np.ptp(paper) > 0)))
    meta = Metadata(picture.meta.icc) if strip else metadata.resized(picture.meta, width, height)
    meta, lost = metadata.carried(meta, name)
    convert = False
    if meta.icc:
        try:
            convert = not colour.is_srgb(meta.icc, "gray" if single else "rgb")
        except ValueError as error:
            meta, lost = replace(meta, icc=None), (*lost, f"ICC profile dropped, colours are sRGB: {error}")
    pixels = _quantised(picture, bits, single, paper if flat else None, meta.icc if convert else None)
    with atomic(path) as part, open(part, "xb") as file:
        formats.encode(file, name, pixels, meta, quality=quality, lossless=lossless)
    return (*notes, *lost)


def write_pixels(pixels: Pixels, path: StrPath) -> None:
    """Writes integers ``(h, w, 3)``, uint8 or uint16, as a PNG of their depth, whole or not at all.

    RobustSRError: another ending, for most formats change pixels; or the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise RobustSRError(f"cannot write {path}: other formats than png change pixels, and so undo an attack")
    write(Picture(_floats(pixels), None, False, 8 * pixels.itemsize, Metadata(), "png"), path)


def _quantised(picture: Picture, bits: int, single: bool, paper: Float | None, icc: bytes | None) -> Pixels:
    """Integers ``(h, w, channels)`` of a picture: laid on ``paper``, in one channel, in a profile's colours."""
    alpha = picture.alpha[..., None] if picture.alpha is not None else None
    kept = alpha if paper is None else None
    levels = (1 << bits) - 1
    channels = (1 if single else 3) + (kept is not None)
    out = np.empty((*picture.rgb.shape[:2], channels), np.uint16 if bits == 16 else np.uint8)
    for top in range(0, len(out), ROWS):
        rows = slice(top, top + ROWS)
        strip = picture.rgb[rows]
        if alpha is not None and paper is not None:
            strip = strip * alpha[rows] + paper * (1 - alpha[rows])
        if single:
            strip = strip.mean(-1, keepdims=True)
        if icc:
            strip = colour.from_srgb(strip, icc, "gray" if single else "rgb")
        if kept is not None:
            strip = np.concatenate([strip, kept[rows]], -1)
        out[rows] = np.floor(strip.clip(0, 1) * levels + 0.5)
    return out
