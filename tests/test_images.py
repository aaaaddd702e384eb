"""Files in, files out: every kind of picture the readers meet, and everything that can be wrong with a file."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from robustsr import images
from robustsr.exif import EXIF_IFD, ORIENTATION, load_tags
from robustsr.files import atomic
from robustsr.images import Metadata, Picture
from robustsr.metadata import png_blocks
from robustsr.types import RobustSRError

LIMIT = 10**8
H, W = 37, 53
SRGB = imagecodecs.cms_profile("srgb")
PILLOW_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE = imagecodecs.cms_profile("adobergb")
P3 = imagecodecs.cms_profile(
    "rgb", whitepoint=[0.3127, 0.3290], primaries=[0.68, 0.32, 0.265, 0.69, 0.15, 0.06], gamma=2.2
)
GRAY = imagecodecs.cms_profile("gray", gamma=1.8)
XMP = (
    b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6" '
    b'exif:PixelXDimension="7"><exif:PixelYDimension>9</exif:PixelYDimension><dc:title>Zebra</dc:title>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x78\x00\x0bA caption, 1"
MAKER_NOTE = bytes(range(256)) * 3


def pixels(channels, bits=8, seed=0, size=(H, W)):
    """Random integers, smooth enough to look like a picture to a codec, with both extremes in."""
    rng = np.random.default_rng(seed)
    small = rng.random((5, 7, channels))
    rows, columns = np.linspace(0, 3.99, size[0]), np.linspace(0, 5.99, size[1])
    i, j = rows.astype(int), columns.astype(int)
    a, b = (rows - i)[:, None, None], (columns - j)[None, :, None]
    top, bottom = (small[i + k][:, j] * (1 - b) + small[i + k][:, j + 1] * b for k in (0, 1))
    smooth = top * (1 - a) + bottom * a
    out = np.round(smooth * ((1 << bits) - 1)).astype(np.uint16 if bits == 16 else np.uint8)
    out[0, 0], out[-1, -1] = 0, (1 << bits) - 1
    return np.ascontiguousarray(out)


def exif_block(orientation=6, thumbnail=b"\xff\xd8tiny\xff\xd9" * 20):
    """An EXIF block as cameras write it, from Pillow: sub-directories, GPS, a maker note, a thumbnail."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker", "Model 1", orientation
    exif[0x0100], exif[0x0101], exif[0x8298] = 1, 2, "(c) Somebody"
    exif[0x8769] = {0xA002: 7, 0xA003: 9, 0x927C: MAKER_NOTE, 0x9003: "2020:01:02 03:04:05", 0x829A: 0.01}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 7.5)}
    block = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
    order = "<" if block[:1] == b"I" else ">"
    second = ImageFileDirectory_v2(prefix=bytes(block[:2]))
    second[0x0103], second[0x0201], second[0x0202] = 6, 0, len(thumbnail)
    (first,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, first)
    struct.pack_into(order + "I", block, first + 2 + 12 * count, len(block))
    at = len(block)
    second[0x0201] = at + len(second.tobytes(at))
    return bytes(block + second.tobytes(at) + thumbnail)


def picture(*, gray=False, alpha=False, bits=8, meta=Metadata(), seed=0, size=(H, W)):  # noqa: B008 - frozen
    full = pixels((1 if gray else 3) + alpha, bits, seed, size).astype(np.float32) / np.float32((1 << bits) - 1)
    rgb = full[..., :1].repeat(3, -1) if gray else full[..., :3]
    return Picture(np.ascontiguousarray(rgb), full[..., -1] if alpha else None, gray, bits, meta, "png")


def read(path, limit=LIMIT):
    return images.read(path, max_pixels=limit)


def levels(floats, bits=8):
    return np.floor(floats * ((1 << bits) - 1) + 0.5).astype(int)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, kind, rows, extra=b"", late=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + late + chunk(b"IEND", b"")


def save(array, path, name, **options):
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(path, name, **options)


# --- what is read ---


@pytest.mark.parametrize(
    ("ending", "channels"),
    [("png", 1), ("png", 2), ("png", 3), ("png", 4), ("tif", 1), ("tif", 3), ("tif", 4), ("tif", 2)]
    + [("bmp", 1), ("bmp", 3), ("webp", 3), ("webp", 4)],
)
def test_eight_bits_are_read_exactly(tmp_path, ending, channels):
    array, path = pixels(channels), tmp_path / f"x.{ending}"
    save(array, path, images.FORMATS[ending], **({"lossless": True, "exact": True} if ending == "webp" else {}))
    got = read(path)
    info = images.inspect(path, max_pixels=LIMIT)
    gray, alpha = channels < 3, channels in (2, 4)
    assert (info.width, info.height, info.format, info.bits, info.gray, info.alpha) == (W, H, ending, 8, gray, alpha)
    assert (got.gray, got.bits, got.format, got.alpha is not None, got.notes) == (gray, 8, ending, alpha, ())
    assert got.rgb.dtype == np.float32 and got.rgb.shape == (H, W, 3)
    colours = array[..., : channels - alpha]
    assert (levels(got.rgb) == colours).all()
    assert not alpha or (levels(got.alpha) == array[..., -1]).all()


