"""Large pictures in windows: integer arithmetic of the cuts, and an upscaler that applies it to another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .types import RobustSRError, Wrapper

EFFECTIVE_CONTEXT = 32  # LR pixels, for networks whose receptive field is huge, global or unknown,
FEATHER = 16  # whose tiles therefore fade into each other over so many
# Windows of these begin at multiples of so many, or of more: layers that pool, or attend in windows, then do so alike.
ALIGNED = 32


def aligned(multiple: int) -> int:
    """ALIGNED, or the next above it that ``multiple`` divides."""
    return -(-ALIGNED // multiple) * multiple


@dataclass(frozen=True)
class Window:
    """One window along one axis: it sees [start, stop) and contributes to [low, high), fading over the feather."""

    start: int
    stop: int
    low: int
    high: int


def windows(length: int, size: int, context: int, feather: int = 0, align: int = 1) -> list[Window]:
    """Equal windows of ``size`` over [0, length), each at least ``context`` away from a cut it makes.

    All in LR pixels. Windows at the ends are shifted inward, never padded. Neighbours contribute to a common band
    of ``feather`` pixels (even) around their cut; without feather the contributions partition the axis. They begin at
    multiples of ``align``, for which the last is shorter by less than that.
    """
    if length <= size:
        return [Window(0, length, 0, length)]
    step = (size - 2 * context - feather) // align * align
    if step < max(1, 2 * feather):  # feathers of different cuts must not meet
        raise RobustSRError(
            f"a tile of {size} pixels has no room for a context of {context} on each side: "
            f"use --tile {2 * context + 3 * feather + 32} or more"
        )
    cells = -(-(length - size) // align)
    count = -(-cells * align // step) + 1
    starts = [i * cells // (count - 1) * align for i in range(count)]
    cuts = [(a + size + b) // 2 for a, b in zip(starts, starts[1:], strict=False)]
    lows = [0, *(c - feather // 2 for c in cuts)]
    highs = [*(c + feather // 2 for c in cuts), length]
    return [Window(s, min(s + size, length), lo, hi) for s, lo, hi in zip(starts, lows, highs, strict=True)]


def balanced(length: int, tile: int, shared: int, align: int) -> int:
    """The smallest window that covers ``length`` in as few windows as ``tile`` would, a multiple of ``align``."""
    count = max(1, math.ceil((length - shared) / ((tile - shared) // align * align)))
    return min(length, math.ceil((length - shared) / count / align) * align + shared)


def _weights(row: list[Window], index: int, scale: int, feather: int, like: Tensor) -> Tensor:
    """How much window ``index`` counts at each SR pixel of its contribution: 1, and linear ramps in the feathers."""
    window = row[index]
    weights = like.new_ones((window.high - window.low) * scale)
    ramp = (torch.arange(feather * scale, device=like.device, dtype=like.dtype) + 0.5) / max(1, feather * scale)
    if feather and index > 0:
        weights[: len(ramp)] = ramp
    if feather and index < len(row) - 1:
        weights[-len(ramp) :] = 1 - ramp
    return weights


@dataclass(frozen=True)
class Tiled(Wrapper):
    """Applies an upscaler window by window, with memory bounded by the window.

    ``size``: LR pixels of a window along each axis, context included. ``pad``: LR pixels dropped (hard crop) at
    inner borders; None takes the inner upscaler's context. With no less than the true receptive radius and no
    feather, the result equals the whole-image result in exact arithmetic. ``feather``: LR pixels over which
    neighbours fade into each other, for upscalers whose context is only effective. ``align``: see `windows`.
    ``device``: where windows are sent; the picture and the result stay where the picture is.
    """

    size: tuple[int, int]
    pad: int | None = None
    feather: int = 0
    align: int = 1
    device: torch.device | None = None

    @property
    def context(self) -> int:
        return self.inner.context if self.pad is None else self.pad

    @property
    def exact(self) -> bool:
        return self.inner.exact and self.context >= self.inner.context and not self.feather

    def grid(self, h: int, w: int) -> tuple[list[Window], list[Window]]:
        """The windows of an (h, w) picture along rows and columns."""
        how = self.context, self.feather, self.align
        return windows(h, self.size[0], *how), windows(w, self.size[1], *how)

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        n, _, h, w = x.shape
        s = self.scale
        rows, columns = self.grid(h, w)
        if origin is None:
            origin = torch.zeros(n, 2, dtype=torch.int64, device=x.device)
        out = (x.new_zeros if self.feather else x.new_empty)(n, 3, h * s, w * s)
        for i, row in enumerate(rows):
            down = _weights(rows, i, s, self.feather, x)
            for j, column in enumerate(columns):
                tile = x[..., row.start : row.stop, column.start : column.stop].to(self.device or x.device)
                place = origin + origin.new_tensor([row.start, column.start])
                sr = self.inner(tile, origin=place.to(tile.device))
                sr = sr[..., (row.low - row.start) * s : (row.high - row.start) * s, :]
                sr = sr[..., (column.low - column.start) * s : (column.high - column.start) * s]
                area = out[..., row.low * s : row.high * s, column.low * s : column.high * s]
                if self.feather:
                    area += sr.to(x.device) * (down[:, None] * _weights(columns, j, s, self.feather, x))
                else:
                    area.copy_(sr)
        return out
