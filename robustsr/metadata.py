"""What a file says besides its pixels (EXIF, XMP, IPTC, ICC, resolution): blocks taken out, mended and put back.

Blocks stay bytes: an EXIF block is corrected in place, so that maker notes, whose offsets count from its
beginning, stay valid. Only between TIFF, whose tags are the file itself, and the others is it rebuilt.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image
from .exif import DESCRIPTIVE, ORIENTATION, RESOLUTION, Directory, build_tags, load_tags, patched, without_thumbnail

_LONGEST_TEXT = 1 << 24  # bytes of one inflated PNG text or profile
_LONGEST_TEXTS = 1 << 20  # bytes of all texts of a PNG that are kept
_LONGEST_SEGMENT = 65_450  # bytes of EXIF, XMP or IPTC that surely fit into one JPEG segment
READ = DESCRIPTIVE | {ORIENTATION, 282, 283, 296, 700, 33723, 34675, 34377}  # tags of a TIFF that become metadata
_TEXTS = (b"iTXt", b"zTXt", b"tEXt")  # of PNG
_RAW = "Raw profile type "  # ImageMagick's texts that hold a block
_BLOCKS = {"XML:com.adobe.xmp", *(_RAW + name for name in ("exif", "APP1", "xmp", "iptc", "8bim"))}
_KEPT = {b"IHDR", b"tRNS", b"acTL", b"pHYs", b"eXIf", b"iCCP", b"cICP", b"gAMA", b"sRGB", *_TEXTS}
_SIZE_TAGS = ((0x0100, 0xA002), (0x0101, 0xA003))  # width, height: in the picture's IFD, in the EXIF one
_XMP_SIZES = (rb"tiff:ImageWidth|exif:PixelXDimension", rb"tiff:ImageLength|exif:PixelYDimension")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Blocks as bytes without any container's framing: ``exif`` begins with its TIFF header; ``dpi`` is (x, y)."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: bytes | None = None  # the chunks of a PNG's texts (Title, Author, parameters, ...), as they lie in it


# --- in ---


def png_blocks(file: BinaryIO) -> dict[str, bytes]:
    """The small chunks of a PNG by name, texts that hold a block by their keyword; of several of a name the first.

    Texts that are nothing else's container are together in "texts". Pixels are passed over, wherever they are.
    """
    found: dict[str, bytes] = {}
    texts, room = list[bytes](), _LONGEST_TEXTS
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        size, name = struct.unpack(">I4s", head)
        if name in _KEPT:
            if size > _LONGEST_TEXT:
                raise ValueError(f"a chunk of {size:,} bytes of text")
            data = file.read(size)
            key, _, rest = data.partition(b"\0")
            text_key = key.decode("latin-1")
            if name not in _TEXTS:
                if name.decode() not in found:
                    found[name.decode()] = (_inflated(rest[1:]) or b"broken") if name == b"iCCP" else data
            elif text_key in _BLOCKS:
                if text_key not in found:
                    text = rest[2:].split(b"\0", 2)[-1] if name == b"iTXt" else rest[1:] if name == b"zTXt" else rest
                    packed = name == b"zTXt" or (name == b"iTXt" and rest[:1] == b"\1")
                    found[text_key] = _inflated(text) if packed else text
            elif not text_key.startswith(_RAW) and len(data) + 12 <= room:  # or they could fill the memory
                texts.append(_chunk(name, data))
                room -= len(texts[-1])
            size = 0
        file.seek(size + 4, io.SEEK_CUR)
    return found | ({"texts": b"".join(texts)} if texts else {})


def from_png(blocks: dict[str, bytes]) -> Metadata:
    """Metadata as it is in the chunks that ``png_blocks`` found."""
    exif = blocks.get("eXIf") or _raw_profile(blocks, "exif", "APP1")
    xmp = blocks.get("XML:com.adobe.xmp") or _raw_profile(blocks, "xmp")
    iptc = _unwrapped(_raw_profile(blocks, "iptc", "8bim") or b"")
    x, y, unit = struct.unpack(">IIB", blocks.get("pHYs", bytes(9)))
    dpi = (x * 0.0254, y * 0.0254) if unit == 1 else None
    return Metadata(blocks.get("iCCP"), exif, xmp, iptc, dpi, blocks.get("texts"))


def from_tiff(order: str, tags: Directory) -> Metadata:
    """Metadata as it is in the tags of a TIFF's first directory; those that describe it become an EXIF block."""
    icc, xmp, iptc, block, unit = (_value(tags, tag) for tag in (34675, 700, 33723, 34377, 296))
    kept = {tag: tags[tag] for tag in (DESCRIPTIVE | {ORIENTATION}) & tags.keys()}
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    dpi, sides = None, (_value(tags, 282) or b"") + (_value(tags, 283) or b"")
    if len(sides) == 16:
        x, by, y, per = struct.unpack(order + "IIII", sides)
        scale = {1: 0.0, 3: 2.54}.get(struct.unpack(order + "H", unit[:2])[0], 1.0) if unit else 1.0
        dpi = scale * x / max(by, 1), scale * y / max(per, 1)
    return Metadata(
        icc, header + build_tags(kept, order, 8) if kept else None, xmp, iptc or _unwrapped(block or b""), dpi
    )


