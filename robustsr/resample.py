"""Resizing as linear maps, differentiable, equal to Pillow's: bicubic as an upscaler, and networks on resized input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .types import RobustSRError, Wrapper

Kernel = Literal["bicubic", "bilinear"]


@lru_cache(maxsize=64)
def matrix(length: int, size: int, kernel: Kernel) -> Tensor:
    """The ``(size, length)`` float32 matrix that resizes a line, antialiased where it shrinks, as Pillow does.

    Keys' cubic with a = -1/2, or the triangle; rows sum to 1, kernels are cut off at the borders.
    """
    ratio = length / size
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * ratio
    t = ((torch.arange(length, dtype=torch.float64) + 0.5 - centre[:, None]) / max(ratio, 1)).abs()
    if kernel == "bilinear":
        weights = (1 - t).clamp(min=0)
    else:
        near, far = (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
        weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    with torch.inference_mode(False):  # it is kept, and what inference mode makes can carry no gradient later
        return (weights / weights.sum(1, keepdim=True)).float()


def resize(x: Tensor, h: int, w: int, kernel: Kernel = "bicubic") -> Tensor:
    """``(N, c, H, W)`` to ``(N, c, h, w)``; bicubic may overshoot; differentiable."""
    down, across = (matrix(n, m, kernel).to(x) for n, m in zip(x.shape[-2:], (h, w), strict=True))
    return down @ x @ across.T


class Bicubic(nn.Module):
    """Bicubic enlargement by a whole factor: the baseline of every table."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, x.shape[-2] * self.scale, x.shape[-1] * self.scale)


@dataclass(frozen=True)
class OnResized(Wrapper):
    """A network of scale 1 on pictures that were shrunk by ``factor`` and enlarged again, from one that upscales.

    The thesis' networks take such pictures (section 4.1): perturbations and their norms live there. The input is
    shrunk (bilinear) to what it holds, upscaled by the inner network, and brought to the input's size (bicubic)
    where the factors differ.
    """

    factor: int

    @property
    def scale(self) -> int:
        return 1

    @property
    def context(self) -> int:
        return self.factor * (self.inner.context + 2)

    @property
    def exact(self) -> bool:
        return False

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        h, w = x.shape[-2:]
        if h % self.factor or w % self.factor:
            raise RobustSRError(f"a picture of {w}x{h} cannot be divided by {self.factor}: crop it first")
        sr = self.inner(resize(x, h // self.factor, w // self.factor, "bilinear"))
        return sr if sr.shape[-2:] == (h, w) else resize(sr, h, w)


def grown(x: Tensor, down: int, right: int) -> Tensor:
    """Grows a picture at its lower and right border by reflection, or by repetition where it is too small for it."""
    mode = "reflect" if down < x.shape[-2] and right < x.shape[-1] else "replicate"
    return F.pad(x, (0, right, 0, down), mode)
