"""Certified bounds of pictures: draws stream into histograms, histograms give bounds, bounds give a PSNR.

What the bounds claim, and why, is in ``certify``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from . import kernels
from .certify import Claim, band
from .types import RobustSRError

LEVELS = 256
BLOCK = 1 << 10  # output values reduced at once: 256 of int64 each stay in the cache of a processor
GPU_BLOCK = 1 << 14


def mean_interval(mean: Tensor, n: int, r: float, alpha: float) -> tuple[Tensor, Tensor]:
    """Bounds of the expectation of X(x + delta), from the ``mean`` of n clamped draws: the simple form.

    [Phi(Phi^-1(g_lo) - r), Phi(Phi^-1(g_hi) + r)], g_lo/hi = g -+ band; float64, in [0, 1].
    """
    g = mean.double()
    low, high = (g - band(n, alpha)).clamp(min=0), (g + band(n, alpha)).clamp(max=1)
    return torch.special.ndtr(torch.special.ndtri(low) - r), torch.special.ndtr(torch.special.ndtri(high) + r)


class Histogram:
    """Streams draws of a window of output values: 256 counts and a sum for each, whatever the number of draws.

    ``most``: how many draws will be added at most; decides between 16 and 32 bits. Draws are clamped to [0, 1], then
    rounded to 8 bits as when written to a file. Rounding is monotone, so order statistics of the rounded draws are
    the rounded order statistics: ranks stay exact, and half a level to each side covers the draws themselves.
    """

    def __init__(self, shape: tuple[int, ...], most: int, device: torch.device | None = None) -> None:
        self.shape, self.drawn = shape, 0
        self.counts = torch.zeros(math.prod(shape), LEVELS, dtype=counter(most), device=device)
        self.total = torch.zeros(math.prod(shape), dtype=torch.float64)

    def clear(self) -> None:
        """Forgets all draws."""
        self.drawn = 0
        self.counts.zero_()
        self.total.zero_()

    def add(self, sr: Tensor) -> None:
        """Takes in draws ``(d, *shape)``. RobustSRError: they are not numbers, and the histogram is of no more use."""
        flat = sr.flatten(1)
        if flat.dtype == torch.float32 and self.counts.device.type == flat.device.type == "cpu" and kernels.available():
            kernels.count(flat, self.total, self.counts)
        else:
            self._count(flat.clamp(0, 1))
        if not bool(torch.isfinite(self.total).all()):
            raise RobustSRError("the model gives values that are not numbers for this picture")
        self.drawn += len(sr)

    def _count(self, flat: Tensor) -> None:
        here = flat if flat.is_cuda else flat.cpu()  # Metal has no float64
        self.total += here.sum(0, dtype=torch.float64).cpu()
        # Value by value, so that the counts of one value stay in the processor's cache for all draws.
        index = to_levels(flat).t().contiguous().long().to(self.counts.device)
        self.counts.scatter_add_(1, index, self.counts.new_ones(1, 1).expand_as(index))

    def order_statistic(self, k: int) -> Tensor:
        """The k-th smallest draw (from 1) of each value, in levels: uint8, ``shape``, on the CPU."""
        parts = [(c.cumsum(1, dtype=torch.int32) < k).sum(1).byte().cpu() for c in self._blocks()]
        return torch.cat(parts).view(self.shape)

    def _blocks(self) -> tuple[Tensor, ...]:
        return torch.split(self.counts, BLOCK if self.counts.device.type == "cpu" else GPU_BLOCK)

    def mean(self) -> Tensor:
        """The mean of the clamped draws, not rounded: float64, ``shape``, on the CPU."""
        return (self.total / self.drawn).view(self.shape)

    def cdf_interval(self, r: float, alpha: float) -> tuple[Tensor, Tensor]:
        """Bounds of the expectation of X(x + delta) from the whole distribution: the form of Kumar et al. 2020.

        E X = integral of P(X > t) over [0, 1]; each probability is known up to the DKW band and moved by r. Inside a
        level the integrand is replaced by its value at the level's upper or lower edge, on the safe side (arXiv
        2009.08061). Never looser than the simple form of a mean a level away (Jensen); float64, in [0, 1].
        """
        share = np.arange(self.drawn + 1) / self.drawn
        off = band(self.drawn, alpha)
        highest = torch.from_numpy(special.ndtr(special.ndtri(np.minimum(share + off, 1)) + r))
        lowest = torch.from_numpy(special.ndtr(special.ndtri(np.maximum(share - off, 0)) - r))
        width = torch.full((LEVELS,), 1 / (LEVELS - 1), dtype=torch.float64)
        width[[0, -1]] /= 2
        low, high = [], []
        for counts in self._blocks():
            reached = counts.cpu().long().flip(1).cumsum(1).flip(1)  # draws at this level or above
            high.append(highest[reached] @ width)
            low.append(lowest[torch.nn.functional.pad(reached[:, 1:], (0, 1))] @ width)
        return torch.cat(low).view(self.shape), torch.cat(high).view(self.shape).clamp(max=1)


def counter(most: int) -> torch.dtype:
    """The smallest type of tensor that counts to ``most`` and can be added to."""
    return torch.int16 if most < 2**15 else torch.int32


def to_levels(values: Tensor) -> Tensor:
    """Values, clamped to [0, 1], in 8 bits: uint8."""
    return (values.clamp(0, 1) * (LEVELS - 1) + 0.5).byte()


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest 8-bit level of each output value: exact for the picture as written to an 8-bit file."""

    lower: Tensor  # uint8
    upper: Tensor  # uint8, same shape

    @property
    def width(self) -> Tensor:
        """upper - lower, in levels: uint8."""
        return self.upper - self.lower


