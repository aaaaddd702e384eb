"""Writes TIFF files, of 8 or 16 bits."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO, Literal, cast

import imagecodecs
from numpy.typing import NDArray

from . import metadata
from .exif import build_tags
from .metadata import Metadata
from .types import RobustSRError

_STRIP = 256  # rows that are compressed together


def write(file: BinaryIO, pixels: NDArray[Any], meta: Metadata) -> None:
    """``pixels (h, w, channels)``, uint8 or uint16: deflated strips with horizontal prediction, then the one directory.

    EXIF gives the byte order. RobustSRError: more than the 4 GB that a TIFF can have.
    """
    height, width, channels = pixels.shape
    order, tags = metadata.tiff_tags(meta)
    stored = pixels.dtype.newbyteorder(cast('Literal["<", ">"]', order))
    offsets, sizes = [], []
    file.write(bytes(8))
    for top in range(0, height, _STRIP):
        strip = pixels[top : top + _STRIP].copy()
        strip[:, 1:] -= pixels[top : top + _STRIP, :-1]
        data = imagecodecs.zlib_encode(strip.astype(stored).tobytes(), level=6)
        offsets.append(file.tell())
        sizes.append(len(data))
        file.write(data + b"\0" * (len(data) % 2))
    if file.tell() > (1 << 32) - (1 << 26):  # keeps 64 MB for the directory
        raise RobustSRError(f"{width} x {height} pixels do not fit into the 4 GB of a TIFF file; use png")
    layout: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * pixels.itemsize] * channels),
        259: ("H", [8]),  # compression: deflate
        262: ("H", [2 if channels > 2 else 1]),  # RGB, or gray with 0 for black
        273: ("I", offsets),
        277: ("H", [channels]),
        278: ("I", [_STRIP]),
        279: ("I", sizes),
        284: ("H", [1]),  # channels interleaved
        317: ("H", [2]),  # predictor: differences along rows
    }
    if channels % 2 == 0:
        layout[338] = "H", [2]  # alpha that is not multiplied in
    for tag, (code, values) in layout.items():
        data = struct.pack(f"{order}{len(values)}{code}", *values)
        tags[tag] = 3 if code == "H" else 4, len(values), data
    start = file.tell()
    file.write(build_tags(tags, order, start))
    file.seek(0)
    file.write(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, start))
