import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from robustsr import attack as work
from robustsr import images, metrics, models, threats
from robustsr.attack import Shown, box, compare, detail, noise, pixels, reread, run, scene, slug, staged, tables, write
from robustsr.images import Metadata, Picture
from robustsr.plan import Smoothing
from robustsr.types import RobustSRError

FEW = Smoothing("median", 0.03, 4)


@pytest.fixture
def network(home, tiny):
    return models.load(tiny, device="cpu", precision="fp32")


@pytest.fixture
def picture(photo):
    def make(h=16, w=20, seed=0, **changes):
        rgb = photo(h, w, seed).astype(np.float32) / np.float32(255)
        return replace(Picture(rgb, None, False, 8, Metadata(), "png"), **changes)

    return make


def here(picture, hr=None, **options):
    return scene(picture, hr, 4, name="bird.png", **options)


# --- scenes ---


def test_rectangles():
    assert box("1,2,3,4") == (1, 2, 3, 4)
    for wrong in ("1,2,3", "a,b,c,d", "0,0,0,3", "-1,0,3,3", ""):
        with pytest.raises(RobustSRError, match="rectangle"):
            box(wrong)


def test_crops_are_the_same_part_of_everything(picture, photo):
    hr = picture(64, 80, seed=1)
    made = here(picture(), hr, crop=(3, 2, 14, 12), mask=(5, 4, 2, 1))
    assert made.size == (12, 14) and made.place == "14x12 pixels at 3,2"
    assert np.array_equal(pixels(made.x, 8), photo(16, 20)[2:14, 3:17])
    assert np.array_equal(pixels(made.hr, 8), photo(64, 80, 1)[8:56, 12:68])
    assert made.mask.nonzero().tolist() == [[0, 0, 2, 2], [0, 0, 2, 3]]


def test_the_centre_of_what_is_large_with_a_note(picture, photo):
    made = here(picture(20, 40), limit=16)
    assert made.box == (12, 2, 16, 16) and "only the centre, 16x16 of 40x20" in made.notes[0]
    assert here(picture(20, 40), limit=None).size == (20, 40) and not here(picture(20, 40), limit=None).notes


def test_the_input_from_the_truth(picture, photo):
    made = here(None, picture(66, 83))
    whole = Image.fromarray(photo(66, 83)[:64, :80])
    assert np.array_equal(pixels(made.x, 8), np.asarray(whole.resize((20, 16), Image.Resampling.BICUBIC)))
    assert made.hr.shape == (1, 3, 64, 80) and "cut to 80x64" in made.notes[0]


def test_what_is_left_out_is_noted(picture):
    alpha = np.full((16, 20), 0.5, np.float32)
    notes = " ".join(here(picture(alpha=alpha, gray=True, rgb=picture().rgb * 1.003 - 0.001)).notes)
    assert "transparency is ignored" in notes and "gray is treated as RGB" in notes and "became sRGB in 8 bits" in notes
    made = here(picture(rgb=picture().rgb * 1.3 - 0.1)).x
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    torch.testing.assert_close(made * 255, (made * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (10, 0, 14, 14)}, "does not lie inside the picture of 20x16"),
        ({"crop": (0, 0, 11, 16)}, "too few: the output needs 48"),
        ({"mask": (10, 0, 14, 14)}, "the mask 10,0,14,14 does not lie inside"),
    ],
)
def test_sizes_that_do_not_fit(picture, options, message):
    with pytest.raises(RobustSRError, match=message):
        here(picture(), **options)


def test_wrong_truths_masks_and_no_picture(picture):
    with pytest.raises(RobustSRError, match="--hr has 20x16 pixels, the output 80x64: it must be 4 times"):
        here(picture(), picture())
    with pytest.raises(RobustSRError, match="the mask has 20x12 pixels, the picture 20x16"):
        here(picture(), mask=picture(12, 20))
    with pytest.raises(RobustSRError, match="give a picture, or --hr"):
        here(None)


