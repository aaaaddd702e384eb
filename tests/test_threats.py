"""Threats: parsing, budgets, refusals, and every way of attacking a real (tiny) network."""

import math

import pytest
import torch

from robustsr import threats
from robustsr.attacks import Fresh
from robustsr.losses import l1
from robustsr.models import load
from robustsr.perturbations import norms
from robustsr.plan import Smoothing
from robustsr.threats import VARIANTS, Threat, attackable, craft, parse, variants_for
from robustsr.types import RobustSRError, number


@pytest.fixture
def network(tiny):
    return load(tiny, device="cpu", precision="fp32")


def picture(h=12, w=14, n=1):
    x = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    return (x * 255).round() / 255


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("8px", 8 / 255), (".031", 0.031), ("1e-2", 0.01)])
def test_sizes_as_people_write_them(text, value):
    assert number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "8/", "8/0", "abc", "8 px/2", "px"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RobustSRError, match="write 8/255, 8px or 0.031"):
        number(text)


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("fgsm", "fgsm"),
        ("pgd:eps=10px,steps=20,restarts=2", "pgd:eps=10/255,steps=20,restarts=2"),
        ("pgd:norm=l2,eps=0.5", "pgd-l2:eps=0.5"),
        ("pgd-l2:eps_rel=.05,loss=mse", "pgd-l2:eps_rel=0.05,loss=mse"),
        ("cw:c=1,steps=4,squared=true,drop=3", "cw:steps=4,c=1,squared=true,drop=3"),
        ("random:eps=.1", "random:eps=0.1"),
        ("pgd-l2:eps=.5,clip=false", "pgd-l2:eps=0.5,clip=false"),
    ],
)
def test_specs_have_one_canonical_form(spec, canonical):
    assert parse(spec).spec == canonical
    assert parse(canonical) == parse(spec)
    assert threats.is_threat(spec) and not threats.is_threat("noise:sigma=0.03")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("deepfool", "no attack 'deepfool'; there are: fgsm, bim, pgd, cw, random, pgd-l2"),
        ("cw:eps=8/255", "cw has no ball, so no eps"),
        ("pgd:eps=8", "did you mean 8/255"),
        ("pgd:epsilon=1", "'epsilon=1' is none of its settings"),
        ("pgd:steps=many", "steps must be a whole number, got 'many'"),
        ("pgd:steps=0", "must be at least 1"),
        ("bim:norm=l2", "bim has no use for norm, only pgd, random"),
        ("pgd:eps_rel=.1", "eps_rel is an L2 budget"),
        ("pgd-l2:eps=.1,eps_rel=.1", "eps_rel is an L2 budget"),
        ("cw:clip=false", "cw has no use for clip, only fgsm, bim, pgd"),
        ("pgd:drop=3", "pgd has no use for drop, only cw"),
        ("fgsm:steps=3", "fgsm has no use for steps, only bim, pgd, cw"),
        ("random:steps=3", "random has no use for steps"),
        ("pgd:eps=-1", "eps must be at least 0"),
        ("pgd:norm=l1", "linf or l2"),
        ("cw:squared=yes", "squared must be true or false, got 'yes'"),
        ("pgd:eps=1/255,eps=4/255", "has eps twice"),
    ],
)
def test_wrong_threats_are_explained(spec, message):
    with pytest.raises(RobustSRError, match=message):
        parse(spec)


def test_budgets():
    x = picture()
    assert parse("pgd").budget(x) == 8 / 255 and parse("pgd-l2").budget(x) == 0.5
    assert parse("pgd-l2:eps_rel=.1").budget(x) == pytest.approx(0.1 * math.sqrt(3 * 12 * 14))
    assert [parse(s).iterations for s in ("fgsm", "bim", "pgd", "cw", "cw:steps=4")] == [1, 10, 10, 6, 4]


@pytest.mark.parametrize("spec", ["fgsm", "bim:steps=3", "pgd:steps=3", "pgd-l2:steps=3,eps=1", "cw:c=1", "cw:drop=1"])
@pytest.mark.parametrize("truth", [True, False])
def test_every_attack_works_with_and_without_ground_truth(network, spec, truth):
    x, threat = picture(), parse(spec)
    with torch.no_grad():
        clean = network(x)
    hr = (clean + 0.05 * clean.flip(-1)).clamp(0, 1) if truth else None
    made = craft(threat, network, x, hr, seed=1)
    levels = made.adv * 255
    assert bool((levels - levels.round()).abs().max() < 1e-3) and made.adv.min() >= 0 and made.adv.max() <= 1
    if threat.method != "cw":
        assert bool((norms(made.adv - x)[threat.norm] <= threat.budget(x) * (1 + 1e-5)).all())
    with torch.no_grad():
        reference = clean if hr is None else hr
        noise = craft(parse("random:eps=1/255"), network, x, seed=1).adv
        assert l1(network(made.adv), reference) > l1(network(x), reference)
        if spec.startswith(("bim", "pgd")):
            assert l1(network(made.adv), reference) > l1(network(noise), reference)
    assert torch.equal(made.adv, craft(threat, network, x, hr, seed=1).adv)


