import numpy as np
import pytest
import torch
from scipy import ndimage

from robustsr.degradation import Degradation, Order, bell, compressed, degrade, filtered, resized, sinc
from robustsr.metrics import psnr

STILL = Order(blur_prob=0, resize_probs=(0, 0, 1), gaussian_prob=1, noise=(0, 0), jpeg=(100, 100))


@pytest.fixture
def picture(photo):
    def make(h=64, w=80, seed=0):
        return torch.from_numpy(photo(h, w, seed).astype(np.float32).transpose(2, 0, 1) / 255)

    return make


def only(**changed):
    """A degradation that does nothing but what is changed in its first round, and 8-bit JPEG of quality 100."""
    return Degradation(Order(**{**vars(STILL), **changed}), STILL, final_sinc_prob=0)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(64, 80), (37, 53), (8, 8)])
def test_shape_range_and_grid(scale, size, picture):
    hr = picture(*size)
    before = hr.clone()
    for seed in range(6):
        lr = degrade(hr, scale, seed)
        assert lr.shape == (3, size[0] // scale, size[1] // scale) and lr.dtype == torch.float32
        assert float(lr.min()) >= 0 and float(lr.max()) <= 1
        assert torch.allclose(lr * 255, (lr * 255).round(), atol=1e-4)
    assert torch.equal(hr, before)


def test_is_a_function_of_picture_and_seed_alone(picture):
    hr = picture()
    np.random.seed(1)
    torch.manual_seed(1)
    first = [degrade(hr, 2, seed) for seed in range(8)]
    np.random.seed(2)
    torch.manual_seed(2)
    assert all(torch.equal(degrade(hr, 2, seed), lr) for seed, lr in enumerate(first))
    assert all(not torch.equal(a, b) for a, b in zip(first, first[1:], strict=False))
    assert torch.equal(degrade(hr, 2, -1), degrade(hr, 2, 2**64 - 1))


def test_scales_draw_numbers_of_their_own():
    hr, noisy = torch.full((3, 96, 96), 0.5), only(noise=(20, 20), gray_prob=0)
    a, b = torch.nn.functional.avg_pool2d(degrade(hr, 1, 0, noisy), 2), degrade(hr, 2, 0, noisy)
    assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.1


def test_nothing_asked_nothing_done(picture):
    hr = picture()
    assert float(psnr(degrade(hr, 1, 0, only())[None], hr[None])) > 35


def test_gaussian_noise_has_its_strength_and_may_be_gray():
    hr = torch.full((3, 96, 96), 0.5)
    coloured = degrade(hr, 1, 0, only(noise=(20, 20), gray_prob=0)) - 0.5
    gray = degrade(hr, 1, 0, only(noise=(20, 20), gray_prob=1)) - 0.5
    assert float(gray.std()) == pytest.approx(20 / 255, rel=0.05)
    assert float(np.ptp(gray.numpy(), 0).max()) <= 3 / 255 < float(np.ptp(coloured.numpy(), 0).max())


def test_poisson_noise_grows_with_brightness():
    hr = torch.full((3, 96, 96), 0.8)
    hr[..., :48] = 0.2
    hr[:, 0] = torch.arange(96) / 95  # enough levels for many photons
    noise = degrade(hr, 1, 0, only(gaussian_prob=0, gray_prob=1, poisson=(1, 1)))[:, 4:] - hr[:, 4:]
    ratio = float(noise[..., 52:].std() / noise[..., :44].std())
    assert ratio == pytest.approx(2, rel=0.1)


def test_a_lower_jpeg_range_is_worse(picture):
    hr = picture()
    quality = [float(psnr(degrade(hr, 1, 0, only(jpeg=(q, q)))[None], hr[None])) for q in (95, 50, 10)]
    assert quality == sorted(quality, reverse=True)


def test_too_few_pixels_are_refused():
    with pytest.raises(ValueError, match="8 x 3 pixels are too few for scale 4"):
        degrade(torch.zeros(3, 3, 8), 4, 0)


# --- kernels and filters ---


@pytest.mark.parametrize("kind", ["iso", "aniso", "generalized", "plateau"])
def test_bells_sum_to_one_and_are_symmetric_about_the_middle(kind):
    kernel = bell(15, 2.0, 1.0, 0.7, kind, 1.5)
    assert kernel.shape == (15, 15) and kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-7) and kernel.argmax() == 15 * 15 // 2


def test_bells_have_their_definition():
    at = np.arange(21) - 10
    gaussian = bell(21, 3.0, 1.5, 0.0)
    assert (gaussian.sum(0) * at**2).sum() ** 0.5 == pytest.approx(3, rel=0.02)
    assert (gaussian.sum(1) * at**2).sum() ** 0.5 == pytest.approx(1.5, rel=0.02)
    assert np.allclose(bell(21, 3.0, 1.5, np.pi / 2), gaussian.T, atol=1e-7)
    assert np.allclose(bell(21, 3.0, 1.5, 0.4, "generalized", 1.0), bell(21, 3.0, 1.5, 0.4), atol=1e-7)
    for beta in (0.5, 1.0, 2.0):  # one sigma away: half a plateau, exp(-1/2) of a bell
        plateau, wide = bell(21, 3.0, 3.0, 0.0, "plateau", beta), bell(21, 3.0, 3.0, 0.0, "generalized", beta)
        assert plateau[10, 13] / plateau[10, 10] == pytest.approx(0.5, rel=1e-4)
        assert wide[10, 13] / wide[10, 10] == pytest.approx(np.exp(-0.5), rel=1e-4)


def test_sinc_passes_what_is_below_its_cutoff_and_little_above():
    response = np.abs(np.fft.fft(sinc(21, np.pi / 2).sum(0), 360))  # by degrees
    assert response[0] == pytest.approx(1, abs=1e-5)
    assert np.abs(response[:60] - 1).max() < 0.15 and response[120:180].max() < 0.15
    assert sinc(21, np.pi / 3).min() < 0  # it rings


@pytest.mark.parametrize("size", [(40, 31), (5, 9), (1, 1)])
def test_filtered_is_convolution_with_mirrored_edges(size, picture):
    x = np.random.default_rng(0).random((3, *size), np.float32)
    kernel = np.random.default_rng(1).random((7, 7), np.float32)
    want = np.stack([ndimage.convolve(c.astype(float), kernel.astype(float), mode="mirror") for c in x])
    assert np.allclose(filtered(x, kernel), want, atol=1e-4)


def test_resized_keeps_means_and_never_vanishes():
    x = np.random.default_rng(0).random((3, 12, 16), np.float32)
    assert np.array_equal(resized(x, 12, 16, "bicubic"), x) and resized(x, 0, 0, "area").shape == (3, 1, 1)
    assert np.allclose(resized(x, 1, 1, "area")[:, 0, 0], x.mean((1, 2)), atol=1e-6)


def test_compressed_rounds_to_bytes_and_clips():
    x = np.full((3, 16, 16), 0.4, np.float32)
    assert np.allclose(compressed(x, "JPEG", 95), 102 / 255, atol=1e-6)
    assert np.array_equal(compressed(x * 9, "JPEG", 95), np.ones_like(x))
