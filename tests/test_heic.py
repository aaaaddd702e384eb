"""HEIC, as iPhones write it: read with pillow-heif where that is installed, said how where it is not."""

from __future__ import annotations

import io
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from robustsr import images
from robustsr.formats import FORMATS
from robustsr.jobs import plan_jobs
from robustsr.types import RobustSRError

P3 = imagecodecs.cms_profile(
    "rgb", whitepoint=[0.3127, 0.3290], primaries=[0.68, 0.32, 0.265, 0.69, 0.15, 0.06], gamma=2.2
)


def ramp(channels=3, size=(48, 64)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    planes = [rows * 4, columns * 3, 255 - rows * 2 - columns, 40 + columns * 2]
    return np.stack([planes[i] for i in range(channels)], -1).astype(np.uint8)


def heic(array, bits=8, **options):
    out = io.BytesIO()
    mode = ("RGB" if array.shape[-1] == 3 else "RGBA") + (";16" if bits > 8 else "")
    data = (array.astype(np.uint16) * 257 if bits > 8 else array).tobytes()
    picture = pillow_heif.from_bytes(mode=mode, size=array.shape[1::-1], data=data)
    picture.save(out, **({"quality": 95, "chroma": 444} | options))
    return out.getvalue()


@pytest.fixture
def read(tmp_path):
    def reads(data):
        (tmp_path / "IMG_0001.HEIC").write_bytes(data)
        return images.read(tmp_path / "IMG_0001.HEIC")

    return reads


def off(got, array):
    return np.abs(got * 255 - array).mean()


@pytest.mark.parametrize("channels", [3, 4])
def test_pixels_and_transparency(read, channels):
    got = read(heic(ramp(channels)))
    assert off(got.rgb, ramp()) < 1.5
    assert (got.alpha is None) == (channels == 3) and (got.gray, got.bits, got.format) == (False, 8, "heic")
    assert channels == 3 or off(got.alpha, ramp(4)[..., 3]) < 1.5
    assert got.notes == ()


def test_upright_with_exif_and_profile_as_an_iphone_stores_it(read, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    stored = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(ramp())).save(
        stored, quality=95, chroma=444, exif=exif.tobytes(), icc_profile=P3
    )
    got = read(stored.getvalue())
    assert got.rgb.shape == (64, 48, 3)  # turned once, not twice
    info = images.inspect(tmp_path / "IMG_0001.HEIC")
    assert (info.width, info.height) == (48, 64)
    assert got.meta.icc == P3 and b"Maker" in got.meta.exif
    plain = read(heic(np.rot90(ramp(), -1).copy()))
    assert off(got.rgb, plain.rgb * 255) > 3  # the profile's colours are other than sRGB's
    images.write(got, tmp_path / "out.jpg")
    again = Image.open(tmp_path / "out.jpg")
    assert again.size == (48, 64) and again.getexif().get(0x0112, 1) == 1 and again.info["icc_profile"] == P3


def test_depth_and_hdr(read):
    got = read(heic(ramp(), bits=16))
    assert got.notes == ("its more than 8 bits became 8",) and off(got.rgb, ramp()) < 1.5
    for code, kind in ((16, "PQ"), (18, "HLG")):
        with pytest.raises(RobustSRError, match=rf"it is an HDR picture \({kind}\)"):
            read(heic(ramp(), bits=16, color_primaries=9, transfer_characteristics=code))


def test_gray_stays_gray_and_what_is_broken_is_refused(read):
    assert read(heic(ramp()[..., :1].repeat(3, -1))).rgb.std(-1).max() == 0
    data = heic(ramp())
    for part in (0.1, 0.5, 0.97):
        with pytest.raises(RobustSRError, match=r"IMG_0001\.HEIC: it is damaged or cut off"):
            read(data[: int(len(data) * part)])


def test_a_result_is_a_jpeg_unless_told(tmp_path):
    (tmp_path / "IMG_0001.HEIC").write_bytes(heic(ramp()))
    for format, name in ((None, "IMG_0001.jpg"), ("png", "IMG_0001.png")):
        jobs, warnings = plan_jobs([str(tmp_path)], str(tmp_path / "out"), format=format)
        assert [job.target.name for job in jobs] == [name] and warnings == []


def test_without_pillow_heif_it_is_said(read, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(RobustSRError, match=r"it is a HEIC picture: `pip install pillow-heif`"):
        read(heic(ramp()))
    monkeypatch.delitem(FORMATS, "heic")
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    jobs, warnings = plan_jobs([str(tmp_path)], str(tmp_path / "out"))
    assert [job.target.name for job in jobs] == ["a.png"]
    assert "1 file of other kinds left alone (1 .heic); `pip install pillow-heif` takes HEIC too" in warnings[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(RobustSRError, match=r"no pictures in .*; `pip install pillow-heif` takes HEIC too"):
        plan_jobs([str(tmp_path)], str(tmp_path / "out"))
