"""Norms, balls, random noise, and rounding to the levels of a file."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsr.attacks import pgd
from robustsr.perturbations import norms, project, random_in_ball, random_noise, rounded


def picture(n=2, h=8, w=9, seed=0, dtype=torch.float64):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(x, seed=1):
    """An objective with constant gradient, and that gradient."""
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return (lambda z: (z * weight).sum(dim=(1, 2, 3))), weight


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_idempotent_and_random_points_fill_the_ball(norm):
    delta = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    once = project(delta, norm, 0.5)
    torch.testing.assert_close(project(once, norm, 0.5), once)
    assert bool((norms(once)[norm] <= 0.5 + 1e-6).all())
    inside = random_in_ball(torch.zeros(4000, 3, 1, 1), norm, 0.5, 0)
    sizes = norms(inside)[norm]
    assert sizes.max() <= 0.5 + 1e-6
    assert float((sizes < 0.4).float().mean()) == pytest.approx(0.8**3, abs=0.03)  # volume of the smaller ball
    assert inside.mean().abs() < 0.02
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    masked = random_in_ball(torch.zeros(4000, 3, 1, 2), norm, 0.5, 0, mask)
    assert not masked[..., 1].any()  # and of the three values left it fills the ball alike
    assert float((norms(masked)[norm] < 0.4).float().mean()) == pytest.approx(0.8**3, abs=0.03)
    each = torch.eye(2).view(2, 1, 1, 2)  # a mask for each sample
    assert torch.equal(random_in_ball(torch.zeros(2, 3, 1, 2), norm, 0.5, 0, each) != 0, each.expand(2, 3, 1, 2) == 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_noise_is_as_large_as_the_attack(norm):
    x = picture(2, dtype=torch.float32)
    found = pgd(x, linear(x)[0], 0.1 if norm == "linf" else 2, norm=norm)
    for size in norms(found.adv - x)[norm].tolist():
        noisy = random_noise(x, size, norm, seed=1)
        torch.testing.assert_close(norms(noisy - x)[norm], torch.full((2,), size))
        assert noisy.min() >= 0 and noisy.max() <= 1
    assert torch.equal(random_noise(x, 0, "l2"), x) and torch.equal(random_noise(x, 0, "linf"), x)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0.2, 2.0, 8.0])
def test_random_noise_in_levels_is_as_large_as_asked(bits, masked, size):
    top = 2**bits - 1
    x = (picture(2, 32, 32, dtype=torch.float32) * top).round() / top
    mask = torch.ones(1, 1, 32, 32)
    if masked:
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., 4:24, 4:24] = 1
    given = mask if masked else None
    made = random_noise(x, size, "l2", mask=given, seed=3, bits=bits)
    lengths = norms((made - x).double())["l2"]
    assert bool((lengths > size * (0.93 if bits == 8 else 0.999)).all() and (lengths <= size * (1 + 1e-6)).all())
    torch.testing.assert_close(made * top, (made * top).round(), atol=0.01, rtol=0)
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(made * (1 - mask), x * (1 - mask))
    linf = random_noise(x, 8 / 255, "linf", mask=given, seed=3, bits=bits) - x
    torch.testing.assert_close(norms(linf)["linf"], torch.full((2,), 8 / 255), atol=1e-6, rtol=0)
    assert float((linf * (1 - mask)).abs().max()) == 0
    assert torch.equal(random_noise(x, 0, "l2", bits=bits), x) and torch.equal(random_noise(x, 0, "linf", bits=bits), x)
    for norm in ("linf", "l2"):  # each sample has a seed of its own, whatever the batch
        alone = random_noise(x[1:], size / 9, norm, mask=given, seed=4, bits=bits)
        assert torch.equal(alone, random_noise(x, size / 9, norm, mask=given, seed=3, bits=bits)[1:])


# --- files ---


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([8, 16]),
    st.sampled_from(["linf", "l2", None]),
    st.floats(0.002, 0.2),
)
def test_rounding_stays_in_the_ball_and_keeps_the_effect(seed, bits, norm, size):
    top = (1 << bits) - 1
    x = (picture(2, 7, 8, seed, torch.float32) * top).round() / top
    eps = size if norm == "linf" else size * math.sqrt(x[0].numel())
    adv = (x + project(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), norm or "l2", eps)).clamp(
        0, 1
    )
    made = rounded(x, adv, bits=bits, norm=norm, eps=eps)
    assert bool((made * top - (made * top).round()).abs().max() < 1e-2)
    assert made.min() >= 0 and made.max() <= 1
    if norm:
        assert bool((norms((made.double() - x.double()))[norm] <= eps * (1 + 1e-5)).all())
    assert (made - adv).abs().max() <= (1.002 if norm else 0.502) / top + (1 / top if norm == "l2" else 0)


def test_rounding_keeps_whole_levels_and_most_of_a_small_l2_norm():
    x = (picture(1, 16, 16, 0, torch.float32) * 255).round() / 255
    adv = (x + 8 / 255 * torch.randn(x.shape).sign()).clamp(0, 1)
    assert torch.equal((rounded(x, adv, norm="linf", eps=8 / 255) * 255).round(), (adv * 255).round())
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    adv = (x + project(delta, "l2", 0.5)).clamp(0, 1) * 1
    x = x.clamp(0.1, 0.9)
    x = (x * 255).round() / 255
    adv = x + project(delta, "l2", 0.15)
    made = rounded(x, adv, norm="l2", eps=0.15)
    kept = float(((made - x) * (adv - x)).sum() / (adv - x).square().sum())
    towards = rounded(x, adv, norm="linf")
    assert norms(made - x)["l2"].item() <= 0.15 * (1 + 1e-5)
    assert kept > 0.75 > float(((towards - x) * (adv - x)).sum() / (adv - x).square().sum())


@pytest.mark.parametrize("side", [40, 120, 192])
def test_rounding_keeps_an_l2_budget_of_which_most_values_get_less_than_half_a_level(side):
    x = (picture(1, side, side, 0, torch.float32).clamp(0.1, 0.9) * 255).round() / 255
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) ** 3  # a few large, many next to nothing
    size = norms(rounded(x, x + project(delta, "l2", 0.5), norm="l2", eps=0.5) - x)["l2"].item()
    assert 0.48 < size <= 0.5 * (1 + 1e-5)
