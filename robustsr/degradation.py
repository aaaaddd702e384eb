"""Real-ESRGAN's second-order degradation: blur, resize, noise and JPEG, twice, to make real-looking LR pictures.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", ICCV-W 2021.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import jpeg_factory
from PIL.WebPImagePlugin import WebPImageFile
from scipy import fft, special
from torch import Tensor

from .types import RobustSRError

Float: TypeAlias = NDArray[np.floating[Any]]
Span: TypeAlias = tuple[float, float]

KERNELS = ("iso", "aniso", "generalized-iso", "generalized-aniso", "plateau-iso", "plateau-aniso")
RESIZES = ("area", "bilinear", "bicubic")
WORD = (1 << 64) - 1  # seeds are taken modulo 2**64, so that any int will do


@dataclass(frozen=True)
class Order:
    """One round of blur, resize, noise and JPEG; the defaults are the published first round."""

    blur_prob: float = 1.0
    sinc_prob: float = 0.1  # of the blurs; the others are from KERNELS
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)  # of the kernels, pixels
    sigma: Span = (0.2, 3.0)  # of the blur, pixels
    beta_generalized: Span = (0.5, 4.0)  # exponents: below and above 1 are equally likely
    beta_plateau: Span = (1.0, 2.0)
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)  # up, down, keep
    resize: Span = (0.15, 1.5)
    gaussian_prob: float = 0.5  # of the noise; otherwise Poisson
    gray_prob: float = 0.4  # the same noise in all channels
    noise: Span = (1.0, 30.0)  # std of Gaussian noise, of 255
    poisson: Span = (0.05, 3.0)
    jpeg: Span = (30.0, 95.0)  # quality


@dataclass(frozen=True)
class Degradation:
    """The ranges of ``degrade``; the defaults are those of the published training of RealESRGAN_x4plus."""

    first: Order = Order()
    second: Order = Order(
        blur_prob=0.8,
        sigma=(0.2, 1.5),
        resize_probs=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2),
        noise=(1.0, 25.0),
        poisson=(0.05, 2.5),
    )
    final_sinc_prob: float = 0.8


LIGHT = Degradation(  # a good camera, shrunk, saved once or twice: most pictures that people keep
    first=Order(
        blur_prob=0.2,
        sinc_prob=0.05,
        sigma=(0.2, 1.5),
        resize_probs=(0.05, 0.15, 0.8),
        resize=(0.5, 1.2),
        noise=(0.5, 12.0),
        poisson=(0.05, 1.0),
        jpeg=(70.0, 98.0),
    ),
    second=Order(
        blur_prob=0.0,
        resize_probs=(0.0, 0.0, 1.0),
        noise=(0.1, 8.0),
        poisson=(0.01, 0.3),
        jpeg=(25.0, 95.0),
    ),
    final_sinc_prob=0.0,
)


def degrade(hr: Tensor, scale: int, seed: int, config: Degradation = Degradation()) -> Tensor:  # noqa: B008 - frozen
    """An LR picture that looks as if it came from the internet: the second-order degradation of ``hr``.

    ``hr (3, H, W)``, float RGB in [0, 1], to ``(3, H//scale, W//scale)``, float32 in [0, 1], rounded to 8 bits, on
    ``hr``'s device; a function of (hr, scale, seed, config) alone. The published training sharpens ``hr`` before,
    which is left to the caller, and uses an idealised JPEG where this uses libjpeg, 4:2:0. ValueError: a size of 0.
    """
    height, width = hr.shape[1] // scale, hr.shape[2] // scale
    if min(height, width) < 1:
        raise ValueError(f"{hr.shape[2]} x {hr.shape[1]} pixels are too few for scale {scale}")
    rng = np.random.default_rng([seed & WORD, scale])
    x: Float = hr.detach().cpu().float().numpy()

    x = _blurred(x, config.first, rng)
    factor = _factor(config.first, rng)
    x = resized(x, int(x.shape[1] * factor), int(x.shape[2] * factor), _mode(rng))
    x = compressed(_noisy(x, config.first, rng), "JPEG", _quality(config.first, rng))

    x = _blurred(x, config.second, rng)
    factor = _factor(config.second, rng)
    x = resized(x, int(hr.shape[1] / scale * factor), int(hr.shape[2] / scale * factor), _mode(rng))
    x = _noisy(x, config.second, rng)

    quality, mode, sinc_first = _quality(config.second, rng), _mode(rng), rng.random() < 0.5
    ringing = _sinc(config.second, np.pi / 3, rng) if rng.random() < config.final_sinc_prob else None
    if not sinc_first:
        x = compressed(x, "JPEG", quality)
    x = resized(x, height, width, mode)
    if ringing is not None:
        x = filtered(x, ringing)
    if sinc_first:
        x = compressed(x, "JPEG", quality)
    return torch.from_numpy((x.clip(0, 1) * 255).round() / 255).float().to(hr.device)


# --- what a round is made of ---


def _factor(order: Order, rng: np.random.Generator) -> float:
    low, high = order.resize
    way = rng.choice(3, p=order.resize_probs)
    return float(rng.uniform(*((1, high), (low, 1), (1, 1))[way]))


def _mode(rng: np.random.Generator) -> str:
    return RESIZES[rng.integers(len(RESIZES))]


def _quality(order: Order, rng: np.random.Generator) -> int:
    return round(rng.uniform(*order.jpeg))


def _blurred(x: Float, order: Order, rng: np.random.Generator) -> Float:
    if rng.random() >= order.blur_prob:
        return x
    return filtered(x, _sinc(order, None, rng) if rng.random() < order.sinc_prob else _kernel(order, rng))


def _kernel(order: Order, rng: np.random.Generator) -> Float:
    kind = KERNELS[rng.choice(len(KERNELS), p=order.kernel_probs)]
    size = int(rng.choice(order.sizes))
    sigma_x = rng.uniform(*order.sigma)
    sigma_y, angle = (rng.uniform(*order.sigma), rng.uniform(-np.pi, np.pi)) if "aniso" in kind else (sigma_x, 0.0)
    low, high = order.beta_plateau if "plateau" in kind else order.beta_generalized
    beta = rng.uniform(*((low, 1) if rng.random() < 0.5 else (1, high)))
    return bell(size, sigma_x, sigma_y, angle, kind.split("-")[0], beta)


def _sinc(order: Order, lowest: float | None, rng: np.random.Generator) -> Float:
    size = int(rng.choice(order.sizes))
    if lowest is None:
        lowest = np.pi / 3 if size < 13 else np.pi / 5  # a small kernel cannot hold a low frequency
    return sinc(size, rng.uniform(lowest, np.pi))


def _noisy(x: Float, order: Order, rng: np.random.Generator) -> Float:
    """Gaussian noise, or Poisson noise of as many photons as the picture has levels, to the next power of two."""
    gaussian, gray = rng.random() < order.gaussian_prob, rng.random() < order.gray_prob
    if gaussian:
        shape = (1, *x.shape[1:]) if gray else x.shape
        added = rng.uniform(*order.noise) / 255 * rng.standard_normal(shape, np.float32)
    else:
        levels = _bytes(np.tensordot([[0.2989, 0.587, 0.114]], x, 1) if gray else x)
        photons = 2.0 ** np.ceil(np.log2(np.count_nonzero(np.bincount(levels.ravel()))))
        clean = levels / 255
        added = rng.uniform(*order.poisson) * (rng.poisson(clean * photons) / photons - clean)
    return (x + added).clip(0, 1).astype(np.float32)


# --- kernels and filters ---


def bell(size: int, sigma_x: float, sigma_y: float, angle: float, kind: str = "iso", beta: float = 1.0) -> Float:
    """A blur kernel ``(size, size)`` of sum 1, size odd: a function of q = v' S^-1 v, S the covariance.

    ``kind``: ``generalized`` exp(-q^beta / 2), ``plateau`` 1 / (1 + q^beta), any other the Gaussian exp(-q / 2).
    ``sigma_x, sigma_y`` in pixels, along axes turned by ``angle`` (radians).
    """
    offsets = np.arange(size) - size // 2
    across, down = np.meshgrid(offsets, offsets)
    along = (across * np.cos(angle) + down * np.sin(angle)) / sigma_x
    q = along**2 + ((down * np.cos(angle) - across * np.sin(angle)) / sigma_y) ** 2
    q **= beta if kind in ("generalized", "plateau") else 1
    kernel = 1 / (1 + q) if kind == "plateau" else np.exp(-q / 2)
    return _of_sum_one(kernel)


def sinc(size: int, cutoff: float) -> Float:
    """The ideal circular low-pass ``(size, size)`` of sum 1, size odd, ``cutoff`` in (0, pi]: it rings."""
    offsets = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(offsets, offsets))
    radius[size // 2, size // 2] = 1
    kernel: Float = cutoff * special.j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _of_sum_one(kernel)


def _of_sum_one(kernel: Float) -> Float:
    scaled: Float = (kernel / kernel.sum()).astype(np.float32)
    return scaled


def filtered(x: Float, kernel: Float) -> Float:
    """``x (..., h, w)`` convolved with a kernel of odd sides, the picture mirrored at its edges (without them)."""
    (h, w), (rows, columns) = x.shape[-2:], kernel.shape
    around = [(0, 0)] * (x.ndim - 2) + [(rows // 2, rows // 2), (columns // 2, columns // 2)]
    padded = np.pad(x, around, mode="reflect")
    size = [fft.next_fast_len(n, real=True) for n in padded.shape[-2:]]
    product = fft.rfft2(padded, size) * fft.rfft2(kernel, size)
    result: Float = fft.irfft2(product, size)[..., rows - 1 : rows - 1 + h, columns - 1 : columns - 1 + w]
    return result


def resized(x: Float, height: int, width: int, mode: str) -> Float:
    """``x (3, h, w)`` to ``(3, height, width)``, one pixel at least, by torch's interpolation without antialiasing."""
    size = max(height, 1), max(width, 1)
    if size == x.shape[1:]:
        return x
    result: Float = F.interpolate(torch.from_numpy(np.ascontiguousarray(x))[None], size=size, mode=mode)[0].numpy()
    return result


def compressed(x: Float, codec: Literal["JPEG", "WEBP"], quality: int) -> Float:
    """``x (3, h, w)``, clipped to [0, 1], through Pillow's lossy 8-bit codec with its defaults (4:2:0) and back.

    ``quality`` 1 to 100. RobustSRError: a side longer than the codec takes.
    """
    longest = {"JPEG": 65_500, "WEBP": 16_383}[codec]
    if max(x.shape) > longest:
        raise RobustSRError(f"{x.shape[2]} x {x.shape[1]} pixels, but {codec} holds at most {longest:,} a side")
    file = io.BytesIO()
    Image.fromarray(_bytes(x).transpose(1, 2, 0)).save(file, codec, quality=quality)
    file.seek(0)
    # Not Image.open: it refuses large pictures, and their size is the caller's to limit.
    decoded: Image.Image = jpeg_factory(file) if codec == "JPEG" else WebPImageFile(file)
    return np.asarray(decoded.convert("RGB")).transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _bytes(x: Float) -> NDArray[np.uint8]:
    return (x.clip(0, 1) * 255 + 0.5).astype(np.uint8)
