import math

import numpy as np
import pytest
import torch
from fakes import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from robustsr import kernels
from robustsr.bounds import (
    Bounds,
    Histogram,
    bounds,
    certified_psnr,
    mean_interval,
    shipped_picture,
    to_levels,
)
from robustsr.certify import Claim, band, draws_needed, largest_radius, ranks, slack
from robustsr.metrics import psnr
from robustsr.types import RobustSRError

BONFERRONI = 0.05 / 691_200


def histogram(draws, most=None):
    """Of draws (n, values)."""
    made = Histogram(tuple(draws.shape[1:]), most or len(draws))
    made.add(draws)
    return made


def normal(n, values, mean=0.5, std=0.1, seed=0):
    return mean + std * torch.randn(n, values, generator=torch.Generator().manual_seed(seed))


# --- ranks ---


@pytest.mark.parametrize(
    "n, radii",
    [
        (21, (0.990, 0.514, None)),
        (100, (1.796, 1.452, 1.005)),
        (1000, (2.680, 2.429, 2.120)),
        (10000, (3.375, 3.171, 2.927)),
    ],
)
def test_largest_radii_of_the_method(n, radii):
    for alpha, expected in zip((0.05, 0.001, BONFERRONI), radii, strict=True):
        if expected is None:
            assert largest_radius(n, alpha) < 0 and ranks(n, 0, alpha) is None
        else:
            assert largest_radius(n, alpha) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    "n, alpha, expected",
    [
        (21, 0.05, [(6, 16), (4, 18), (3, 19), None, None]),
        (1000, 0.05, [(469, 532), (371, 630), (280, 721), (136, 865), (14, 987)]),
        (1000, 0.001, [(448, 553), (351, 650), (261, 740), (122, 879), (9, 992)]),
        (10000, 0.05, [(4902, 5099), (3917, 6084), (2995, 7006), (1515, 8486), (199, 9802)]),
    ],
)
def test_ranks_of_the_method(n, alpha, expected):
    assert [ranks(n, r, alpha) for r in (0, 0.25, 0.5, 1, 2)] == expected


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.floats(0, 3), st.floats(1e-8, 0.5))
def test_ranks_hold_and_the_next_fail(n, r, alpha):
    a, p_hi, p_lo = alpha / 2, stats.norm.cdf(r), stats.norm.cdf(-r)
    upper = lambda k: stats.binom.sf(k - 1, n, p_hi)  # noqa: E731 - P(X_(k) below the percentile at p_hi)
    lower = lambda k: stats.binom.cdf(k - 1, n, p_lo)  # noqa: E731
    found = ranks(n, r, alpha)
    near = 1 + 1e-9
    if found is None:
        assert lower(1) > a / near and upper(n) > a / near
        return
    k_lo, k_hi = found
    assert 1 <= k_lo <= k_hi <= n and k_lo == n + 1 - k_hi
    assert lower(k_lo) <= a * near and upper(k_hi) <= a * near
    assert lower(k_lo + 1) > a / near and upper(k_hi - 1) > a / near


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.floats(0, 2.5), st.floats(0, 2.5), st.floats(1e-6, 0.5))
def test_a_wider_eps_never_narrows(n, r, more, alpha):
    near, far = ranks(n, r, alpha), ranks(n, r + more, alpha)
    assert near is not None or far is None
    if near and far:
        assert far[0] <= near[0] and far[1] >= near[1]


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 3), st.floats(1e-9, 0.9))
def test_the_n_that_suffices_is_the_smallest(r, alpha):
    n = draws_needed(r, alpha)
    assert ranks(n, r, alpha) is not None
    assert n == 1 or ranks(n - 1, r, alpha) is None
    assert largest_radius(n, alpha) >= r - 1e-9


def test_an_n_beyond_reach():
    assert [draws_needed(r, 0.05) for r in (6.2, 6.5, 6.8, 8, 40)] == [None] * 5  # 6.2: where scipy counts in 32 bits


