"""Networks whose 3x3 convolutions run by Winograd's F(4x4, 3x3) on processors (Lavin & Gray 2016).

A quarter of the products of a direct convolution, at a few times its rounding error: outputs are still float32 to about
1e-6, gradients of weights to 2e-5 of their largest.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from . import kernels
from .copies import copy_of
from .kernels import PANEL, convolve, prelu_gradient, weight_gradient

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
WIDEST = 256  # channels
FEWEST = 128  # tiles of 4x4 outputs, where weights are transformed anew at every step


def accelerated(module: nn.Module) -> nn.Module | None:
    """A copy of a float32 network whose 3x3 convolutions run by Winograd; None: it does not suit, or nothing compiles.

    Differentiable in its input; its weights are constants. Made once of each network, and anew where its weights have
    changed.
    """
    return copy_of(module, "winograd", lambda net: _replaced(net) if suits(net) and kernels.available() else None)


def suits(module: nn.Module) -> bool:
    """Whether nearly all the work of a network is in 3x3 convolutions that are wide enough."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    fitting = sum(m.weight.numel() for m in layers if isinstance(m, nn.Conv2d) and _fits(m))
    return fitting > 0 and fitting >= 0.8 * sum(m.weight.numel() for m in layers)


def _replaced(module: nn.Module) -> nn.Module:
    made = copy.deepcopy(module, {id(p): p for p in module.parameters()})  # which only read them
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
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and _wide(conv.weight)


def _wide(weight: Tensor) -> bool:
    """Whether a layer's channels are panels, and not so many that its transformed weights, four times as large, cost
    more than they save."""
    return all(channels % PANEL == 0 and channels <= WIDEST for channels in weight.shape[:2])


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
        self.bias, self.slope = bias.clone(), slope
        self._plain, self._made = weight, Kernels()

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # autocast may have rounded it
        if not (torch.is_grad_enabled() and x.requires_grad):
            return convolve(x, self._made.of(self._plain, back=False), self.bias, self.slope)
        y = cast(Tensor, _Convolution.apply(x, self._plain, self.bias, self._made))  # type: ignore[no-untyped-call]
        return y if self.slope is None else cast(Tensor, _PReLU.apply(y, self.slope))  # type: ignore[no-untyped-call]


class FastConvolutions(TorchFunctionMode):
    """Within it, 3x3 convolutions that suit run by Winograd, and so do their gradients, those of the weights, too.

    PReLUs keep torch's values, and get a gradient that torch takes several times as long for.

    Of any network in float32 on the processor; the others, and autocast's, stay torch's. Transformed weights are kept
    until it ends, or the weights change by an operation that torch counts: leave it before others, like fused Adam.
    ``anew``: it is left after one pass, so that small inputs do not pay for weights to be transformed.
    """

    def __init__(self, *, anew: bool = False) -> None:
        super().__init__()
        self._made, self._anew = Kernels(), anew

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if function is torch.conv2d and not kwargs and _suits(*args, anew=self._anew):
            x, weight, bias = args[:3]
            bias = weight.new_zeros(len(weight)) if bias is None else bias
            return _Convolution.apply(x, weight, bias, self._made)  # type: ignore[no-untyped-call]
        if function is torch.prelu and not kwargs and _suits_prelu(*args):
            return _PReLU.apply(*args)  # type: ignore[no-untyped-call]
        return function(*args, **(kwargs or {}))

    def __exit__(self, *exception: Any) -> None:  # noqa: ANN401 - torch's
        self._made.clear()
        super().__exit__(*exception)  # type: ignore[no-untyped-call]


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, anew: bool) -> bool:  # noqa: ANN401 - what conv2d takes
    plain = how == ((1, 1), (1, 1), (1, 1), 1) and weight.shape[2:] == (3, 3) and x.dim() == 4 and _wide(weight)
    return plain and _ours(x, weight) and _tiles(x) >= (FEWEST if anew or weight.requires_grad else 0)


def _suits_prelu(x: Tensor, slope: Tensor) -> bool:
    return x.dim() == 4 and x.shape[1] % PANEL == 0 and slope.shape == x.shape[1:2] and _ours(x, slope)


def _ours(x: Tensor, weight: Tensor) -> bool:
    """Whether C code computes with them, as torch would, and not autocast."""
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu") and kernels.available()


def _tiles(x: Tensor) -> int:
    n, _, h, w = x.shape
    return int(n * -(-h // 4) * -(-w // 4))


class Kernels(dict[tuple[int, bool], tuple[Tensor, int, Tensor]]):
    """A cache from weights to their Winograd transform."""

    def of(self, weight: Tensor, *, back: bool) -> Tensor:
        """Those of a convolution, or of the one that its gradient is."""
        version = 0 if weight.is_inference() else weight._version
        _, known, made = self.get((id(weight), back), (None, None, None))
        if made is None or known != version:
            plain = weight.detach()
            made = transformed(plain.flip(2, 3).transpose(0, 1) if back else plain)
            self[id(weight), back] = weight, version, made  # which keeps its id, too
        return made


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, made: Kernels) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.made = made
        return convolve(x, made.of(weight, back=False), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        ours, none = ctx.needs_input_grad, weight.new_zeros(weight.shape[1])
        if torch.is_grad_enabled():  # it is to be differentiated once more, by torch's own operations
            dx = torch.conv_transpose2d(gradient, weight, padding=1) if ours[0] else None
            dw = conv2d_weight(x, weight.shape, gradient, padding=1) if ours[1] else None  # type: ignore[no-untyped-call]
            return dx, dw, gradient.sum((0, 2, 3)) if ours[2] else None, None
        dx = convolve(gradient, ctx.made.of(weight, back=True), none) if ours[0] else None
        dw = _untransformed(weight_gradient(x, gradient)) if ours[1] else None
        return dx, dw, gradient.sum((0, 2, 3)) if ours[2] else None, None


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(z, slope)
        return torch.prelu(z, slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
        z, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # as above
            below = z <= 0
            dz = torch.where(below, gradient * slope[:, None, None], gradient)
            return dz, torch.where(below, gradient * z, 0).sum((0, 2, 3)) if ctx.needs_input_grad[1] else None
        dz, ds = prelu_gradient(z, gradient, slope)
        return dz, ds if ctx.needs_input_grad[1] else None


def transformed(weight: Tensor) -> Tensor:
    """``(cout, cin, 3, 3)`` to G w G^T, ``(cout / PANEL, 36, cin, PANEL)``, as the kernel reads it."""
    cout, cin = weight.shape[:2]
    u = _GG @ weight.permute(2, 3, 1, 0).reshape(9, cin * cout).double()
    return u.view(36, cin, cout // PANEL, PANEL).permute(2, 0, 1, 3).float().contiguous()


def _untransformed(gradient: Tensor) -> Tensor:
    """From the gradient ``(36, cin, cout)`` of transformed weights that of ``(cout, cin, 3, 3)``: G^T u G."""
    cin, cout = gradient.shape[1:]
    return (_GG.T.float() @ gradient.view(36, cin * cout)).view(3, 3, cin, cout).permute(3, 2, 0, 1)
