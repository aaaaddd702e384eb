"""Which networks nobody else can change, and what is made of those, as in another number format."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

_ours: WeakSet[nn.Module] = WeakSet()
_given: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()  # weights as they were, by their module
_kept: WeakKeyDictionary[nn.Module, dict[str, nn.Module | None]] = WeakKeyDictionary()


def own(module: nn.Module) -> None:
    """From now on, until it is given away, nobody else has this network; parts that were given away stay so."""
    _ours.update(part for part in module.modules() if part not in _given)


def ours(module: nn.Module) -> bool:
    """Whether nobody else has any part of a network, so that its weights stay as they are."""
    return all(part in _ours for part in module.modules())


def give(module: nn.Module) -> None:
    """Lets others have a network, and change it in any way; `unchanged` knows how it was."""
    with torch.inference_mode(False):
        for part in module.modules():
            if part not in _given:
                _given[part] = {name: t.detach().clone() for name, t in _tensors(part).items()}
            _ours.discard(part)
    forget(module)


def unchanged(module: nn.Module) -> bool:
    """Whether the weights of a network, whoever has it, are those that it had before others could change them."""
    return all(part in _ours or _same(_given.get(part), _tensors(part)) for part in module.modules())


def copied(module: nn.Module, source: nn.Module) -> None:
    """``module`` is a copy of ``source``: what holds of that holds of it."""
    for part, of in zip(module.modules(), source.modules(), strict=True):
        if of in _given:
            _given[part] = _given[of]
    own(module)


def copy_of(module: nn.Module, kind: str, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module | None:
    """What ``make`` makes of a network that does not change, made once; ``kind``: its name."""
    kept = _kept.setdefault(module, {})
    if kind not in kept:
        with torch.inference_mode(False):  # gradients may be asked for later
            kept[kind] = make(module)
    return kept[kind]


def forget(module: nn.Module) -> None:
    """Lets all that was made of a network go."""
    _kept.pop(module, None)


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module itself, without its children's."""
    return {name: t for name, t in [*part._parameters.items(), *part._buffers.items()] if t is not None}


def _same(before: dict[str, Tensor] | None, now: dict[str, Tensor]) -> bool:
    return before is not None and before.keys() == now.keys() and all(torch.equal(before[k], now[k]) for k in now)
