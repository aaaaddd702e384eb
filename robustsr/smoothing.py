"""Randomized smoothing: the median or mean of an upscaler's outputs under Gaussian noise on its input.

Median: CertSR (Chaouai & Tamaazousti 2024, section 4.2), pixel-wise. Mean: Patsatzi 2023, equation 3.1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from . import kernels
from .noise import gaussian
from .types import RobustSRError, Wrapper

Reduce = Literal["median", "mean"]
Draws = Literal["antithetic", "independent"]
LARGEST_SAMPLES = 100_000  # beyond any use


def is_gray(x: Tensor) -> bool:
    """Whether the three channels of ``x (N, 3, h, w)`` are equal."""
    return bool((x[:, 1:] == x[:, :1]).all())


@dataclass(frozen=True)
class Gray(Wrapper):
    """Wraps an upscaler for gray pictures, whose three channels are equal: those of the result are, too, their mean."""

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        sr = self.inner(x, origin=origin)
        return sr.mean(1, keepdim=True).expand_as(sr)


@dataclass(frozen=True)
class Smoothed(Wrapper):
    """Wraps an upscaler in ``samples`` noisy passes and reduces their outputs value by value.

    ``sigma``: standard deviation of the noise in [0, 1] units; 0 is the inner upscaler itself.
    ``draws``: "independent", or "antithetic" pairs (+G, -G), whose error is smaller at equal cost; of an odd number
    the last has no partner. The noise is a function of ``seed`` and the absolute position (see noise.py), is not
    clipped, and so needs ``origin`` when ``x`` is a tile. ``gray``: ``x`` has three equal channels; the reduction
    runs over their mean, as in `Gray`, so the result has, too. Each channel still gets noise of its own, as
    networks saw it in training: the same noise in all of them leaves a mesh.
    ``chunk``: draws per call of ``inner`` (memory and speed only).
    """

    sigma: float
    samples: int = 21
    reduce: Reduce = "median"
    draws: Draws = "antithetic"
    seed: int = 0
    gray: bool = False
    chunk: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 1:
            raise RobustSRError(f"sigma must be in [0, 1] (pixel values are in [0, 1]), got {self.sigma}")
        if not 1 <= self.samples <= LARGEST_SAMPLES:
            raise RobustSRError(f"samples must be 1 to {LARGEST_SAMPLES:,}, got {self.samples:,}")
        if self.reduce not in ("median", "mean"):
            raise RobustSRError(f"smoothing is 'median' or 'mean', got {self.reduce!r}")
        if self.draws not in ("antithetic", "independent"):
            raise RobustSRError(f"draws are 'antithetic' or 'independent', got {self.draws!r}")

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        if self.sigma == 0:
            return self.inner(x, origin=origin)
        outputs: list[Tensor] = []
        for noisy in self.outputs(x, origin=origin):
            outputs += self._each(noisy, len(x))
            if self.reduce == "mean":  # one sum is all it needs to remember
                outputs = [functools.reduce(torch.add, outputs)]
        result = median(outputs) if self.reduce == "median" else outputs[0] / self.samples
        return result.expand(-1, 3, -1, -1) if self.gray else result

    def enough(self, x: Tensor, tolerance: float, *, origin: Tensor, border: int = 0) -> tuple[int, float]:
        """How many of the draws suffice for ``x``, and the estimated RMS error then: at most ``tolerance``, if any do.

        The error, in [0, 1] units, is the spread about what infinitely many such draws would give: half of the
        difference between the results of the even and of the odd pairs, which are independent. Looked at after 4, 8,
        12, 16, 24, 32, 48, ... draws. ``border``: output pixels that do not count. A few windows with their ``origin``
        stand for a whole picture.
        """
        outputs: list[Tensor] = []
        reduce = median if self.reduce == "median" else lambda values: torch.stack(values).mean(0)
        error = math.inf
        for sr in replace(self, chunk=1).outputs(x, origin=origin):
            seen = sr[..., border : sr.shape[-2] - border, border : sr.shape[-1] - border]
            outputs += self._each(seen, len(x))
            if len(outputs) % (1 << max(2, len(outputs).bit_length() - 2)):
                continue
            pairs = [outputs[i : i + 2] for i in range(0, len(outputs), 2)]
            even, odd = (reduce([sr for pair in half for sr in pair]) for half in (pairs[::2], pairs[1::2]))
            error = float((even - odd).square().mean().sqrt()) / 2
            if error <= tolerance:
                break
        return len(outputs), error

    def _each(self, noisy: Tensor, n: int) -> list[Tensor]:
        """The outputs of `outputs` draw by draw, ``(n, 3 or 1, s*h, s*w)``."""
        sr = noisy.view(-1, n, *noisy.shape[1:])
        return list((sr.mean(2, keepdim=True) if self.gray else sr).unbind(0))

    def outputs(self, x: Tensor, *, origin: Tensor | None = None) -> Iterator[Tensor]:
        """The inner outputs for the noisy copies of ``x``, which are reduced: ``(d*N, 3, s*h, s*w)``, d = ``chunk``.

        The draws of one picture lie N apart.
        """
        if origin is None:
            origin = torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
        block = -(-self.chunk // 8) * 8  # noise comes in fours, antithetic draws in pairs of them
        for first in range(0, self.samples, block):
            noise = self._noise(range(first, min(first + block, self.samples)), x, origin)
            for part in torch.split(noise, self.chunk):
                noisy = (x + self.sigma * part).flatten(0, 1)  # (d*N, 3, h, w)
                yield self.inner(noisy, origin=origin.repeat(len(part), 1))

    def _noise(self, draws: range, x: Tensor, origin: Tensor) -> Tensor:
        """(d, N, 3, h, w) of x's dtype."""
        shape = (3, x.shape[-2], x.shape[-1])
        if self.draws == "independent":
            return gaussian(self.seed, draws, *shape, origin).to(x.dtype)
        pairs = gaussian(self.seed, range(draws.start // 2, -(-draws.stop // 2)), *shape, origin)
        both = torch.stack([pairs, -pairs], 1).flatten(0, 1).to(x.dtype)
        return both[draws.start % 2 :][: len(draws)]


def selection_network(n: int, wanted: Sequence[int]) -> list[tuple[int, int, bool, bool]]:
    """Comparators that bring the order statistics ``wanted`` (from 0) of n values to their places.

    Batcher's odd-even merge sort without what the wanted outputs do not need: (i, j, low, high) replaces value i
    by the minimum of values i and j where ``low``, and value j by their maximum where ``high``.
    """
    network: list[tuple[int, int]] = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        network.append((i + j, i + j + k))
            k //= 2
        p *= 2
    needed = set(wanted)
    kept: list[tuple[int, int, bool, bool]] = []
    for i, j in reversed(network):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return kept[::-1]


def median(values: Sequence[Tensor], block: int | None = None) -> Tensor:
    """Element-wise median of equally shaped tensors: the middle value, or the mean of the two middle ones.

    Equal to sorting, bit for bit, and several times faster; differentiable almost everywhere. Works through
    ``block`` elements at a time, which need little memory besides: by default as many as stay in a processor's cache,
    on a GPU as many as make its launches cheap.
    """
    count = len(values)
    middle = [count // 2] if count % 2 else [count // 2 - 1, count // 2]
    if torch.is_grad_enabled() and any(v.requires_grad for v in values):
        parts = [_Ranked.apply(rank, block, *values) for rank in middle]  # type: ignore[no-untyped-call]
        return cast(Tensor, parts[0] if len(parts) == 1 else (parts[0] + parts[1]) / 2)
    return _ranked(values, middle, block)


class _Ranked(torch.autograd.Function):
    """An order statistic, whose gradient is that of the value that it is; of equal ones, each has its share."""

    @staticmethod
    def forward(ctx: Any, rank: int, block: int | None, *values: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        found = _ranked(values, [rank], block)
        ctx.save_for_backward(found, *values)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        found, *values = ctx.saved_tensors
        share = gradient / functools.reduce(torch.add, ((v == found).to(gradient.dtype) for v in values))
        return None, None, *(torch.where(v == found, share, 0) for v in values)


def _ranked(values: Sequence[Tensor], middle: list[int], block: int | None) -> Tensor:
    """The order statistic ``middle`` (from 0) of equally shaped tensors, or the mean of these two."""
    block = block or (1 << 16 if values[0].device.type == "cpu" else 1 << 22)
    network = selection_network(len(values), middle)
    last = values[0].dim() == 4 and all(v.is_contiguous(memory_format=torch.channels_last) for v in values)
    flat = [(v.permute(0, 2, 3, 1) if last else v).reshape(-1) for v in values]  # copies nothing of what networks give
    if _plain(flat):
        result = kernels.median(flat, network, middle)
    else:
        lines = zip(*(torch.split(v, block) for v in flat), strict=True)
        result = torch.cat([_middle(list(line), network, middle) for line in lines])
    if not last:
        return result.view(values[0].shape)
    n, c, h, w = values[0].shape
    return result.view(n, h, w, c).permute(0, 3, 1, 2)


def _plain(values: Sequence[Tensor]) -> bool:
    """Whether these are for C code: float32 on the processor."""
    return all(v.dtype == torch.float32 and v.device.type == "cpu" for v in values) and kernels.available()


def _middle(line: list[Tensor], network: list[tuple[int, int, bool, bool]], middle: list[int]) -> Tensor:
    for i, j, low, high in network:
        a, b = line[i], line[j]
        if low:
            line[i] = torch.minimum(a, b)
        if high:
            line[j] = torch.maximum(a, b)
    return line[middle[0]] if len(middle) == 1 else (line[middle[0]] + line[middle[1]]) / 2
