"""File formats: the bytes of a file <-> integer pixels and metadata, as stored.

PNG goes through libpng and TIFF through tifffile and our own writer, which keep 16 bits; the rest through Pillow, HEIC
with pillow-heif where that is installed.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, BinaryIO, TypeAlias

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from . import metadata, tiff
from .exif import EXIF_IFD, GPS_IFD, ORIENTATION, Directory, load_tags
from .metadata import Metadata
from .types import RobustSRError

Pixels: TypeAlias = NDArray[Any]  # (h, w, channels), uint8 or uint16

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF"}
FORMATS |= {"avif": "AVIF", "bmp": "BMP", "gif": "GIF", "jfif": "JPEG", "jpe": "JPEG"}  # ending -> format
OUTPUT_FORMATS = {ending: name for ending, name in FORMATS.items() if ending not in ("bmp", "gif", "jfif", "jpe")}
HEIC = ("heic", "heif")
if find_spec("pillow_heif"):
    FORMATS |= dict.fromkeys(HEIC, "HEIC")
DEEP = ("PNG", "TIFF")  # these hold 16 bits, and gray with alpha
LONGEST_SIDE = {"PNG": 1_000_000, "JPEG": 65_500, "WEBP": 16_383, "AVIF": 16_384}  # libpng, libjpeg, WebP, libavif
QUALITY = {"JPEG": 95, "WEBP": 90, "AVIF": 85}

_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")  # TIFF, more or less
_ENDINGS = {name: ending for ending, name in reversed(FORMATS.items())}
_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "HEIC": rb"....ftyp(?!avi[fs]).{0,50}he[iv][a-z]",  # before AVIF, for both may begin as mif1
    "AVIF": rb"....ftyp(avi[fs]|m[is]f1)",
    "BMP": rb"BM",
    "GIF": rb"GIF8[79]a",
}


def _heif(file: BinaryIO) -> Any:  # noqa: ANN401 - Pillow's
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        hint = "`pip install pillow-heif` for these, or convert it to PNG or JPEG"
        raise RobustSRError(f"it is a HEIC picture: {hint}") from error
    return HeifImageFile(file)


# Not Image.open: its limit on the number of pixels is a global of the process, and ours is the caller's.
_PILLOW: dict[str, Callable[..., Any]] = {
    "JPEG": jpeg_factory,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "HEIC": _heif,
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
}
_PILLOW_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "CMYK")
_SHALLOW = "its more than 8 bits became 8"
_HEADER = 1 << 16  # bytes in which an AVIF file says what its colours are
_MOST_SAMPLES = 16  # values per pixel of a TIFF: all are decoded, and few kept


@dataclass(frozen=True, slots=True)
class Info:
    """What a file's header says."""

    width: int
    height: int
    format: str  # canonical ending: png jpg webp tif avif bmp gif heic
    bits: int  # 8 or 16 per channel
    gray: bool
    alpha: bool


@dataclass(frozen=True, slots=True)
class Source:
    """An open file of any format: its header and metadata as stored, not turned, and how to get its pixels."""

    info: Info
    meta: Metadata
    pixels: Callable[[], Pixels]  # 1 gray, 3 RGB or 4 CMYK channels, then alpha if info.alpha
    frames: int = 1
    premultiplied: bool = False
    notes: tuple[str, ...] = ()


def source(file: BinaryIO) -> Source:
    """Recognise a file by its content and read its header. Whatever a decoder raises means that it is damaged.

    RobustSRError: a format or a kind of pixels that is not read.
    """
    head = file.read(64)
    name = next((name for name, magic in _SIGNATURES.items() if re.match(magic, head, re.DOTALL)), None)
    if name in (None, "TIFF") and str(file.name).lower().endswith(_RAW):
        raise RobustSRError("it is a camera raw file: convert it first, to TIFF or JPEG")
    if name is None:
        known = ", ".join(_SIGNATURES)
        raise RobustSRError(f"it is not a picture in a known format ({known})" if head else "the file is empty")
    file.seek(0)
    return _png(file) if name == "PNG" else _tiff(file) if name == "TIFF" else _pillow(file, name)


