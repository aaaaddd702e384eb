"""Measures of a picture against its ground truth: pure functions on tensors in [0, 1].

LPIPS, which needs weights, is in `losses`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def luma(rgb: Tensor) -> Tensor:
    """Y of BT.601 in studio swing, (16 + 65.481 R + 128.553 G + 24.966 B)/255, the Y that papers measure on.

    ``rgb (N, 3, h, w)`` in [0, 1] to ``(N, 1, h, w)`` in [16/255, 235/255].
    """
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    return (rgb * weights).sum(1, keepdim=True) + 16 / 255


def mse(sr: Tensor, hr: Tensor, *, crop: int = 0, y: bool = False) -> Tensor:
    """Mean squared error, one per picture. Arguments as for `psnr`."""
    sr, hr = _compared(sr, hr, crop, y)
    return (sr - hr).square().mean(dim=(1, 2, 3))


def psnr(sr: Tensor, hr: Tensor, *, crop: int = 0, y: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB, one per picture; infinite for equal pictures.

    ``sr, hr (N, 3, h, w)`` in [0, 1]; ``crop`` border pixels are left out; ``y``: on luma instead of RGB.
    """
    return -10 * mse(sr, hr, crop=crop, y=y).log10()


def ssim(sr: Tensor, hr: Tensor, *, crop: int = 0, y: bool = False) -> Tensor:
    """Structural similarity (Wang et al. 2004) in [-1, 1], one per picture: scikit-image's, on the CPU in float64.

    Gaussian window of 11 pixels and std 1.5, population covariance, mean over channels. Arguments as for `psnr`;
    ValueError: a picture smaller than the window.
    """
    from skimage.metrics import structural_similarity

    a, b = (t.detach().cpu().double().numpy() for t in _compared(sr, hr, crop, y))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [structural_similarity(p, q, data_range=1, channel_axis=0, **options) for p, q in zip(a, b, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def _compared(sr: Tensor, hr: Tensor, crop: int, y: bool) -> tuple[Tensor, Tensor]:
    if sr.shape != hr.shape:
        raise ValueError(f"shapes differ: {tuple(sr.shape)} and {tuple(hr.shape)}")
    if crop:
        sr, hr = sr[..., crop:-crop, crop:-crop], hr[..., crop:-crop, crop:-crop]
    return (luma(sr), luma(hr)) if y else (sr, hr)