@pytest.mark.parametrize("reduce", ["median", "mean"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_attacks_a_smoothed_network(network, reduce, variant):
    x, smoothing = picture(), Smoothing(reduce, 0.1, 3)
    hr = network(x).clamp(0, 1)
    made = craft(parse("pgd:steps=2,draws=2"), network, x, hr, smoothing=smoothing, variant=variant)
    assert made.variant == variant and made.found is not None and len(made.found.curve) == 4
    assert not torch.equal(made.adv, x)
    victim = attackable(network, (12, 14), None if variant == "base" else smoothing)
    if variant in ("eot", "mean", "losses"):  # compared by draws of their own, the same for every iterate
        victim = Fresh(victim, 2, 0).fixed()
    torch.testing.assert_close(made.found.loss, l1(victim(made.found.adv), hr))


def test_which_variants_a_word_stands_for():
    smoothing = Smoothing("median", 0.1, 3)
    assert variants_for("worst", smoothing) == ["base", "eot", "mean", "losses", "seed"]
    assert variants_for("worst", Smoothing("mean", 0.1, 3)) == ["base", "eot", "losses", "seed"]
    assert variants_for("worst", None) == ["base"] == variants_for("base", smoothing)
    assert variants_for("smoothed", smoothing) == ["eot", "mean", "losses", "seed"]
    assert variants_for("eot,base", smoothing) == ["base", "eot"]
    with pytest.raises(RobustSRError, match="attacks a smoothed model: add --smooth"):
        variants_for("smoothed", None)
    with pytest.raises(RobustSRError, match="got everything"):
        variants_for("everything", smoothing)


def test_clipping_may_be_left_out_but_files_hold_no_more(network):
    x = picture().round().clamp(0.01, 0.99)
    for spec, bits, beyond in [("pgd", None, False), ("pgd:clip=false", None, True), ("pgd:clip=false", 8, False)]:
        adv = craft(parse(spec), network, x, seed=1, bits=bits).adv
        assert bool(((adv < 0) | (adv > 1)).any()) == beyond


def test_a_drop_towards_a_target_makes_no_sense(network):
    with pytest.raises(RobustSRError, match="an attack with a target"):
        craft(parse("cw:drop=1"), network, picture(), network(picture()), targeted=True)


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ("fgsm", "1 step of eps"),
        ("bim", "10 steps of eps/steps"),
        ("pgd:steps=5", "5 steps of eps/4 from a random start"),
        ("pgd:step_size=2/255", "10 steps of 2/255 from a random start"),
        ("cw:c=1", "6 steps of Adam at rate 0.01, c 1"),
    ],
)
def test_an_attack_says_how_it_goes(spec, way):
    assert parse(spec).way == way


def test_targets_and_masks(network):
    x = picture()
    target = network(picture(12, 14).flip(-1)).clamp(0, 1)
    made = craft(parse("pgd:eps=60/255,steps=20,loss=mse"), network, x, target, targeted=True)
    with torch.no_grad():
        assert (network(made.adv) - target).square().mean() < (network(x) - target).square().mean()
    mask = torch.zeros(1, 1, 12, 14)
    mask[..., :6, :] = 1
    made = craft(parse("pgd"), network, x, mask=mask)
    assert torch.equal(made.adv[..., 6:, :], x[..., 6:, :]) and not torch.equal(made.adv, x)


def test_random_noise_has_the_budget(network):
    x = picture(30, 30)
    for spec in ("random:eps=8/255", "random:norm=l2,eps=2"):
        threat = parse(spec)
        made = craft(threat, network, x, seed=3)
        assert float(norms(made.adv - x)[threat.norm]) == pytest.approx(threat.eps, rel=0.02)
        mask = torch.zeros(1, 1, 30, 30)
        mask[..., :15, :] = 1
        made = craft(threat, network, x, mask=mask, seed=3)
        assert float(norms(made.adv - x)[threat.norm]) == pytest.approx(threat.eps, rel=0.02)
        assert torch.equal(made.adv[..., 15:, :], x[..., 15:, :])


def test_large_pictures_are_attacked_in_tiles_as_small_ones_are_whole(network, monkeypatch):
    x = picture(40, 44)
    whole = craft(parse("pgd:steps=2"), network, x)
    monkeypatch.setattr(threats, "TILE", 24)
    monkeypatch.setattr(threats, "LIGHT", 100)
    assert type(attackable(network, (40, 44))).__name__ == "Tiled"
    tiled = craft(parse("pgd:steps=2"), network, x)
    assert float((tiled.adv != whole.adv).float().mean()) < 0.01  # where a gradient is nearly zero its sign may differ
    smoothing = Smoothing("median", 0.1, 3)
    assert craft(parse("pgd:steps=1"), network, x, smoothing=smoothing, variant="seed").adv.shape == x.shape


def test_onnx_models_are_refused(network):
    class Onnx:
        name = "model.onnx"

    with pytest.raises(RobustSRError, match="model.onnx is an ONNX model, which has no gradients"):
        attackable(Onnx(), (8, 8))


def test_options_replace_only_what_is_given():
    threat = threats.with_options(parse("pgd:eps=4/255"), steps=7, eps=None)
    assert threat == Threat("pgd", eps=4 / 255, steps=7)


def test_a_budget_below_one_level_of_the_file_is_refused(network):
    with pytest.raises(RobustSRError, match="less than one level of an 8-bit file"):
        craft(parse("pgd:eps=0.5px"), network, picture())
    assert craft(parse("pgd:eps=0.5px,steps=1"), network, picture(), bits=16).adv.shape == (1, 3, 12, 14)


def test_cw_lowers_the_psnr_of_the_bundled_model_below_its_start():
    import numpy as np
    from PIL import Image

    from robustsr.catalogue import package_weights
    from robustsr.metrics import psnr

    network = load("psnr", device="cpu", precision="fp32")
    with Image.open(package_weights().parent / "samples" / "landscape.png") as file:
        hr = file.convert("RGB").crop((20, 20, 148, 116))
    x, y = (
        torch.from_numpy(np.array(i)).permute(2, 0, 1)[None].float() / 255
        for i in (hr.resize((32, 24), Image.Resampling.BICUBIC), hr)
    )
    made = craft(parse("cw"), network, x, y)
    with torch.no_grad():
        start, end = (float(psnr(network(z).clamp(0, 1), y)) for z in (x, made.adv))
    assert end < start - 0.5