@pytest.mark.parametrize("ending", ["jpg", "avif"])
def test_lossy_formats_are_read_as_pillow_reads_them(tmp_path, ending):
    for channels in (1, 3):
        path = tmp_path / f"{channels}.{ending}"
        save(pixels(channels), path, images.FORMATS[ending], quality=90)
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        assert (levels(read(path).rgb) == expected).all()
        assert read(path).gray == (channels == 1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tif", "tif planar", "tif lzw", "tif big-endian"])
def test_sixteen_bits_are_read_exactly(tmp_path, kind, channels):
    array, path = pixels(channels, 16), tmp_path / f"x.{kind[:3]}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(array[..., 0] if channels == 1 else array))
    else:
        planar = kind == "tif planar" and channels > 1
        data = np.moveaxis(array, -1, 0) if planar else array[..., 0] if channels == 1 else array
        extra = ["unassalpha"] if channels in (2, 4) else None
        options = {"compression": "lzw", "predictor": True} if kind == "tif lzw" else {}
        options |= {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
        order = ">" if "big" in kind else "<"
        model = "rgb" if channels > 2 else "minisblack"
        tifffile.imwrite(path, data, photometric=model, extrasamples=extra, byteorder=order, metadata=None, **options)
    got, alpha = read(path), channels in (2, 4)
    assert (got.bits, got.gray, got.alpha is not None, got.notes) == (16, channels < 3, alpha, ())
    assert (levels(got.rgb, 16) == array[..., : channels - alpha]).all()
    assert not alpha or (levels(got.alpha, 16) == array[..., -1]).all()


def test_small_depths_and_transparent_colours_of_png(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(4, 1, 2, 0, b"\0\x1b", chunk(b"tRNS", b"\0\2")))
    got = read(path)
    assert levels(got.rgb)[0, :, 0].tolist() == [0, 85, 170, 255] and got.gray
    assert got.alpha.tolist() == [[1, 1, 0, 1]]
    path.write_bytes(png(8, 1, 1, 0, b"\0\x1b"))
    assert read(path).rgb[0, :, 0].tolist() == [0, 0, 0, 1, 1, 0, 1, 1]
    colours = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", bytes([0, 128]))
    path.write_bytes(png(4, 1, 2, 3, b"\0\x1b", colours))
    assert levels(read(path).rgb).reshape(-1).tolist() == list(range(12))
    assert levels(read(path).alpha).tolist() == [[0, 128, 255, 255]]
    rows = b"\0" + struct.pack(">6H", 100, 1, 2, 60000, 3, 4)
    path.write_bytes(png(2, 1, 16, 2, rows, chunk(b"tRNS", struct.pack(">3H", 100, 1, 2))))
    assert read(path).alpha.tolist() == [[0, 1]] and read(path).bits == 16
    assert images.inspect(path, max_pixels=9).alpha


@pytest.mark.parametrize("name", ["GIF", "PNG", "TIFF", "BMP"])
def test_palettes_and_one_bit(tmp_path, name):
    with Image.fromarray(pixels(3)) as image:
        paletted, binary = image.quantize(31), image.convert("1")
    for number, stored in enumerate((paletted, binary)):
        path = tmp_path / f"{number}.x"
        stored.save(path, name)
        got = read(path)
        assert (levels(got.rgb) == np.asarray(stored.convert("RGB"))).all()
        assert name == "GIF" or got.gray == (number == 1)


def test_gif_with_a_transparent_colour(tmp_path):
    with Image.fromarray(pixels(3)).quantize(8) as image:
        image.save(tmp_path / "x.gif", transparency=3)
        got = read(tmp_path / "x.gif")
        assert ((got.alpha == 0) == (np.asarray(image) == 3)).all()


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_of_many_frames(tmp_path, name):
    frames = [Image.fromarray(pixels(3, seed=seed)) for seed in range(3)]
    options = {"lossless": True} if name == "WEBP" else {}
    frames[0].save(tmp_path / "x", name, save_all=True, append_images=frames[1:], **options)
    frames[0].save(tmp_path / "one", name, **options)
    got = read(tmp_path / "x")
    assert got.notes == ("only the first of 3 frames was read",)
    tolerance = 20 if name in ("AVIF", "GIF") else 0
    assert np.abs(levels(got.rgb) - levels(read(tmp_path / "one").rgb)).max() <= tolerance


@pytest.mark.parametrize("bits", [8, 16])
def test_associated_alpha_is_divided_out(tmp_path, bits):
    top = (1 << bits) - 1
    true, alpha = np.array([top, top // 2, 0]), np.array([top, top // 2, top // 4, 0])
    stored = np.round(true[None] * (alpha[:, None] / top)).astype(int)
    data = np.concatenate([stored, alpha[:, None]], -1)[None].astype(np.uint16 if bits == 16 else np.uint8)
    for kind, expected in (("assocalpha", np.where(alpha[:, None] > 0, true, 0)), ("unassalpha", stored)):
        tifffile.imwrite(tmp_path / "x.tif", data, photometric="rgb", extrasamples=[kind], metadata=None)
        got = read(tmp_path / "x.tif")
        assert np.abs(got.rgb[0] * top - expected).max() <= 4
        assert (levels(got.alpha, bits)[0] == alpha).all()


def test_white_is_zero_tiff(tmp_path):
    array = pixels(1, 16)[..., 0]
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="miniswhite", metadata=None)
    assert (levels(read(tmp_path / "x.tif").rgb[..., 0], 16) == 65535 - array).all()


def cmyk_profile():
    """A CMYK profile by hand: one 8-bit table with two points an axis, from ink to L*a*b*, black ink ruling all."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lab = [
        (0, 128, 128) if k else (255 - 60 * (c + m + y), 128 - 40 * c + 50 * m, 128 - 40 * c + 60 * y)
        for c, m, y, k in corners
    ]
    ramp = bytes(range(256))
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = (
        b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + unit + ramp * 4 + bytes(v for point in lab for v in point) + ramp * 3
    )
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags, offset = [], 128 + 4 + 12 * 3
    for name, body in ((b"desc", text), (b"wtpt", white), (b"A2B0", table)):
        tags.append((name, offset, body + bytes(-len(body) % 4)))
        offset += len(tags[-1][2])
    head = struct.pack(">I4sI4s4s4s12x4s28x", offset, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    head += struct.pack(">3i", 63190, 65536, 54061)
    directory = b"".join(struct.pack(">4sII", name, at, len(body)) for name, at, body in tags)
    return head.ljust(128, b"\0") + struct.pack(">I", 3) + directory + b"".join(body for *_, body in tags)


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_becomes_srgb(tmp_path, name):
    inks = np.zeros((16, 64, 4), np.uint8)
    inks[:, 16:32, 0] = inks[:, 32:48, 3] = inks[:, 48:, 1] = 255  # paper, cyan, black, magenta
    profile = cmyk_profile()
    for icc in (None, profile):
        Image.fromarray(inks, "CMYK").save(tmp_path / "x", name, quality=100, **({"icc_profile": icc} if icc else {}))
        got = read(tmp_path / "x")
        assert got.notes == ("CMYK became sRGB",) and got.meta.icc is None and not got.gray
        paper, cyan, black, magenta = got.rgb[8, 8::16]
        assert (paper > 0.98).all() and (black < 0.02).all()
        assert cyan[0] < cyan[2] and magenta[1] < magenta[0]
        if icc:  # Pillow's own 8-bit colour management as the witness
            to_srgb = ImageCms.buildTransform(io.BytesIO(icc), ImageCms.createProfile("sRGB"), "CMYK", "RGB", 1, 0x2000)
            expected = np.asarray(ImageCms.applyTransform(Image.fromarray(inks, "CMYK"), to_srgb))
            assert np.abs(got.rgb.clip(0, 1)[8, 8::16] * 255 - expected[8, 8::16]).max() < 3
        else:
            assert cyan[0] < 0.02 and cyan[1] > 0.98


def test_a_wrong_ending_does_not_matter(tmp_path):
    save(pixels(3), tmp_path / "x.png", "JPEG")
    assert images.inspect(tmp_path / "x.png", max_pixels=LIMIT).format == read(tmp_path / "x.png").format == "jpg"


def test_real_photographs(shared, tmp_path):
    files = sorted((shared / "data/photos").rglob("*.*"))
    assert len(files) == 29
    for path in files:
        got, info = read(path), images.inspect(path, max_pixels=LIMIT)
        assert got.rgb.shape == (info.height, info.width, 3) and got.notes == ()
        with Image.open(path) as image:
            sixteen = path.read_bytes()[24] == 16 and image.format == "PNG"
            if not sixteen and "icc_profile" not in image.info:
                assert (levels(got.rgb) == np.asarray(image.convert("RGB"))).all()
        for ending in ("png", "tif"):
            images.write(got, tmp_path / f"x.{ending}")
            again = read(tmp_path / f"x.{ending}")
            assert np.abs(again.rgb - got.rgb).max() < 1e-4 and again.bits == got.bits
            assert again.meta.icc == got.meta.icc and again.meta.iptc == got.meta.iptc
    tree = next(path for path in files if path.name == "tree_alpha_16bit.png")
    assert read(tree).bits == 16 and read(tree).alpha is not None


# --- what is refused ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture in a known format"),
        (b"%PDF-1.7\n", "not a picture in a known format"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off"),
        (b"BMW is a car maker", "damaged or cut off"),
        (png(0, 5, 8, 0, b""), "its size is 0 x 5"),
        (b"II*\0\x08\0\0\0", "damaged or cut off"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif and more", "damaged or cut off"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic and more", "damaged or cut off"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, data, reason):
    path = tmp_path / "holiday.png"
    path.write_bytes(data)
    for reader in (images.inspect, images.read):
        with pytest.raises(RobustSRError, match=rf"holiday\.png: .*{reason}"):
            reader(path, max_pixels=LIMIT)


@pytest.mark.parametrize("name", ["x.dng", "x.NEF", "x.cr2", "x.cr3"])
def test_camera_raw_is_refused_as_such_and_not_read_for_its_preview(tmp_path, name):
    save(pixels(3), tmp_path / name, "TIFF")  # which is what most of them begin like
    if name == "x.cr3":
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom")
    with pytest.raises(RobustSRError, match=f"{name}: it is a camera raw file: convert it first"):
        read(tmp_path / name)
    save(pixels(3), tmp_path / name, "JPEG")
    assert read(tmp_path / name).format == "jpg"


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(RobustSRError, match=r"none\.png: No such file"):
        read(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RobustSRError, match=r"folder\.png: "):
        read(tmp_path / "folder.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    save(pixels(3), tmp_path / "x.png", "PNG")
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(RobustSRError, match="Permission denied"):
        read(tmp_path / "x.png")


CUT = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("AVIF", {}), ("BMP", {}), ("GIF", {})]
CUT += [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_deflate"})]


@pytest.mark.parametrize("kind", [0, 2])
def test_a_png_whose_transparency_is_damaged_is_refused(tmp_path, kind):
    entry = bytearray(chunk(b"tRNS", bytes(2 if kind == 0 else 6)))
    entry[-1] ^= 1  # decoders pass over what has a wrong check sum
    (tmp_path / "x.png").write_bytes(png(2, 1, 8, kind, b"\0" + bytes(2 if kind == 0 else 6), extra=bytes(entry)))
    with pytest.raises(RobustSRError, match=r"x\.png: it is damaged: its pixels are of another kind"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize(("name", "options"), CUT)
def test_cut_off_files_are_refused(tmp_path, name, options):
    out = io.BytesIO()
    Image.fromarray(pixels(3, size=(150, 200))).save(out, name, **options)
    for part in (0.1, 0.5, 0.9, 0.97):
        (tmp_path / "x").write_bytes(out.getvalue()[: int(len(out.getvalue()) * part)])
        with pytest.raises(RobustSRError, match="cannot read .*x: it is damaged or cut off"):
            read(tmp_path / "x")


@pytest.mark.parametrize("bits", [8, 16])
def test_flipped_bits_in_png_and_tiff_are_noticed(tmp_path, bits):
    for ending in ("png", "tif"):
        path = tmp_path / f"x.{ending}"
        images.write(picture(bits=bits), path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x55
        path.write_bytes(data)
        with pytest.raises(RobustSRError, match="damaged"):
            read(path)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_noise_in_a_file_never_raises_anything_else(tmp_path, name):
    out, rng = io.BytesIO(), np.random.default_rng(1)
    Image.fromarray(pixels(3)).save(out, name, **({"exif": exif_block()} if name not in ("BMP", "GIF", "TIFF") else {}))
    for _ in range(40):
        data = np.frombuffer(out.getvalue(), np.uint8).copy()
        at = rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 400), 3)
        data[at] = rng.integers(0, 256, 3)
        (tmp_path / "x").write_bytes(data.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert np.isfinite(images.read(tmp_path / "x", max_pixels=10**6).rgb).all()
            except RobustSRError as error:
                assert str(tmp_path / "x") in str(error)


@pytest.mark.parametrize(("ending", "size"), [("png", (53, 37)), ("jpg", (53, 37)), ("tif", (53, 37))])
def test_too_many_pixels_are_refused_with_the_numbers(tmp_path, ending, size):
    path = tmp_path / f"x.{ending}"
    save(pixels(3), path, images.FORMATS[ending])
    assert read(path, H * W).rgb.shape == (H, W, 3)
    for reader in (images.inspect, images.read):
        with pytest.raises(RobustSRError, match=r"53 x 37 = 1,961 pixels, the limit is 1,960"):
            reader(path, max_pixels=H * W - 1)


def test_a_bomb_is_refused_before_it_goes_off_and_pillows_limit_does_not_meddle(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    with pytest.raises(RobustSRError, match=r"3,600,000,000 pixels, the limit is 100,000,000"):
        read(tmp_path / "bomb.png")
    large = Image.new("1", (20000, 9500))  # above the 179 megapixels where Pillow raises
    large.save(tmp_path / "large.gif")
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.inspect(tmp_path / "large.gif", max_pixels=10**9).width == 20000
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("dtype", "what"), [("float32", "32-bit floating-point"), ("int16", "16-bit signed"), ("uint32", "32-bit")]
)
def test_other_numbers_than_8_or_16_bits_are_refused(tmp_path, dtype, what):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 5), dtype), metadata=None)
    with pytest.raises(RobustSRError, match=f"{what}.* pixels; save it as unsigned integers"):
        images.inspect(tmp_path / "x.tif", max_pixels=LIMIT)


# --- what is written ---

KINDS = [(gray, alpha, bits) for gray in (False, True) for alpha in (False, True) for bits in (8, 16)]


@pytest.mark.parametrize(("gray", "alpha", "bits"), KINDS)
@pytest.mark.parametrize("ending", ["png", "tif", "tiff"])
def test_lossless_round_trip(tmp_path, ending, gray, alpha, bits):
    path, before = tmp_path / f"x.{ending}", picture(gray=gray, alpha=alpha, bits=bits)
    assert images.write(before, path) == ()
    stored = tifffile.imread(path) if ending != "png" else imagecodecs.png_decode(path.read_bytes())
    assert stored.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert np.atleast_3d(stored).shape[-1] == (1 if gray else 3) + alpha
    if bits == 8 or (gray and not alpha):
        with Image.open(path) as image:  # another reader than ours
            assert (np.asarray(image) == stored).all()
    after = read(path)
    assert (after.rgb == before.rgb).all() and (after.gray, after.bits, after.notes) == (gray, bits, ())
    assert (after.alpha is not None) == alpha and (not alpha or (after.alpha == before.alpha).all())


@pytest.mark.parametrize(("gray", "alpha"), [(g, a) for g in (False, True) for a in (False, True)])
def test_lossless_webp_round_trip(tmp_path, gray, alpha):
    before = picture(gray=gray, alpha=alpha)
    assert images.write(before, tmp_path / "x.webp", lossless=True) == ()
    after = read(tmp_path / "x.webp")
    assert (after.rgb == before.rgb).all() and (not alpha or (after.alpha == before.alpha).all())


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "webp", "avif"])
def test_lossy_formats_stay_close_and_obey_quality(tmp_path, ending):
    before = picture(bits=16, size=(120, 160))
    sizes = []
    for quality in (None, 100, 60, 5):
        notes = images.write(before, tmp_path / f"x.{ending}", quality=quality)
        assert notes == (f"16 bits became 8, for {images.FORMATS[ending]} has no more",)
        sizes.append((tmp_path / f"x.{ending}").stat().st_size)
        if quality is None:
            assert np.abs(read(tmp_path / f"x.{ending}").rgb - before.rgb).mean() < 0.01
    assert sizes[1] >= sizes[0] > sizes[2] > sizes[3]


def test_jpeg_keeps_full_colour_resolution_and_gray(tmp_path):
    images.write(picture(), tmp_path / "x.jpg")
    images.write(picture(gray=True), tmp_path / "g.jpg")
    with Image.open(tmp_path / "x.jpg") as image, Image.open(tmp_path / "g.jpg") as gray:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
        assert gray.mode == "L"


def test_rounding_is_to_the_nearest_level_and_clips(tmp_path):
    values = np.array([-0.7, 0, 0.499 / 255, 0.501 / 255, 254.499 / 255, 254.501 / 255, 1, 1.3], np.float32)
    images.write(
        Picture(np.tile(values[None, :, None], (300, 1, 3)), None, False, 8, Metadata(), "png"), tmp_path / "x.png"
    )
    stored = imagecodecs.png_decode((tmp_path / "x.png").read_bytes())
    assert (stored == np.array([0, 0, 0, 1, 254, 255, 255, 255])[None, :, None]).all()


def test_transparency_in_jpeg_becomes_the_background(tmp_path):
    before = replace(picture(alpha=True, gray=True), alpha=np.zeros((H, W), np.float32))
    assert images.write(before, tmp_path / "x.jpg", background="#336699") == ("transparency was filled with #336699",)
    opaque = replace(before, alpha=np.ones_like(before.alpha))
    assert images.write(opaque, tmp_path / "y.jpg") == ()
    after = read(tmp_path / "x.jpg")
    assert not after.gray and np.abs(levels(after.rgb) - (0x33, 0x66, 0x99)).max() <= 2
    images.write(before, tmp_path / "x.jpg")
    assert read(tmp_path / "x.jpg").gray and (read(tmp_path / "x.jpg").rgb == 1).all()
    half = replace(before, rgb=np.zeros((H, W, 3), np.float32), alpha=np.full((H, W), 0.25, np.float32))
    images.write(half, tmp_path / "x.jpg", background="white")
    assert np.abs(levels(read(tmp_path / "x.jpg").rgb) - 191).max() <= 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.bmp", {}, "its ending must be one of png, jpg"),
        ("x", {}, "its ending must be one of"),
        ("x.jpg", {"quality": 0}, "quality is 0; it must be from 1 to 100"),
        ("x.jpg", {"quality": 101}, "quality is 101"),
        ("x.jpg", {"lossless": True}, "JPEG is never without loss here; use png, webp or tif"),
        ("x.avif", {"lossless": True}, "AVIF is never without loss here; use png, webp or tif"),
        ("x.jpg", {"background": "blurple"}, "background 'blurple' is no colour"),
        ("no/such/x.png", {}, "cannot write .*x.png: No such file"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(tmp_path, name, options, message):
    with pytest.raises(RobustSRError, match=message):
        images.write(picture(alpha=True), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ending", "limit"), [("jpg", 65_500), ("webp", 16_383), ("avif", 16_384)])
def test_sizes_that_a_format_cannot_hold(tmp_path, ending, limit):
    rgb = np.zeros((1, limit + 1, 3), np.float32)
    long = Picture(rgb, None, False, 8, Metadata(), "png")
    with pytest.raises(RobustSRError, match=rf"{limit + 1} x 1 pixels, but .* {limit:,} a side; use png or tif"):
        images.write(long, tmp_path / f"x.{ending}")
    assert list(tmp_path.iterdir()) == []
    if ending != "avif":
        images.write(replace(long, rgb=rgb[:, 1:]), tmp_path / f"x.{ending}")
    images.write(long, tmp_path / "x.png")
    assert read(tmp_path / "x.png").rgb.shape[1] == limit + 1


# --- orientation and metadata ---


def upright(array, orientation):
    """EXIF's definition, by Pillow's transpositions."""
    ways = Image.Transpose
    table = {2: ways.FLIP_LEFT_RIGHT, 3: ways.ROTATE_180, 4: ways.FLIP_TOP_BOTTOM, 5: ways.TRANSPOSE}
    table |= {6: ways.ROTATE_270, 7: ways.TRANSVERSE, 8: ways.ROTATE_90}
    image = Image.fromarray(array)
    return np.asarray(image.transpose(table[orientation]) if orientation in table else image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF palette", "TIFF 16", "AVIF", "PNG 16"])
def test_orientation_is_applied_once(tmp_path, name, orientation):
    array, path = pixels(3), tmp_path / "x"
    exif, image = Image.Exif(), Image.fromarray(array)
    exif[0x0112] = orientation
    if name == "TIFF 16":
        tifffile.imwrite(
            path, array * np.uint16(257), photometric="rgb", metadata=None, extratags=[(274, 3, 1, orientation, True)]
        )
    elif name == "PNG 16":
        late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))  # behind the pixels, as exiftool writes it
        rows = np.concatenate(
            [np.zeros((H, 1), np.uint8), (array * np.uint16(257)).astype(">u2").reshape(H, -1).view(np.uint8)], 1
        )
        path.write_bytes(png(W, H, 16, 2, rows.tobytes(), late=late))
    else:
        image = image.quantize(16) if name == "TIFF palette" else image
        image.save(path, name.split()[0], exif=exif, **({"lossless": True} if name == "WEBP" else {"quality": 98}))
    expected = upright(np.asarray(image.convert("RGB")), orientation)
    got, info = read(path), images.inspect(path, max_pixels=LIMIT)
    assert (info.height, info.width) == got.rgb.shape[:2] == expected.shape[:2]
    assert np.abs(levels(got.rgb) - expected).mean() <= (3 if name in ("JPEG", "AVIF") else 0)
    for ending in images.OUTPUT_FORMATS:
        images.write(got, tmp_path / f"y.{ending}", quality=98)
        again = read(tmp_path / f"y.{ending}")
        assert again.rgb.shape == got.rgb.shape and np.abs(again.rgb - got.rgb).mean() < 0.04
        with Image.open(tmp_path / f"y.{ending}") as written:
            assert written.getexif().get(0x0112, 1) == 1


def test_exif_decides_where_xmp_says_otherwise(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3"/></x:xmpmeta>'
    Image.fromarray(pixels(3)).save(tmp_path / "a.jpg", exif=exif, xmp=xmp)
    assert read(tmp_path / "a.jpg").rgb.shape == (W, H, 3)


def tagged(orientation=6):
    return picture(meta=Metadata(PILLOW_SRGB, exif_block(orientation), XMP, IPTC, (300.0, 150.0)))


def put(picture, path):
    """Write the metadata as it is, which ``write`` expects to be mended already."""
    mended, _, _ = images.metadata.mended(picture.meta)
    return images.write(replace(picture, meta=mended), path)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "avif"])
def test_every_tag_survives(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    notes = put(tagged(), path)
    after = read(path)
    assert after.meta.icc == PILLOW_SRGB
    assert b'tiff:Orientation="1"' in after.meta.xmp and b"Zebra" in after.meta.xmp
    assert b'exif:PixelXDimension="53"' in after.meta.xmp and b"<exif:PixelYDimension>37<" in after.meta.xmp
    if ending in ("webp", "avif"):
        assert notes == (f"IPTC was dropped, for {ending.upper()} has no place for it",)
        assert after.meta.iptc is None
    else:
        assert notes == () and after.meta.iptc == IPTC
        assert after.meta.dpi == pytest.approx((300, 150), abs=0.02)
    with Image.open(path) as image:  # Pillow's reader as the witness
        exif = image.getexif()
        inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert (exif[0x010F], exif[0x0110], exif[0x8298]) == ("Maker", "Model 1", "(c) Somebody")
        assert (inner[0xA002], inner[0xA003], inner[0x9003]) == (W, H, "2020:01:02 03:04:05")
        assert inner[0x927C] == MAKER_NOTE and inner[0x829A] == pytest.approx(0.01)
        assert place[1] == "N" and tuple(place[2]) == (48, 12, 7.5)
        assert exif.get(0x0112, 1) == 1 and not exif.get_ifd(1)
        assert ending in ("tif",) or (exif[0x0100], exif[0x0101]) == (W, H)
        assert image.info["icc_profile"] == PILLOW_SRGB
        if ending in ("png", "jpg", "tif"):
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert b"tiny" not in path.read_bytes()


def test_a_second_trip_changes_nothing(tmp_path):
    for ending in ("png", "jpg", "tif"):
        put(tagged(), tmp_path / f"a.{ending}")
        first = read(tmp_path / f"a.{ending}")
        images.write(first, tmp_path / f"b.{ending}")
        assert read(tmp_path / f"b.{ending}").meta == first.meta
        if ending != "jpg":
            assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_a_maker_note_stays_where_it_was():
    """Its inner offsets count from the beginning of the block, so correcting the block must not move it."""
    block = exif_block()
    mended, orientation, notes = images.metadata.mended(Metadata(exif=block))
    grown = images.metadata.resized(mended, 123456, 70000)
    assert orientation == 6 and notes == ()
    assert grown.exif.index(MAKER_NOTE) == block.index(MAKER_NOTE)
    order, tags = load_tags(io.BytesIO(grown.exif))
    inner = tags[0x8769][2]
    assert struct.unpack(order + "II", inner[0xA002][2] + inner[0xA003][2]) == (123456, 70000)
    assert b"tiny" not in grown.exif


def test_tags_survive_the_way_through_tiff(tmp_path):
    put(tagged(), tmp_path / "a.jpg")
    images.write(read(tmp_path / "a.jpg"), tmp_path / "b.tif")
    images.write(read(tmp_path / "b.tif"), tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        exif = image.getexif()
        assert exif[0x010F] == "Maker" and exif.get_ifd(0x8769)[0x927C] == MAKER_NOTE
        assert exif.get_ifd(0x8825)[1] == "N"
    assert read(tmp_path / "c.png").meta.iptc == IPTC


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp", "avif"])
def test_strip_leaves_only_the_profile(tmp_path, ending):
    assert (
        images.write(replace(tagged(), meta=replace(tagged().meta, icc=ADOBE)), tmp_path / f"x.{ending}", strip=True)
        == ()
    )
    assert read(tmp_path / f"x.{ending}").meta == Metadata(icc=ADOBE)
    with Image.open(tmp_path / f"x.{ending}") as image:
        assert not {"exif", "xmp"} & image.info.keys() and image.info.get("dpi", (1, 1)) == (1, 1)


def test_imagemagicks_iptc_and_bare_iptc_in_png(tmp_path):
    wrapped = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    for block in (wrapped, b"Photoshop 3.0\0" + wrapped, IPTC):
        text = f"\niptc\n{len(block):8}\n{block.hex()}\n".encode()
        extra = chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(text))
        (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, b"\0\0", extra))
        assert read(tmp_path / "x.png").meta.iptc == IPTC


@pytest.mark.filterwarnings("ignore:.*EXIF|Truncated")
def test_broken_exif_is_a_note(tmp_path):
    for block in (b"II*\0\x08", b"garbage", exif_block()[:60], b"II*\0\xff\xff\xff\xff"):
        (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, b"\0\0", chunk(b"eXIf", block)))
        save(pixels(3), tmp_path / "x.jpg", "JPEG", exif=b"Exif\0\0" + block)
        for name in ("x.png", "x.jpg"):
            got = read(tmp_path / name)
            assert got.meta.exif is None and got.notes[0].startswith("broken EXIF dropped")


def test_other_broken_metadata_never_costs_the_picture(tmp_path):
    broken = chunk(b"iCCP", b"name\0\0not deflated") + chunk(b"zTXt", b"Raw profile type iptc\0\0neither")
    broken += chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 4\nzz") + chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0xx"
    )
    (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, b"\0\x80", broken))
    got = read(tmp_path / "x.png")
    assert got.meta == Metadata() and got.notes == ("unusable ICC profile ignored: no ICC data",)
    tags = [(33723, 7, 3, b"abc", True), (282, 3, 1, 5, True), (34853, 4, 1, 10**9, True)]
    tifffile.imwrite(tmp_path / "x.tif", pixels(3), photometric="rgb", metadata=None, extratags=tags)
    assert (levels(read(tmp_path / "x.tif").rgb) == pixels(3)).all()


def test_hdr_is_refused_and_other_colours_are_a_note(tmp_path):
    """Code points of H.273: BT.2020 primaries are 9, PQ is 16, HLG 18, sRGB 1 and 13."""
    for code, kind in ((16, "PQ"), (18, "HLG")):
        (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, b"\0\x80", chunk(b"cICP", bytes([9, code, 0, 1]))))
        data = imagecodecs.avif_encode(pixels(3), primaries=9, transfer=code, matrix=9)
        (tmp_path / "x.avif").write_bytes(data)
        for name in ("x.png", "x.avif"):
            with pytest.raises(RobustSRError, match=rf"it is an HDR picture \({kind}\): convert it to sRGB first"):
                images.inspect(tmp_path / name, max_pixels=LIMIT)
    (tmp_path / "deep.avif").write_bytes(imagecodecs.avif_encode(pixels(3, 16) >> 6, bitspersample=10))
    assert read(tmp_path / "deep.avif").notes == ("its more than 8 bits became 8",)
    for extra, note in (
        (chunk(b"cICP", bytes([9, 1, 0, 1])), "its colours (primaries 9 of H.273) are taken for sRGB's"),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), None),
        (chunk(b"cICP", b"\x09"), None),
        (chunk(b"gAMA", (100_000).to_bytes(4, "big")), "its gamma of 1 is taken for sRGB's"),
        (chunk(b"gAMA", (45_455).to_bytes(4, "big")), None),
        (chunk(b"gAMA", b""), None),
        (chunk(b"gAMA", (100_000).to_bytes(4, "big")) + chunk(b"sRGB", b"\0"), None),
    ):
        (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, b"\0\x80", extra))
        assert read(tmp_path / "x.png").notes == ((note,) if note else ())


def test_directories_that_contain_themselves_take_no_time(tmp_path):
    """5,000 times the EXIF directory, and it is that directory: read again and again it would take hours."""
    entries = struct.pack("<HHII", EXIF_IFD, 4, 1, 8) * 5000
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4)
    save(pixels(3), tmp_path / "x.jpg", "JPEG", exif=block)
    images.write(read(tmp_path / "x.jpg"), tmp_path / "y.png")
    assert read(tmp_path / "y.png").rgb.shape == (H, W, 3)


def test_the_header_that_counts_is_the_one_the_decoder_reads(tmp_path):
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    data = png(100, 100, 8, 0, b"\0" + bytes(100 * 101 - 1), late=small) + small
    (tmp_path / "x.png").write_bytes(data)
    assert images.inspect(tmp_path / "x.png", max_pixels=LIMIT).width == 100
    with pytest.raises(RobustSRError, match="the limit is 5,000"):
        images.read(tmp_path / "x.png", max_pixels=5000)
    assert "texts" not in png_blocks(io.BytesIO(data + chunk(b"tEXt", b"Title\0behind the end")))


def test_texts_of_a_png_fill_no_memory():
    bomb = b"\0\0" + zlib.compress(bytes(1 << 20))
    names = ["Raw profile type exif"] * 40 + [f"Raw profile type {i}" for i in range(40)]
    data = png(1, 1, 8, 0, b"\0\x80", b"".join(chunk(b"zTXt", name.encode() + bomb) for name in names))
    found = png_blocks(io.BytesIO(data))
    assert sum(map(len, found.values())) < 2 << 20 and "Raw profile type exif" in found


def test_a_tiff_of_many_values_per_pixel_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "x.tif", np.zeros((8, 8, 17), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(RobustSRError, match="it has 17 values per pixel; save it as gray or RGB"):
        read(tmp_path / "x.tif")


def test_texts_of_a_png_stay_in_pngs(tmp_path):
    texts = chunk(b"tEXt", b"parameters\0a cat, 20 steps") + chunk(b"iTXt", b"Title\0\0\0\0\0K\xc3\xa4tzchen")
    texts += chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello"))
    (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, b"\0\x80", texts, late=chunk(b"tEXt", b"Author\0me")))
    got = read(tmp_path / "x.png")
    assert images.write(got, tmp_path / "y.png") == () == images.write(got, tmp_path / "z.png", strip=True)
    with Image.open(tmp_path / "y.png") as image, Image.open(tmp_path / "z.png") as stripped:
        wanted = {"parameters": "a cat, 20 steps", "Title": "K\u00e4tzchen", "Comment": "hello", "Author": "me"}
        assert {k: str(v) for k, v in image.text.items()} == wanted and not stripped.text
    (note,) = images.write(got, tmp_path / "x.jpg")
    assert note == "text was dropped, for JPEG has no place for PNG's (parameters, Title, Comment, ...)"
    (tmp_path / "much.png").write_bytes(png(1, 1, 8, 0, b"\0\x80", chunk(b"tEXt", b"a\0" + bytes(1000)) * 2000))
    assert len(read(tmp_path / "much.png").meta.texts) <= 1 << 20
    (tmp_path / "long.png").write_bytes(png(1, 1, 8, 0, b"\0\x80", chunk(b"tEXt", b"a" * 100_000)))
    assert len(images.write(read(tmp_path / "long.png"), tmp_path / "long.jpg")[0]) < 200


def test_bigtiff_is_read_as_any_other(tmp_path):
    tags = [(ORIENTATION, "H", 1, 6, True), (700, "B", len(XMP), XMP, True)]
    options = {"photometric": "rgb", "iccprofile": SRGB, "resolution": (300, 300), "extratags": tags}
    for big in (False, True):
        tifffile.imwrite(tmp_path / f"{big}.tif", pixels(3, 16), bigtiff=big, **options)
    big, small = read(tmp_path / "True.tif"), read(tmp_path / "False.tif")
    assert (levels(big.rgb, 16) == np.rot90(pixels(3, 16), -1)).all() and np.array_equal(big.rgb, small.rgb)
    assert big.meta == small.meta and big.meta.icc == SRGB and big.meta.dpi == (300, 300) and big.meta.xmp
    assert big.notes == ()
    tifffile.imwrite(tmp_path / "x.tif", pixels(3), bigtiff=True, extratags=[(65000, "I", 1, 8, True)])
    data = (tmp_path / "x.tif").read_bytes().replace(struct.pack("<HH", 65000, 4), struct.pack("<HH", EXIF_IFD, 4))
    (tmp_path / "x.tif").write_bytes(data)
    assert read(tmp_path / "x.tif").notes == ("the EXIF of a BigTIFF was not read",)
    many = [(tag, "B", 1000, bytes(1000), True) for tag in (700, 33723, 34377)]
    tifffile.imwrite(tmp_path / "x.tif", pixels(3), bigtiff=True, extratags=many)
    data = (tmp_path / "x.tif").read_bytes()
    for tag in (700, 33723):  # values that would end outside of the file
        data = data.replace(struct.pack("<HHQ", tag, 1, 1000), struct.pack("<HHQ", tag, 1, 1 << 30))
    (tmp_path / "x.tif").write_bytes(data)
    with open(tmp_path / "x.tif", "rb") as file:
        meta = images.formats.source(file).meta
    assert meta.xmp is None and meta.iptc is None


def test_what_a_tiff_loses_is_said(tmp_path):
    five = np.concatenate([pixels(3), pixels(3)[..., :2]], -1)
    tifffile.imwrite(tmp_path / "five.tif", five, photometric="rgb", extrasamples=["unspecified", "unspecified"])
    assert read(tmp_path / "five.tif").notes == ("2 extra channels, of a kind that is not known, dropped",)
    four = np.concatenate([pixels(3, 16), pixels(3, 16)[..., :1]], -1)
    tifffile.imwrite(tmp_path / "cmyk.tif", four, photometric="separated")
    assert read(tmp_path / "cmyk.tif").notes == ("its 16 bits became 8", "CMYK became sRGB")


def test_colours_beyond_their_alpha_are_white_at_most(tmp_path):
    stored = np.full((4, 4, 4), 100, np.uint8)
    stored[..., 3] = 50
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    assert read(tmp_path / "x.tif").rgb.max() == 1


def test_blocks_too_long_for_jpeg_are_dropped_with_a_note(tmp_path):
    long = Metadata(xmp=XMP + b" " * 70_000, iptc=IPTC * 6000)
    notes = images.write(picture(meta=long), tmp_path / "x.jpg")
    assert notes == tuple(f"{what} was dropped, for JPEG holds 65,450 bytes of it" for what in ("XMP", "IPTC"))
    assert images.write(picture(meta=long), tmp_path / "x.png") == ()
    assert read(tmp_path / "x.png").meta.iptc == IPTC * 6000


def test_centimetres_become_inches(tmp_path):
    how = {"photometric": "rgb", "resolution": (100, 50), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8, 3), np.uint8), **how)
    assert read(tmp_path / "a.tif").meta.dpi == pytest.approx((254, 127))


def test_no_resolution_is_made_up(tmp_path):
    save(pixels(3), tmp_path / "x.jpg", "JPEG", exif=exif_block())
    assert read(tmp_path / "x.jpg").meta.dpi is None


# --- colours ---


def test_a_single_pixel_of_colour_is_kept(tmp_path):
    """Between the places that are looked at first."""
    rgb = np.full((40, 40, 3), 99, np.uint8)
    rgb[5, 5] = 200, 10, 10
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert np.array_equal(levels(read(tmp_path / "a.png").rgb), rgb)


def test_gray_that_was_stored_as_colours_is_gray(tmp_path):
    """A colour profile leaves traces of colour, WebP rounds each channel for itself; tints that were stored stay."""
    gray = np.repeat(pixels(1), 3, -1)
    save(gray, tmp_path / "x.jpg", "JPEG", icc_profile=ADOBE, quality=95)
    save(gray, tmp_path / "x.webp", "WEBP", quality=90)
    save(gray, tmp_path / "x.png", "PNG", icc_profile=ADOBE)
    for name in ("x.jpg", "x.webp", "x.png"):
        got = read(tmp_path / name)
        assert (got.rgb == got.rgb[..., :1]).all() and not got.gray
    for bits in (8, 16):
        tinted = np.repeat(pixels(1, bits) >> 1, 3, -1)
        tinted[..., 0] += 1
        path = tmp_path / f"tinted{bits}.png"
        path.write_bytes(imagecodecs.png_encode(tinted))
        assert (levels(read(path).rgb, bits) == tinted).all()


@pytest.mark.parametrize("icc", [SRGB, PILLOW_SRGB])
def test_srgb_pixels_are_kept_exactly(tmp_path, icc):
    images.write(picture(bits=16, meta=Metadata(icc)), tmp_path / "x.png")
    after = read(tmp_path / "x.png")
    assert (after.rgb == picture(bits=16).rgb).all() and after.meta.icc == icc and after.notes == ()


@pytest.mark.parametrize("icc", [ADOBE, P3])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_wide_gamuts_go_to_srgb_and_back(tmp_path, icc, ending):
    for bits, worst in ((8, 0), (16, 64)):
        array, path = pixels(3, bits, size=(64, 64)), tmp_path / f"a.{ending}"
        array[0, :3] = np.eye(3, dtype=array.dtype) * array.max()  # the primaries, outside sRGB
        meta = Metadata(icc)
        stored = array.astype(np.float32) / np.float32(array.max())
        plain = Picture(stored, None, False, bits, Metadata(), "png")
        images.write(plain, path)
        tagged_path = tmp_path / f"b.{ending}"
        with_profile = images.formats.encode
        with open(tagged_path, "wb") as file:
            with_profile(file, images.FORMATS[ending], array, meta, quality=None, lossless=False)
        got = read(tagged_path)
        assert got.meta.icc == icc and got.rgb.min() < -0.05 and got.rgb.min() > -1 and got.rgb.max() < 1.3
        images.write(got, path)
        back = tifffile.imread(path) if ending == "tif" else imagecodecs.png_decode(path.read_bytes())
        assert np.abs(back.astype(int) - array).max() <= worst
        if bits == 8:  # lcms through Pillow as the witness, for the colours inside sRGB
            to_srgb = ImageCms.buildTransform(io.BytesIO(icc), ImageCms.createProfile("sRGB"), "RGB", "RGB", 1)
            expected = np.asarray(ImageCms.applyTransform(Image.fromarray(array), to_srgb)).astype(int)
            inside = (got.rgb > 0).all(-1) & (got.rgb < 1).all(-1)
            assert inside.mean() > 0.5 and np.abs(levels(got.rgb) - expected)[inside].max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_gray_profiles(tmp_path, bits):
    array = np.arange(1 << bits).astype(np.uint16 if bits == 16 else np.uint8).reshape(16, -1, 1)
    for ending in ("png", "tif"):
        with open(tmp_path / f"x.{ending}", "wb") as file:
            images.formats.encode(file, images.FORMATS[ending], array, Metadata(GRAY), quality=None, lossless=False)
        got = read(tmp_path / f"x.{ending}")
        assert got.gray and got.meta.icc == GRAY and got.notes == ()
        light = (array[..., 0] / array.max()) ** 1.8
        expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        assert np.abs(got.rgb[..., 0] - expected).max() < 2e-3
        assert images.write(got, tmp_path / f"y.{ending}") == ()
        path = tmp_path / f"y.{ending}"
        back = tifffile.imread(path) if ending == "tif" else imagecodecs.png_decode(path.read_bytes())
        assert np.abs(back.astype(int) - array[..., 0]).max() <= (0 if bits == 8 else 2)
        (note,) = images.write(replace(got, bits=8), tmp_path / "z.webp", lossless=True)
        assert "ICC profile dropped, colours are sRGB" in note
        assert np.abs(read(tmp_path / "z.webp").rgb - got.rgb).max() < 0.51 / 255


@pytest.mark.parametrize(
    ("icc", "reason"),
    [
        (b"garbage", "no ICC data"),
        (bytes(500), "no ICC data"),
        (ADOBE[:200], "cmsOpenProfileFromMem"),
        (cmyk_profile(), "it is made for 'CMYK', the picture is rgb"),
        (GRAY, "it is made for 'GRAY', the picture is rgb"),
    ],
)
def test_an_unusable_profile_is_a_note(tmp_path, icc, reason):
    array = pixels(3)
    save(array, tmp_path / "x.png", "PNG", icc_profile=icc)
    got = read(tmp_path / "x.png")
    (note,) = got.notes
    assert note.startswith("unusable ICC profile ignored") and reason in note
    assert got.meta.icc is None and (levels(got.rgb) == array).all()


# --- transparent pixels, temporary files, threads ---


def test_bleed_extends_visible_colours_only():
    rgb, alpha = picture(size=(40, 51)).rgb, np.zeros((40, 51), np.float32)
    alpha[10:20, 30:45] = np.linspace(0.1, 1, 15)
    rgb = np.where(alpha[..., None] > 0, rgb, 0)
    out = images.bleed(rgb, alpha)
    assert (out[alpha > 0] == rgb[alpha > 0]).all()
    visible = rgb[alpha > 0]
    assert (out >= visible.min(0) - 1e-6).all() and (out <= visible.max(0) + 1e-6).all()
    flat = np.where(alpha[..., None] > 0, np.float32([0.2, 0.5, 0.9]), 0)
    assert np.abs(images.bleed(flat, alpha) - np.float32([0.2, 0.5, 0.9])).max() < 1e-6
    for whole in (np.ones_like(alpha), np.zeros_like(alpha)):
        assert (images.bleed(rgb, whole) == rgb).all()


def test_bleed_leaves_no_edges_between_colours_that_are_far_apart():
    rgb, alpha = np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.float32)
    for place, colour in (((8, 8), (1, 0, 0)), ((50, 40), (0, 0, 1))):
        rgb[place], alpha[place] = colour, 1
    out = images.bleed(rgb, alpha)
    assert max(np.abs(np.diff(out, axis=axis)).max() for axis in (0, 1)) < 0.1  # blocks would be 1 apart


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be replaced on Windows")
def test_atomic_is_all_or_nothing(tmp_path):
    target = tmp_path / ("x" * 250 + ".png")
    target.write_bytes(b"old")
    for problem in (KeyboardInterrupt, ValueError):
        with pytest.raises(problem), atomic(target) as part:
            part.write_bytes(b"half")
            assert part.parent == tmp_path and part.name.startswith(".") and len(part.name) < 40
            raise problem
        assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
    with open(target, "rb") as reader:
        with atomic(target) as part:
            part.write_bytes(b"new")
        assert reader.read() == b"old"  # who reads the old file reads it to its end: it was replaced, not rewritten
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_written_files_have_the_usual_mode(tmp_path):
    images.write(picture(), tmp_path / "x.png")
    (tmp_path / "y").touch()
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_what_a_killed_run_left_is_used_up_by_the_next(tmp_path):
    kill = f"""
import os
from robustsr.files import atomic
with atomic({str(tmp_path / "x.png")!r}) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", kill], check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    images.write(picture(), tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.fixture
def full_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp"])
def test_a_full_disk(full_disk, ending):
    noise = np.random.default_rng(0).random((300, 300, 3), dtype=np.float32)
    with pytest.raises(RobustSRError, match=rf"cannot write .*x\.{ending}: the disk that holds .*disk is full"):
        images.write(Picture(noise, None, False, 8, Metadata(), "png"), full_disk / f"x.{ending}", quality=100)
    assert list(full_disk.iterdir()) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from robustsr import images
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
assert "torch" not in sys.modules
noise = np.random.default_rng(0).random((300, 300, 3), dtype=np.float32)
try:
    images.write(images.Picture(noise, None, False, 8, images.Metadata(), "png"), sys.argv[1])
except images.RobustSRError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="resource limits of POSIX")
def test_a_write_that_stops_halfway_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.match(r"cannot write .*x\.png: File too large", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_threads_do_not_disturb_each_other(tmp_path):
    def trip(seed):
        path = tmp_path / f"{seed}.{('png', 'tif', 'webp')[seed % 3]}"
        before = picture(alpha=True, seed=seed, meta=Metadata(ADOBE))
        images.write(before, path, lossless=True)
        first = read(path)
        images.write(first, path, lossless=True)
        return np.abs(read(path).rgb - first.rgb).max()

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(trip, range(24))) == 0


def test_only_png_holds_an_attack(tmp_path):
    with pytest.raises(RobustSRError, match="other formats than png change pixels"):
        images.write_pixels(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
