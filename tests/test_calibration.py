"""The choice of sigma by a picture's noise."""

import numpy as np
import pytest
import torch
from fakes import Plain
from PIL import Image
from typer.testing import CliRunner

from robustsr import catalogue
from robustsr.calibration import Point, estimate_noise, fit, sigma_for
from robustsr.cli import app
from robustsr.models import load
from robustsr.settings import AutoSmoothing, Smoothing, smoothing_for
from robustsr.types import RobustSRError


@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.1])
def test_the_noise_of_flat_pictures_is_found(sigma):
    x = 0.5 + sigma * torch.randn(1, 3, 128, 130, generator=torch.Generator().manual_seed(0))
    assert sigma * 0.6 < estimate_noise(x) < sigma  # the lowest tenth of the blocks lies below the mean
    assert sigma * 0.6 < estimate_noise(x[:, :1].expand(-1, 3, -1, -1)) < sigma  # gray has one channel's noise


def test_the_estimate_grows_with_the_noise_of_photographs(photo):
    x = torch.from_numpy(photo(96, 100).astype(np.float32) / 255).permute(2, 0, 1)[None]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = [estimate_noise((x + s * noise).clamp(0, 1)) for s in (0, 0.02, 0.05, 0.1)]
    assert found == sorted(found) and found[3] > 3 * found[0]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 9), (15, 40)])
def test_pictures_of_any_size_have_an_estimate(size):
    assert 0 <= estimate_noise(torch.rand(1, 3, *(max(2, n) for n in size))) < 2


def test_a_fit_takes_the_best_sigma_per_range_and_rises():
    points = [
        Point(f"p{i}", noise, sigma, -abs(sigma - best))
        for i, (noise, best) in enumerate([(0.01, 0.0), (0.02, 0.02), (0.03, 0.01), (0.1, 0.06)])
        for sigma in (0.0, 0.01, 0.02, 0.04, 0.06)
    ]
    assert fit(points, 4) == ((0.01, 0.0), (0.02, 0.02), (0.03, 0.02), (0.1, 0.06))
    assert len(fit(points[:5], 6)) == 1


def test_sigma_is_linear_between_points_and_constant_beyond():
    calibration = ((0.01, 0.0), (0.03, 0.04), (0.1, 0.06))
    noises = (0.0, 0.01, 0.02, 0.03, 0.1, 0.5)
    assert [round(sigma_for(calibration, n), 9) for n in noises] == [0, 0, 0.02, 0.04, 0.06, 0.06]


def test_auto_needs_a_calibration_and_follows_each_picture(home, tiny):
    network = load(tiny, device="cpu", precision="fp32")
    with pytest.raises(
        RobustSRError,
        match="no calibration for --sigma auto: give a number .* `robustsr tune FOLDER` make one",
    ):
        smoothing_for(network, "median", "auto")
    path = catalogue.save_calibration(network.digest, ((0.01, 0.0), (0.1, 0.08)))
    said = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["models", "info", str(tiny)]).stdout
    assert "tuned here  sigma 0 for noise of 0.01, sigma 0.08 for noise of 0.1" in said
    smoothing = smoothing_for(network, "median", "auto", 5)
    assert isinstance(smoothing, AutoSmoothing) and smoothing.sigma == 0.08
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert smoothing.settled(flat, network) == (Smoothing("median", 0.0, 5), "not smoothed")
    noisy = flat + 0.3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert smoothing.settled(noisy, network) == (Smoothing("median", 0.08, 5), "sigma 0.08")
    assert smoothing.settled(flat[..., :1], network)[0].sigma == 0.0  # a line: no noise to be seen
    path.write_text("[[1]]")
    with pytest.raises(RobustSRError, match="cannot be read"):
        smoothing_for(network, "median", "auto")


def test_pictures_are_upscaled_by_their_own_sigma(home, tiny, photo):
    import robustsr

    network = load(tiny, device="cpu", precision="fp32")
    catalogue.save_calibration(network.digest, ((0.0, 0.0), (0.0001, 0.05)))
    image = Image.fromarray(photo())
    auto = robustsr.upscale(image, network, smooth="median", sigma="auto", samples=4)
    fixed = robustsr.upscale(image, network, smooth="median", sigma=0.05, samples=4)
    assert np.array_equal(np.asarray(auto), np.asarray(fixed))
    flat = Image.new("RGB", (32, 32), (90, 100, 110))
    plain = robustsr.upscale(flat, network)
    assert np.array_equal(np.asarray(robustsr.upscale(flat, network, smooth="median", sigma="auto")), np.asarray(plain))


def test_each_picture_gets_as_many_draws_as_it_needs(home, tiny, photo):
    import robustsr

    network = load(tiny, device="cpu", precision="fp32")
    smoothing = smoothing_for(network, "median", 0.1, "auto", tolerance=1e-3)
    assert isinstance(smoothing, AutoSmoothing) and (smoothing.samples, smoothing.tolerance) == (64, 1e-3)
    assert smoothing_for(network, "median", 0.1, "auto").tolerance == 1 / 255
    x = torch.from_numpy(photo(150, 200)).permute(2, 0, 1)[None] / 255
    auto = [smoothing_for(network, "median", 0.1, "auto", "independent", tolerance=t) for t in TIGHTER]
    found = [smoothing.settled(x, network) for smoothing in auto]
    counts = [smoothing.samples for smoothing, _ in found]
    assert "64 draws, the most there are: about " in found[2][1] and "4 draws: about" in found[0][1]
    assert counts == sorted(counts) and counts[0] == 4 < counts[1] < counts[-1] == 64
    image = Image.fromarray(photo(150, 200))
    flags = {"smooth": "median", "sigma": 0.1, "draws": "independent"}
    made = robustsr.upscale(image, network, samples="auto", tolerance=TIGHTER[1], **flags)
    fixed = robustsr.upscale(image, network, samples=counts[1], **flags)
    assert np.array_equal(np.asarray(made), np.asarray(fixed))


def test_draws_are_counted_on_windows_of_the_picture_with_its_own_noise():
    whole, seen = torch.rand(1, 3, 150, 200), []

    class Seen(Plain):
        def __call__(self, x, *, origin=None):
            for one, (top, left) in zip(x, origin.tolist(), strict=True):
                seen.append((top, left))
                torch.testing.assert_close(one, whole[0, :, top : top + 64, left : left + 64], atol=1e-4, rtol=0)
            return super().__call__(x)

    smoothing = AutoSmoothing("mean", 1e-6, 16, "independent", 7, tolerance=0.5)
    assert smoothing.settled(whole, Seen())[0] == Smoothing("mean", 1e-6, 4, "independent", 7)
    assert set(seen) == {(21, 34), (21, 102), (64, 34), (64, 102)}


TIGHTER = (0.5, 0.03, 1e-9)


@pytest.mark.parametrize(
    ("samples", "tolerance", "message"),
    [
        (8, 0.1, "only matters with --samples auto"),
        ("auto", 0.0, "above 0"),
        ("auto", 1.0, "above 0"),
        ("auto", "1/255", "must be a number"),
        ("lots", None, "whole number or auto"),
    ],
)
def test_tolerances_that_make_no_sense(home, tiny, samples, tolerance, message):
    with pytest.raises(RobustSRError, match=message):
        smoothing_for(load(tiny, device="cpu", precision="fp32"), "median", 0.1, samples, tolerance=tolerance)
