"""What can be found out about a network by running it: how far it sees; and a picture to judge it on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .architectures import Call
from .tiling import EFFECTIVE_CONTEXT

LARGEST_EXACT = 48  # LR pixels: a larger receptive radius costs more than it gives


def receptive_radius(module: nn.Module, call: Call, multiple: int = 1) -> tuple[int, bool]:
    """How far, in LR pixels, an output pixel depends on the input, and whether that is exact.

    The radii of all stride-1 convolutions added up bound it. Where the sum is small, and on pictures of four kinds the
    gradient of a centre pixel vanishes beyond it and nothing there moves that pixel, it is taken for exact. Otherwise
    an effective radius is returned.
    """
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    radius = sum((max(m.kernel_size) - 1) // 2 * max(m.dilation) for m in convs)
    plain = all(isinstance(m, nn.Conv2d) and max(m.stride) == 1 for m in convs)
    if not convs or not plain or multiple > 1 or radius > LARGEST_EXACT:
        return max(EFFECTIVE_CONTEXT, 2 * multiple), False
    size = 2 * (radius + 8) + 1
    chance = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)).to(convs[0].weight.device)
    x = torch.stack([chance[0], chance[1] / 10, 1 - chance[2] / 10, chance[0].round()])  # any, dark, bright, saturated
    other = x.flip(0).contiguous()
    other[..., 8:-8, 8:-8] = x[..., 8:-8, 8:-8]
    x.requires_grad_(True)

    def centre(x: Tensor) -> Tensor:
        sr = call(module, x)
        s = sr.shape[-1] // size
        return sr[..., (size // 2) * s : (size // 2 + 1) * s, (size // 2) * s : (size // 2 + 1) * s]

    with torch.enable_grad():
        seen = centre(x)
    (gradient,) = torch.autograd.grad(seen.square().sum(), x)
    gradient[..., 8:-8, 8:-8] = 0
    with torch.no_grad():
        moved = (centre(other) - seen).abs().max() > 1e-5 * seen.abs().max().clamp(min=1)
    return (EFFECTIVE_CONTEXT, False) if gradient.any() or moved else (radius, True)


def photograph_like(size: int = 96) -> Tensor:
    """A picture ``(1, 3, size, size)`` with the falling spectrum of photographs, and two regions with an edge between.

    Measured: it and real photographs accept and reject the same models.
    """
    frequency = (torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()).sqrt()
    noise = torch.randn(4, size, size, generator=torch.Generator().manual_seed(0))
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * frequency.clamp(min=1 / size) ** -1.5)
    field /= field.std((1, 2), keepdim=True)
    return (0.5 + 0.15 * field[:3] + 0.2 * (4 * field[3]).tanh()).clamp(0, 1)[None]
