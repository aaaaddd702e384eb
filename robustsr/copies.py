"""What is made of networks, as in another number format: kept with them, and made anew where their weights change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

State = list[tuple[Tensor, int, int]]  # each tensor of a module, how often it was changed, where it lies
_kept: WeakKeyDictionary[nn.Module, dict[str, tuple[State, nn.Module | None]]] = WeakKeyDictionary()


def copy_of(module: nn.Module, kind: str, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module | None:
    """What ``make`` makes of a network as it is now, from before where that has not changed. ``kind``: its name."""
    kept = _kept.setdefault(module, {})
    if kind not in kept or not unchanged(module, kept[kind][0]):
        with torch.inference_mode(False):  # gradients may be asked for later
            kept[kind] = state(module), make(module)
    return kept[kind][1]


def forget(module: nn.Module) -> None:
    """Lets all that was made of a network go."""
    _kept.pop(module, None)


def state(module: nn.Module) -> State:
    """By which `unchanged` tells later whether weights were changed, unless behind torch's back, as by ``.data``."""
    return [(t, 0 if t.is_inference() else t._version, t.data_ptr()) for t in _tensors(module)]


def unchanged(module: nn.Module, before: State) -> bool:
    """Whether a module's tensors are those of before, and as they were."""
    now = list(_tensors(module))
    return len(now) == len(before) and all(
        t is was and (t.is_inference() or t._version == version) and t.data_ptr() == place
        for t, (was, version, place) in zip(now, before, strict=True)
    )


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
