import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from robustsr.tiling import Tiled, windows
from robustsr.types import RobustSRError

sizes = st.integers(1, 400)


@given(
    length=sizes,
    size=sizes,
    context=st.integers(0, 40),
    feather=st.sampled_from([0, 4, 16]),
    align=st.sampled_from([1, 8, 32, 48]),
)
def test_windows_share_out_the_axis(length, size, context, feather, align):
    step = (size - 2 * context - feather) // align * align
    assume(step >= max(1, 2 * feather))
    row = windows(length, size, context, feather, align)
    for w in row:
        assert 0 <= w.start <= w.low < w.high <= w.stop <= length and w.start % align == 0
        assert w.stop - w.start == min(size, length) or (w is row[-1] and size - align < w.stop - w.start < size)
        assert w.low == 0 or w.low - w.start >= context
        assert w.high == length or w.stop - w.high >= context
    for a, b in zip(row, row[1:], strict=False):
        assert a.high - b.low == feather
    assert row[0].low == 0 and row[-1].high == length
    count = [sum(w.low <= p < w.high for w in row) for p in range(length)]
    assert max(count) == 1 or feather
    assert len(row) == 1 or len(row) <= -(-(length - size) // step) + 1


def test_a_tile_without_room_for_its_context_is_refused():
    with pytest.raises(RobustSRError, match="no room for a context of 10"):
        windows(100, 20, 10)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(h=st.integers(1, 40), w=st.integers(1, 40), th=st.integers(7, 30), tw=st.integers(7, 30))
def test_tiled_equals_whole(convs, h, w, th, tw):
    x = torch.rand(1, 3, h, w, dtype=torch.float64)
    torch.testing.assert_close(Tiled(convs, (th, tw))(x), convs(x), rtol=0, atol=1e-12)


def test_one_pixel_less_context_differs(convs):
    x = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    assert (Tiled(convs, (17, 17), pad=2)(x) - convs(x)).abs().max() > 1e-6


def test_feathered_tiles_sum_to_one(nearest):
    x = torch.rand(2, 3, 50, 61)
    torch.testing.assert_close(Tiled(nearest, (30, 34), 3, feather=8)(x), nearest(x))


def test_feathering_lowers_the_step_at_a_seam(convs):
    x = torch.rand(1, 3, 62, 62, dtype=torch.float64)  # sizes for which both have just the context asked for
    hard, soft = (Tiled(convs, (size, size), 1, f)(x) - convs(x) for size, f in ((32, 0), (36, 8)))
    step = lambda d: (d[..., 1:] - d[..., :-1]).abs().max()  # noqa: E731
    assert step(soft) < step(hard)


def test_origins_reach_the_inner_upscaler():
    class Position:
        scale, context, exact = 1, 0, True

        def __call__(self, x, *, origin=None):
            h, w = x.shape[-2:]
            rows = (origin[:, 0].view(-1, 1) + torch.arange(h)).view(-1, 1, h, 1).expand(-1, -1, h, w)
            columns = (origin[:, 1].view(-1, 1) + torch.arange(w)).view(-1, 1, 1, w).expand(-1, -1, h, w)
            return torch.cat([rows, columns, rows], 1).to(x)

    x = torch.zeros(2, 3, 30, 31)
    got = Tiled(Position(), (8, 9))(x, origin=torch.tensor([[0, 0], [100, 200]]))
    assert torch.equal(got[0, 0, :, 0], torch.arange(30.0))
    assert torch.equal(got[1, 1, 0], 200 + torch.arange(31.0))


def test_gradients_pass_through_tiles(convs):
    x = torch.rand(1, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    (tiled,) = torch.autograd.grad(Tiled(convs, (11, 11))(x).square().sum(), x)
    (whole,) = torch.autograd.grad(convs(x).square().sum(), x)
    torch.testing.assert_close(tiled, whole)
