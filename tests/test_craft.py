"""Every way of attacking a real (tiny) network: the ball, the file's levels, tiles, targets and masks."""

import pytest
import torch

from robustsr import craft as module
from robustsr.craft import attackable, craft
from robustsr.losses import l1
from robustsr.models import load
from robustsr.objectives import Fresh
from robustsr.perturbations import norms
from robustsr.settings import Smoothing
from robustsr.threats import VARIANTS, parse
from robustsr.types import RobustSRError


@pytest.fixture
def network(tiny):
    return load(tiny, device="cpu", precision="fp32")


def picture(h=12, w=14, n=1):
    x = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    return (x * 255).round() / 255


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
    made = craft(parse("pgd:steps=2,eot_iter=2"), network, x, hr, smoothing=smoothing, variant=variant)
    assert made.found is not None and len(made.found.curve) == 4
    assert not torch.equal(made.adv, x)
    victim = attackable(network, (12, 14), None if variant == "base" else smoothing)
    if variant in ("eot", "mean", "losses"):  # compared by draws of their own, the same for every iterate
        victim = Fresh(victim, 2, 0).fixed()
    torch.testing.assert_close(made.found.loss, l1(victim(made.found.adv), hr))


def test_clipping_may_be_left_out_but_files_hold_no_more(network):
    x = picture().round().clamp(0.01, 0.99)
    for spec, bits, beyond in [("pgd", None, False), ("pgd:clip=false", None, True), ("pgd:clip=false", 8, False)]:
        adv = craft(parse(spec), network, x, seed=1, bits=bits).adv
        assert bool(((adv < 0) | (adv > 1)).any()) == beyond


def test_a_drop_towards_a_target_makes_no_sense(network):
    with pytest.raises(RobustSRError, match="an attack with a target"):
        craft(parse("cw:drop=1"), network, picture(), network(picture()), targeted=True)


def test_the_step_size_of_cw_is_its_optimisers(network):
    x, hr = picture(), network(picture()).flip(-1).clamp(0, 1)
    still, slow, fast = (craft(parse(f"cw:c=1,step_size={size}"), network, x, hr).adv - x for size in (0, 0.01, 0.1))
    assert not still.any() and slow.abs().max() < fast.abs().max()


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


def test_the_mean_of_losses_approaches_a_target_too(network):
    x, smoothing = picture(), Smoothing("median", 0.05, 3)
    with torch.no_grad():
        target = network(x.flip(-1)).clamp(0, 1)
    threat = parse("pgd:eps=60/255,steps=10,eot_iter=4,loss=mse")
    made = craft(threat, network, x, target, smoothing=smoothing, variant="losses", targeted=True)
    victim = attackable(network, (12, 14), smoothing)
    with torch.no_grad():
        near, far = ((victim(z) - target).square().mean() for z in (made.adv, x))
    assert near < 0.9 * far


def test_attacks_run_in_float32_whatever_the_model_came_in(network):
    x = picture()
    with torch.no_grad():
        assert torch.equal(attackable(network.with_precision("bf16"), (12, 14))(x), network(x))


def test_what_cw_finds_is_only_rounded(network):
    x = picture()
    made = craft(parse("cw:c=100,steps=30,step_size=0.05"), network, x, network(x.flip(-1)).clamp(0, 1))
    assert float((made.found.adv - x).abs().max()) > 16 / 255  # as far as it likes: it knows no ball
    assert float((made.adv - made.found.adv).abs().max()) <= 0.501 / 255


def test_random_noise_has_the_budget(network):
    x = picture(30, 30)
    for spec in ("random:eps=8/255", "random:norm=l2,eps=2"):
        threat = parse(spec)
        made = craft(threat, network, x, seed=3)
        assert float(norms(made.adv - x)[threat.norm]) == pytest.approx(threat.eps, rel=0.02)
        assert torch.equal(craft(threat, network, x, seed=3).adv, made.adv)
        assert not torch.equal(craft(threat, network, x, seed=4).adv, made.adv)
        mask = torch.zeros(1, 1, 30, 30)
        mask[..., :15, :] = 1
        made = craft(threat, network, x, mask=mask, seed=3)
        assert float(norms(made.adv - x)[threat.norm]) == pytest.approx(threat.eps, rel=0.02)
        assert torch.equal(made.adv[..., 15:, :], x[..., 15:, :])


def test_large_pictures_are_attacked_in_tiles_as_small_ones_are_whole(network, monkeypatch):
    x = picture(40, 44)
    whole = craft(parse("pgd:steps=2"), network, x)
    monkeypatch.setattr(module, "TILE", 24)
    monkeypatch.setattr(module, "LIGHT", 100)
    monkeypatch.setattr(module, "MEMORY", 1)
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


def test_a_budget_below_one_level_of_the_file_is_refused(network):
    with pytest.raises(RobustSRError, match="less than one level of an 8-bit file"):
        craft(parse("pgd:eps=0.5px"), network, picture())
    for spec in ("pgd-l2:eps=0.003", "random:norm=l2,eps=0.003"):  # one value by one level is more
        with pytest.raises(RobustSRError, match="less than one level of an 8-bit file"):
            craft(parse(spec), network, picture())
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