# --- the shipped median ---


@pytest.mark.parametrize(
    "shipped, beta, s", [(21, 0.05, 0.445), (21, 0.025, 0.531), (21, 0.0125, 0.607), (5, 0.025, 1.05)]
)
def test_slacks_of_the_method(shipped, beta, s):
    assert slack(shipped, beta) == pytest.approx(s, abs=1e-3)


@pytest.mark.parametrize("shipped, beta", [(1, 0.1), (4, 0.05), (5, 0.05), (20, 0.1), (21, 0.1), (101, 1e-7)])
def test_slack_solves_its_equation(shipped, beta):
    p = stats.norm.cdf(slack(shipped, beta))
    assert stats.binom.cdf(shipped // 2, shipped, p) == pytest.approx(beta, rel=1e-6)
    assert slack(shipped, 0) == 0


@pytest.mark.parametrize("shipped", [4, 5, 21])
def test_slack_by_simulation(shipped):
    """A draw below the bound with probability exactly p': the median of odd numbers fails with probability beta."""
    beta, trials = 0.05, 40_000
    rng = np.random.default_rng(shipped)
    failed = (np.median(rng.standard_normal((trials, shipped)), axis=1) > slack(shipped, beta)).mean()
    spread = 4 * math.sqrt(beta / trials)
    assert failed <= beta + spread
    if shipped % 2:
        assert failed >= beta - spread


# --- coverage: every output value is a trial of its own, the perturbation is the worst there is ---

MODELS = {
    "continuous": lambda z: z,
    "levels": lambda z: (z * 16).round() / 16,
    "atoms": lambda z: (z > 0.5).to(z.dtype),
    "coarse": lambda z: ((z * 3).round() / 3).clamp(0, 1),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("r", [0.0, 0.7])
def test_coverage_of_the_median(name, r):
    """X(x) = f(x + sigma G) with f monotone: delta = +-eps meets the bound, so its true percentile must be covered."""
    f, n, alpha, trials, std = MODELS[name], 40, 0.2, 6000, 0.1
    claim = Claim(std, max(r, 1e-9) * std, n, 1, alpha, 0, "value", values=trials)
    found = bounds(claim, histogram(f(normal(n, trials, std=std))))
    spread = 4 * math.sqrt(alpha / 2 / trials)
    truth = f(torch.tensor([0.5 - r * std, 0.5 + r * std], dtype=torch.float64))  # medians at x - eps, x + eps
    below, above = to_levels(truth).tolist()
    low = (found.lower > below).double().mean().item()
    high = (found.upper < above).double().mean().item()
    assert low <= alpha / 2 + spread and high <= alpha / 2 + spread
    if name == "continuous":  # tight: the next rank inwards would fail too often
        k = ranks(n, r, alpha)[1]
        assert high >= stats.binom.sf(k - 1, n, stats.norm.cdf(r)) - spread - 0.01


@pytest.mark.parametrize("shipped", [6, 7])
@pytest.mark.parametrize("name", ["continuous", "atoms"])
def test_coverage_of_the_shipped_median(name, shipped):
    f, n, trials, std, r = MODELS[name], 200, 8000, 0.1, 0.5
    claim = Claim(std, r * std, n, shipped, 0.1, 0.1, "value", values=trials)
    found = bounds(claim, histogram(f(normal(n, trials, std=std))))
    for sign in (-1, 1):
        moved = f(normal(shipped, trials, mean=0.5 + sign * r * std * 0.999, std=std, seed=1))
        made = shipped_picture(claim, histogram(moved))
        outside = ((made < found.lower) | (made > found.upper)).double().mean().item()
        assert outside <= claim.alpha / 2 + claim.beta + 4 * math.sqrt(0.15 / trials)
    assert claim.failure == pytest.approx(0.3)


def test_without_slack_the_shipped_median_is_not_covered():
    n, trials, std, r, shipped = 200, 8000, 0.1, 0.5, 7
    claim = Claim(std, r * std, n, shipped, 0.1, 0, "value", values=trials)
    found = bounds(claim, histogram(normal(n, trials, std=std)))
    made = shipped_picture(claim, histogram(normal(shipped, trials, mean=0.5 + r * std, std=std, seed=1)))
    assert (made > found.upper).double().mean() > 0.2


def test_all_values_at_once():
    """The simultaneous claim fails in at most alpha of the runs, the per-value one in nearly all."""
    n, values, runs, std, alpha = 200, 100, 200, 0.1, 0.1
    draws = normal(n, values * runs, std=std)
    failed = {}
    for scope in ("simultaneous", "value"):
        claim = Claim(std, 0.5 * std, n, 1, alpha, 0, scope, values=values)
        found = bounds(claim, histogram(draws))
        high, low = to_levels(torch.tensor([0.55, 0.45]))
        out = ((found.upper < high) | (found.lower > low)).view(runs, values).any(1)
        failed[scope] = out.double().mean().item()
    assert failed["simultaneous"] <= alpha + 4 * math.sqrt(alpha / runs)
    assert failed["value"] > 0.9


# --- means ---


def expectation(f, mean, std):
    value = lambda z: float(f(torch.tensor(mean + std * z, dtype=torch.float64)).clamp(0, 1)) * stats.norm.pdf(z)  # noqa: E731
    return integrate.quad(value, -8, 8, limit=400, points=[(0.5 - mean) / std])[0]


@pytest.mark.parametrize("form", ["simple", "cdf"])
@pytest.mark.parametrize("name", ["continuous", "atoms"])
def test_coverage_of_the_mean(name, form):
    f, n, trials, std, r, alpha = MODELS[name], 30, 4000, 0.3, 0.5, 0.3
    claim = Claim(std, r * std, n, 1, alpha, 0, "value", "mean", form, values=trials)
    found = bounds(claim, histogram(f(normal(n, trials, std=std))))
    low, high = (to_levels(torch.tensor(expectation(f, 0.5 + sign * r * std, std))) for sign in (-1, 1))
    outside = ((found.lower > low) | (found.upper < high)).double().mean().item()
    assert outside <= alpha + 4 * math.sqrt(alpha / trials)


def test_the_cdf_form_is_tight_where_the_model_is_monotone_and_tighter_than_the_simple_one():
    n, std, r, alpha = 30_000, 0.1, 0.8, 1e-3
    h = histogram(normal(n, 50, std=std))
    low, high = h.cdf_interval(r, alpha)
    simple_low, simple_high = mean_interval(h.mean(), n, r, alpha)
    truth = expectation(MODELS["continuous"], 0.5 + r * std, std)
    assert truth <= high.min() <= high.max() < truth + 0.04
    assert high.max() < simple_high.min() - 0.1 and low.min() > simple_low.max() + 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(0.01, 2.5), st.floats(1e-4, 0.5))
def test_the_cdf_form_is_never_looser_than_the_simple_one_of_a_mean_a_level_away(seed, n, r, alpha):
    """Jensen, after rounding each draw to the outer edge of its level."""
    generator = torch.Generator().manual_seed(seed)
    h = histogram(torch.rand(n, 20, generator=generator) ** 4 * 1.4 - 0.2)
    low, high = h.cdf_interval(r, alpha)
    assert (high <= mean_interval(h.mean() + 1 / 255, n, r, alpha)[1] + 1e-9).all()
    assert (low >= mean_interval(h.mean() - 1 / 255, n, r, alpha)[0] - 1e-9).all()
    assert (low <= h.mean() + 1e-9).all() and (high >= h.mean() - 1e-9).all()


def test_the_simple_form_is_tight_for_a_threshold():
    n, r = 200_000, 1.0
    low, high = mean_interval(torch.tensor([0.5]), n, r, 0.01)
    assert high.item() == pytest.approx(stats.norm.cdf(1), abs=0.01) and low.item() == pytest.approx(
        stats.norm.cdf(-1), abs=0.01
    )
    assert band(1000, 0.05) == pytest.approx(math.sqrt(math.log(40) / 2000))


def test_the_shipped_mean_is_covered():
    n, shipped, trials, std, r = 100, 10, 4000, 0.3, 0.5
    claim = Claim(std, r * std, n, shipped, 0.1, 0.1, "value", "mean", values=trials)
    draws = histogram(MODELS["atoms"](normal(n, trials, std=std)))
    found = bounds(claim, draws)
    low, high = draws.cdf_interval(r, 0.1)
    assert torch.equal(found.lower, to_levels(low - claim.margin))
    assert torch.equal(found.upper, to_levels(high + claim.margin))
    moved = MODELS["atoms"](normal(shipped, trials, mean=0.5 + r * std, std=std, seed=1))
    made = shipped_picture(claim, histogram(moved))
    assert ((made < found.lower) | (made > found.upper)).double().mean() <= claim.failure
    assert claim.margin == pytest.approx(math.sqrt(math.log(10) / 20))


# --- the histogram ---


@pytest.mark.parametrize("pieces", [[50], [1, 7, 42], [25, 25]])
def test_streaming_equals_sorting(pieces):
    draws = normal(50, 64, std=0.5).view(50, 4, 16)  # far outside [0, 1] too
    made = Histogram((4, 16), 50)
    for part in draws.split(pieces):
        made.add(part)
    ordered = to_levels(draws).sort(0).values
    for k in (1, 2, 25, 49, 50):
        assert torch.equal(made.order_statistic(k), ordered[k - 1])
    assert torch.allclose(made.mean(), draws.clamp(0, 1).double().mean(0), atol=1e-7)
    made.clear()
    assert made.drawn == 0 and not made.counts.any() and not made.total.any()


@needs_compiler
@pytest.mark.parametrize("most", [60, 40_000])
def test_c_code_counts_like_torch(monkeypatch, two_threads, most):
    edges = (torch.arange(-1, 257).float() + 0.5) / 255  # where a rounding more or less is another level
    near = torch.stack([edges.nextafter(edges - 1), edges, edges.nextafter(edges + 1)]).flatten()
    draws = torch.stack([near.roll(i) for i in range(50)])
    compiled, plain = (Histogram(near.shape, most) for _ in range(2))
    for made in (compiled, plain):
        made.add(draws)
        made.add(draws[:3])
        monkeypatch.setattr(kernels, "available", lambda: False)
    assert torch.equal(compiled.counts, plain.counts) and torch.allclose(compiled.total, plain.total, rtol=1e-12)


def test_clamped_before_anything_else():
    draws = torch.tensor([[-3.0, 0.25, 9.0]] * 4)
    made = histogram(draws)
    assert made.order_statistic(2).tolist() == [0, 64, 255]
    assert made.mean().tolist() == [0, 0.25, 1]


def test_counts_do_not_overflow():
    made = Histogram((1,), 40_000)
    for _ in range(8):
        made.add(torch.full((5000, 1), 0.5))
    assert made.counts.dtype == torch.int32 and made.order_statistic(40_000).item() == 128
    assert [Histogram((1,), n).counts.dtype for n in (32_767, 32_768)] == [torch.int16, torch.int32]


def test_levels_are_those_that_files_get():
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    assert np.array_equal(to_levels(x).numpy(), np.floor(x.numpy().clip(0, 1) * 255 + 0.5).astype(np.uint8))


def test_values_that_are_no_numbers():
    with pytest.raises(RobustSRError, match="not numbers"):
        histogram(torch.tensor([[0.1, float("nan")]]))


def test_too_few_draws_abstain_to_the_whole_range():
    found = bounds(Claim(0.1, 0.2, 21, 1, 0.05, 0), histogram(normal(21, 5)))
    assert found.lower.tolist() == [0] * 5 and found.upper.tolist() == [255] * 5


def test_bounds_and_pictures_refuse_a_wrong_number_of_draws():
    with pytest.raises(ValueError, match="20 draws"):
        bounds(Claim(0.1, 0.01, 21), histogram(normal(20, 5)))
    with pytest.raises(ValueError, match="20 draws"):
        shipped_picture(Claim(0.1, 0.01, 21, 5), histogram(normal(20, 5)))


def test_an_even_number_ships_the_mean_of_the_middle_two():
    draws = torch.tensor([[0.0], [100 / 255], [103 / 255], [1.0]])
    assert shipped_picture(Claim(0.1, 0.1, shipped=4), histogram(draws)).item() == 102


# --- certified PSNR ---


def test_certified_psnr_is_that_of_the_worst_picture_inside():
    generator = torch.Generator().manual_seed(0)
    lower = torch.randint(0, 120, (3, 6, 6), generator=generator, dtype=torch.uint8)
    upper = lower + torch.randint(0, 120, (3, 6, 6), generator=generator, dtype=torch.uint8)
    hr = torch.rand(3, 6, 6, generator=generator, dtype=torch.float64)
    certified = certified_psnr(Bounds(lower, upper), hr)
    worst = torch.where((upper / 255 - hr).abs() > (lower / 255 - hr).abs(), upper, lower)
    assert certified == pytest.approx(psnr(worst[None].double() / 255, hr[None]).item())
    for seed in range(20):
        share = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(seed))
        inside = (lower + (upper - lower) * share).double() / 255
        assert psnr(inside[None], hr[None]).item() >= certified
    with pytest.raises(ValueError, match="shapes"):
        certified_psnr(Bounds(lower, upper), hr[:, 1:])


