import copy
from dataclasses import dataclass, replace

import pytest
import torch
from fakes import Plain
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsr.models import load
from robustsr.noise import gaussian
from robustsr.smoothing import Gray, Smoothed, median, selection_network
from robustsr.tiling import Tiled
from robustsr.types import RobustSRError, Wrapper

X = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sorted_median(values):
    return torch.quantile(torch.stack(values), 0.5, dim=0)


@pytest.mark.parametrize("n", range(1, 34))
def test_median_equals_sorting_bit_for_bit(n):
    values = list(torch.randn(n, 500, generator=torch.Generator().manual_seed(n), dtype=torch.float64))
    ordered = torch.stack(values).sort(0).values
    middle = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
    assert torch.equal(median(values), middle)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=64, max_size=64), min_size=1, max_size=24), st.data())
def test_selection_network_finds_any_order_statistic_of_zeros_and_ones(rows, data):
    """By the 0-1 principle a comparator network right on zeros and ones is right on everything."""
    rank = data.draw(st.integers(0, len(rows) - 1))
    line = [torch.tensor(r, dtype=torch.int8) for r in rows]
    ordered = torch.stack(line).sort(0).values
    for i, j, low, high in selection_network(len(line), [rank]):
        a, b = line[i], line[j]
        line[i] = torch.minimum(a, b) if low else a
        line[j] = torch.maximum(a, b) if high else b
    assert torch.equal(line[rank], ordered[rank])


def test_the_network_for_21_has_the_known_number_of_comparators():
    assert len(selection_network(21, [10])) == 91


