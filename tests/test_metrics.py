import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from robustsr.metrics import luma, mse, psnr, ssim

RNG = np.random.default_rng(0)
A, B = RNG.random((2, 2, 20, 24, 3))
TA, TB = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (A, B))


def test_luma_is_that_of_scikit_image():
    np.testing.assert_allclose(luma(TA)[:, 0].numpy() * 255, rgb2ycbcr(A)[..., 0], atol=1e-9)


def view(x, crop, y):
    x = x[crop : len(x) - crop, crop : x.shape[1] - crop]
    return rgb2ycbcr(x)[..., 0] / 255 if y else x


@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("y", [False, True])
def test_the_metrics_are_those_of_scikit_image(crop, y):
    pairs = [(view(b, crop, y), view(a, crop, y)) for a, b in zip(A, B, strict=True)]
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    for ours, theirs in (
        (psnr, lambda hr, sr: peak_signal_noise_ratio(hr, sr, data_range=1)),
        (mse, mean_squared_error),
        (ssim, lambda hr, sr: structural_similarity(hr, sr, channel_axis=None if y else 2, **gaussian)),
    ):
        np.testing.assert_allclose(ours(TA, TB, crop=crop, y=y).numpy(), [theirs(*p) for p in pairs], atol=1e-9)


def test_ssim_of_equals_is_one_and_small_pictures_are_refused():
    assert torch.equal(ssim(TA, TA), torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="win_size"):
        ssim(TA[..., :10, :10], TB[..., :10, :10])


def test_equal_pictures_have_infinite_psnr_and_different_shapes_are_refused():
    assert torch.isinf(psnr(TA, TA)).all()
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(TA, TB[..., 1:])
