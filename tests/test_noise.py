import numpy as np
import pytest
import torch
from fakes import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsr import kernels
from robustsr.noise import box_muller, gaussian, philox

F = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [  # the known answers of the Random123 library
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((F, F, F, F), (F, F), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, want):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(w) for w in words) == want


def at(*corner):
    return torch.tensor([corner], dtype=torch.int64)


@settings(max_examples=30, deadline=None)
@given(
    top=st.integers(0, 20),
    left=st.integers(0, 20),
    first=st.integers(0, 9),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_value_depends_on_its_absolute_position_and_draw_only(top, left, first, count, seed):
    whole = gaussian(seed, range(20), 3, 32, 32, at(0, 0))
    part = gaussian(seed, range(first, first + count), 3, 10, 12, at(top, left))
    assert torch.equal(part, whole[first : first + count, :, :, top : top + 10, left : left + 12])


@needs_compiler
@pytest.mark.parametrize("origin", [(0, 0), (5, 1000), (2**32 - 100, 3)])
@pytest.mark.parametrize("draws", [range(20), range(3, 9), range(5, 6), range(2**31, 2**31 + 4)])
@pytest.mark.parametrize("seed", [0, 2**63 + 5])
def test_c_code_and_torch_give_the_same_bits(monkeypatch, two_threads, seed, draws, origin):
    corners = torch.tensor([origin, (1, 2)])
    compiled = gaussian(seed, draws, 3, 7, 13, corners)
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert torch.equal(compiled, gaussian(seed, draws, 3, 7, 13, corners))


@pytest.mark.parametrize(
    ("draws", "origin"), [(range(4), (-3, 5)), (range(4), (0, 2**32 - 10)), (range(2**34, 2**34 + 4), (0, 0))]
)
def test_counters_beyond_32_bits_are_for_torch(monkeypatch, draws, origin):
    here = gaussian(0, draws, 3, 7, 13, at(*origin))
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert torch.equal(here, gaussian(0, draws, 3, 7, 13, at(*origin)))


def test_no_windows_have_no_noise():
    assert gaussian(0, range(4), 3, 7, 9, torch.zeros(0, 2, dtype=torch.int64)).shape == (4, 0, 3, 7, 9)


def test_draws_may_be_any_of_a_range():
    assert torch.equal(gaussian(0, range(3, 20, 4), 3, 7, 9, at(0, 0)), gaussian(0, range(20), 3, 7, 9, at(0, 0))[3::4])


def test_windows_of_one_batch_have_their_own_places():
    both = gaussian(1, range(2), 3, 4, 4, torch.tensor([[0, 0], [5, 7]]))
    assert torch.equal(both[:, 1], gaussian(1, range(2), 3, 4, 4, at(5, 7))[:, 0])


def test_the_values_are_standard_normal_and_uncorrelated():
    g = gaussian(7, range(8), 3, 256, 256, at(0, 0)).double()
    n = g.numel()
    assert abs(g.mean()) < 4 / n**0.5
    assert abs(g.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((g**4).mean() - 3) < 4 * (96 / n) ** 0.5
    uniforms = torch.special.ndtr(g).flatten().sort().values
    distance = (uniforms - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / n**0.5  # Kolmogorov-Smirnov, one in a thousand
    for shifted in (
        g[1:] * g[:-1],
        g[:, :, 1:] * g[:, :, :-1],
        g[..., 1:, :] * g[..., :-1, :],
        g[..., 1:] * g[..., :-1],
    ):
        assert abs(shifted.mean()) < 4 / shifted.numel() ** 0.5


def test_no_value_is_larger_than_5_9():
    least = torch.zeros(1)  # of the random bits: the largest normal
    assert float(box_muller(least, least)[0]) == pytest.approx((50 * np.log(2)) ** 0.5, rel=1e-5)


def test_seeds_differ_in_all_64_bits():
    values = [gaussian(s, range(1), 1, 4, 4, at(0, 0)) for s in (0, 1, 1 << 32, 1 << 63)]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])


def test_the_first_values_never_change():
    """Pictures made today must come out the same tomorrow; if this breaks, name a new ALGORITHM."""
    values = gaussian(0, range(4), 1, 1, 1, at(0, 0)).flatten().numpy()
    np.testing.assert_allclose(values, [0.99113752, -0.92466282, -0.61760910, -0.48206838], atol=1e-6)