# --- noise ---


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0.2, 2.0, 8.0])
def test_random_noise_is_as_large_as_asked(picture, bits, masked, size):
    one = here(picture(32, 32), mask=(4, 4, 20, 20) if masked else None)
    made = noise(one.x, size, "l2", mask=one.mask, seed=3, bits=bits)
    length = float(torch.linalg.vector_norm((made - one.x).double()))
    assert size * (0.93 if bits == 8 else 0.999) < length <= size * (1 + 1e-6)
    top = 2**bits - 1
    torch.testing.assert_close(made * top, (made * top).round(), atol=0.01, rtol=0)
    assert made.min() >= 0 and made.max() <= 1
    if masked:
        assert torch.equal(made * (1 - one.mask), one.x * (1 - one.mask))
    linf = noise(one.x, 8 / 255, "linf", mask=one.mask, seed=3, bits=bits) - one.x
    assert float(linf.abs().max()) == pytest.approx(8 / 255, abs=1e-6)
    assert not masked or float((linf * (1 - one.mask)).abs().max()) == 0


def test_no_noise_is_no_change(picture):
    one = here(picture())
    assert torch.equal(noise(one.x, 0, "l2", seed=0, bits=8), one.x)
    assert torch.equal(noise(one.x, 0, "linf", seed=0, bits=8), one.x)


# --- attacks ---


def test_an_attack_is_measured_beside_noise_on_every_model(network, picture):
    one = here(picture(), picture(64, 80, seed=1))
    other = models.load("bicubic", device="cpu")
    result = run(one, network, threats.parse("pgd:steps=3"), smoothing=FEW, others=[Shown("bicubic", other)], seed=1)
    assert result.labels == ["tiny", "tiny, median of 4, sigma 0.03", "bicubic"] and result.victim == "tiny"
    assert [o.input for o in result.outcomes] == ["clean", "random", "base"] * 3
    assert result.strongest.sizes["levels"] == pytest.approx(8) == result.noise.sizes["levels"]
    for o in result.outcomes:
        sr = torch.from_numpy(o.sr.transpose(2, 0, 1)[None] / np.float32(255))
        assert o.measures["psnr"] == pytest.approx(float(metrics.psnr(sr, one.hr, crop=4)), abs=1e-9)
        assert o.measures["ssim_y"] == pytest.approx(float(metrics.ssim(sr, one.hr, crop=4, y=True)), abs=1e-9)
        assert o.measures["lpips"] is None
    psnr = {o.input: o.measures["psnr"] for o in result.outcomes if o.label == "tiny"}
    assert psnr["base"] < psnr["clean"]
    curve = result.strongest.curve
    assert len(curve) == 5 and max(curve) > curve[0]


def test_without_a_truth_the_reference_is_each_clean_output(network, picture):
    result = run(here(picture()), network, threats.parse("cw"), smoothing=FEW)
    clean = result.outcome("tiny", "clean")
    assert clean.measures["psnr"] == math.inf and clean.measures["ssim"] == 1
    assert result.strongest.sizes["l2"] == pytest.approx(result.noise.sizes["l2"], rel=0.02)
    assert result.outcome("tiny", "base").measures["psnr"] < result.outcome("tiny", "random").measures["psnr"]
    assert result.strongest.sizes["levels"] < 12  # what six Adam steps reach: the start is no noise of its own
    notes = " ".join(note for table in tables(result) for note in table.notes)
    assert "The same model's output for the clean input" in notes and "of equal L2" in notes
    assert "LPIPS n/a" in notes and "robustsr models pull squeezenet" in notes and "c = 0.01" in notes


def test_every_variant_has_its_rows_and_the_worst_is_marked(network, picture):
    one = here(picture(12, 12), picture(48, 48, seed=1))
    variants = threats.variants_for("worst", FEW)
    others = [Shown("bicubic", models.load("bicubic", device="cpu"))]
    attack = threats.parse("pgd:steps=2,draws=2,eps=16/255")
    result = run(one, network, attack, variants=variants, smoothing=FEW, others=others)
    assert result.victim == "tiny, median of 4, sigma 0.03"
    for label in result.labels[:2]:
        assert [o.input for o in result.outcomes if o.label == label] == ["clean", "random", *variants]
    assert [o.input for o in result.outcomes if o.label == "bicubic"] == ["clean", "random", result.worst]
    psnr = {v: result.outcome(result.victim, v).measures["psnr"] for v in variants}
    assert psnr[result.worst] == min(psnr.values())
    marked = [(r.section, r.label) for r in tables(result)[1].rows if "worst" in r.label]
    assert marked == [(result.victim, f"attacked: {result.worst}, the worst")]


