"""Training pictures: the cache, pairs of folders, batches as a function of seed and step."""

import dataclasses
import os
import pickle

import numpy as np
import pytest
import tiny_run
import torch
from PIL import Image
from robustsr_training import data
from robustsr_training.data import Batches, load_pairs
from robustsr_training.recipe import Data

from robustsr.degradation import LIGHT
from robustsr.manifest import Manifest
from robustsr.pairs import pictures_in
from robustsr.types import RobustSRError


@pytest.fixture
def folder(tmp_path, photo, home):
    return tiny_run.pictures(tmp_path, photo)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as it happens."""
    names, read = [], data.read_rgb
    monkeypatch.setattr(data, "read_rgb", lambda path: (names.append(path.name), read(path))[1])
    return names


def config(folder, **changes):
    return Data(**{"hr": str(folder / "hr"), "batch": 3, "patch": 12, **changes})


# --- the cache ---


def test_pictures_are_decoded_once(folder, decoded):
    first = load_pairs(config(folder), 4)
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "3.png", "broken.png", "small.png"]
    decoded.clear()
    again = load_pairs(config(folder), 4)
    assert not decoded and again.table == first.table and again.skipped == first.skipped
    assert all(np.array_equal(a, b) for i in range(4) for a, b in zip(first[i], again[i], strict=True))


def test_our_own_results_are_no_truths(folder, decoded):
    hr, said = folder / "hr", []
    (hr / "up" / "sub").mkdir(parents=True)
    made = [hr / "0_x4.png", hr / "up" / "sub" / "1.png"]
    for root, source, target in ((hr, hr / "0.png", made[0]), (hr / "up", hr / "1.png", made[1])):
        Manifest.read(root).begin(source, target)
        target.write_bytes(source.read_bytes())
    load_pairs(config(folder), 4, say=said.append)
    assert sorted(decoded) == ["0.png", "1.png", "2.png", "3.png", "broken.png", "small.png"]
    assert said == [
        f"2 of the pictures left out, which robustsr made from others of them (first: {made[0]})",
        "decoding 6 pictures",
    ]
    assert pictures_in(hr / "up", recursive=True) == [made[1]]  # what it was made from is not there


def test_pictures_can_be_shrunk_too(folder):
    whole, more = load_pairs(config(folder), 4), load_pairs(config(folder, sizes=(1.0, 0.7, 0.5)), 4)
    assert [row["name"] for row in more.table] == [
        n for i in range(4) for n in (f"{i}.png", f"{i}.png, 0.7 of its size")
    ]
    assert all(np.array_equal(a, b) for a, b in zip(whole[3], more[6], strict=True))
    hr = Image.open(folder / "hr" / "3.png").convert("RGB")
    small = np.asarray(hr.resize((round(hr.width * 0.7), round(hr.height * 0.7)), Image.Resampling.BICUBIC))
    lr, shrunk = more[7]
    assert np.array_equal(shrunk, small[: len(shrunk), : shrunk.shape[1]]) and lr.shape[0] * 4 == len(shrunk)
    assert sum("broken.png" in reason for reason in more.skipped) == 1
    assert sum("0.5 of its size: " in reason for reason in more.skipped) == 5  # smaller than a patch


def test_what_changes_the_pixels_is_decoded_anew(folder, decoded):
    load_pairs(config(folder), 4)
    for change, scale in (({}, 2), ({"downscale": "bilinear"}, 4), ({"sizes": (0.8,)}, 4)):
        decoded.clear()
        load_pairs(config(folder, **change), scale)
        assert len(decoded) == 6, change
    decoded.clear()
    load_pairs(config(folder), 4, resized=True)
    assert len(decoded) == 6
    os.utime(folder / "hr" / "0.png", ns=(1, 1))  # a file that was replaced by one as large
    decoded.clear()
    load_pairs(config(folder), 4)
    assert len(decoded) == 6
    decoded.clear()
    load_pairs(config(folder, batch=7, degraded=0.5), 4)  # these do not
    load_pairs(config(folder, patch=3), 4)
    assert not decoded


def test_a_folder_is_the_same_however_it_is_called(folder, decoded, monkeypatch):
    said = []
    whole = load_pairs(config(folder), 4, say=said.append)
    assert said == ["decoding 6 pictures"] and len(decoded) == 6
    decoded.clear()
    monkeypatch.chdir(folder / "val")
    (folder / "alias").symlink_to(folder / "hr")
    for name in ("../hr", "../val/../hr/", str(folder / "alias")):
        assert load_pairs(config(folder, hr=name), 4, say=said.append).table == whole.table
    assert not decoded and len(said) == 1


def test_the_patch_decides_at_load_what_is_too_small(folder):
    assert [len(load_pairs(config(folder, patch=p), 4)) for p in (5, 12, 17)] == [5, 4, 4]
    assert [len(load_pairs(config(folder, patch=p), 4)) for p in (5, 12, 18)] == [5, 4, 2]
    Image.new("RGB", (90, 3)).save(folder / "hr" / "flat.png")
    assert load_pairs(config(folder), 4).skipped[1].endswith("flat.png: 90x3 is smaller than a pixel of LR")


def test_the_digest_is_that_of_names_and_pixels_wherever_they_lie(folder):
    first = load_pairs(config(folder), 4).digest
    (folder / "hr").rename(folder / "moved")
    assert load_pairs(config(folder, hr=str(folder / "moved")), 4).digest == first
    picture = Image.open(folder / "moved" / "0.png").convert("RGB")
    picture.putpixel((0, 0), tuple(255 - v for v in picture.getpixel((0, 0))))
    picture.save(folder / "moved" / "0.png")
    assert load_pairs(config(folder, hr=str(folder / "moved")), 4).digest != first


def test_the_digest_is_that_of_lr_too(paired):
    first = load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4).digest
    picture = Image.open(paired / "lr" / "p1.bmp")
    picture.putpixel((0, 0), tuple(255 - v for v in picture.getpixel((0, 0))))
    picture.save(paired / "lr" / "p1.bmp")
    assert load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4).digest != first


def test_an_interrupted_cache_is_not_taken_for_a_whole_one(folder, home, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data, "downscale", killed)
        with pytest.raises(KeyboardInterrupt):
            load_pairs(config(folder), 4)
    assert not [p for p in home.rglob("*") if p.is_file()]
    assert len(load_pairs(config(folder), 4)) == 4


def test_unusable_files_are_left_out_and_named(folder):
    (folder / "hr" / ".hidden.png").write_bytes(b"a picture of another program's")
    pairs = load_pairs(config(folder), 4)
    assert [row["name"] for row in pairs.table] == ["0.png", "1.png", "2.png", "3.png"]
    broken, small = pairs.skipped
    assert "broken.png" in broken and "small.png: 20x20 is smaller than a patch of 48 (data.patch)" in small
    with pytest.raises(RobustSRError, match="no usable picture under .*small.png: 20x20 is smaller than a patch of"):
        load_pairs(config(folder, patch=40), 4)
    (folder / "empty").mkdir()
    with pytest.raises(RobustSRError, match="no pictures in .*empty"):
        load_pairs(config(folder, hr=str(folder / "empty")), 4)


def test_pixels_agree_with_a_bicubic_downscale(folder):
    lr, hr = load_pairs(config(folder), 4)[0]
    want = Image.open(folder / "hr" / "0.png").crop((0, 0, 88, 68))
    assert np.array_equal(np.asarray(want), hr)
    assert np.array_equal(np.asarray(want.resize((22, 17), Image.Resampling.BICUBIC)), lr)
    lr, _ = load_pairs(config(folder, downscale="bilinear"), 4)[0]
    assert np.array_equal(np.asarray(want.resize((22, 17), Image.Resampling.BILINEAR)), lr)


def test_pictures_of_any_kind_train_alike(tmp_path, home):
    """16-bit gray is not white, and a turned picture is upright."""
    (tmp_path / "hr").mkdir()
    Image.fromarray(np.full((64, 80), 30_000, np.uint16)).save(tmp_path / "hr" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 64)).save(tmp_path / "hr" / "b.png", exif=exif)
    (_, gray), (_, turned) = load_pairs(config(tmp_path, patch=8), 4)
    assert set(gray.flatten().tolist()) == {117} and turned.shape == (80, 64, 3)


# --- two folders ---


@pytest.fixture
def paired(tmp_path, photo, home):
    """Two pictures and their LR under other endings; the LR is told from a made one by its blue channel."""
    for part, ending, size in (("hr", "png", (64, 64)), ("lr", "bmp", (16, 16))):
        (tmp_path / part).mkdir()
        for i in range(2):
            picture = Image.fromarray(photo(64, 64, seed=i)).resize(size)
            if part == "lr":
                picture = Image.merge("RGB", (*picture.split()[:2], Image.new("L", size, 77 + i)))
            picture.save(tmp_path / part / f"p{i}.{ending}")
    return tmp_path


def test_paired_folders_meet_by_name(paired):
    pairs = load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4)
    for i, (lr, hr) in enumerate(pairs):
        assert lr.shape == (16, 16, 3) and hr.shape == (64, 64, 3) and set(lr[..., 2].flatten().tolist()) == {77 + i}
    assert (
        len(load_pairs(config(paired, patch=8), 4)) == 2 and load_pairs(config(paired, patch=8), 4)[0][0][0, 0, 2] != 77
    )


def test_a_folder_of_pairs_is_not_taken_for_pictures_of_one_kind(folder):
    with pytest.raises(RobustSRError, match=r"val holds HR and LR: --set data\.hr=.*HR --set data\.lr=.*LR"):
        load_pairs(Data(hr=str(folder / "val"), patch=4), 4)


def test_a_missing_counterpart_is_refused(paired):
    (paired / "lr" / "p1.bmp").unlink()
    with pytest.raises(RobustSRError, match=r"lr has no picture for p1.png of .*hr: folders and names must"):
        load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4)


def test_pictures_of_one_name_in_several_folders_meet_their_own(paired):
    for part, ending in (("hr", "png"), ("lr", "bmp")):
        for i in range(2):
            (paired / part / f"{'ba'[i]}").mkdir()
            (paired / part / f"p{i}.{ending}").rename(paired / part / "ba"[i] / f"p.{ending}")
    pairs = load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4)
    assert [(row["name"], lr[0, 0, 2]) for row, (lr, _) in zip(pairs.table, pairs, strict=True)] == [
        ("a/p.png", 78),
        ("b/p.png", 77),
    ]
    (paired / "lr" / "a" / "p.bmp").rename(paired / "lr" / "b" / "q.bmp")
    with pytest.raises(RobustSRError, match=r"lr has no picture for a/p.png of"):
        load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4)


@pytest.mark.parametrize("part", ["hr", "lr"])
def test_two_pictures_of_one_name_are_refused(paired, part):
    Image.new("RGB", (64, 64)).save(paired / part / "p1.webp")
    with pytest.raises(RobustSRError, match=r"p1.* and .*p1.webp have one name"):
        load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4)
    assert len(load_pairs(config(paired, patch=8), 4)) == (3 if part == "hr" else 2)  # no partner is needed here


def test_an_lr_of_another_size_is_left_out_with_the_reason(paired):
    Image.new("RGB", (17, 16)).save(paired / "lr" / "p1.bmp")
    pairs = load_pairs(config(paired, lr=str(paired / "lr"), patch=8), 4)
    assert [row["name"] for row in pairs.table] == ["p0.png"]
    assert pairs.skipped[0].endswith("p1.bmp: 17x16 is not a 4th of " + str(paired / "hr" / "p1.png") + ", 64x64")


# --- batches ---


def batches(folder, *, resized=False, seed=5, **changes):
    made = config(folder, **changes)
    scale = 4
    return Batches(load_pairs(made, scale, resized=resized), made, scale, seed, resized)


def test_batches_depend_on_seed_and_step_only_and_fit_each_other(folder):
    all_ = batches(folder)
    first, second = list(all_.stream(0, 2))
    assert torch.equal(next(all_.stream(1, 2))[0], second[0]) and torch.equal(all_[1][1], second[1])
    assert not torch.equal(first[0], second[0]) and not torch.equal(batches(folder, seed=6)[0][0], first[0])
    lr, hr, _ = first
    assert lr.shape == (3, 3, 12, 12) and hr.shape == (3, 3, 48, 48) and lr.dtype == hr.dtype == torch.uint8
    small = torch.nn.functional.interpolate(hr.float(), scale_factor=0.25, mode="bicubic", antialias=True)
    inner = (small - lr)[..., 3:-3, 3:-3].abs()
    assert inner.mean() < 2  # the LR patch shows what the HR patch shows, turned and flipped alike


def test_worker_processes_prepare_the_same_batches(folder):
    here, there = (list(batches(folder, workers=n).stream(3, 6)) for n in (0, 2))
    assert all(torch.equal(a, b) for x, y in zip(here, there, strict=True) for a, b in zip(x, y, strict=True))


def test_what_goes_to_a_worker_holds_no_pixels(folder):
    """A process that is spawned gets the path of the file, even after this one has read from it."""
    all_ = batches(folder)
    first = all_[0]
    sent = pickle.dumps(all_)
    assert len(sent) < 5_000 < all_.pairs.file.stat().st_size
    assert all(torch.equal(a, b) for a, b in zip(pickle.loads(sent)[0], first, strict=True))


def test_large_pictures_are_drawn_more_often_and_all_eight_ways(tmp_path, home):
    """One picture has nine times the area of the other; its corner says how a patch was turned."""
    (tmp_path / "hr").mkdir()
    large, small = np.zeros((144, 144, 3), np.uint8), np.zeros((48, 48, 3), np.uint8)
    small[:24, :24, 0], small[:24, 24:, 0], small[24:, :24, 0], small[24:, 24:, 0] = 10, 20, 30, 40
    Image.fromarray(large).save(tmp_path / "hr" / "a.png")
    Image.fromarray(small).save(tmp_path / "hr" / "b.png")
    all_ = batches(tmp_path, batch=400)
    corners = all_[0][1][:, 0, ::47, ::47].reshape(-1, 4).tolist()
    found = [tuple(c) for c in corners if any(c)]
    assert 20 <= len(found) <= 60 and len(set(found)) == 8


def test_patches_reach_every_edge(tmp_path, home):
    (tmp_path / "hr").mkdir()
    rows, columns = np.indices((68, 68)) // 4 * 10  # with patches of 16 LR pixels there are two places a side
    Image.fromarray(np.stack([rows, columns, rows], -1).astype(np.uint8)).save(tmp_path / "hr" / "a.png")
    _, hr, _ = batches(tmp_path, batch=32, patch=16)[0]
    assert set(map(tuple, hr.amin((2, 3))[:, :2].tolist())) == {(0, 0), (0, 10), (10, 0), (10, 10)}


def test_so_many_patches_are_degraded(folder):
    clean, mixed, worse = (batches(folder, batch=60, degraded=share)[0] for share in (0.0, 0.5, 1.0))
    small = [torch.nn.functional.avg_pool2d(hr.float(), 4) for _, hr, _ in (clean, mixed, worse)]
    far = [(s - lr.float()).abs().mean((1, 2, 3)) > 6 for s, (lr, *_) in zip(small, (clean, mixed, worse), strict=True)]
    assert mixed[0].shape == clean[0].shape and mixed[0].dtype == torch.uint8
    assert far[0].sum() == 0 and 10 <= far[1].sum() <= 45 < far[2].sum()
    again = batches(folder, batch=60, degraded=0.5)[0]
    assert torch.equal(again[0], mixed[0])


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 20, 40), (1.0, 60, 60)])
def test_so_many_of_them_are_degraded_lightly(folder, monkeypatch, share, least, most):
    configs, degrade = [], data.degrade
    monkeypatch.setattr(data, "degrade", lambda *a: (configs.append(a[3]), degrade(*a))[1])
    *_, heavy = batches(folder, batch=60, degraded=1.0, light=share)[0]
    assert len(configs) == 60 and least <= sum(one is LIGHT for one in configs) <= most
    assert heavy.tolist() == [one is not LIGHT for one in configs]


def test_so_many_of_the_others_went_through_jpeg(folder, monkeypatch):
    qualities, compressed = [], data.compressed
    monkeypatch.setattr(data, "compressed", lambda *a: (qualities.append(a[2]), compressed(*a))[1])
    made = [batches(folder, batch=60, jpeg=share)[0] for share in (0.0, 0.5, 1.0)]
    off = [(torch.nn.functional.avg_pool2d(hr.float(), 4) - lr).abs().mean((1, 2, 3)) for lr, hr, _ in made]
    assert all(lr.dtype == torch.uint8 and not heavy.any() for lr, _, heavy in made)
    assert [int((one > 5).sum()) for one in off] == [0, len(qualities) - 60, 60]  # blocks and colours that are off
    assert 20 <= len(qualities) - 60 <= 40 and min(qualities) >= 25 and max(qualities) <= 95
    *_, heavy = batches(folder, batch=60, degraded=1.0, jpeg=1.0)[0]
    assert len(qualities) <= 100 and heavy.all()  # which have been through JPEG already


@pytest.mark.parametrize("damage", [{}, {"degraded": 1.0}, {"jpeg": 1.0}], ids=["none", "degraded", "jpeg"])
def test_what_is_to_be_restored_is_lr_before_its_damage(folder, damage):
    upscaled, restored = batches(folder, batch=8, **damage), batches(folder, batch=8, **damage)
    restored = dataclasses.replace(restored, restored=True)
    (lr, hr, heavy), (again, clean, as_heavy) = upscaled[0], restored[0]
    assert torch.equal(lr, again) and torch.equal(heavy, as_heavy) and clean.shape == lr.shape
    assert torch.equal(clean, lr) == (not damage)
    off = torch.nn.functional.avg_pool2d(hr.float(), 4) - clean  # nearly what bicubic makes of it
    assert off.abs().mean() < 2


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_resized_inputs_are_as_large_as_hr(folder, kernel):
    all_ = batches(folder, resized=True, downscale=kernel)
    lr, hr, _ = all_[0]
    assert lr.shape == hr.shape == (3, 3, 12, 12) and all_.pairs[0][0].size == 0
    resample = data.KERNELS[kernel]
    for small, large in zip(lr, hr, strict=True):  # Pillow's resampling is the same for turned and flipped patches
        picture = Image.fromarray(large.permute(1, 2, 0).numpy())
        want = np.asarray(picture.resize((3, 3), resample).resize((12, 12), resample)).astype(int)
        assert np.abs(want - small.permute(1, 2, 0).numpy()).max() <= 2  # two passes, rounded in another order
