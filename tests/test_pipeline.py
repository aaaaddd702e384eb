"""One picture through real upscalers: sizes, gray, alpha, memory and numbers that go wrong."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import Plain

from robustsr.images import Metadata, Picture
from robustsr.models import load
from robustsr.pipeline import resize, upscale_picture
from robustsr.plan import compose, cost, count_windows, make_plan
from robustsr.settings import Smoothing, Target
from robustsr.types import Cancelled, RobustSRError


@pytest.fixture(scope="module")
def net(tiny):
    return load(tiny, device="cpu", precision="fp32")


def picture(rgb, alpha=None, gray=False):
    return Picture(rgb.astype(np.float32), alpha, gray, 8, Metadata(), "png")


def run(pic, net, smoothing=None, target=None, plan=None):
    return upscale_picture(pic, net, smoothing, target or Target(), plan or make_plan(net, smoothing))


RNG = np.random.default_rng(0)
RGB = RNG.random((20, 30, 3))


@pytest.mark.parametrize(
    ("target", "size", "passes"),
    [
        (Target(), (120, 80), 1),
        (Target(scale=1), (30, 20), 1),
        (Target(scale=2.5), (75, 50), 1),
        (Target(scale=4.0001), (120, 80), 1),
        (Target(scale=16), (480, 320), 2),
        (Target(width=100), (100, 67), 1),
        (Target(height=100), (150, 100), 2),
        (Target(width=90, height=90), (90, 60), 1),
        (Target(long_side=300), (300, 200), 2),
        (Target(short_side=10), (15, 10), 1),
        (Target(min_side=40), (60, 40), 1),
        (Target(min_side=10), (30, 20), 1),
    ],
)
def test_any_size_can_be_asked_for(target, size, passes):
    assert (target.size(30, 20, 4), target.passes(30, 20, 4)) == (size, passes)
    made, _ = run(picture(RGB), Plain(), target=target)
    assert made.rgb.shape == (size[1], size[0], 3)
    assert made.rgb.mean() == pytest.approx(RGB.mean(), abs=0.01)


def test_a_pixel_more_takes_no_pass_more():
    assert [Target(long_side=side).passes(1000, 600, 4) for side in (4000, 4001, 4100)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"scale": 0}, "--scale must be positive, got 0"),
        ({"long_side": -5}, "--long-side must be positive"),
        ({"scale": 2, "width": 100}, "give one of --scale, --width, not several"),
        ({"width": 100, "height": 100, "long_side": 3}, "not several"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(sizes, message):
    with pytest.raises(RobustSRError, match=message):
        Target(**sizes)


def test_a_picture_comes_out_as_the_network_makes_it(net):
    made, _ = run(picture(RGB), net)
    x = torch.from_numpy(RGB.astype(np.float32)).permute(2, 0, 1)[None]
    want = net(x).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made.rgb, want, atol=1e-6)


@pytest.mark.parametrize("smoothing", [None, Smoothing("median", 0.05, 6), Smoothing("mean", 0.05, 5)])
def test_the_tile_and_the_batch_do_not_change_the_result(net, smoothing):
    pic = picture(RNG.random((90, 70, 3)), RNG.random((90, 70)).astype(np.float32))
    whole, _ = run(pic, net, smoothing)
    plan = replace(make_plan(net, smoothing, tile=40), batch=1500)
    assert count_windows(net, smoothing, plan, (90, 70), 1) == 6 * (smoothing.samples if smoothing else 1)
    tiled, _ = run(pic, net, smoothing, plan=plan)
    assert np.abs(whole.rgb - tiled.rgb).max() < 1e-4
    assert np.abs(whole.alpha - tiled.alpha).max() < 1e-4


def test_every_window_is_counted_and_the_hook_can_stop(net):
    pic, smoothing, seen = picture(RGB, RGB[..., 0].astype(np.float32)), Smoothing("median", 0.1, 10), []
    target, plan = Target(scale=16), replace(make_plan(net, smoothing), batch=1500)
    upscale_picture(pic, net, smoothing, target, plan, lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen, strict=True)
    assert done == tuple(sorted(set(done))) and done[-1] == totals[0] == 10 + 1 + 1 + 1 and len(set(totals)) == 1

    def stop(done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        upscale_picture(pic, net, smoothing, target, plan, stop)


def test_gray_stays_gray_and_alpha_keeps_its_range(net):
    gray = np.repeat(RNG.random((16, 16, 1)), 3, axis=2)
    alpha = (RNG.random((16, 16)) > 0.5).astype(np.float32)
    for smoothing in (None, Smoothing("median", 0.1, 4)):
        made, _ = run(picture(gray, alpha, gray=True), net, smoothing)
        assert np.array_equal(made.rgb[..., 0], made.rgb[..., 1]) and np.array_equal(made.rgb[..., 0], made.rgb[..., 2])
        assert made.alpha.shape == (64, 64) and made.alpha.min() >= 0 and made.alpha.max() <= 1
    plain, _ = run(picture(gray, alpha, gray=True), net)
    np.testing.assert_array_equal(plain.alpha, made.alpha)  # alpha is not smoothed
    stored_as_colour, _ = run(picture(gray, alpha), net)
    assert np.array_equal(stored_as_colour.rgb, plain.rgb)


def test_opaque_and_transparent_stay_so(net):
    alpha, seen = np.ones((40, 40), np.float32), []
    for level in (1.0, 0.4):
        pic = picture(np.resize(RGB, (40, 40, 3)), alpha * np.float32(level))
        made, _ = upscale_picture(pic, net, None, Target(scale=3), make_plan(net, None), lambda *n: seen.append(n))
        assert (made.alpha == np.float32(level)).all() and made.alpha.shape == (120, 120)
    assert seen == [(1, 1), (1, 1)]  # the network did not look at it
    alpha[:, :20] = 0
    made, _ = run(picture(np.resize(RGB, (40, 40, 3)), alpha), net)
    assert (made.alpha[:, :76] == 0).all() and (made.alpha[:, 84:] == 1).all()
    assert ((made.alpha > 0) & (made.alpha < 1)).any()


def test_a_wide_gamut_is_not_cut_to_srgb():
    made, _ = run(picture(RGB * 1.4 - 0.2), Plain())
    assert made.rgb.min() < -0.1 and made.rgb.max() > 1.1


def test_what_resizing_overshoots_is_cut():
    board = np.repeat(np.indices((30, 30)).sum(0)[..., None] % 2, 3, 2)
    made, _ = run(picture(board), Plain(), target=Target(scale=3))
    assert made.rgb.min() == 0 and made.rgb.max() == 1


def test_only_the_first_pass_is_smoothed(net):
    pic, smoothing = picture(RGB[:8, :8]), Smoothing("mean", 0.1, 4)
    twice, _ = run(pic, net, smoothing, Target(scale=16))
    once, _ = run(pic, net, smoothing)
    want, _ = run(once, net)
    np.testing.assert_allclose(twice.rgb, want.rgb, atol=1e-5)


def test_out_of_memory_halves_the_tile_and_starts_the_picture_again():
    pic = picture(RNG.random((300, 200, 3)))
    want, first = run(pic, Plain())
    made, used = run(pic, Plain(memory=11_000))
    assert used.tile == 150 < first.tile == 512 and used.batch < first.batch
    np.testing.assert_array_equal(made.rgb, want.rgb)
    with pytest.raises(RobustSRError, match="out of memory, even in tiles of 36"):
        run(pic, Plain(memory=100))


def test_a_later_pass_is_tiled_when_memory_runs_out_in_it():
    pic, target = picture(RNG.random((30, 30, 3))), Target(scale=16)
    want, _ = run(pic, Plain(), target=target)
    made, used = run(pic, Plain(memory=11_000), target=target)
    assert used.tile == 60  # half of what the second pass takes
    np.testing.assert_array_equal(made.rgb, want.rgb)


def test_real_memory_that_runs_out_is_survived(tiny, tmp_path):
    """The allocator really fails: the process may not have the memory that one large tile needs."""
    code = """
