"""TIFF directories, which EXIF blocks are made of: read, built, and corrected in place.

In place, so that maker notes stay valid, whose offsets count from the beginning of the block.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, TypeAlias

Directory: TypeAlias = "dict[int, tuple[int, int, bytes | Directory]]"  # TIFF: tag -> (type, count, value)

ORIENTATION, RESOLUTION, EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x0112, 0x011A, 0x8769, 0x8825, 0xA005
# Tags that describe what is in the picture; all others of a TIFF file describe how its pixels are stored.
DESCRIPTIVE = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, EXIF_IFD, GPS_IFD})
DESCRIPTIVE |= frozenset(range(40091, 40096))  # Windows' title, comment, author, keywords, subject
_CHILDREN = {0: (EXIF_IFD, GPS_IFD), EXIF_IFD: (INTEROP_IFD,)}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # by TIFF type


def _order(header: bytes) -> str:
    if header[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("no TIFF header")
    return "<" if header[:1] == b"I" else ">"


def _entries(file: BinaryIO, order: str, offset: int) -> Iterator[tuple[int, int, int, int]]:
    """(position in the file, tag, type, count) of each entry of the directory at ``offset``."""
    file.seek(offset)
    (number,) = struct.unpack(order + "H", file.read(2))
    entries = file.read(12 * number)
    for i in range(number):
        yield (offset + 2 + 12 * i, *struct.unpack_from(order + "HHI", entries, 12 * i))


def _integer(file: BinaryIO, order: str, position: int) -> int:
    file.seek(position)
    return int(struct.unpack(order + "I", file.read(4))[0])


def _directory(file: BinaryIO, order: str, offset: int, parent: int = 0) -> Directory:
    tags: Directory = {}
    end = budget = file.seek(0, io.SEEK_END)
    for position, tag, kind, count in _entries(file, order, offset):
        size = _BYTES.get(kind, 0) * count
        start = _integer(file, order, position + 8) if size > 4 else position + 8
        if tag in _CHILDREN.get(parent, ()) and tag in tags:
            continue  # many of them, each with many, would take for ever
        if tag in _CHILDREN.get(parent, ()):
            tags[tag] = 4, 1, _directory(file, order, _integer(file, order, position + 8), tag)
        elif size and start + size <= end and size <= budget:  # tags that point outside the file, or all at one part
            budget -= size
            file.seek(start)
            tags[tag] = kind, count, file.read(size)
    return tags


def load_tags(file: BinaryIO) -> tuple[str, Directory]:
    """Byte order ('<' or '>') and first directory of a TIFF structure. ValueError, struct.error: it is broken."""
    file.seek(0)
    order = _order(file.read(4))
    return order, _directory(file, order, _integer(file, order, 4))


def build_tags(tags: Directory, order: str, offset: int) -> bytes:
    """Inverse of ``load_tags``: the bytes of a directory, its values and its children, to lie at ``offset``."""
    entries, tail = b"", b""
    start = offset + 2 + 12 * len(tags) + 4
    for tag, (kind, count, value) in sorted(tags.items()):
        at = start + len(tail)
        if isinstance(value, dict):
            tail += build_tags(value, order, at)
            field = struct.pack(order + "I", at)
        elif len(value) > 4:
            tail += value + b"\0" * (len(value) % 2)
            field = struct.pack(order + "I", at)
        else:
            field = value.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, count) + field
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + tail


def patched(exif: bytes, values: dict[int, int]) -> bytes:
    """The block with the integers of those tags replaced, where it has them; nothing else moves."""
    file, blob = io.BytesIO(exif), bytearray(exif)
    order = _order(exif)
    entries = list(_entries(file, order, _integer(file, order, 4)))
    if (at := next((at for at, tag, *_ in entries if tag == EXIF_IFD), None)) is not None:
        entries += _entries(file, order, _integer(file, order, at + 8))
    for at, tag, kind, _ in entries:
        if tag in values:
            short = kind == 3 and values[tag] < 1 << 16
            fields = tag, 3 if short else 4, 1, values[tag]
            struct.pack_into(order + ("HHIH2x" if short else "HHII"), blob, at, *fields)
    return bytes(blob)


def without_thumbnail(exif: bytes) -> bytes:
    """The block with its second directory unlinked and the small JPEG that this points to blanked."""
    file, blob = io.BytesIO(exif), bytearray(exif)
    order = _order(exif)
    first = _integer(file, order, 4)
    link = first + 2 + 12 * len(list(_entries(file, order, first)))
    second = _integer(file, order, link)
    struct.pack_into(order + "I", blob, link, 0)
    if second:
        found = {tag: _integer(file, order, at + 8) for at, tag, *_ in list(_entries(file, order, second))}
        start, size = found.get(0x0201, 0), found.get(0x0202, 0)
        if link < start < start + size <= len(blob):
            blob[start : start + size] = bytes(size) if start + size < len(blob) else b""
    return bytes(blob)
