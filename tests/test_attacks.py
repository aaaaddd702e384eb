"""Attacks: closed forms, the ball and the box, reproducibility, and agreement with foolbox."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsr import attacks
from robustsr.attacks import ascend, bim, cw, fgsm, pgd
from robustsr.losses import l1, mse
from robustsr.objectives import against
from robustsr.perturbations import norms, random_in_ball
from robustsr.types import RobustSRError

EPS = 8 / 255


def picture(n=2, h=8, w=9, seed=0, dtype=torch.float64):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(x, seed=1):
    """An objective with constant gradient, and that gradient."""
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return (lambda z: (z * weight).sum(dim=(1, 2, 3))), weight


# --- closed forms on linear objectives ---


@pytest.mark.parametrize("attack", [fgsm, bim, pgd])
def test_on_a_linear_objective_linf_attacks_end_in_the_corner_of_the_ball(attack):
    x = picture()
    objective, weight = linear(x)
    found = attack(x, objective, EPS)
    torch.testing.assert_close(found.adv, (x + EPS * weight.sign()).clamp(0, 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.loss, objective(found.adv))


def test_on_a_linear_objective_l2_attacks_go_along_the_gradient():
    x = picture() * 0.2 + 0.4  # far from the box
    objective, weight = linear(x)
    found = pgd(x, objective, 0.3, steps=50, norm="l2", seed=3)
    unit = weight / weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(found.adv - x, 0.3 * unit, atol=1e-3, rtol=0)


def test_cw_finds_the_minimum_of_its_objective():
    x = picture(1) * 0.2 + 0.4
    objective, weight = linear(x)
    unit = weight / weight.norm()
    # |d| - c <w, d> has its minimum at infinity once c |w| > 1, and at d = 0 below: squared, at d = c w / 2
    found = cw(x, objective, values=1, c=0.01, steps=400, lr=1e-2, squared=True)
    torch.testing.assert_close(found.adv - x, 0.005 * weight.norm() * unit, atol=2e-4, rtol=0)
    assert bool((cw(x, objective, values=1, c=0.5 / float(weight.norm()), steps=50).adv == x).all())


def test_cw_is_adam_on_its_objective():
    x = picture(1) * 0.2 + 0.4
    _, weight = linear(x)
    objective = lambda z: (z * weight).square().sum(dim=(1, 2, 3))  # noqa: E731
    found = cw(x, objective, values=3, c=1.0, steps=3, lr=0.1, squared=True)
    w = torch.atanh((2 * x - 1) * 0.999999).requires_grad_(True)
    adam, curve = torch.optim.Adam([w], lr=0.1), [objective(x)]
    for _ in range(4):
        z = (w.tanh() + 1) / 2
        curve.append(objective(z).detach())
        adam.zero_grad()
        ((z - x).square().sum() - 3 * objective(z).sum()).backward()
        adam.step()
    torch.testing.assert_close(found.curve, curve, rtol=1e-9, atol=0)


# --- the ball, the box, the mask, never weaker ---


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.5), st.sampled_from(["linf", "l2"]), st.integers(0, 2**31), st.integers(1, 4), st.floats(0.05, 2))
def test_always_in_ball_and_box_and_never_weaker_than_the_input(eps, norm, seed, steps, relative):
    x = picture(2, 5, 4, seed).round(decimals=1)
    target = torch.zeros_like(x)
    objective = lambda z: mse(z.sin() * 3 % 1, target)  # noqa: E731 - a rough landscape
    found = ascend(x, objective, eps, eps * relative, steps, norm=norm, start=1, restarts=2, seed=seed)
    assert found.adv.min() >= 0 and found.adv.max() <= 1
    assert bool((norms(found.adv - x)[norm] <= eps * (1 + 1e-9) + 1e-12).all())
    assert bool((found.loss >= objective(x)).all())
    torch.testing.assert_close(found.loss, objective(found.adv))


def test_only_the_masked_region_changes():
    x = picture(2)
    mask = torch.zeros(1, 1, 8, 9)
    mask[..., 2:5, 3:6] = 1
    objective, weight = linear(x)
    for found in (
        pgd(x, objective, EPS, mask=mask),
        pgd(x, objective, 0.2, norm="l2", mask=mask),
        cw(x, objective, values=1, c=5, mask=mask),
        fgsm(x, objective, EPS, mask=mask),
    ):
        changed = (found.adv != x).any(1, keepdim=True)
        assert changed[..., 2:5, 3:6].any() and not changed[~mask.bool().expand(2, 1, 8, 9)].any()


def test_a_step_within_a_mask_is_as_long_as_any():
    x, mask = picture(2) * 0.2 + 0.4, torch.zeros(1, 1, 8, 9)
    mask[..., 2:5, 3:6] = 1
    objective, _ = linear(x)
    for options in ({}, {"mask": mask}):
        found = pgd(x, objective, 1.0, 1, 0.25, "l2", start=0, **options)
        torch.testing.assert_close(norms(found.adv - x)["l2"], torch.full((2,), 0.25, dtype=x.dtype))


def test_restarts_help_and_the_curve_tells_the_first_run():
    x = picture(8, 6, 6)
    objective = lambda z: (z * 40).sin().mean(dim=(1, 2, 3))  # noqa: E731
    one, four = (pgd(x, objective, 0.1, steps=3, restarts=n, seed=5) for n in (1, 4))
    assert bool((four.loss >= one.loss).all()) and int((four.loss > one.loss).sum()) > 3
    assert len(one.curve) == len(four.curve) == 5  # clean, start, three steps
    assert torch.equal(one.curve[0], objective(x))


def test_seeds_decide_and_batches_do_not():
    x = picture(3)
    objective = lambda z: (z * 40).sin().mean(dim=(1, 2, 3))  # noqa: E731
    both = pgd(x, objective, EPS, seed=7)
    assert torch.equal(both.adv, pgd(x, objective, EPS, seed=7).adv)
    assert not torch.equal(both.adv, pgd(x, objective, EPS, seed=8).adv)
    alone = pgd(x[1:2], objective, EPS, seed=8)
    torch.testing.assert_close(both.adv[1:2], alone.adv)


def test_zero_gradient_gets_a_random_direction_under_l2_and_none_under_linf():
    x = picture(1)
    flat = lambda z: (z * 0).sum(dim=(1, 2, 3))  # noqa: E731
    seen = []

    def objective(z):
        seen.append(z.detach())
        return flat(z)

    ascend(x, objective, 0.1, 0.1, 1, norm="l2")
    assert norms(seen[-1] - x)["l2"].item() == pytest.approx(0.1, abs=1e-3)  # clipping takes a little
    assert torch.equal(fgsm(x, flat, EPS).adv, x)


def test_wrong_numbers_are_refused():
    objective, _ = linear(picture())
    for wrong in ({"eps": -1}, {"eps": math.nan}, {"eps": 0.1, "steps": 0}, {"eps": 0.1, "restarts": 0}):
        with pytest.raises(RobustSRError, match="eps must be at least 0"):
            pgd(picture(), objective, **wrong)


# --- against upscalers ---


def test_against_a_linear_upscaler_the_optimum_is_known(nearest):
    x = picture(2, dtype=torch.float32) * 0.5 + 0.25
    found = pgd(x, against(nearest, nearest(x) - 0.01, l1), EPS, steps=20, start=0)
    torch.testing.assert_close(found.adv, x + EPS, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.loss, torch.full((2,), EPS + 0.01))


def test_targeted_attacks_approach_their_target(convs):
    x = picture(1)
    target = convs(picture(1, seed=9))
    before = mse(convs(x), target)
    found = pgd(x, against(convs, target, mse, targeted=True), 0.2, steps=20)
    assert mse(convs(found.adv), target) < 0.8 * before


def test_one_perturbation_for_all_pictures(convs):
    batches = []
    for seed in range(3):
        x = picture(2, seed=seed)
        batches.append((x, against(convs, convs(x), mse)))
    delta, curve = attacks.universal(batches, 0.1, steps=8, step_size=0.05)
    assert delta.shape == (1, 3, 8, 9) and norms(delta)["linf"].item() <= 0.1 + 1e-9

    def hurt(d):
        return sum(float(objective((x + d).clamp(0, 1)).sum()) for x, objective in batches) / 6

    assert hurt(delta) == pytest.approx(max(curve))
    chance = [hurt(random_in_ball(delta, "linf", 0.1, s).sign() * 0.1) for s in range(5)]
    assert hurt(delta) > 1.5 * max(chance)


def test_the_best_of_all_perturbations_for_all_pictures_is_kept():
    x = torch.full((2, 3, 4, 4), 0.5)
    objective = lambda z: -((z - 0.5).mean(dim=(1, 2, 3)) - 0.013).abs()  # noqa: E731 - its steps overshoot
    delta, curve = attacks.universal([(x, objective)], 0.1, steps=6, step_size=0.05)
    assert float(objective(x + delta).mean()) == pytest.approx(max(curve), abs=1e-6) and max(curve) > curve[-1]


def test_cw_never_ends_below_its_start_and_needs_no_ball(convs):
    x = picture(2)
    hr = convs(picture(2, seed=8))
    objective = against(convs, hr, l1)
    found = cw(x, objective, values=hr[0].numel(), c=0.5, steps=6)
    assert bool((found.loss > objective(x)).all()) and found.adv.min() >= 0 and found.adv.max() <= 1
    assert len(found.curve) == 8  # clean, the start, six steps
    j = norms(found.adv - x)["l2"] - 0.5 * hr[0].numel() * found.loss
    assert bool((j <= -0.5 * hr[0].numel() * objective(x)).all())


def test_cw_survives_black_and_white_pixels():
    x = picture(1).round()
    objective, _ = linear(x)
    found = cw(x, objective, values=1, c=10)
    assert bool(found.adv.isfinite().all())
    assert (found.adv - x).abs().max() < 1e-4  # which hardly move


def test_cw_search_finds_the_smallest_c_that_does_it(convs):
    x = picture(1)
    hr = convs(picture(1, seed=9))
    objective = against(convs, hr, l1)
    wanted = 1.01 * float(objective(x))
    options = {"values": hr[0].numel(), "steps": 10}
    found, c = attacks.cw_search(x, objective, lambda adv: bool(objective(adv) >= wanted), c=1, **options)
    assert wanted <= found.loss < 1.001 * wanted  # shortened to what does it just so
    assert torch.equal(found.loss, objective(found.adv))
    assert cw(x, objective, c=c / 1.5, **options).loss < wanted
    with pytest.raises(RobustSRError, match="cannot be reached"):
        attacks.cw_search(x, objective, lambda adv: False, rounds=2, **options)


# --- foolbox ---


def toy(classes=5):
    """A small classifier, inputs and labels, in float32."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, classes)
    )
    return net.eval().requires_grad_(False), torch.rand(6, 3, 8, 8), torch.arange(6) % classes


