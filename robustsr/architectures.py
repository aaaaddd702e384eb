"""The architectures that spandrel does not know: the thesis' U-Net, and a denoiser and an upscaler in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .types import RobustSRError

Sizes = tuple[int, int, bool]
Call = Callable[[nn.Module, Tensor], Tensor]


class UNet(nn.Module):
    """The U-Net for super-resolution at scale 1 of the thesis (Patsatzi 2023, section 4.2.1).

    Five poolings, channels 8-16-32-64-128, two 3x3 convolutions with batch norm and ReLU per step, skips.

    ``(N, 3, h, w)`` to the same, h and w multiples of 32; RobustSRError: others. The thesis names five widths for five
    poolings and leaves the bottleneck open: 128 here. Up: 2x2 transposed convolutions of stride 2, concatenation, two
    convolutions.
    """

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32, 64, 128), bottleneck: int = 128) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True))
        self.bottom = _block(widths[-1], bottleneck)
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for below, width in zip((bottleneck, *widths[:0:-1]), reversed(widths), strict=True):
            self.up.append(nn.ConvTranspose2d(below, width, 2, 2))
            self.merge.append(_block(2 * width, width))
        self.last = nn.Conv2d(widths[0], 3, 1)
        self.multiple = 2 ** len(widths)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        if h % self.multiple or w % self.multiple:
            raise RobustSRError(
                f"this U-Net takes sizes that are multiples of {self.multiple}, got {w}x{h}: crop to such a size"
            )
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        last: Tensor = self.last(x)
        return last


def _block(ins: int, outs: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for i in (ins, outs):
        parts += [nn.Conv2d(i, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU()]
    return nn.Sequential(*parts)


class Denoised(nn.Module):
    """f(D(x)) trained as one: D the ``denoiser``, of scale 1, f the ``upscaler``; ``(N, 3, h, w)`` to f's scale.

    ``calls``: how each is called.
    """

    def __init__(self, denoiser: nn.Module, upscaler: nn.Module, *calls: Call) -> None:
        super().__init__()
        self.denoiser, self.upscaler, self.calls = denoiser, upscaler, calls

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.calls
        return second(self.upscaler, first(self.denoiser, x))


def sizes_of_both(first: Sizes, second: Sizes) -> Sizes:
    """What two networks take that run one after the other: the smallest side, what sides are multiples of, square."""
    multiple = math.lcm(first[1], second[1])
    return -(-max(first[0], second[0]) // multiple) * multiple, multiple, first[2] or second[2]


def parts(weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The state dicts of a `Denoised`'s denoiser and upscaler; empty: ``weights`` are another architecture's."""
    found: dict[str, dict[str, Tensor]] = {"denoiser": {}, "upscaler": {}}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        if part not in found:
            return []
        found[part][rest] = tensor
    return list(found.values()) if all(found.values()) else []


def unet_like(weights: Mapping[str, Tensor]) -> UNet | None:
    """An untrained U-Net as wide and deep as a state dict tells; None: its names are another architecture's."""
    if not {"down.0.0.weight", "bottom.0.weight", "up.0.weight", "last.weight"} <= weights.keys():
        return None
    widths: list[int] = []
    while (key := f"down.{len(widths)}.0.weight") in weights:
        widths.append(len(weights[key]))
    return UNet(tuple(widths), len(weights["bottom.0.weight"]))