import resource, sys
import numpy as np
from robustsr.images import Metadata, Picture
from robustsr.models import load
from robustsr.pipeline import upscale_picture
from robustsr.plan import make_plan
from robustsr.settings import Target
net = load(sys.argv[1], device="cpu", precision="fp32")
pic = Picture(np.random.default_rng(0).random((900, 900, 3), dtype=np.float32), None, False, 8, Metadata(), "png")
small = Picture(pic.rgb[:64, :64], None, False, 8, Metadata(), "png")
upscale_picture(small, net, None, Target(), make_plan(net, None))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(900 * 900 * 16 * 3 * 4 * 2.8)  # tiles of 900 need 3.5, of 450 need 1.9
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
made, used = upscale_picture(pic, net, None, Target(), make_plan(net, None, tile=900))
print(made.rgb.shape, used.tile)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {f"(3600, 3600, 3) {tile}" for tile in (450, 225, 112, 56)}


def test_numbers_that_are_none_are_retried_in_float32_and_never_returned():
    pic = picture(RGB)
    made, used = run(pic, Plain(broken=("bf16",)))
    assert used.precision == "fp32" and np.isfinite(made.rgb).all()
    with pytest.raises(RobustSRError, match="gives values that are not numbers"):
        run(pic, Plain(broken=("bf16", "fp32")))


