"""Which networks nobody else can change, and what is made of those, as in another number format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

Marks = tuple[str, dict[str, Tensor]]  # of a network: its structure, and its weights

_ours: WeakSet[nn.Module] = WeakSet()
_whole: WeakSet[nn.Module] = WeakSet()  # networks as they were owned, among all these parts
_given: WeakKeyDictionary[nn.Module, Marks | None] = WeakKeyDictionary()  # as it was; None: another already
_kept: WeakKeyDictionary[nn.Module, dict[str, nn.Module | None]] = WeakKeyDictionary()


def own(module: nn.Module) -> None:
    """From now on, until it is given away, nobody else has this network; what was given away of it stays so."""
    away = {part for whole in module.modules() if whole in _given for part in whole.modules()}
    _ours.update(part for part in module.modules() if part not in away)
    _whole.add(module)


def ours(module: nn.Module) -> bool:
    """Whether nobody else has any part of a network, so that its weights stay as they are."""
    return all(part in _ours for part in module.modules())


def give(module: nn.Module) -> None:
    """Lets others have a network, and change it in any way; `unchanged` knows how it was."""
    with torch.inference_mode(False):
        for part in module.modules():
            if part in _whole and part not in _given:
                _given[part] = _structure(part), {name: t.detach().clone() for name, t in _tensors(part)}
            _ours.discard(part)
    forget(module)


def unchanged(module: nn.Module) -> bool:
    """Whether a network, whoever has it, is what it was when it was owned."""
    away = [part for part in module.modules() if part in _given]
    return module in _whole and all(_same(part, _given[part]) for part in away) and bool(away or ours(module))


def changed(module: nn.Module) -> None:
    """This network is no longer what it was when it was owned, somewhere else."""
    _whole.add(module)
    _given[module] = None


def copied(module: nn.Module, source: nn.Module) -> None:
    """``module`` is a copy of ``source``: what holds of that holds of it."""
    if ours(source):
        own(module)
        return
    for part, of in zip(module.modules(), source.modules(), strict=True):
        if of in _whole:
            _whole.add(part)
        if of in _given:
            _given[part] = _given[of]


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


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _structure(module: nn.Module) -> str:
    """Layers and their settings, what is hooked to them, and which of those that have modes are in training."""
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    modes = [part.training for part in module.modules() if isinstance(part, _BatchNorm | _DropoutNd)]
    return f"{module!r} {hooks} {modes}"


def _same(module: nn.Module, marks: Marks | None) -> bool:
    if marks is None or _structure(module) != marks[0]:
        return False
    now, before = dict(_tensors(module)), marks[1]
    return now.keys() == before.keys() and all(_equal(now[name], before[name]) for name in now)


def _equal(a: Tensor, b: Tensor) -> bool:
    return (a.device, a.dtype, a.shape) == (b.device, b.dtype, b.shape) and torch.equal(a, b)