def _png(file: BinaryIO) -> Source:
    blocks = metadata.png_blocks(file)
    width, height, bits, kind = struct.unpack_from(">IIBB", blocks["IHDR"])
    (frames,) = struct.unpack_from(">I", blocks.get("acTL", b"\0\0\0\1"))
    info = Info(width, height, "png", max(bits, 8), kind in (0, 4), kind in (4, 6) or "tRNS" in blocks)

    def pixels() -> Pixels:
        file.seek(0)
        return np.atleast_3d(imagecodecs.png_decode(file.read()))

    coded, gamma = blocks.get("cICP", b""), int.from_bytes(blocks.get("gAMA", b""), "big")
    notes = _coded(coded[0], coded[1]) if len(coded) == 4 else ()
    if gamma and not {"cICP", "iCCP", "sRGB"} & blocks.keys() and abs(gamma - 45455) > 1000:
        notes = (f"its gamma of {gamma / 1e5:g} is taken for sRGB's",)
    return Source(info, metadata.from_png(blocks), pixels, frames, notes=notes)


def _tiff(file: BinaryIO) -> Source:
    notes: tuple[str, ...] = ()
    tif = tifffile.TiffFile(file)
    page: Any = tif.pages[0]
    try:
        order, tags = _big_tags(file, tif) if tif.is_bigtiff else load_tags(file)
    except (ValueError, struct.error) as error:  # a broken sub-directory
        order, tags, notes = "<", {}, (f"metadata was not read: {error}",)
    if tif.is_bigtiff and EXIF_IFD in page.tags:
        notes = ("the EXIF of a BigTIFF was not read",)
    bits, frames, extra = page.bitspersample, len(tif.pages), list(page.extrasamples)
    kind = page.dtype and page.dtype.kind
    if kind not in ("u", "b") or bits not in (1, 2, 4, 8, 16) or page.imagedepth > 1:
        what = {"f": "floating-point", "i": "signed integer"}.get(kind, "unusual")
        raise RobustSRError(f"it has {bits}-bit {what} pixels; save it as unsigned integers of 8 or 16 bits")
    if page.samplesperpixel > _MOST_SAMPLES:
        raise RobustSRError(f"it has {page.samplesperpixel} values per pixel; save it as gray or RGB")
    if page.photometric not in (0, 1, 2) or bits < 8:
        file.seek(0)
        tags.pop(ORIENTATION, None)  # Pillow turns a TIFF by itself
        notes += (f"its {bits} bits became 8",) * (bits > 8)
        return replace(_pillow(file, "TIFF"), meta=metadata.from_tiff(order, tags), frames=frames, notes=notes)
    colours = 3 if page.photometric == 2 else 1
    alpha = next((i for i, kind in enumerate(extra) if kind in (1, 2)), None)
    if dropped := len(extra) - (alpha is not None):
        notes += (f"{dropped} extra channel{'s' * (dropped > 1)}, of a kind that is not known, dropped",)

    def pixels() -> Pixels:
        stored = page.asarray()
        stored = np.moveaxis(stored, 0, -1) if page.axes == "SYX" else np.atleast_3d(stored)
        keep = stored[..., :colours]
        if page.photometric == 0:  # white is 0
            keep = np.iinfo(keep.dtype).max - keep
        return keep if alpha is None else np.concatenate([keep, stored[..., [colours + alpha]]], -1)

    info = Info(page.imagewidth, page.imagelength, "tif", bits, colours == 1, alpha is not None)
    premultiplied = alpha is not None and extra[alpha] == 1
    return Source(info, metadata.from_tiff(order, tags), pixels, frames, premultiplied, notes)


def _big_tags(file: BinaryIO, tif: Any) -> tuple[str, Directory]:  # noqa: ANN401 - tifffile's
    """What `load_tags` gives, of a BigTIFF: those tags that are kept, without sub-directories."""
    tags: Directory = {}
    end = budget = file.seek(0, io.SEEK_END)
    for tag in tif.pages[0].tags:
        size, start = tag.valuebytecount, tag.valueoffset
        wanted = tag.code in metadata.READ - {EXIF_IFD, GPS_IFD}
        if wanted and start + size <= end and size <= budget:  # tags that point outside the file, or all at one part
            budget -= size
            file.seek(start)
            tags[tag.code] = int(tag.dtype), tag.count, file.read(size)
    return tif.byteorder, tags