def from_pillow(image: Image.Image) -> Metadata:
    """Metadata as Pillow found it in a JPEG, WebP, AVIF, HEIC, BMP or GIF file."""
    info = image.info
    exif, dpi = info.get("exif"), info.get("dpi")
    if exif and info.get("jfif_unit") not in (1, 2) and not _tells_resolution(exif):
        dpi = None  # Pillow makes 72 up for a JPEG that has EXIF but no resolution
    return Metadata(info.get("icc_profile"), exif, info.get("xmp"), info.get("photoshop", {}).get(0x0404), dpi)


def mended(meta: Metadata) -> tuple[Metadata, int, tuple[str, ...]]:
    """What may be kept of a file's metadata, its EXIF orientation (1 to 8), and notes on what was broken.

    In the result the orientation is 1, for the caller turns the pixels; the thumbnail, which nobody updates, is gone.
    """
    notes: tuple[str, ...] = ()
    exif = (meta.exif or b"").removeprefix(b"Exif\0\0") or None
    xmp = meta.xmp or None
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)(\d)", xmp or b"")
    orientation = int(found[1]) if found else 1
    if exif:
        try:
            order, tags = load_tags(io.BytesIO(exif))
            exif = patched(without_thumbnail(exif), {ORIENTATION: 1})
            if value := _value(tags, ORIENTATION):
                (orientation,) = struct.unpack(order + "H", value[:2])
        except (ValueError, struct.error) as error:
            exif, notes = None, (f"broken EXIF dropped: {error}",)
    if xmp:
        xmp = re.sub(rb"(tiff:Orientation(?:=[\"']|>))\d+", rb"\g<1>1", xmp)
    dpi = meta.dpi
    if dpi:
        dpi = float(dpi[0]), float(dpi[1])
        dpi = dpi if all(math.isfinite(d) and 0 < d < 1e6 for d in dpi) else None
    return (
        Metadata(meta.icc or None, exif, xmp, meta.iptc or None, dpi, meta.texts),
        orientation if orientation in range(1, 9) else 1,
        notes,
    )


def _tells_resolution(exif: bytes) -> bool:
    try:
        return RESOLUTION in load_tags(io.BytesIO(exif.removeprefix(b"Exif\0\0")))[1]
    except (ValueError, struct.error):
        return False


def _value(tags: Directory, tag: int) -> bytes | None:
    value = tags[tag][2] if tag in tags else None
    return value if isinstance(value, bytes) else None


def _inflated(data: bytes) -> bytes:
    """Inflated text or profile; nothing if it is broken or a bomb, for the pixels are good all the same."""
    inflater = zlib.decompressobj()
    try:
        out = inflater.decompress(data, _LONGEST_TEXT)
    except zlib.error:
        return b""
    return out if inflater.eof else b""


def _raw_profile(blocks: dict[str, bytes], *names: str) -> bytes | None:
    """ImageMagick's way to keep a block in PNG text: a name, a length, then hexadecimal digits."""
    text = next((blocks[key] for name in names if (key := _RAW + name) in blocks), None)
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")) if text else None
    except ValueError:
        return None


