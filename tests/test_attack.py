import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FEW, here

from robustsr import attack, images, metrics, models, threats
from robustsr.attack import forecast, run, watched
from robustsr.attack_report import tables
from robustsr.craft import craft
from robustsr.onnx_network import OnnxNetwork
from robustsr.perturbations import random_in_ball
from robustsr.scene import Shown
from robustsr.settings import Smoothing
from robustsr.types import RobustSRError


def test_an_attack_is_measured_beside_noise_on_every_model(network, picture):
    one = here(picture(), picture(64, 80, seed=1))
    other = models.load("bicubic", device="cpu")
    result = run(one, network, threats.parse("pgd:steps=3"), smoothing=FEW, others=[Shown("bicubic", other)], seed=1)
    assert result.labels == ["tiny", "tiny, median of 4, sigma 0.03", "bicubic"] and result.victim == "tiny"
    assert list(result.weights.values()) == [network.digest, network.digest, "bicubic"]
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
    attack = threats.parse("pgd:steps=2,eot_iter=2,eps=16/255")
    result = run(one, network, attack, variants=variants, smoothing=FEW, others=others)
    assert result.victim == "tiny, median of 4, sigma 0.03"
    for label in result.labels[:2]:
        assert [o.input for o in result.outcomes if o.label == label] == ["clean", "random", *variants]
    assert [o.input for o in result.outcomes if o.label == "bicubic"] == ["clean", "random", result.worst]
    psnr = {v: result.outcome(result.victim, v).measures["psnr"] for v in variants}
    assert psnr[result.worst] == min(psnr.values())
    marked = [(r.section, r.label) for r in tables(result)[1].rows if "worst" in r.label]
    assert marked == [(result.victim, f"attacked: {result.worst}, the worst")]


@pytest.mark.parametrize("variants", [("base", "eot"), ("eot", "base")])
def test_noise_is_as_large_as_the_strongest_attempt(network, picture, variants):
    threat, smoothing = threats.parse("cw:c=1,steps=4,step_size=0.03"), Smoothing("median", 0.1, 3)
    result = run(here(picture()), network, threat, variants=variants, smoothing=smoothing)
    sizes = {attempt.name: attempt.sizes["l2"] for attempt in result.attempts}
    assert result.noise.sizes["l2"] == pytest.approx(sizes[result.worst], rel=0.005)
    assert max(sizes.values()) > 1.05 * min(sizes.values())


def test_noise_is_not_what_the_attack_began_with(network, picture):
    one = here(picture())
    noise = run(one, network, threats.parse("pgd:steps=1"), seed=3).noise.exact - one.x
    start = random_in_ball(one.x, "linf", 1, 3)
    assert abs(float((start.sign() * noise.sign()).mean())) < 0.2


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
    stranger = OnnxNetwork(None, 4, "stranger", "0", torch.device("cpu"), "")
    with pytest.raises(RobustSRError, match="no gradients"):
        craft(threats.parse("fgsm"), watched(stranger, print, ""), here(picture()).x)


def test_a_forecast_counts_every_run_of_an_attack(network, monkeypatch):
    monkeypatch.setattr(attack, "pixels_per_second", lambda network: 1.0)

    def runs(spec, *variants):
        return forecast((1, 1), network, threats.parse(spec), variants, FEW, 1)

    assert runs("pgd:steps=5,restarts=3", "base") == runs("pgd:steps=15", "base") > runs("pgd:steps=5", "base")
    assert runs("cw:steps=5,drop=1", "base") == runs("cw:steps=50", "base")
    looking = runs("random", "eot")
    assert runs("pgd:steps=5,eot_iter=3", "eot") - looking == 6 * (runs("pgd:steps=5", "base") - looking)


def test_the_network_says_how_often_it_ran(network, picture):
    said = []
    run(here(picture()), network, threats.parse("bim:steps=2"), say=said.append)
    assert "attacking tiny: the network without its smoothing, run 3 of the network" in said


def test_a_drop_is_the_one_that_is_reported():
    """The border, which PSNR leaves out, is no part of it: a change may cost more or less there."""
    hr = images.read(Path(__file__).parents[1] / "assets" / "hr" / "sign.webp")
    network, one = models.load("plain", device="cpu"), here(None, hr, crop=16)
    result = run(one, network, threats.parse("cw:drop=3"), smoothing=FEW)
    before, after = (result.outcome("plain", name).measures["psnr"] for name in ("clean", "base"))
    assert before - after == pytest.approx(3, abs=0.1)
