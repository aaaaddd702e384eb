"""What can be found out about a network by running it: how far it sees; and a picture to judge it on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .architectures import Call
from .tiling import EFFECTIVE_CONTEXT

LARGEST_EXACT = 48  # LR pixels: a larger receptive radius costs more than it gives


def receptive_radius(module: nn.Module, call: Call, multiple: int = 1, *, known: bool = False) -> tuple[int, bool]:
    """How far, in LR pixels, an output pixel depends on the input, and whether that is exact.

    The radii of all stride-1 convolutions added up bound it. Where the sum is small and the gradient of a centre pixel
    vanishes beyond it, it is taken for exact, unless on dark, bright or saturated pictures what lies beyond moves that
    pixel. Otherwise an effective radius is returned. Networks that are ``known`` to be nothing but layers of pixels
    and convolutions, as the catalogue's are, are not run.
    """
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    radius = sum((max(m.kernel_size) - 1) // 2 * max(m.dilation) for m in convs)
    plain = all(isinstance(m, nn.Conv2d) and max(m.stride) == 1 for m in convs)
    if not convs or not plain or multiple > 1 or radius > LARGEST_EXACT:
        return max(EFFECTIVE_CONTEXT, 2 * multiple), False
    if known:
        return radius, True
    size = 2 * (radius + 8) + 1
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(convs[0].weight.device)

    def centre(x: Tensor) -> Tensor:
        sr = call(module, x)
        s = sr.shape[-1] // size
        return sr[..., (size // 2) * s : (size // 2 + 1) * s, (size // 2) * s : (size // 2 + 1) * s]

    def moves(x: Tensor) -> bool:
        other = 1 - x
        other[..., 8:-8, 8:-8] = x[..., 8:-8, 8:-8]
        with torch.no_grad():
            a, b = centre(x), centre(other)
        return bool((a - b).abs().max() > 1e-5 * a.abs().max().clamp(min=1))

    seen = x.clone().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(centre(seen).square().sum(), seen)
    gradient[..., 8:-8, 8:-8] = 0
    beyond = bool(gradient.any()) or any(map(moves, (x / 10, 1 - x / 10, x.round())))
    return (EFFECTIVE_CONTEXT, False) if beyond else (radius, True)


def photograph_like(size: int = 96) -> Tensor:
    """A picture ``(1, 3, size, size)`` with the falling spectrum of photographs, and two regions with an edge between.

    Measured: it and real photographs accept and reject the same models.
    """
    frequency = (torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()).sqrt()
    noise = torch.randn(4, size, size, generator=torch.Generator().manual_seed(0))
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * frequency.clamp(min=1 / size) ** -1.5)
    field /= field.std((1, 2), keepdim=True)
    return (0.5 + 0.15 * field[:3] + 0.2 * (4 * field[3]).tanh()).clamp(0, 1)[None]