def _unwrapped(block: bytes) -> bytes | None:
    """IPTC out of a Photoshop resource block; a bare IPTC block (it begins with 0x1C) passes as it is."""
    at = block.find(b"8BIM\x04\x04")
    if at < 0:
        return block if block[:1] == b"\x1c" else None
    start = at + 6 + (int.from_bytes(block[at + 6 : at + 7]) // 2 + 1) * 2  # a name padded to an even length
    return block[start + 4 : start + 4 + int.from_bytes(block[start : start + 4])]


# --- out ---


def resized(meta: Metadata, width: int, height: int) -> Metadata:
    """The same metadata for a picture of another size: whatever tells the old size now tells the new one."""
    exif, xmp = meta.exif, meta.xmp
    for size, tags, names in zip((width, height), _SIZE_TAGS, _XMP_SIZES, strict=True):
        exif = patched(exif, dict.fromkeys(tags, size)) if exif else None
        xmp = re.sub(rb"((?:" + names + rb")(?:=[\"']|>))\d+", rb"\g<1>%d" % size, xmp) if xmp else None
    return replace(meta, exif=exif, xmp=xmp)


def carried(meta: Metadata, name: str) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata that the format can hold, and notes on the rest."""
    notes = []
    if name != "PNG" and meta.texts:
        notes.append(f"text was dropped, for {name} has no place for PNG's ({', '.join(_keywords(meta.texts))})")
        meta = replace(meta, texts=None)
    if name in ("WEBP", "AVIF"):
        notes += [f"IPTC was dropped, for {name} has no place for it"] * bool(meta.iptc)
        # EXIF tells the resolution too, if there is any.
        notes += [f"dots per inch were dropped, for {name} has no place for them"] * bool(meta.dpi and not meta.exif)
        return replace(meta, iptc=None, dpi=None), tuple(notes)
    blocks = {"exif": meta.exif, "xmp": meta.xmp, "iptc": meta.iptc} if name == "JPEG" else {}
    for field, block in blocks.items():
        if block and len(block) > _LONGEST_SEGMENT:
            meta = replace(meta, **{field: None})
            notes.append(f"{field.upper()} was dropped, for JPEG holds {_LONGEST_SEGMENT:,} bytes of it")
    return meta, tuple(notes)


def _wrapped(iptc: bytes) -> bytes:
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def jpeg_iptc(iptc: bytes) -> bytes:
    """The APP13 segment for IPTC. At most 65,500 bytes fit."""
    data = b"Photoshop 3.0\0" + _wrapped(iptc)
    return struct.pack(">2sH", b"\xff\xed", len(data) + 2) + data


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _keywords(texts: bytes) -> list[str]:
    """What the texts of a PNG are called, three of them."""
    found, at = [], 0
    while at < len(texts):
        (size,) = struct.unpack_from(">I", texts, at)
        found.append(texts[at + 8 : at + 8 + size].partition(b"\0")[0][:79].decode("ascii", "replace"))
        at += size + 12
    names = [name for name in dict.fromkeys(found) if name.isprintable()]
    return names[:3] + ["..."] * (len(names) > 3)


def png_chunks(meta: Metadata) -> bytes:
    """The chunks to put behind a PNG's header chunk."""
    out = b""
    if meta.icc:
        out += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(meta.icc))
    if meta.dpi:
        out += _chunk(b"pHYs", struct.pack(">IIB", *(round(d / 0.0254) for d in meta.dpi), 1))
    if meta.exif:
        out += _chunk(b"eXIf", meta.exif)
    if meta.xmp:
        out += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + meta.xmp)
    if meta.iptc:
        block = _wrapped(meta.iptc)
        digits = "\n".join(re.findall(".{1,72}", block.hex()))
        out += _chunk(
            b"zTXt",
            b"Raw profile type iptc\0\0" + zlib.compress(f"\niptc\n{len(block):8}\n{digits}\n".encode()),
        )
    return out + (meta.texts or b"")


def tiff_tags(meta: Metadata) -> tuple[str, Directory]:
    """Byte order and tags for a TIFF file that carries this metadata."""
    order, tags = load_tags(io.BytesIO(meta.exif)) if meta.exif else ("<", {})
    tags = {tag: tags[tag] for tag in DESCRIPTIVE & tags.keys()}
    for tag, kind, block in ((700, 1, meta.xmp), (33723, 7, meta.iptc), (34675, 7, meta.icc)):
        if block:
            tags[tag] = kind, len(block), block
    if meta.dpi:
        for tag, dpi in zip((282, 283), meta.dpi, strict=True):
            tags[tag] = (
                5,
                1,
                struct.pack(order + "II", *Fraction(dpi).limit_denominator(1000).as_integer_ratio()),
            )
        tags[296] = 3, 1, struct.pack(order + "H", 2)  # per inch
    return order, tags
