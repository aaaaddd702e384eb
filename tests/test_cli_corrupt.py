import os
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from robustsr import images
from robustsr.cli_corrupt import corrupt
from robustsr.corruptions import KINDS
from robustsr.types import RobustSRError

app = typer.Typer()
app.command()(corrupt)


@pytest.fixture
def pictures(tmp_path, photo, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i, name in enumerate(["a.png", "b.jpg", "c.webp"]):
        Image.fromarray(photo(20 + i, 24, seed=i)).save(f"in/{name}")
    return tmp_path


def go(*args):
    """(exit code, stdout, stderr); a RobustSRError is what `main` makes of it."""
    result = CliRunner().invoke(app, [str(a) for a in args])
    if isinstance(result.exception, RobustSRError):
        return 1, result.stdout, f"error: {result.exception}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_file_for_each_picture_and_kind_with_its_psnr(pictures):
    code, out, err = go("in", "-k", "jpeg:quality=20", "--kind", "noise", "-o", "worse")
    assert code == 0 and err == ""
    made = [f"{n}_{k}.png" for n in "abc" for k in ("jpeg-quality-20", "noise-sigma-0.03")]
    assert sorted(os.listdir("worse")) == made
    rows = [line.split() for line in out.splitlines()]
    assert [Path(row[2]).name for row in rows] == made and {row[1] for row in rows} == {"dB"}
    error = ((pixels("in/a.png") - pixels("worse/a_noise-sigma-0.03.png")) ** 2).mean() / 255**2
    assert float(rows[1][0]) == pytest.approx(-10 * np.log10(error), abs=0.01)


def test_the_seed_of_a_picture_is_its_own(pictures):
    assert go("in", "-k", "noise", "-o", "all")[0] == 0
    assert go("in/c.webp", "-k", "noise", "-o", "one")[0] == 0
    assert go("in/c.webp", "-k", "noise", "-o", "other", "--seed", 1)[0] == 0
    name = "c_noise-sigma-0.03.png"
    assert Path("all", name).read_bytes() == Path("one", name).read_bytes() != Path("other", name).read_bytes()
    Image.open("in/a.png").save("in/z.png")
    assert go("in/z.png", "-k", "noise", "-o", "one")[0] == 0
    assert not np.array_equal(pixels("one/z_noise-sigma-0.03.png"), pixels("all/a_noise-sigma-0.03.png"))


def test_results_are_not_replaced_unasked(pictures):
    assert go("in", "-k", "fog", "-o", "out")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in Path("out").iterdir()}
    code, _, err = go("in", "-k", "jpeg", "-k", "fog", "-o", "out")
    assert code == 1 and "a_fog-severity-3.png and 2 more would be replaced: add --overwrite" in err
    assert {p: p.stat().st_mtime_ns for p in Path("out").iterdir()} == before
    assert go("in", "-k", "fog", "-o", "out", "--seed", 3, "--overwrite")[0] == 0
    assert all(p.stat().st_mtime_ns > t for p, t in before.items())


def test_a_bad_picture_does_not_stop_the_others(pictures, photo):
    Path("in/bad.png").write_bytes(b"nothing")
    Image.fromarray(photo(4, 30)).save("in/tiny.png")
    code, out, err = go("in", "-k", "contrast", "-o", "out")
    assert code == 1 and len(out.splitlines()) == 3 == len(os.listdir("out"))
    assert "failed: cannot read in/bad.png" in err
    assert "failed: in/tiny.png, contrast:severity=3: 30 x 4 pixels: at least 8 a side are needed" in err


def test_alpha_gray_and_metadata_are_kept_and_16_bits_become_8(pictures, photo):
    rgba = np.dstack([photo(16, 16), np.full((16, 16), 77, np.uint8)])
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.fromarray(rgba).save("in/a.png", exif=exif, dpi=(300, 300))
    Image.fromarray(photo(16, 16)[..., 0]).save("in/g.png")
    Image.fromarray(photo(16, 16)[..., 0].astype(np.uint16) * 257).save("in/deep.png")
    assert go("in/a.png", "in/g.png", "in/deep.png", "-k", "contrast:severity=1", "-k", "noise", "-o", "out")[0] == 0
    a = Image.open("out/a_contrast-severity-1.png")
    assert a.mode == "RGBA" and a.getexif()[0x010E] == "a description" and round(a.info["dpi"][0]) == 300
    assert np.all(np.asarray(a)[..., 3] == 77)
    assert Image.open("out/g_contrast-severity-1.png").mode == "L"
    assert Image.open("out/g_noise-sigma-0.03.png").mode == "RGB"
    assert images.inspect("out/deep_contrast-severity-1.png", max_pixels=1000).bits == 8


def test_without_inputs_the_bundled_photograph(pictures):
    code, out, _ = go("-k", "contrast")
    assert code == 0 and out.strip().endswith("landscape_contrast-severity-3.png")
    assert os.listdir("corrupted") == ["landscape_contrast-severity-3.png"]


def test_list_shows_every_kind_and_writes_nothing(pictures):
    code, out, _ = go("--list")
    assert code == 0 and all(name in out for name in KINDS) and "quality=30" in out
    assert sorted(os.listdir(".")) == ["in"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["in"], 2, "at least one --kind"),
        (["in", "-k", "fogg"], 2, "did you mean 'fog'?"),
        (["in", "-k", "fog", "-o", "x.png"], 1, "x.png names one file"),
        (["nowhere", "-k", "fog"], 1, "no file or folder 'nowhere'"),
        (["in", "-k", "fog", "-o", "in/a.png/x"], 1, "failed: "),
    ],
)
def test_mistakes(pictures, args, code, message):
    got, _, err = go(*args)
    assert got == code and message in " ".join(err.replace("│", " ").split())
    assert sorted(os.listdir(".")) == ["in"] and len(os.listdir("in")) == 3
