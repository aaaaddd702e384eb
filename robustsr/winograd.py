"""Networks whose 3x3 convolutions run by Winograd's F(4x4, 3x3) on processors (Lavin & Gray 2016).

A quarter of the products of a direct convolution, at a few times its rounding error: still float32 to about 1e-6.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from . import kernels
from .kernels import PANEL, convolve

_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]

_made: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def accelerated(module: nn.Module) -> nn.Module | None:
    """A copy of a float32 network whose 3x3 convolutions run by Winograd; None: it does not suit, or nothing compiles.

    Differentiable in its input; its weights are constants. Made once of each network.
    """
    if module not in _made and suits(module) and kernels.available():
        _made[module] = _replaced(module)
    return _made.get(module)


def suits(module: nn.Module) -> bool:
    """Whether nearly all the work of a network is in 3x3 convolutions that are wide enough."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    fitting = sum(m.weight.numel() for m in layers if isinstance(m, nn.Conv2d) and _fits(m))
    return fitting > 0 and fitting >= 0.8 * sum(m.weight.numel() for m in layers)


def _replaced(module: nn.Module) -> nn.Module:
    made = copy.deepcopy(module)
    for parent in list(made.modules()):
        children = list(parent.named_children())
        ordered = isinstance(parent, nn.Sequential | nn.ModuleList)
        for i, (name, child) in enumerate(children):
            if not isinstance(child, nn.Conv2d) or not _fits(child):
                continue
            after = children[i + 1] if ordered and i + 1 < len(children) else None
            slope = _slope(after[1], child.out_channels) if after else None
            if after and slope is not None:
                setattr(parent, after[0], nn.Identity())
            setattr(parent, name, Conv3x3(child, slope))
    return made


def _fits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
    return plain and conv.in_channels % PANEL == 0 and conv.out_channels % PANEL == 0


def _slope(activation: nn.Module, channels: int) -> Tensor | None:
    """By what an activation multiplies values below 0, by channel; None: it is not of that kind."""
    if isinstance(activation, nn.PReLU) and activation.num_parameters in (1, channels):
        return activation.weight.detach().expand(channels).contiguous()
    if isinstance(activation, nn.LeakyReLU | nn.ReLU):
        return torch.full((channels,), getattr(activation, "negative_slope", 0.0), dtype=torch.float32)
    return None


class Conv3x3(nn.Module):
    """A 3x3 convolution and, with ``slope (channels,)``, the PReLU behind it, in one pass over memory."""

    def __init__(self, conv: nn.Conv2d, slope: Tensor | None = None) -> None:
        super().__init__()
        weight = conv.weight.detach()
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        self.weight, self.bias, self.slope = transformed(weight), bias.clone(), slope
        self._untransformed = weight

    @functools.cached_property
    def back(self) -> tuple[Tensor, Tensor]:
        """The weights and bias of the convolution that its gradient is."""
        weight = self._untransformed.flip(2, 3).transpose(0, 1)
        return transformed(weight), weight.new_zeros(len(weight))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # autocast may have rounded it
        if not (torch.is_grad_enabled() and x.requires_grad):
            return convolve(x, self.weight, self.bias, self.slope)
        y = cast(Tensor, _Differentiable.apply(x, self))  # type: ignore[no-untyped-call]
        return y if self.slope is None else torch.prelu(y, self.slope)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Conv3x3) -> Tensor:  # noqa: ANN401 - torch's
        ctx.layer = layer
        return convolve(x, layer.weight, layer.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return convolve(gradient, *ctx.layer.back), None


def transformed(weight: Tensor) -> Tensor:
    """``(cout, cin, 3, 3)`` to G w G^T, ``(cout / PANEL, 36, cin, PANEL)``, as the kernel reads it."""
    g = torch.tensor(_G, dtype=torch.float64, device="cpu")
    cout, cin = weight.shape[:2]
    u = torch.einsum("ar,oirs,bs->abio", g, weight.double(), g)
    return u.reshape(36, cin, cout // PANEL, PANEL).permute(2, 0, 1, 3).float().contiguous()
