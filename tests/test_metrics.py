import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from robustsr.metrics import luma, psnr

RNG = np.random.default_rng(0)
A, B = RNG.random((2, 2, 20, 24, 3))
TA, TB = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (A, B))


def test_luma_is_that_of_scikit_image():
    np.testing.assert_allclose(luma(TA)[:, 0].numpy() * 255, rgb2ycbcr(A)[..., 0], atol=1e-9)


@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("y", [False, True])
def test_psnr_is_that_of_scikit_image(crop, y):
    def view(x):
        x = x[crop : len(x) - crop, crop : x.shape[1] - crop]
        return rgb2ycbcr(x)[..., 0] / 255 if y else x

    want = [peak_signal_noise_ratio(view(b), view(a), data_range=1) for a, b in zip(A, B, strict=True)]
    np.testing.assert_allclose(psnr(TA, TB, crop=crop, y=y).numpy(), want, atol=1e-9)


def test_equal_pictures_have_infinite_psnr_and_different_shapes_are_refused():
    assert torch.isinf(psnr(TA, TA)).all()
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(TA, TB[..., 1:])