def test_a_target_is_approached(network, picture):
    one = here(picture(), target=picture(30, 30, seed=5))
    result = run(one, network, threats.parse("pgd:eps=32/255,steps=8"))
    near = {o.input: o.measures["target"] for o in result.outcomes}
    assert near["base"] > near["clean"] + 0.5
    assert tables(result)[1].columns[-1].group == "to target"


@pytest.mark.parametrize("method", ["fgsm", "bim:steps=2", "pgd:steps=2", "pgd-l2:steps=2,eps=1", "cw", "random"])
def test_a_mask_holds(network, picture, method):
    one = here(picture(), mask=(4, 4, 8, 6))
    result = run(one, network, threats.parse(method))
    for made in (result.strongest.adv, result.noise.adv, result.strongest.exact):
        assert torch.equal((made * (1 - one.mask)), one.x * (1 - one.mask)) or made is result.strongest.exact
        assert float(((made - one.x) * (1 - one.mask)).abs().max()) < 1e-6
        assert not torch.equal(made, one.x)


def test_onnx_is_refused_as_victim(network, picture):
    stranger = models.OnnxNetwork(None, 4, "stranger", "0", torch.device("cpu"), "")
    with pytest.raises(RobustSRError, match="no gradients"):
        threats.craft(threats.parse("fgsm"), work.watched(stranger, print, ""), here(picture()).x)


def test_the_network_says_how_often_it_ran(network, picture):
    said = []
    run(here(picture()), network, threats.parse("bim:steps=2"), say=said.append)
    assert "attacking tiny: the network without its smoothing, run 3 of the network" in said


# --- files ---


