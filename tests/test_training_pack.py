"""Packs of training pictures: below their size, the pixels they claim, the same bytes each time."""

import numpy as np
import pytest
from PIL import Image
from robustsr_training import pack as module
from robustsr_training.data import load_pairs
from robustsr_training.pack import main, pack
from robustsr_training.recipe import Data

from robustsr.types import RobustSRError


@pytest.fixture
def folder(tmp_path, photo, home):
    """Six pictures, in a tree, two of one name; and one that is broken."""
    for i, name in enumerate(["a.png", "a.bmp", "deep/b.png", "deep/er/c.png", "deep/d.jpg", "e.png"]):
        path = tmp_path / "hr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(200, 160, seed=i)).save(path)
    (tmp_path / "hr" / "broken.png").write_bytes(b"no picture")
    return tmp_path


def size(folder):
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_what_fits_is_lossless(folder):
    done = pack(folder / "hr", folder / "out", 58)
    assert (done.files, done.how, done.size) == (6, "lossless", size(folder / "out"))
    assert len(done.skipped) == 1 and "broken.png" in done.skipped[0]
    names = sorted(str(p.relative_to(folder / "out")) for p in (folder / "out").rglob("*.*"))
    assert names == ["a.png.webp", "a.webp", "deep/b.webp", "deep/d.webp", "deep/er/c.webp", "e.webp"]
    assert np.array_equal(pixels(folder / "out/deep/er/c.webp"), pixels(folder / "hr/deep/er/c.png"))
    assert np.array_equal(pixels(folder / "out/a.webp"), pixels(folder / "hr/a.bmp"))


def test_what_does_not_fit_loses_a_little_and_then_its_borders(folder):
    whole = size(folder / "out") if pack(folder / "hr", folder / "out", 58) else 0
    less = pack(folder / "hr", folder / "less", whole * 0.99 / 2**20)
    assert less.how == "quality 95" and size(folder / "less") == less.size < whole * 0.99
    assert np.abs(pixels(folder / "less/e.webp") - pixels(folder / "hr/e.png")).mean() < 4

    room = less.size * 0.4 / 2**20
    crops = pack(folder / "hr", folder / "crops", room)
    assert crops.how.startswith("central crops of ") and room * 2**20 * 0.7 < size(folder / "crops") < room * 2**20
    cut, hr = pixels(folder / "crops/e.webp"), pixels(folder / "hr/e.png")
    (h, w), (tall, wide) = cut.shape[:2], hr.shape[:2]
    top, left = (tall - h) // 2, (wide - w) // 2
    assert 0.4 < h / tall < 0.7 and h / tall == pytest.approx(w / wide, abs=0.02)
    assert np.abs(cut - hr[top : top + h, left : left + w]).mean() < 4
    pairs = load_pairs(Data(hr=str(folder / "crops"), patch=8), 4)
    assert len(pairs) == 6 and not pairs.skipped


@pytest.mark.parametrize("room", [58, 0.02])
def test_a_pack_is_the_same_each_time(folder, room):
    for name in ("one", "two"):
        pack(folder / "hr", folder / name, room)
    one, two = (
        {p.relative_to(folder / n): p.read_bytes() for p in (folder / n).rglob("*.webp")} for n in ("one", "two")
    )
    assert one == two and len(one) == 6


def test_mistakes_leave_nothing_behind(folder, monkeypatch):
    with pytest.raises(RobustSRError, match="7 pictures do not fit into 0.0001 MiB: take fewer"):
        pack(folder / "hr", folder / "out", 0.0001)
    (folder / "bad").mkdir()
    (folder / "bad" / "x.png").write_bytes(b"no picture")
    with pytest.raises(RobustSRError, match="no usable picture: .*x.png"):
        pack(folder / "bad", folder / "out", 58)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "write_bytes", full)
        with pytest.raises(RobustSRError, match="No space left"):
            pack(folder / "hr", folder / "out", 58)
    assert sorted(p.name for p in folder.iterdir()) == ["bad", "hr"]
    (folder / "out").mkdir()
    with pytest.raises(RobustSRError, match="out is there already: name a new folder"):
        pack(folder / "hr", folder / "out", 58)


def test_the_command_says_what_it_did(folder, capsys):
    main([str(folder / "hr"), str(folder / "out"), "--size", "3"])
    *skipped, last = capsys.readouterr().err.splitlines()
    assert (
        "broken.png" in skipped[0]
        and last == f"6 pictures, {size(folder / 'out') / 2**20:.1f} MiB, lossless: {folder / 'out'}"
    )
    with pytest.raises(SystemExit, match="error: .*is there already"):
        main([str(folder / "hr"), str(folder / "out")])
