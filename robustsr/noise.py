"""Gaussian noise as a pure function of (seed, draw, channel, row, column): the same whatever the tile or batch.

Bits come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in int64
arithmetic that every device and ONNX Runtime share, so they are identical everywhere; normals follow by
Box-Muller in float32 and agree within 1e-6. A normal never exceeds 5.9 in size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import kernels

ALGORITHM = "philox4x32-10/box-muller-f32/1"  # recorded with results: changes when the values do

_MASK = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int, int], rounds: int = 10) -> Words:
    """Philox4x32: four int64 tensors holding 32-bit words (broadcastable), and a key of two, to four random words."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(rounds):
        # The product wraps as a signed 64-bit number, yet its bit pattern, all that is used of it, is right.
        p0, p1 = a * _MULTIPLY[0], c * _MULTIPLY[1]
        a, b, c, d = (p1 >> 32 & _MASK) ^ b ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ d ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return a, b, c, d


def upper(word: Tensor) -> Tensor:
    """The upper 24 bits of a word, which float32 holds exactly."""
    return (word >> 8).float()


def box_muller(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The `upper` bits of two words to two normals."""
    radius = (((u + 0.5) * 2**-24).log() * -2).sqrt()
    angle = v * (2 * math.pi * 2**-24)
    return radius * angle.cos(), radius * angle.sin()


def gaussian(seed: int, draws: range, channels: int, h: int, w: int, origin: Tensor) -> Tensor:
    """Standard normal noise ``(len(draws), N, channels, h, w)``, float32, on ``origin``'s device.

    ``origin (N, 2)``, int64, is the (row, column) of each of the N windows in its picture: the value at an
    absolute position does not depend on the window that shows it. Aligned runs of four draws cost least.
    """
    blocks = range(draws.start // 4, -(-draws.stop // 4))
    first = 4 * blocks.start
    bits = (kernels.philox if _compiled(blocks, h, w, origin) else _bits)(seed, blocks, channels, h, w, origin)
    planes = torch.stack(box_muller(bits[::2], bits[1::2]), 1).flatten(0, 1)
    return planes[draws.start - first : draws.stop - first : draws.step]


def _compiled(blocks: range, h: int, w: int, origin: Tensor) -> bool:
    """Whether C code does the same: on the processor, where every counter has 32 bits."""
    if origin.device.type != "cpu" or not kernels.available():
        return False
    counters: list[int] = [blocks.start, blocks.stop, *origin.flatten().tolist()]
    return min(counters) >= 0 and max(counters) + max(h, w) <= _MASK


def _bits(seed: int, blocks: range, channels: int, h: int, w: int, origin: Tensor) -> Tensor:
    """What `kernels.philox` gives."""
    device = origin.device
    rows = origin[:, 0].view(-1, 1, 1, 1) + torch.arange(h, device=device).view(1, 1, h, 1)
    columns = origin[:, 1].view(-1, 1, 1, 1) + torch.arange(w, device=device).view(1, 1, 1, w)
    channel = torch.arange(channels, device=device).view(1, channels, 1, 1)
    key = (seed & _MASK, seed >> 32 & _MASK)
    words: list[Tensor] = []
    for block in blocks:
        words += philox((columns, rows, channel, torch.full_like(channel, block)), key)
    return torch.stack([upper(word) for word in words])