def test_files_hold_what_was_measured(network, picture, tmp_path):
    one = here(picture(), picture(64, 80, seed=1))
    with staged(tmp_path / "out") as part:
        result = run(one, network, threats.parse("pgd:steps=2"), smoothing=FEW, file=reread(part, 8))
        write(result, part, {"command": "x"})
        assert not (tmp_path / "out").exists()
    out = tmp_path / "out"
    smooth = "tiny-median-of-4-sigma-0.03"
    outputs = [f"output-{model}-{what}.png" for model in ("tiny", smooth) for what in ("attacked", "clean")]
    rest = ["adversarial.npy", "adversarial.png", "clean.png", "difference.png", "random-noise.png"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*rest, *outputs, "record.json", "sheet.png"])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".robustsr")] == []
    clean, adv = (np.asarray(Image.open(out / f"{n}.png")).astype(int) for n in ("clean", "adversarial"))
    assert np.abs(adv - clean).max() == 8
    exact = np.load(out / "adversarial.npy")
    assert exact.shape == (16, 20, 3) and exact.dtype == np.float32
    assert np.abs(exact * 255 - clean).max() <= 8 + 1e-3 and np.abs(exact * 255 - adv).max() < 1 + 1e-3
    record = json.loads((out / "record.json").read_text())
    delta = (adv - clean) / 255
    assert record["attempts"][0]["l2"] == pytest.approx(np.sqrt((delta**2).sum()), rel=1e-6)
    assert record["attempts"][0]["l2_rel"] == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-6)
    truth = pixels(one.hr, 8).astype(float)
    for row in record["outputs"]:
        if row["input"] == "random":
            continue
        what = "attacked" if row["input"] == "base" else row["input"]
        sr = np.asarray(Image.open(out / f"output-{slug(row['model'])}-{what}.png")).astype(float)
        error = (((sr - truth) / 255)[4:-4, 4:-4] ** 2).mean()
        assert row["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-4)
    again = Shown("tiny", network)(torch.from_numpy(adv.transpose(2, 0, 1)[None] / np.float32(255)).float())
    assert np.array_equal(again, np.asarray(Image.open(out / "output-tiny-attacked.png")))


def test_sixteen_bits_stay_sixteen(network, picture, tmp_path):
    rgb = np.round(picture().rgb * 65535 * 0.7 + 77) / 65535
    one = here(picture(rgb=rgb.astype(np.float32), bits=16))
    with staged(tmp_path / "out") as part:
        result = run(one, network, threats.parse("pgd-l2:steps=2,eps=.3"), file=reread(part, 16))
        write(result, part, {})
    assert images.inspect(tmp_path / "out" / "adversarial.png", max_pixels=10**6).bits == 16
    adv, clean = (images.read(tmp_path / "out" / f"{n}.png", max_pixels=10**6).rgb for n in ("adversarial", "clean"))
    assert 0.29 < np.linalg.norm((adv - clean).astype(float)) <= 0.3 * (1 + 1e-5)
    assert 0.29 < result.noise.sizes["l2"] <= 0.3
    assert (np.round(adv * 65535) % 257 != 0).any()


def test_only_png_holds_an_attack(tmp_path):
    with pytest.raises(RobustSRError, match="other formats than png change pixels"):
        work.save_picture(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_what_is_interrupted_leaves_nothing(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("before")
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out") as part:
        (part / "a").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "a"] and (tmp_path / "out" / "a").read_text() == "before"


def test_the_detail_is_where_the_output_changed(network, picture):
    one = here(picture(150, 200), mask=(150, 20, 10, 10))
    result = run(one, network, threats.parse("fgsm"))
    x, y, w, h = detail(result)
    assert (w, h) == (100, 100) and x <= 150 and x + w >= 160 and y <= 20 and y + h >= 30
    assert work.contact(result).mode == "RGB"


# --- universal ---


def test_one_perturbation_for_all(network, picture, tmp_path):
    scenes = [replace(here(picture(seed=i)), name=str(i)) for i in range(5)]
    made = work.universal(scenes, network, threats.parse("pgd:steps=4"), smoothing=FEW, file=reread(tmp_path, 8))
    assert made.delta.shape == (1, 3, 16, 20) and float(made.delta.abs().max()) <= 8 / 255 + 1e-7
    for one, found, baseline, outcomes in made.rows:
        adv = images.read(tmp_path / f"{one.name}.png", max_pixels=10**6).rgb
        assert np.array_equal(adv, found.adv[0].permute(1, 2, 0).numpy())
        torch.testing.assert_close(found.adv, (one.x + made.delta).clamp(0, 1), atol=1.01 / 255, rtol=0)
        assert found.sizes["levels"] == pytest.approx(8) == baseline.sizes["levels"]
        assert [o.input for o in outcomes] == ["random", "universal"] * 2
    work.write_universal(made, tmp_path, {})
    table = work.universal_table(made)
    assert [row.label for row in table.rows] == ["0", "1", "2", "3", "4", "mean"] and len(table.columns) == 4
    record = json.loads((tmp_path / "record.json").read_text())
    values = [p["outputs"][1]["psnr"] for p in record["pictures"]]
    assert table.rows[-1].cells[1].value == pytest.approx(np.mean(values))
    assert np.array_equal(np.load(tmp_path / "universal.npy"), made.delta[0].permute(1, 2, 0).numpy())


def test_universal_through_fresh_draws_and_its_limits(network, picture):
    scenes = [here(picture(12, 12))]
    attack = threats.parse("pgd-l2:steps=2,draws=2")
    made = work.universal(scenes, network, attack, smoothing=FEW, adaptive=True)
    assert float(torch.linalg.vector_norm(made.delta)) <= 0.5 + 1e-6
    with pytest.raises(RobustSRError, match="a universal attack is --method pgd"):
        work.universal(scenes, network, threats.parse("cw"))


# --- models side by side ---


def test_models_of_different_scales_are_shown_at_one_size(network, picture):
    one = here(picture(24, 24), picture(96, 96, seed=1))
    shown = [Shown("tiny", network), Shown("half", models.load("bicubic-x2", device="cpu"))]
    found = compare(one, shown, work.Ruler.best())
    assert [f.sr.shape for f in found] == [(96, 96, 3)] * 2 and all(f.seconds > 0 for f in found)
    assert found[1].label(4) == "half (x2, resized by bicubic)"
    table = work.comparison_table(one, found, work.Ruler.best())
    assert [c.name for c in table.columns] == ["s", "PSNR", "PSNR Y", "SSIM", "SSIM Y", "LPIPS"]
    rows = work.comparison_rows(one, found)
    assert [p.label for p in rows[0][1]] == ["input", "ground truth", "tiny", "half (x2, resized by bicubic)"]


def test_lpips_is_measured_where_it_can_be(shared, network, picture, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    result = run(here(picture(), picture(64, 80, seed=1)), network, threats.parse("fgsm"))
    assert result.outcome("tiny", "base").measures["lpips"] > 0
    assert "LPIPS: squeeze" in " ".join(tables(result)[1].notes)