@pytest.mark.parametrize("name", ["fgsm", "pgd", "pgd-l2", "bim"])
def test_agrees_with_foolbox_on_a_classifier(name):
    foolbox = pytest.importorskip("foolbox")
    net, x, labels = toy()
    objective = lambda z: torch.nn.functional.cross_entropy(net(z), labels, reduction="none")  # noqa: E731
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    kinds = foolbox.attacks
    eps = 0.5 if name == "pgd-l2" else 0.03
    theirs, ours = {
        "fgsm": (lambda: kinds.LinfFastGradientAttack(random_start=False), lambda: fgsm(x, objective, eps)),
        "bim": (
            lambda: kinds.LinfBasicIterativeAttack(abs_stepsize=eps / 10, steps=10, random_start=False),
            lambda: bim(x, objective, eps, 10),
        ),
        "pgd": (
            lambda: kinds.LinfProjectedGradientDescentAttack(abs_stepsize=eps / 4, steps=10, random_start=False),
            lambda: pgd(x, objective, eps, 10, start=0),
        ),
        "pgd-l2": (
            lambda: kinds.L2ProjectedGradientDescentAttack(abs_stepsize=eps / 4, steps=10, random_start=False),
            lambda: pgd(x, objective, eps, 10, norm="l2", start=0),
        ),
    }[name]
    reference = theirs().run(model, x, foolbox.criteria.Misclassification(labels), epsilon=eps)
    np.testing.assert_allclose(ours().loss.numpy(), objective(reference).numpy(), rtol=0.01)
