"""The state of a run: what a checkpoint holds and a resumed run continues from."""

from __future__ import annotations

import copy
import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from robustsr.catalogue import BICUBIC, find
from robustsr.engine import memory_format
from robustsr.files import atomic, sha256
from robustsr.types import RobustSRError

from .data import Pairs
from .discriminator import VGGDiscriminator
from .muon import Muon
from .networks import build, rebuilt
from .recipe import TRUTH, Data, Recipe

DECIDES = ("generator", "data", "inputs", "denoiser", "loss", "discriminator", "optimiser")  # what is learnt
# What may lie elsewhere on another machine:
MOVES = ("data.workers", "data.hr", "data.lr", "generator.init", "discriminator.init")
NAMED = {  # other weights that decide what is learnt, by name or path, and what they are called in a run's weights
    "generator.init": "init",
    "generator.denoise": "denoise",
    "loss.teacher": "teacher",
    "loss.heavy": "heavy",
    "denoiser.model": "behind",
}


@dataclass
class State:
    """After ``step`` steps: the network, its moving average, perhaps a discriminator, and their optimisers.

    ``pictures``: the digest of those it has learnt from; None: of none so far. ``begun``: the names of the weights that
    it began with or learns from, and what their SHA-256 begins with.
    """

    net: nn.Module
    ema: nn.Module
    optimiser: Optimizer
    discriminator: nn.Module | None
    d_optimiser: Adam | None
    step: int = 0
    pictures: str | None = None
    begun: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fresh(cls, recipe: Recipe, device: torch.device) -> State:
        """Step 0 of a recipe, a function of its seed. RobustSRError: an ``init`` cannot be used."""
        state = cls._around(build(recipe.generator, recipe.seed), recipe, device)
        if state.discriminator and recipe.discriminator.init:
            _start(state.discriminator, Path(recipe.discriminator.init))
        state.begun = {label: _told(name) for key, label in NAMED.items() if (name := _named(recipe, key))}
        return state

    @classmethod
    def resumed(cls, path: Path, recipe: Recipe, device: torch.device) -> State:
        """Where a checkpoint is; no ``init`` of the recipe is needed. RobustSRError: damaged, or of another recipe."""
        saved = read(path)
        before, now = _deciding(_completed(saved["recipe"])), _deciding(asdict(recipe))
        changes = [
            f"{k} was {before.get(k)!r} and is {now.get(k)!r}" for k in {**before, **now} if before.get(k) != now.get(k)
        ]
        gone = []
        for key, was in ((k, saved["begun"][label]) for k, label in NAMED.items() if label in saved.get("begun", {})):
            with suppress(RobustSRError):  # not here: its weights are in the checkpoint, or it will be said
                named = _told(_named(recipe, key))
                if named.split()[-1] != was.split()[-1]:
                    changes.append(f"{key} was {was} and is {named}")
                    gone += [f"--set {key}=gone"] * key.startswith("generator")
        if changes:
            where = f" (where that is no more, {' '.join(gone)})" if gone else ""
            raise RobustSRError(
                f"{path} was made by another recipe: {', '.join(changes)}: resume with what it began with{where}, or "
                "begin a new run from its weights, --set generator.init=NAME.safetensors"
            )
        try:
            state = cls._around(rebuilt(saved["net"]), recipe, device)
            for name, part in state._parts().items():
                part.load_state_dict(saved[name])
        except (KeyError, RuntimeError, ValueError) as error:  # what torch raises of other names and shapes
            raise RobustSRError(f"{path} does not fit its own recipe, it is damaged: {_first_line(error)}") from error
        state.step, state.pictures, state.begun = int(saved["step"]), saved.get("pictures"), saved.get("begun", {})
        return state

    @classmethod
    def _around(cls, net: nn.Module, recipe: Recipe, device: torch.device) -> State:
        net = net.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        ema = copy.deepcopy(net).requires_grad_(False).eval()
        betas = recipe.optimiser.betas
        method = Muon if recipe.optimiser.method == "muon" else Adam
        optimiser = method(net.parameters(), recipe.optimiser.lr, betas)
        if not recipe.loss.gan:
            return cls(net, ema, optimiser, None, None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            judge = VGGDiscriminator(recipe.discriminator.features)
        judge = judge.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        return cls(net, ema, optimiser, judge, Adam(judge.parameters(), recipe.discriminator.lr, betas))

    def _parts(self) -> dict[str, nn.Module | Optimizer]:
        named = {name: getattr(self, name) for name in ("net", "ema", "optimiser", "discriminator", "d_optimiser")}
        return {name: part for name, part in named.items() if part is not None}

    def meet(self, pairs: Pairs) -> None:
        """From now on it learns from ``pairs``. RobustSRError: it has learnt from others."""
        if self.pictures not in (None, pairs.digest):
            raise RobustSRError(
                f"the checkpoint was made with other pictures than these {len(pairs)}: names, sizes or pixels differ; "
                "resume with those it began with"
            )
        self.pictures = pairs.digest

    def finite(self) -> bool:
        """Whether every weight, average, buffer and moment is."""
        states = (part.state_dict() for part in self._parts().values())
        return all(bool(value.isfinite().all()) for state in states for value in _tensors(state))

    def save(self, path: Path, recipe: Recipe) -> None:
        """Writes a checkpoint in place of the one before, which stays until this one is whole.

        RobustSRError: the disk is full or refuses.
        """
        told = {"step": self.step, "pictures": self.pictures, "begun": self.begun, "recipe": asdict(recipe)}
        state: dict[str, Any] = {**told}
        state |= {name: part.state_dict() for name, part in self._parts().items()}
        names = _write_parts(state, path, recipe.checkpoint_mib << 20) if recipe.checkpoint_mib else []
        with atomic(path, make_folder=True) as file:
            try:
                torch.save({"parts": names} if names else state, file)
            except RuntimeError as error:  # what torch makes of a full disk
                raise RobustSRError(f"cannot write {path}: is the disk full?") from error
        for old in path.parent.glob(f"{path.stem}-*.part"):
            if old.name not in names:
                old.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """What `State.save` wrote, on the CPU. RobustSRError: it or a part of it is missing, damaged or something else."""
    state = _loaded(path, path)
    if "parts" not in state:
        return state
    whole = io.BytesIO()
    for name in state["parts"]:
        part = path.parent / name
        data = part.read_bytes() if part.exists() else b""
        if name != _part_name(path, data):
            raise RobustSRError(f"{part} is {'damaged' if data else 'missing'}: {path} cannot be used without it")
        whole.write(data)
    whole.seek(0)
    return _loaded(whole, path)


def _loaded(file: Path | io.BytesIO, path: Path) -> dict[str, Any]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # readers of damaged files raise whatever comes
        raise RobustSRError(f"{path} cannot be read as a checkpoint: {_first_line(error)}") from error
    if not isinstance(state, dict) or not ("parts" in state or {"step", "recipe", "net"} <= state.keys()):
        raise RobustSRError(f"{path} is no checkpoint of `robustsr train`: name the checkpoint.pt of a run")
    return state


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _tensors(state: Any) -> Iterator[Tensor]:  # noqa: ANN401
    """Those in a state dict, however deep."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)


def _write_parts(state: dict[str, Any], path: Path, size: int) -> list[str]:
    """Writes files of at most ``size`` bytes beside ``path``, named by what is in them; none of an earlier state."""
    whole = io.BytesIO()
    torch.save(state, whole)
    names = []
    with whole.getbuffer() as view:  # released here, also after a failure: Python 3.12.1 dies of collecting it
        for start in range(0, len(view), size):
            data = bytes(view[start : start + size])
            names.append(_part_name(path, data))
            with atomic(path.with_name(names[-1]), make_folder=True) as file:
                file.write_bytes(data)
    return names


def _part_name(path: Path, data: bytes) -> str:
    return f"{path.stem}-{hashlib.sha256(data).hexdigest()[:16]}.part"


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as it was saved, with the defaults of keys that came later, and what they are called now."""
    defaults = asdict(Recipe("-", data=Data(hr="-")))
    whole = {k: {**v, **recipe.get(k, {})} if isinstance(v, dict) else recipe.get(k, v) for k, v in defaults.items()}
    whole["inputs"]["attack"] = re.sub("(?<=[:,])lr=", "step_size=", whole["inputs"]["attack"])
    return whole


def _deciding(recipe: dict[str, Any]) -> dict[str, Any]:
    """What decides what is learnt: ``section.key`` to its value."""
    flat = {"seed": recipe["seed"]}
    for section in DECIDES:
        flat |= {f"{section}.{key}": value for key, value in recipe[section].items()}
    flat["generator.denoise"] = bool(recipe["generator"]["denoise"])  # whichever it was, its weights are in the run's
    return {key: value for key, value in flat.items() if key not in MOVES}


def _named(recipe: Recipe, key: str) -> str:
    """The weights that a recipe names there and uses; empty: none, or bicubic, which has none."""
    value: str = attrgetter(key)(recipe)
    used = recipe.denoiser.objective in ("stability", "task") if key == "denoiser.model" else value != TRUTH
    return value if used and value not in BICUBIC else ""


def _told(weights: str) -> str:
    """The name of weights, and what their SHA-256 begins with. RobustSRError: they are not here."""
    path, _ = find(weights)
    return f"{path.stem} {sha256(path)[:16]}"


def _start(judge: nn.Module, path: Path) -> None:
    """The discriminator goes on from that of a run's checkpoint. RobustSRError: it has none, or one of other width."""
    found = read(path).get("discriminator")
    if found is None:
        raise RobustSRError(f"discriminator.init: no discriminator in {path}: name a run whose loss.gan is not 0")
    try:
        judge.load_state_dict(found)
    except RuntimeError:  # other shapes
        theirs, ours = (len(state["features.0.bias"]) for state in (found, judge.state_dict()))
        raise RobustSRError(
            f"discriminator.init: that of {path} has {theirs} features, the recipe's {ours}: "
            f"--set discriminator.features={theirs}"
        ) from None