def test_one_value_that_is_no_number_is_seen():
    class Holed(Plain):
        def __call__(self, x, *, origin=None):
            out = super().__call__(x)
            out[..., 7, 9] = float("nan")
            return out

    with pytest.raises(RobustSRError, match="gives values that are not numbers"):
        run(picture(RGB), Holed(precision="fp32"))


def test_a_bug_is_not_mistaken_for_lack_of_memory():
    class Buggy(Plain):
        def __call__(self, x, *, origin=None):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run(picture(RGB), Buggy())


def test_plans_depend_on_model_and_settings_only(net):
    assert make_plan(net, None) == make_plan(net, None)
    assert make_plan(net, Smoothing("median", 0.1, 100)).tile < make_plan(net, None).tile
    with pytest.raises(RobustSRError, match="--tile 20 is too small: tiny needs 38 or more"):
        make_plan(net, None, tile=20)
    with pytest.raises(RobustSRError, match="--tile-pad 1 would leave seams: tiny needs 3"):
        make_plan(net, None, context=1)


def test_models_without_an_exact_context_are_feathered():
    up = compose(Plain(exact=False, context=32), None, make_plan(Plain(exact=False, context=32), None), (900, 900))
    assert up.feather == 16 and up.context == 32
    assert all(w.start % 32 == 0 for way in up.grid(900, 900) for w in way)
    x = torch.rand(1, 3, 900, 900)
    torch.testing.assert_close(up(x), Plain()(x))


def test_a_model_of_fixed_size_is_tiled_at_that_size():
    class Fixed(Plain):
        def __call__(self, x, *, origin=None):
            assert x.shape[-2:] == (48, 64)
            return super().__call__(x)

    pic = picture(RNG.random((100, 100, 3)))
    made, _ = run(pic, Fixed(fixed_size=(48, 64)), Smoothing("mean", 0.1, 4))
    assert made.rgb.shape == (400, 400, 3)


def test_cost_counts_every_pass(net):
    assert cost(net, None, 10, 10, Target()) == 100
    assert cost(net, Smoothing("median", 0.1, 20), 10, 10, Target()) == 2000
    assert cost(net, Smoothing("median", 0.1, 20), 10, 10, Target(scale=16), alpha=True) == 2000 + 1600 + 1700


def test_resize_is_antialiased_and_exact_on_constants():
    flat = np.full((40, 40, 2), 0.25, np.float32)
    np.testing.assert_allclose(resize(flat, 13, 7), 0.25, atol=1e-6)
    stripes = np.tile(np.array([0, 1], np.float32), 50)[None, :, None].repeat(10, 0)
    assert np.abs(resize(stripes, 10, 10) - 0.5).max() < 0.1
