"""A loaded checkpoint as an upscaler, which whoever wants may change, copy and pickle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import copies, winograd
from .architectures import Call
from .catalogue import Entry
from .engine import PRECISIONS, memory_format
from .resample import grown
from .tiling import FEATHER, aligned
from .torchvision_schema import import_torchvision
from .types import refuse_others


@dataclass(frozen=True, eq=False)
class Network:
    """A loaded network as an upscaler. ``net`` holds float32 weights; it runs in ``precision`` on ``device``.

    ``winograd``: whether float32 runs by fast convolutions (see winograd.py) instead of torch's own. To change or train
    the weights take them from ``module``.
    """

    net: nn.Module
    call: Call  # how its architecture is called
    scale: int
    context: int
    exact: bool
    name: str
    digest: str  # SHA-256 of the weights file
    device: torch.device
    precision: str = "fp32"
    entry: Entry | None = None
    multiple: int = 1  # sizes it takes: multiples of this, at least min_size; others are padded by reflection
    min_size: int = 1
    square: bool = False
    before: tuple[str, str] | None = None  # name and digest of the denoiser that its module begins with
    winograd: bool = False
    fixed_size: ClassVar[tuple[int, int] | None] = None  # the only input size it takes; None: any
    facts: ClassVar[None] = None  # it is no export of robustsr

    @property
    def module(self) -> nn.Module:
        """The network, whose weights may be changed in any way. It then runs slower, small pictures half as fast.

        For nothing that was made of them is kept; where they want gradients it runs in float32, by torch alone.
        """
        copies.give(self.net)
        return self.net

    @property
    def as_loaded(self) -> bool:
        """Whether its weights are still those that ``digest`` is of."""
        return copies.unchanged(self.net)

    def _run(self, x: Tensor) -> Tensor:
        """The output for ``x`` of a size that it takes, by its weights as they are now."""
        ours = copies.ours(self.net)
        trained = not ours and torch.is_grad_enabled() and any(p.requires_grad for p in self.net.parameters())
        dtype = torch.float32 if trained else PRECISIONS[self.precision]
        fast = self.winograd and dtype == torch.float32 and not trained
        runner: nn.Module | None = None
        if dtype != torch.float32:
            runner = copies.copy_of(self.net, self.precision, _as(dtype)) if ours else _as(dtype)(self.net)
        elif fast and ours:
            runner = winograd.accelerated(self.net)
        with winograd.FastConvolutions(anew=True) if fast and not ours else nullcontext():
            x = x.to(self.device, dtype, memory_format=memory_format(self.device))
            return self.call(self.net if runner is None else runner, x).float()

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        refuse_others(x)
        h, w = x.shape[-2:]
        high, wide = (max(-(-n // self.multiple) * self.multiple, self.min_size) for n in (h, w))
        if self.square:
            high = wide = max(high, wide)
        if (high, wide) != (h, w):
            x = grown(x, high - h, wide - w)
        sr = self._run(x)
        return sr[..., : h * self.scale, : w * self.scale]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, as for another process, without what is made of the weights."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return _unpickled, (pickle.dumps((kept, self.as_loaded)),)

    def __copy__(self) -> Network:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        made = replace(self, net=copy.deepcopy(self.net, memo))
        copies.copied(made.net, self.net)
        return made

    def with_precision(self, precision: str) -> Network:
        """The same weights run in another number format."""
        if precision == self.precision:
            return self
        return replace(self, precision=precision)

    @property
    def engine(self) -> str:
        """What carries it out: "eager" torch, or "winograd"."""
        return "winograd" if self.winograd and self.precision == "fp32" else "eager"

    @property
    def feather(self) -> int:
        """LR pixels over which its tiles should fade into each other."""
        return 0 if self.exact else FEATHER

    @property
    def align(self) -> int:
        """Its tiles should begin at multiples of so many LR pixels."""
        return 1 if self.exact else aligned(self.multiple)


def _as(dtype: torch.dtype) -> Callable[[nn.Module], nn.Module]:
    return lambda net: copy.deepcopy(net).to(dtype)


def _unpickled(data: bytes) -> Network:
    """Architectures can only be imported after torchvision, which may need help."""
    import_torchvision()
    kept, as_loaded = pickle.loads(data)
    network = Network(**kept)
    (copies.own if as_loaded else copies.changed)(network.net)
    return network