def _coded(primaries: int, transfer: int) -> tuple[str, ...]:
    """A note on colours that coding-independent code points (ITU-T H.273) name. RobustSRError: those of HDR."""
    if transfer in (16, 18):
        raise RobustSRError(f"it is an HDR picture ({'PQ' if transfer == 16 else 'HLG'}): convert it to sRGB first")
    return (f"its colours (primaries {primaries} of H.273) are taken for sRGB's",) if primaries not in (1, 2) else ()


def _pillow(file: BinaryIO, name: str) -> Source:
    coded, notes = _avif_coded(file) if name == "AVIF" else ((), ())
    image = _PILLOW[name](file)
    if name == "HEIC":
        if colours := image.info.get("nclx_profile"):
            coded = _coded(colours["color_primaries"], colours["transfer_characteristics"])
        notes = (_SHALLOW,) if image.info["bit_depth"] > 8 else ()
    if image.mode not in _PILLOW_MODES:
        raise RobustSRError(f"its pixels are of the kind {image.mode}; save it as RGB, gray or CMYK")
    gray, alpha = image.mode in ("1", "L", "LA"), image.has_transparency_data
    width, height = image.size
    mode = "CMYK" if image.mode == "CMYK" else ("L" if gray else "RGB") + "A" * alpha

    def pixels() -> Pixels:
        return np.atleast_3d(np.asarray(image.convert(mode)))

    info = Info(width, height, _ENDINGS[name], 8, gray, alpha and mode != "CMYK")
    notes += () if image.info.get("icc_profile") else coded
    return Source(info, metadata.from_pillow(image), pixels, getattr(image, "n_frames", 1), notes=notes)


def _avif_coded(file: BinaryIO) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Notes on an AVIF file's colours, where no profile says better, and on its depth: what Pillow does not tell."""
    head = file.read(_HEADER)
    file.seek(0)
    colours = re.search(rb"colrnclx(..)(..)", head, re.DOTALL)
    notes = _coded(*(int.from_bytes(value, "big") for value in colours.groups())) if colours else ()
    configuration = re.search(rb"av1C..(.)", head, re.DOTALL)
    deep = bool(configuration and configuration[1][0] & 0x40)
    return notes, (_SHALLOW,) * deep


def encode(file: BinaryIO, name: str, pixels: Pixels, meta: Metadata, *, quality: int | None, lossless: bool) -> None:
    """Write pixels, gray or RGB with or without alpha, and metadata as a file of the format ``name``.

    Only the formats in ``DEEP`` take uint16. RobustSRError: too much for the format.
    """
    if name == "PNG":
        data = memoryview(imagecodecs.png_encode(_squeezed(pixels), level=4))
        header = 33  # the signature and IHDR; profile and resolution must lie before the pixels
        for part in (data[:header], metadata.png_chunks(meta), data[header:]):
            file.write(part)
    elif name == "TIFF":
        tiff.write(file, pixels, meta)
    else:
        file.write(_encoded(name, pixels, meta, quality or QUALITY[name], lossless))


def _squeezed(pixels: Pixels) -> Pixels:
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _encoded(name: str, pixels: Pixels, meta: Metadata, quality: int, lossless: bool) -> bytes:
    """The bytes of a JPEG, WebP or AVIF file."""
    exif = b"Exif\0\0" + meta.exif if meta.exif else None
    options: dict[str, Any] = {"icc_profile": meta.icc, "exif": exif, "xmp": meta.xmp, "quality": quality}
    if name == "JPEG":
        options |= {"subsampling": 0, "dpi": meta.dpi}
    elif name == "WEBP":
        options |= {"lossless": lossless, "exact": lossless}  # exact: colours under alpha 0 too
    else:
        options |= {"subsampling": "4:4:4"}
    out = io.BytesIO()
    options = {key: value for key, value in options.items() if value is not None}
    Image.fromarray(_squeezed(pixels)).save(out, name, **options)
    data = out.getvalue()
    if name == "JPEG" and meta.iptc:
        behind = 4 + int.from_bytes(data[4:6])  # the JFIF segment must come first
        data = data[:behind] + metadata.jpeg_iptc(meta.iptc) + data[behind:]
    return data
