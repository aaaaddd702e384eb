"""Networks whose 3x3 convolutions run by Winograd's F(4x4, 3x3) on processors (Lavin & Gray 2016).

A quarter of the products of a direct convolution, at a few times its rounding error: still float32 to about 1e-6.
"""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from . import kernels
from .kernels import PANEL, convolve, weight_gradient

_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
    device="cpu",
)
_GG = torch.kron(_G, _G)  # G w G^T as a product with w written out

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
        self._plain = weight

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # autocast may have rounded it
        if not (torch.is_grad_enabled() and x.requires_grad):
            return convolve(x, self.weight, self.bias, self.slope)
        y = cast(Tensor, _Convolution.apply(x, self._plain, self.bias))  # type: ignore[no-untyped-call]
        return y if self.slope is None else torch.prelu(y, self.slope)


class FastConvolutions(TorchFunctionMode):
    """Within it, 3x3 convolutions that suit run by Winograd, and so do their gradients, those of the weights, too.

    Of any network in float32 on the processor, training ones as well; the others, and autocast's, stay torch's.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if function is torch.conv2d and not kwargs and _suits(*args):
            x, weight, bias = args[:3]
            return _Convolution.apply(x, weight, weight.new_zeros(len(weight)) if bias is None else bias)  # type: ignore[no-untyped-call]
        return function(*args, **(kwargs or {}))


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> bool:  # noqa: ANN401 - what conv2d takes
    plain = how == ((1, 1), (1, 1), (1, 1), 1) and weight.shape[2:] == (3, 3)
    ours = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and ours and weight.shape[0] % PANEL == weight.shape[1] % PANEL == 0 and kernels.available()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return convolve(x, _kernel(weight, back=False), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        ours = ctx.needs_input_grad
        dx = convolve(gradient, _kernel(weight, back=True), weight.new_zeros(weight.shape[1])) if ours[0] else None
        dw = _untransformed(weight_gradient(x, gradient)) if ours[1] else None
        return dx, dw, gradient.sum((0, 2, 3)) if ours[2] else None


_known: MutableMapping[Tensor, tuple[tuple[int, int], dict[bool, Tensor]]] = WeakIdKeyDictionary()


def _kernel(weight: Tensor, *, back: bool) -> Tensor:
    """The transformed weights of a convolution, or of the one that its gradient is, until they change in place."""
    mark = (0 if weight.is_inference() else weight._version, weight.data_ptr())
    if weight not in _known or _known[weight][0] != mark:
        _known[weight] = mark, {}
    made = _known[weight][1]
    if back not in made:
        plain = weight.detach()
        made[back] = transformed(plain.flip(2, 3).transpose(0, 1) if back else plain)
    return made[back]


def transformed(weight: Tensor) -> Tensor:
    """``(cout, cin, 3, 3)`` to G w G^T, ``(cout / PANEL, 36, cin, PANEL)``, as the kernel reads it."""
    cout, cin = weight.shape[:2]
    u = _GG @ weight.permute(2, 3, 1, 0).reshape(9, cin * cout).double()
    return u.view(36, cin, cout // PANEL, PANEL).permute(2, 0, 1, 3).float().contiguous()


def _untransformed(gradient: Tensor) -> Tensor:
    """From the gradient ``(36, cin, cout)`` of transformed weights that of ``(cout, cin, 3, 3)``: G^T u G."""
    cin, cout = gradient.shape[1:]
    return (_GG.T.float() @ gradient.view(36, cin * cout)).view(3, 3, cin, cout).permute(3, 2, 0, 1)
