"""A denoiser before a model: the network they make, and --denoise in every command that takes it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import robustsr
from robustsr import models
from robustsr.catalogue import package_samples
from robustsr.certificate import find_field
from robustsr.evaluate import run
from robustsr.metrics import psnr
from robustsr.models import denoised, load
from robustsr.noise import gaussian
from robustsr.onnx_network import OnnxNetwork
from robustsr.pairs import Pictures
from robustsr.plan import compose, make_plan
from robustsr.settings import Smoothing, smoothing_for
from robustsr.study import Study
from robustsr.tiling import FEATHER
from robustsr.types import RobustSRError


@pytest.fixture
def first(denoiser):
    return load(denoiser, device="cpu", precision="fp32")


@pytest.fixture
def both(tiny, denoiser, home):
    return load(tiny, device="cpu", precision="fp32", denoise=denoiser)


@pytest.mark.parametrize("name", ["denoiser", "denoiser-stability"])
def test_those_that_ship_take_noise_away_and_leave_clean_pictures_be(home, name):
    net = load(name, device="cpu", precision="fp32")
    with Image.open(package_samples() / "landscape.png") as file:
        x = torch.from_numpy(np.asarray(file.convert("RGB")).copy()).permute(2, 0, 1)[None, :, :96, :96] / 255
    noise = gaussian(1, range(1), 3, 96, 96, torch.zeros(1, 2, dtype=torch.int64))[0]
    assert net.scale == 1 and psnr(net(x), x) > 44
    for sigma, gain in ((0.03, 4.5), (0.06, 6.5), (0.1, 8)):
        assert psnr(net(x + sigma * noise), x) > psnr(x + sigma * noise, x) + gain


# --- the network ---


def test_it_is_the_denoiser_then_the_model(both, first, network):
    x = torch.rand(2, 3, 9, 11, requires_grad=True)
    assert torch.equal(both(x), network(first(x))) and not torch.equal(both(x), network(x))
    assert torch.autograd.grad(both(x).sum(), x)[0].abs().sum() > 0
    assert (both.scale, both.name) == (4, "tiny after cleaner")
    assert both.context == first.context + network.context == 5 and both.exact


def test_each_order_and_each_part_has_its_own_digest(both, first, network):
    again = denoised(first, first)
    assert len({both.digest, network.digest, first.digest, again.digest, denoised(first, both).digest}) == 5
    assert denoised(first, network).digest == both.digest


def test_two_denoisers_run_one_after_the_other(both, first, network):
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(denoised(first, both)(x), network(first(first(x))))


def test_it_is_as_exact_as_its_parts(both, first, network):
    vague = models.replace(first, exact=False, context=32)
    assert not denoised(vague, network).exact and denoised(vague, network).feather == FEATHER
    assert denoised(vague, network).context == 32 + network.context


@pytest.mark.parametrize("smoothing", [None, Smoothing("median", 0.1, 3)])
def test_tiles_equal_the_whole_and_need_the_sum_of_the_contexts(both, smoothing):
    x = torch.rand(1, 3, 70, 90)
    whole = compose(both, smoothing, make_plan(both, smoothing), (70, 90))(x)
    plan = make_plan(both, smoothing, tile=42)
    assert torch.allclose(compose(both, smoothing, plan, (70, 90))(x), whole, atol=1e-5)
    with pytest.raises(RobustSRError, match="--tile-pad 4 would leave seams: tiny after cleaner needs 5"):
        make_plan(both, smoothing, tile=42, context=4)
    less = models.replace(plan, context=4)
    assert not torch.allclose(compose(both, smoothing, less, (70, 90))(x), whole, atol=1e-5)


def test_both_run_in_one_number_format(both, first, network):
    fast = both.with_precision("bf16")
    assert fast.precision == "bf16" and fast.digest == both.digest
    x = torch.rand(1, 3, 16, 16)
    assert not torch.equal(fast(x), both(x)) and torch.equal(fast.with_precision("fp32")(x), both(x))
    assert denoised(first.with_precision("bf16"), network).precision == "fp32"
    assert denoised(first, network.with_precision("bf16")).precision == "fp32"


def test_a_fast_format_that_is_only_true_alone_is_not_taken(tiny, denoiser, monkeypatch):
    monkeypatch.setattr(models, "auto_precision", lambda device, winograd=False: "bf16")
    assert load(tiny, device="cpu").precision == load(denoiser, device="cpu").precision == "bf16"
    both = load(tiny, device="cpu", denoise=denoiser)
    assert both.precision == "fp32"
    assert load(tiny, device="cpu", precision="bf16", denoise=denoiser).precision == "bf16"  # it was asked for
    monkeypatch.setattr(models, "faithful", lambda fast, exact: True)
    both = load(tiny, device="cpu", denoise=denoiser)
    assert both.precision == "bf16"


def test_a_receptive_field_is_claimed_only_where_nothing_is_padded(first, network):
    assert find_field(denoised(first, network), "auto", 20, 20).radius == 5
    small = denoised(models.replace(first, min_size=24), network)
    assert find_field(small, "auto", 20, 20).radius is None and find_field(small, "auto", 24, 24).radius == 5


def test_what_is_known_of_a_model_but_its_calibration_holds_behind_a_denoiser(home, denoiser):
    shipped = load("psnr", device="cpu", precision="fp32", denoise=denoiser)
    plain = load("psnr", device="cpu", precision="fp32")
    assert smoothing_for(shipped, "median") == smoothing_for(plain, "median")
    with pytest.raises(
        RobustSRError,
        match="psnr after cleaner has no calibration .* `robustsr tune FOLDER` make one",
    ):
        smoothing_for(shipped, "median", "auto")


def test_the_smallest_side_is_one_that_both_take(first, network):
    both = denoised(models.replace(first, min_size=40), models.replace(network, multiple=16))
    assert (both.multiple, both.min_size) == (16, 48) and both(torch.rand(1, 3, 20, 50)).shape == (1, 3, 80, 200)


def test_it_is_licensed_as_both_are(home, first):
    plain, cleaner = (load(name, device="cpu", precision="fp32") for name in ("plain", "denoiser"))
    assert denoised(cleaner, plain).entry.licence == plain.entry.licence == cleaner.entry.licence
    assert denoised(first, plain).entry.licence == f"{plain.entry.licence}; unknown"


def test_what_is_no_denoiser_is_refused(tiny, denoiser, tmp_path, first, network):
    with pytest.raises(RobustSRError, match="unet-x2 is no denoiser: it is to restore"):
        load("psnr", device="cpu", denoise="unet-x2")
    with pytest.raises(RobustSRError, match="tiny is x4: a denoiser is a model of scale 1"):
        load(tiny, device="cpu", denoise=tiny)
    with pytest.raises(RobustSRError, match="bicubic is x4"):
        load(tiny, device="cpu", denoise="bicubic")
    gray = onnx_like(first)
    with pytest.raises(RobustSRError, match="cleaner is an ONNX model: a denoiser is a checkpoint"):
        denoised(gray, network)
    with pytest.raises(RobustSRError, match="tiny is an ONNX model"):
        denoised(first, onnx_like(network))


def onnx_like(net):
    return OnnxNetwork(None, net.scale, net.name, net.digest, net.device, "CPUExecutionProvider")


# --- Python ---


def test_upscale_takes_a_denoiser(tiny, denoiser, both, photo):
    picture = photo(8, 9)
    options = {"device": "cpu", "precision": "fp32"}
    made = robustsr.upscale(picture, tiny, denoise=denoiser, **options)
    assert np.array_equal(made, robustsr.upscale(picture, both))
    assert not np.array_equal(made, robustsr.upscale(picture, tiny, **options))
    with pytest.raises(RobustSRError, match=r"load\(model, denoise=...\) makes both one"):
        robustsr.upscale(picture, both, denoise=denoiser)


# --- commands ---


def summary(result):
    return json.loads(result[1].splitlines()[-1])["summary"]


def test_upscale_redoes_what_was_made_without_it(go, bird, denoiser):
    asked = ("upscale", bird, "-o", "out", "--smooth", "median", "--samples", 2, "--json")
    assert summary(go(*asked))["done"] == 1
    before = Path("out/bird.png").read_bytes()
    code, out, said = go(*asked, "--denoise", denoiser)
    assert code == 0 and summary((code, out))["done"] == 1 and "tiny after cleaner x4" in said
    assert Path("out/bird.png").read_bytes() != before
    assert summary(go(*asked, "--denoise", denoiser))["skipped"] == 1
    assert summary(go(*asked))["done"] == 1
    assert Path("out/bird.png").read_bytes() == before


COMMANDS = {
    "upscale": ("bird.png", "-o", "out"),
    "certify": ("bird.png", "-o", "out"),
    "attack": ("bird.png", "-o", "out"),
    "compare": ("bird.png", "-o", "out"),
    "evaluate": ("truth", "-o", "out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_denoiser_is_refused_before_anything_is_written(go, bird, tiny, command):
    Path("truth").mkdir()
    shutil.copy("hr.png", "truth")
    code, _, said = go(command, *COMMANDS[command], "--denoise", tiny)
    assert code == 1 and "tiny is x4" in said and not Path("out").exists()
    code, _, said = go(command, *COMMANDS[command], "--denoise", "nothing")
    assert code == 1 and "no model 'nothing'" in said and not Path("out").exists()


def test_a_certificate_names_both_and_holds_over_both_fields(go, bird, tiny, denoiser, both, first):
    asked = ("certify", bird, "-o", "out", "--samples", 300, "--ship", 5, "--scope", "value", "--seed", 1)
    code, _, said = go(*asked, "--denoise", denoiser)
    assert code == 0, said
    record = json.loads(Path("out/bird_certificate.json").read_text())
    denoiser_of = {"sha256": first.digest, "name": "cleaner"}
    assert record["model"] == {"sha256": both.digest, "scale": 4, "name": "tiny after cleaner", "denoiser": denoiser_of}
    assert record["field"] == {"kind": "receptive", "radius": 5}
    verify = ("certify", "--verify", "out/bird_certificate.json", bird)
    assert go(*verify, "--denoise", denoiser)[0] == 0
    for name in (tiny, denoiser):
        robustsr.catalogue.add(name)
    code, _, said = go(*verify, model=False)  # by the names in the certificate
    assert code == 0, said
    del record["model"]["denoiser"]
    Path("out/bird_certificate.json").write_text(json.dumps(record))
    code, _, said = go(*verify)
    assert code == 1 and "model.sha256: these are not the weights that were certified" in said


def test_an_attack_goes_through_the_denoiser_and_is_tried_on_the_plain_model(go, bird, tiny, denoiser, both):
    code, out, said = go("attack", bird, "-o", "out", "--steps", 2, "--denoise", denoiser, "--compare", tiny)
    assert code == 0, said
    record = json.loads(Path("out/record.json").read_text())
    assert record["model"]["sha256"] == both.digest and "tiny after cleaner" in out


def test_compare_shows_a_model_with_and_without(go, bird, denoiser):
    code, out, said = go("compare", bird, "-o", "out.png", "--denoise", denoiser)
    assert code == 0 and "4 models" not in said and "3 models" in said and "tiny after cleaner" in out


def test_evaluate_keeps_both_apart_and_leaves_bicubic_alone(tmp_path, photo, tiny, denoiser, both, network):
    (tmp_path / "truth").mkdir()
    Image.fromarray(photo(96, 96)).save(tmp_path / "truth" / "a.png")
    plain = Study(Pictures(tmp_path / "truth", 4), (str(tiny), "bicubic"), device="cpu")
    made = [at.record for at in run(plain, tmp_path / "out")]
    study = models.replace(plain, denoise=str(denoiser))
    more = [at.record for at in run(study, tmp_path / "out")]
    assert [r["weights"] for r in made] == [network.digest, "bicubic"]
    assert [r["weights"] for r in more] == [both.digest, "bicubic"] and more[1]["key"] == made[1]["key"]
    assert more[0]["psnr"] != made[0]["psnr"] and len((tmp_path / "out/records.jsonl").read_text().splitlines()) == 3
    assert "cleaner" in study.protocol()["denoiser"] and "denoiser" not in plain.protocol()


def test_evaluate_and_tune_take_it(go, bird, denoiser, home, both):
    Path("truth").mkdir()
    for i in range(4):
        shutil.copy("hr.png", f"truth/{i}.png")
    code, _, said = go("evaluate", "truth", "-o", "out", "--denoise", denoiser, "--lpips", "off", "--device", "cpu")
    assert code == 0 and "before every model but bicubic" in Path("out/report.md").read_text()
    few = ("--sigma-grid", 0.05, "--samples", 2, "--lpips", "off", "--perturb", "clean", "--perturb", "jpeg:quality=50")
    more = ("--perturb", "noise:sigma=0.1", "--perturb", "noise:sigma=0.05", "--device", "cpu", "--limit", 4)
    code, _, said = go("tune", "truth", "-o", "tuned", "--denoise", denoiser, *few, *more)
    assert code == 0, said
    assert (home / "calibrations" / f"{both.digest}.json").exists()


def test_a_denoiser_alone_is_a_model_like_any_other(go, bird, denoiser):
    code, _, said = go("upscale", bird, "-o", "same.png", "-m", denoiser, model=False)
    assert code == 0 and Image.open("same.png").size == Image.open("bird.png").size, said
    assert "x1, receptive radius 2 input pixels" in " ".join(go("models", "info", denoiser, model=False)[1].split())
    assert "cleaner: x1, kept as" in go("models", "add", denoiser, model=False)[1]
    assert "cleaner" in go("models", "list", model=False)[1]
    assert go("upscale", bird, "-o", "clean.png", "--denoise", "cleaner")[0] == 0