@pytest.mark.parametrize("reduce", ["median", "mean"])
@pytest.mark.parametrize("draws", ["independent", "antithetic"])
@pytest.mark.parametrize("samples", [1, 4, 7])
def test_smoothing_is_the_reduction_of_passes_over_noisy_copies(convs, reduce, draws, samples):
    noise = gaussian(3, range(samples), 3, 12, 14, torch.zeros(2, 2, dtype=torch.int64)).double()
    if draws == "antithetic":
        noise = torch.stack([(-1) ** i * noise[i // 2] for i in range(samples)])
    passes = [convs(X + 0.1 * g) for g in noise]
    want = sorted_median(passes) if reduce == "median" else torch.stack(passes).mean(0)
    for chunk in (1, 3, 8):
        got = Smoothed(convs, 0.1, samples, reduce, draws, seed=3, chunk=chunk)(X)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_sigma_zero_is_the_inner_upscaler(convs):
    assert torch.equal(Smoothed(convs, 0.0)(X), convs(X))


def test_smoothing_a_linear_upscaler_changes_nothing_with_antithetic_pairs(nearest):
    """Thesis, Lemma A.1.2: E f(x + G) = f(x) for linear f; pairs give it exactly, for the median too."""
    for reduce in ("median", "mean"):
        got = Smoothed(nearest, 0.3, 6, reduce)(X)
        torch.testing.assert_close(got, nearest(X), rtol=0, atol=1e-9)


def test_tiles_and_batches_do_not_change_the_result(convs):
    whole = Smoothed(convs, 0.1, 9, "median")(X)
    tiled = Tiled(Smoothed(convs, 0.1, 9, "median", chunk=2), (9, 10))(X)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


def test_gray_pictures_stay_gray(convs):
    gray = X[:, :1].expand(-1, 3, -1, -1)
    got = Smoothed(convs, 0.1, 5, "median", gray=True)(gray)
    assert torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])
    tinted = Smoothed(convs, 0.1, 5, "median")(gray)
    assert not torch.allclose(tinted[:, 0], tinted[:, 1])


def mesh(sr):
    """How much the mean of each place in an input pixel differs, in levels: a mesh repeats with every input pixel."""
    return float(sr[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).mean((0, 1)).std()) * 255


def test_an_even_gray_area_stays_even():
    sr = Smoothed(load("certsr", device="cpu", precision="fp32"), 0.03, 4, gray=True)(torch.full((1, 3, 40, 40), 0.5))
    assert mesh(sr) < 0.5 and float((sr - 0.5).abs().mean()) * 255 < 2


@pytest.mark.parametrize("name", ["certsr", "certsr-photo"])
def test_gray_grain_leaves_no_mesh(name):
    grain = 0.03 * torch.randn((1, 1, 96, 96), generator=torch.Generator().manual_seed(0))
    x = ((0.5 + grain).mul(255).round() / 255).expand(1, 3, -1, -1)
    assert mesh(load(name, device="cpu", precision="fp32")(x)[..., 32:-32, 32:-32]) < 1


@pytest.mark.parametrize("count", [1, 4, 5, 9])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_gradients_reach_the_values_that_the_median_is_made_of(convs, count, kind):
    values = [torch.rand(2, 3, 5, 7, dtype=kind).requires_grad_(True) for _ in range(count)]
    weight = torch.rand(2, 3, 5, 7, dtype=kind)
    ordered = torch.stack(values).sort(0).values
    want = torch.autograd.grad((((ordered[(count - 1) // 2] + ordered[count // 2]) / 2) * weight).sum(), values)
    got = torch.autograd.grad((median(values) * weight).sum(), values)
    assert all(map(torch.equal, got, want))
    x = X.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(Smoothed(convs, 0.1, count)(x).sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("count", [3, 4])
def test_the_gradient_of_the_median_is_that_of_differences(count):
    values = [torch.rand(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    assert torch.autograd.gradcheck(lambda *line: median(line), values)


def test_equal_values_share_the_gradient_of_their_median():
    values = [torch.full((2, 2), v, requires_grad=True) for v in (0.5, 0.5, 0.1, 0.5, 0.9)]
    found = [float(g[0, 0]) for g in torch.autograd.grad(median(values).sum(), values)]
    assert found == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0])


def test_gray_is_the_mean_of_the_channels_smoothed_or_not():
    @dataclass(frozen=True)
    class Tint(Plain):
        def __call__(self, x, *, origin=None):
            return torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand_as(x)

    x = torch.full((1, 3, 4, 4), 0.5)
    for up in (Smoothed(Tint(), 0.1, 3, gray=True), Smoothed(Tint(), 0.1, 3, "mean", gray=True), Gray(Tint())):
        torch.testing.assert_close(up(x), torch.full_like(x, 1.6 / 3))


def test_more_draws_come_closer_to_the_true_median(convs):
    reference = Smoothed(convs, 0.2, 400, "median", "independent", seed=99)(X)
    errors = [(Smoothed(convs, 0.2, n, "median", "independent")(X) - reference).square().mean() for n in (3, 21, 101)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": -0.1}, r"sigma must be in \[0, 1\]"),
        ({"sigma": 8}, r"sigma must be in \[0, 1\]"),
        ({"samples": 0}, "samples must be 1 to 100,000"),
        ({"samples": 10**400}, "samples must be 1 to 100,000"),
        ({"reduce": "mode"}, "'median' or 'mean'"),
        ({"draws": "lucky"}, "'antithetic' or 'independent'"),
    ],
)
def test_nonsense_is_refused(nearest, change, message):
    with pytest.raises(RobustSRError, match=message):
        Smoothed(nearest, **({"sigma": 0.1} | change))


def test_the_mean_minimises_the_expected_squared_error(convs):
    """Lemma A.1.1 of the thesis, over the draws that were taken; the median does so for the absolute error."""
    x = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    for reduce, power in (("mean", 2), ("median", 1)):
        smoothed = Smoothed(convs, 0.3, samples=9, draws="independent", reduce=reduce)
        outputs, best = torch.cat(list(smoothed.outputs(x))), smoothed(x)

        def error(y, outputs=outputs, power=power):
            return (outputs - y).abs().pow(power).mean()

        for seed in range(5):
            other = best + 0.01 * torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)).double()
            assert error(best) < error(other)


def test_a_linear_upscaler_gains_nothing_from_smoothing():
    """Lemma A.1.2: the mean is f(x) itself, exactly for antithetic pairs, and up to chance for independent draws."""
    from robustsr.models import load

    bicubic = load("bicubic", device="cpu")
    x = torch.rand(1, 3, 8, 8)
    pairs = Smoothed(bicubic, 0.1, samples=4, reduce="mean")
    torch.testing.assert_close(pairs(x), bicubic(x), atol=1e-6, rtol=0)
    many = Smoothed(bicubic, 0.1, samples=2000, reduce="mean", draws="independent")
    assert float((many(x) - bicubic(x)).square().mean().sqrt()) < 1.2 * 0.1 / 2000**0.5


class Itself:
    """The upscaler of scale 1 that gives back what it gets: its smoothed values are known."""

    scale, context, exact = 1, 0, True

    def __call__(self, x, *, origin=None):
        return x


@pytest.mark.parametrize(("reduce", "factor"), [("mean", 1.0), ("median", 1.2533)])
@pytest.mark.parametrize("n", [8, 16, 32])
def test_enough_draws_are_those_that_reach_the_tolerance(reduce, factor, n):
    """The standard error of a mean of n normals is sigma/sqrt(n), of their median sqrt(pi/2) times that."""
    x, origin = torch.full((4, 3, 40, 40), 0.5), torch.tensor([[0, 0], [0, 99], [99, 0], [99, 99]])
    smoothed = Smoothed(Itself(), 0.1, 64, reduce, "independent")
    got, error = smoothed.enough(x, factor * 0.1 / (n - 0.5) ** 0.5, origin=origin)
    assert n <= got <= 1.5 * n and error == pytest.approx(factor * 0.1 / got**0.5, rel=0.2)
    assert smoothed.enough(x, 1.0, origin=origin)[0] == 4 and smoothed.enough(x, 1e-9, origin=origin)[0] == 64
    pairs = Smoothed(Itself(), 0.1, 64, "mean", "antithetic")
    assert pairs.enough(x, 1e-6, origin=origin)[0] == 4  # opposite noise cancels


def test_enough_draws_agree_with_the_error_against_many(convs):
    x, origin = torch.rand(1, 3, 40, 40, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.int64)
    many = Smoothed(convs, 0.2, 600, "median", "independent", seed=9, chunk=50)(x)
    for draws, tolerance in (("independent", 0.004), ("antithetic", 0.0015)):
        smoothed = Smoothed(convs, 0.2, 64, "median", draws)
        n, _ = smoothed.enough(x, tolerance, origin=origin)
        error = (replace(smoothed, samples=n)(x) - many).square().mean().sqrt()
        fewer = (replace(smoothed, samples=n // 3)(x) - many).square().mean().sqrt()
        assert 4 < n < 64 and error < 1.3 * tolerance < 1.7 * fewer, (draws, n, error, fewer)


def test_enough_draws_do_not_depend_on_what_a_call_holds(convs):
    x, origin = torch.rand(2, 3, 30, 30, dtype=torch.float64), torch.tensor([[0, 0], [5, 7]])
    counts = {Smoothed(convs, 0.2, 64, chunk=c).enough(x, 0.004, origin=origin, border=2) for c in (1, 3, 8)}
    assert len(counts) == 1


def test_a_border_does_not_count_on_any_side():
    class Rim(Itself):
        def __call__(self, x, *, origin=None):
            return x - torch.nn.functional.pad(x[..., 2:-2, 2:-2], (2, 2, 2, 2))

    x, origin = torch.full((1, 3, 20, 20), 0.5), torch.zeros(1, 2, dtype=torch.int64)
    smoothed = Smoothed(Rim(), 0.2, 64, draws="independent")
    assert smoothed.enough(x, 1e-9, origin=origin, border=2) == (4, 0.0)
    assert smoothed.enough(x, 1e-9, origin=origin, border=1)[0] == 64


def test_each_draw_of_a_batch_knows_its_place():
    class Places(Itself):
        def __call__(self, x, *, origin=None):
            return torch.zeros_like(x) + origin[:, :1, None, None]

    x, origin = torch.zeros(2, 3, 4, 4), torch.tensor([[0, 0], [7, 0]])
    got = Smoothed(Places(), 0.1, 6, "mean", chunk=3)(x, origin=origin)
    assert got[0].unique().tolist() == [0] and got[1].unique().tolist() == [7]


@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_few_draws_are_all_there_are(samples):
    x, origin = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 2, dtype=torch.int64)
    for reduce in ("median", "mean"):
        smoothed = Smoothed(Itself(), 0.1, samples, reduce, "independent")
        assert smoothed.enough(x, 1e-9, origin=origin)[0] == samples


@pytest.mark.parametrize("name", ["certsr", "bicubic"])
@pytest.mark.parametrize("samples", [1, 4, 5])
def test_second_derivatives_are_those_of_float64(name, samples):
    net, x = load(name, device="cpu", precision="fp32"), torch.rand(1, 3, 12, 12, generator=torch.manual_seed(0))
    double = copy.deepcopy(net.module).double()

    class Exact(Wrapper):
        def __call__(self, x, *, origin=None):
            return net.call(double, x)

    def second(upscaler, x):
        x = x.clone().requires_grad_(True)
        sr = Smoothed(upscaler, 0.05, samples)(x)
        (gradient,) = torch.autograd.grad(sr.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    want = second(Exact(net), x.double())
    assert (second(net, x) - want).norm() < 0.01 * want.norm()  # few values lie on the other side of a kink
