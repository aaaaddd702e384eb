"""Measures of a picture against its ground truth: pure functions on tensors in [0, 1]."""

from __future__ import annotations

from torch import Tensor


def luma(rgb: Tensor) -> Tensor:
    """Y of BT.601 in studio swing, (16 + 65.481 R + 128.553 G + 24.966 B)/255, the Y that papers measure on.

    ``rgb (N, 3, h, w)`` in [0, 1] to ``(N, 1, h, w)`` in [16/255, 235/255].
    """
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    return (rgb * weights).sum(1, keepdim=True) + 16 / 255


def psnr(sr: Tensor, hr: Tensor, *, crop: int = 0, y: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB, one per picture; infinite for equal pictures.

    ``sr, hr (N, 3, h, w)`` in [0, 1]; ``crop`` border pixels are left out; ``y``: on luma instead of RGB.
    """
    if sr.shape != hr.shape:
        raise ValueError(f"shapes differ: {tuple(sr.shape)} and {tuple(hr.shape)}")
    if crop:
        sr, hr = sr[..., crop:-crop, crop:-crop], hr[..., crop:-crop, crop:-crop]
    if y:
        sr, hr = luma(sr), luma(hr)
    return -10 * (sr - hr).square().mean(dim=(1, 2, 3)).log10()