# --- claims ---


def test_simultaneous_divides_alpha_and_beta_among_the_values():
    together = Claim(0.06, 0.06, values=1000)
    alone = Claim(0.06, 0.06, scope="value", values=1000)
    assert together.alpha_each == pytest.approx(5e-5) and together.beta_each == pytest.approx(2.5e-5)
    assert alone.alpha_each == 0.05 and alone.beta_each == 0.025
    assert together.ranks() == ranks(1000, 1 + slack(101, 2.5e-5), 5e-5)
    assert together.ranks()[0] < alone.ranks()[0]


def test_too_few_draws_name_the_n_and_the_eps_that_suffice():
    claim = Claim(0.06, 0.06, 100, values=3 * 256 * 256)
    with pytest.raises(RobustSRError, match=r"--samples (\d+) or --eps 0\.0") as error:
        claim.refuse_too_few()
    words = str(error.value).split()
    n, eps = int(words[words.index("--samples") + 1]), float(words[words.index("--eps") + 1])
    Claim(0.06, 0.06, n, values=claim.values).refuse_too_few()
    Claim(0.06, eps, 100, values=claim.values).refuse_too_few()
    with pytest.raises(RobustSRError):
        Claim(0.06, 0.06, n - 1, values=claim.values).refuse_too_few()
    Claim(0.06, 0.06, 2, reduce="mean", values=10**6).refuse_too_few()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": 0},
        {"sigma": 1.1},
        {"eps": 0},
        {"eps": math.nan},
        {"n": 0},
        {"shipped": 0},
        {"alpha": 0},
        {"alpha": 1},
        {"beta": -0.1},
        {"alpha": 0.5, "beta": 0.25},
        {"scope": "some"},
        {"reduce": "mode"},
        {"form": "x"},
    ],
)
def test_claims_that_make_no_sense(wrong):
    with pytest.raises(RobustSRError):
        Claim(**{"sigma": 0.1, "eps": 0.1, **wrong})
