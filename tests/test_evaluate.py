"""Evaluation: pairs of pictures, records, resuming, and means; on a real network and real files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from robustsr import backbones, catalogue, evaluate, losses, metrics
from robustsr.evaluate import run
from robustsr.export import export
from robustsr.manifest import Manifest
from robustsr.models import load
from robustsr.pairs import Pictures
from robustsr.report import Cell
from robustsr.results import Results, pooled
from robustsr.settings import Smoothing
from robustsr.study import VERSION, Study
from robustsr.types import RobustSRError

MEDIAN = Smoothing("median", 0.05, 3, "independent")


@pytest.fixture
def folder(tmp_path, photo):
    """Three ground truths of 80x96."""
    place = tmp_path / "truth"
    place.mkdir()
    for i in range(3):
        Image.fromarray(photo(80, 96, seed=i)).save(place / f"p{i}.png")
    return place


@pytest.fixture
def study(folder, tiny, home):
    catalogue.add(tiny)
    return Study(Pictures(folder, 4), ("tiny", "bicubic"), device="cpu")


# --- pictures ---


def test_low_resolution_is_pillows_bicubic_in_eight_bits(folder):
    pair = Pictures(folder, 4).load(1)
    hr = Image.open(folder / "p1.png")
    want = np.asarray(hr.resize((24, 20), Image.Resampling.BICUBIC))
    assert pair.name == "p1.png" and pair.hr.shape == (1, 3, 80, 96)
    np.testing.assert_array_equal((pair.lr[0].permute(1, 2, 0) * 255).round().numpy(), want)


def test_crops_are_central_and_agree(folder):
    pictures = Pictures(folder, 4)
    whole, crop = pictures.load(0), replace(pictures, crop=17).load(0)
    assert torch.equal(crop.lr, whole.lr[..., 1:18, 3:20])
    assert torch.equal(crop.hr, whole.hr[..., 4:72, 12:80])
    assert len(replace(pictures, limit=2).files) == 2
    (folder / "._p0.png").write_bytes(b"what a Mac leaves on other disks")
    (folder / "0.png").mkdir()
    assert replace(pictures, limit=2).files == pictures.files[:2]


def test_sizes_that_do_not_divide_are_cropped_and_small_pictures_refused(tmp_path, photo):
    Image.fromarray(photo(83, 97)).save(tmp_path / "odd.png")
    assert Pictures(tmp_path, 4).load(0).lr.shape == (1, 3, 20, 24)
    Image.fromarray(photo(30, 97)).save(tmp_path / "odd.png")
    with pytest.raises(RobustSRError, match="odd.png has 96x28 pixels that can be used: 32 a side"):
        Pictures(tmp_path, 4).load(0)


def test_paired_folders_are_matched_by_name(tmp_path, photo):
    for part, side in (("HR", 80), ("LR", 20)):
        (tmp_path / part).mkdir()
        for i in range(2):
            name = f"{i}x4.png" if part == "LR" and i else f"{i}.png"
            Image.fromarray(photo(side, side, seed=i)).save(tmp_path / part / name)
    pictures = Pictures(tmp_path, 4)
    assert [b.name for _, b in pictures.files] == ["0.png", "1x4.png"]
    assert torch.equal(pictures.load(1).lr, Pictures(tmp_path / "HR", 4, tmp_path / "LR").load(1).lr)
    (tmp_path / "LR" / "1x4.png").unlink()
    with pytest.raises(RobustSRError, match="has no picture for 1.png"):
        _ = Pictures(tmp_path, 4).files
    for side in (30, 10):
        Image.fromarray(photo(side, side)).save(tmp_path / "LR" / "1.png")
        with pytest.raises(RobustSRError, match="not 4 times as large"):
            Pictures(tmp_path, 4).load(1)
    Image.fromarray(photo(30, 30)).save(tmp_path / "LR" / "1.png")
    with pytest.raises(RobustSRError, match="not 4 times as large"):
        Pictures(tmp_path, 4).load(1)


def test_two_of_one_name_have_no_partner(tmp_path, photo):
    for name in ("HR/a.png", "HR/a.jpg", "LR/a.png", "LR/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photo(*((80, 80) if "HR" in name else (20, 20)))).save(tmp_path / name)
    with pytest.raises(RobustSRError, match=r"a\.jpg and .*a\.png have one name"):
        _ = Pictures(tmp_path, 4).files
    (tmp_path / "HR/a.jpg").unlink()
    assert [lr.name for _, lr in Pictures(tmp_path, 4).files] == ["a.png"]


def test_the_thesis_input_is_shrunk_and_enlarged_again(folder):
    pair = Pictures(folder, 1, crop=10, resized=4).load(0)
    assert pair.lr.shape == pair.hr.shape == (1, 3, 40, 40)
    assert metrics.psnr(pair.lr, pair.hr) < 40
    small = Image.open(folder / "p0.png").crop((28, 20, 68, 60)).resize((10, 10), Image.Resampling.BILINEAR)
    want = np.asarray(small.resize((40, 40), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal((pair.lr[0].permute(1, 2, 0) * 255).round().numpy(), want)


def test_our_own_results_are_no_truths(folder):
    (folder / "p0_x4.png").write_bytes((folder / "p0.png").read_bytes())
    names = [hr.name for hr, _ in Pictures(folder, 4).files]
    Manifest.read(folder).begin(folder / "p0.png", folder / "p0_x4.png")
    assert "p0_x4.png" in names and [hr.name for hr, _ in Pictures(folder, 4).files] == sorted({*names} - {"p0_x4.png"})
    (folder / "p0.png").unlink()  # nothing better is there
    assert Pictures(folder, 4).files[0][0].name == "p0_x4.png"


def test_folders_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(RobustSRError, match="no folder"):
        _ = Pictures(tmp_path / "gone", 4).files
    with pytest.raises(RobustSRError, match="no pictures in"):
        _ = Pictures(tmp_path, 4).files


# --- records ---


def measure(study, out):
    return Results([at.record for at in run(study, out)], out)


def test_a_record_says_what_was_measured(study, tiny, tmp_path):
    found = measure(replace(study, defences=(None, MEDIAN)), tmp_path / "out")
    assert len(found.records) == 3 * (2 + 1)  # bicubic is never smoothed
    network, pair = load(tiny, device="cpu", precision="fp32"), study.pictures.load(2)
    with torch.no_grad():
        sr = (network(pair.lr).clamp(0, 1) * 255).round() / 255
    record = found.worst("tiny", None, "clean")[pair.name, pair.digest]
    for name in ("psnr", "ssim", "mse"):
        assert record[name] == pytest.approx(float(getattr(metrics, name)(sr, pair.hr, crop=4)), abs=1e-6)
    assert record["psnr_y"] == pytest.approx(float(metrics.psnr(sr, pair.hr, crop=4, y=True)), abs=1e-6)
    assert record["lpips"] is None and record["l2"] == 0
    smoothed = found.worst("tiny", MEDIAN, "clean")[pair.name, pair.digest]
    with torch.no_grad():
        sr = evaluate.defended(network, MEDIAN, pair.lr)(pair.lr)
    assert smoothed["psnr"] == pytest.approx(
        float(metrics.psnr((sr.clamp(0, 1) * 255).round() / 255, pair.hr, crop=4)), abs=1e-6
    )


def test_a_second_run_measures_nothing_and_an_interrupted_one_goes_on(study, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", tmp_path / "whole"
    study = replace(study, perturbations=("clean", "noise:sigma=0.1", "pgd:steps=2"), defences=(None, MEDIAN))
    want = {r["key"]: r["psnr"] for r in measure(study, whole).records}
    steps = run(study, out)
    for _ in range(5):
        next(steps)
    steps.close()
    lines = (out / "records.jsonl").read_text()
    (out / "records.jsonl").write_text(lines + lines.splitlines()[0][:40])  # killed in the middle of a line
    assert {r["key"]: r["psnr"] for r in measure(study, out).records} == want
    assert len((out / "records.jsonl").read_text().splitlines()) == len(want) + 1
    monkeypatch.setattr(evaluate, "_perturbed", lambda *_: pytest.fail("measured again"))
    assert {r["key"]: r["psnr"] for r in measure(study, out).records} == want


def test_other_settings_are_other_records(study, tmp_path):
    base = replace(study, pictures=replace(study.pictures, limit=1), perturbations=("pgd:steps=1",))
    keys = set()
    for other in (
        base,
        replace(base, seed=1),
        replace(base, border=0),
        replace(base, quantised=False),
        replace(base, pictures=replace(base.pictures, crop=18)),
        replace(base, perturbations=("pgd:steps=1,eps=4/255",)),
        replace(base, source="bicubic"),
        replace(base, precision="bf16"),
        replace(base, defences=(MEDIAN,)),
        replace(base, defences=(replace(MEDIAN, draws="antithetic"),)),
    ):
        rows = [r for r in measure(other, tmp_path / "out").records if r["model"] == "tiny"]
        assert {r["eps"] for r in rows} == {4 / 255 if ",eps" in other.perturbations[0] else 8 / 255}
        found = {r["key"] for r in rows}
        assert not found & keys
        keys |= found


def test_base_attacks_are_the_same_for_every_defence_and_adaptive_ones_are_not(study, tmp_path):
    study = replace(
        study,
        pictures=replace(study.pictures, limit=1),
        perturbations=("pgd:steps=2,eot_iter=3",),
        defences=(None, MEDIAN),
        on="worst",
        gallery=1,
    )
    found = measure(study, tmp_path / "out")
    by_variant = {r["variant"]: r for r in found.records if r["defence"] and r["model"] == "tiny"}
    assert set(by_variant) == {"base", "eot", "mean", "losses", "seed"}
    plain = found.worst("tiny", None, study.perturbations[0])
    (record,) = plain.values()
    inputs = {v: found.kept(r)[0].read_bytes() for v, r in by_variant.items()}
    assert inputs["base"] == found.kept(record)[0].read_bytes()
    assert len(set(inputs.values())) == 5
    worst = found.mean("psnr", "tiny", MEDIAN, study.perturbations[0])
    assert worst == min(r["psnr"] for r in by_variant.values())
    assert found.mean("psnr", "tiny", MEDIAN, study.perturbations[0], "seed") == by_variant["seed"]["psnr"]
    assert found.mean("mse", "tiny", MEDIAN, study.perturbations[0]) == max(r["mse"] for r in by_variant.values())
    noise = found.mean("linf", "tiny", None, study.perturbations[0], "random")
    assert noise == pytest.approx(found.mean("linf", "tiny", None, study.perturbations[0]), abs=1e-6)


def test_what_is_kept_is_what_was_measured(study, tmp_path):
    study = replace(study, perturbations=("pgd:steps=2",), gallery=1)
    found = measure(study, tmp_path / "out")
    pair = study.pictures.load(0)
    (record,) = [r for r in found.records if (r["model"], r["picture"], r["variant"]) == ("tiny", "p0.png", "base")]
    lr, sr = (torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1)[None] / 255 for p in found.kept(record))
    assert float((lr - pair.lr).abs().max()) == pytest.approx(record["linf"], abs=1e-6)
    assert float(metrics.psnr(sr, pair.hr, crop=4)) == pytest.approx(record["psnr"], abs=1e-4)
    other = next(r for r in found.records if r["picture"] == "p1.png")
    assert found.kept(other) is None


def test_records_do_not_depend_on_the_place_in_the_folder(study, folder, photo, tmp_path):
    study = replace(study, perturbations=("noise:sigma=0.1",))
    before = {r["picture"]: r["psnr"] for r in measure(study, tmp_path / "a").records}
    Image.fromarray(photo(80, 96, seed=9)).save(folder / "a.png")
    after = {
        r["picture"]: r["psnr"] for r in measure(replace(study, pictures=Pictures(folder, 4)), tmp_path / "b").records
    }
    assert {k: after[k] for k in before} == before and len(after) == 4


def test_equal_pictures_count_as_often_as_they_are_there(study, folder, tmp_path):
    (folder / "copy.png").write_bytes((folder / "p0.png").read_bytes())
    found = measure(replace(study, pictures=Pictures(folder, 4)), tmp_path / "out")
    values = [r["psnr"] for r in found.records if r["model"] == "tiny"]
    assert len(values) == 4 and found.mean("psnr", "tiny", None, "clean") == pytest.approx(np.mean(values))


@pytest.mark.parametrize("defence", [None, MEDIAN])
def test_gray_pictures_are_measured_as_they_ship(defence, study, folder, tmp_path, photo):
    import robustsr

    gray = Image.fromarray(photo(80, 96)).convert("L")
    for path in folder.iterdir():
        path.unlink()
    gray.save(folder / "gray.png")
    found = measure(replace(study, pictures=Pictures(folder, 4), defences=(defence,), gallery=1), tmp_path / "out")
    (record,) = [r for r in found.records if r["model"] == "tiny"]
    lr, sr = (Image.open(p) for p in found.kept(record))
    how = {"smooth": "median", "sigma": 0.05, "samples": 3, "draws": "independent"} if defence else {}
    shipped = robustsr.upscale(lr, "tiny", device="cpu", precision="fp32", **how)
    assert np.array_equal(np.asarray(sr), np.asarray(shipped)) and np.ptp(np.asarray(sr), axis=2).max() == 0


def test_the_thesis_inputs_are_made_from_the_truth_even_where_pairs_are(tmp_path, photo):
    for part, side in (("HR", 80), ("LR", 20)):
        (tmp_path / part).mkdir()
        Image.fromarray(photo(side, side)).save(tmp_path / part / "1.png")
    pair = Pictures(tmp_path, 1, crop=20, resized=2).load(0)
    assert metrics.psnr(pair.lr, pair.hr) > 20
    with pytest.raises(RobustSRError, match="leave out --lr"):
        _ = Pictures(tmp_path, 1, tmp_path / "LR", resized=2).files
    with pytest.raises(RobustSRError, match="can be used: 160 a side are needed"):
        Pictures(tmp_path, 1, crop=80, resized=2).load(0)


def test_damaged_records_are_measured_again(study, tmp_path):
    out = tmp_path / "out"
    want = [r["psnr"] for r in measure(study, out).records]
    (out / "records.jsonl").write_bytes(b"12\n\xff\n" + (out / "records.jsonl").read_bytes()[:-20])
    assert [r["psnr"] for r in measure(study, out).records] == want


def test_transfer_crafts_on_another_model(study, tmp_path):
    study = replace(study, perturbations=("pgd:steps=2",), source="bicubic", gallery=1)
    found = measure(study, tmp_path / "out")
    tiny_in, bicubic_in = (
        found.kept(next(r for r in found.records if r["model"] == m))[0] for m in ("tiny", "bicubic")
    )
    assert tiny_in.read_bytes() == bicubic_in.read_bytes()


def test_the_oracle_takes_the_best_defence(study, tmp_path):
    defences = (None, replace(MEDIAN, sigma=0.01), replace(MEDIAN, sigma=0.3))
    found = measure(replace(study, defences=defences), tmp_path / "out")
    means = [found.mean("psnr", "tiny", d, "clean") for d in defences]
    assert found.best("psnr", "tiny", defences, "clean", high=True) == defences[int(np.argmax(means))]
    assert (
        found.best("mse", "tiny", defences, "clean", high=False)
        == defences[int(np.argmin([found.mean("mse", "tiny", d, "clean") for d in defences]))]
    )
    values = [r["psnr"] for r in found.records if (r["model"], r["defence"]) == ("tiny", None)]
    cell = found.cell("psnr", "tiny", None, "clean")
    assert cell.value == means[0] and cell.error == pytest.approx(np.std(values, ddof=1) / len(values) ** 0.5)
    assert found.mean("lpips", "tiny", None, "clean") is None and found.cell("lpips", "tiny", None, "clean") == Cell()
    assert found.mean("psnr", "other", None, "clean") is None


def test_the_mean_of_sets_counts_them_alike():
    assert pooled([Cell(20.0, error=0.3), Cell(30.0, error=0.4)]) == Cell(25.0, error=0.25)
    assert pooled([Cell(20.0, error=0.3), Cell(None)]) == Cell()
    assert pooled([Cell(20.0), Cell(30.0, error=0.4)]) == Cell(25.0)


def test_resized_pictures_need_no_network_of_scale_one(study, tmp_path):
    pictures = replace(study.pictures, scale=1, resized=2, crop=16)
    study = replace(study, pictures=pictures, quantised=False, border=0, perturbations=("pgd-l2:eps_rel=0.01,steps=2",))
    found = measure(replace(study, defences=(None, replace(MEDIAN, reduce="mean"))), tmp_path / "out")
    assert {r["model"] for r in found.records} == {"tiny", "bicubic"}
    assert all(r["l2_rel"] == pytest.approx(0.01, rel=0.02) for r in found.records)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perturbations": ("clean", "nois")}, "nois"),
        ({"perturbations": ("cw:eps=1/255",)}, "cw has no ball"),
        ({"perturbations": ("clean:x=1",)}, "clean has no settings"),
        ({"models": ("bicubic-x2",)}, "bicubic-x2 is x2, the pictures are measured at x4"),
        ({"lpips": "alex"}, "models pull alexnet"),
        ({"models": ("gone",)}, "no model 'gone'"),
        ({"perturbations": ("fgsm",), "source": "bicubic-x2"}, "bicubic-x2 is x2"),
        ({"perturbations": ("fgsm",), "on": "smoothed"}, "attacks a smoothed model"),
        ({"perturbations": ("fgsm:loss=paper",)}, "models pull vgg19"),
    ],
)
def test_mistakes_are_found_before_anything_is_measured(study, tmp_path, change, message):
    with pytest.raises(RobustSRError, match=message):
        next(run(replace(study, **change), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_file_called_bicubic_is_smoothed_like_others(study, tiny, tmp_path):
    own = tmp_path / "bicubic.safetensors"
    own.write_bytes(tiny.read_bytes())
    found = measure(replace(study, models=(str(own),), defences=(None, MEDIAN)), tmp_path / "out")
    assert [bool(r["defence"]) for r in found.records] == [False, True] * 3


def test_progress_ends_at_the_total(study, tmp_path):
    steps = list(run(replace(study, perturbations=("clean", "fgsm")), tmp_path / "out"))
    assert steps[-1].done == steps[-1].total > 0
    assert all(a.done <= b.done for a, b in zip(steps, steps[1:], strict=False))
    assert json.loads((tmp_path / "out" / "records.jsonl").read_text().splitlines()[0])["version"] == VERSION


def test_the_seed_reaches_the_noise_inside_an_onnx_model(study, tiny, tmp_path):
    (tmp_path / "smooth.onnx").write_bytes(export(load(tiny, device="cpu", precision="fp32"), MEDIAN).content)
    one = replace(study, pictures=replace(study.pictures, limit=1), models=(str(tmp_path / "smooth.onnx"),))
    psnrs = [measure(replace(one, seed=seed), tmp_path / "out").records[0]["psnr"] for seed in (0, 1)]
    assert psnrs[0] != psnrs[1]


def test_the_weights_behind_lpips_are_a_part_of_the_key(study, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    path = backbones.whole("squeezenet")
    one = replace(study, pictures=replace(study.pictures, limit=1), lpips="squeeze")
    first = measure(one, tmp_path / "out").records
    other = load_file(path)
    other["features.0.weight"] *= 1.5
    (tmp_path / "weights").mkdir()
    save_file(other, tmp_path / "weights" / path.name)
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tmp_path / "weights"))
    losses._lpips.cache_clear()
    try:
        second = measure(one, tmp_path / "out").records
    finally:
        losses._lpips.cache_clear()
    assert not {r["key"] for r in first} & {r["key"] for r in second}
    assert all(a["lpips"] != b["lpips"] for a, b in zip(first, second, strict=True))
    assert one.protocol()["LPIPS"] == f"squeeze (weights {second[0]['backbones']['squeezenet'][:12]}), whole picture"