def bounds(claim: Claim, histogram: Histogram) -> Bounds:
    """The bounds that ``claim.n`` draws give; 0 and 255, always valid after the clamp, where they are too few."""
    if histogram.drawn != claim.n:
        raise ValueError(f"{histogram.drawn} draws in the histogram, the claim is for {claim.n}")
    if claim.reduce == "median":
        chosen = claim.ranks()
        if chosen is None:
            nothing = torch.zeros(histogram.shape, dtype=torch.uint8)
            return Bounds(nothing, nothing + (LEVELS - 1))
        return Bounds(histogram.order_statistic(chosen[0]), histogram.order_statistic(chosen[1]))
    if claim.form == "simple":
        low, high = mean_interval(histogram.mean(), claim.n, claim.r, claim.alpha_each)
    else:
        low, high = histogram.cdf_interval(claim.r, claim.alpha_each)
    return Bounds(to_levels(low - claim.margin), to_levels(high + claim.margin))


def shipped_picture(claim: Claim, histogram: Histogram) -> Tensor:
    """The median or mean of the shipped draws, in levels: uint8. The two middle ones of an even number are averaged."""
    if histogram.drawn != claim.shipped:
        raise ValueError(f"{histogram.drawn} draws in the histogram, the claim ships {claim.shipped}")
    if claim.reduce == "mean":
        return to_levels(histogram.mean())
    low = histogram.order_statistic((claim.shipped + 1) // 2)
    if claim.shipped % 2:
        return low
    high = histogram.order_statistic(claim.shipped // 2 + 1)
    return ((low.int() + high.int() + 1) // 2).byte()


def certified_psnr(bounds: Bounds, hr: Tensor) -> float:
    """The least PSNR (dB, RGB, whole picture) against ``hr``, floats in [0, 1], of any picture inside the bounds.

    -10 log10 mean max((U - y)^2, (L - y)^2), for 8-bit pictures. From simultaneous bounds only: others overstate it.
    """
    if bounds.lower.shape != hr.shape:
        raise ValueError(f"shapes differ: {tuple(bounds.lower.shape)} and {tuple(hr.shape)}")
    y = hr.double()
    worst = torch.maximum((bounds.upper / (LEVELS - 1) - y).square(), (bounds.lower / (LEVELS - 1) - y).square())
    mean = worst.mean().item()
    return -10 * math.log10(mean) if mean > 0 else math.inf
