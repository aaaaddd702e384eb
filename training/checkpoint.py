"""The state of a run: what a checkpoint holds and a resumed run continues from."""

from __future__ import annotations

import copy
import hashlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adam

from robustsr.files import atomic
from robustsr.types import RobustSRError

from .discriminator import VGGDiscriminator
from .networks import build
from .recipe import Data, Recipe

DECIDES = ("seed", "generator", "data", "inputs", "denoiser", "loss", "discriminator", "optimiser")  # what is learnt


@dataclass
class State:
    """After ``step`` steps: the network, its moving average, perhaps a discriminator, and their optimisers."""

    net: nn.Module
    ema: nn.Module
    optimiser: Adam
    discriminator: nn.Module | None
    d_optimiser: Adam | None
    step: int = 0

    @classmethod
    def fresh(cls, recipe: Recipe, device: torch.device) -> State:
        """Step 0 of a recipe, a function of its seed."""
        net = build(recipe.generator, recipe.seed).to(device)
        ema = copy.deepcopy(net).requires_grad_(False).eval()
        betas = recipe.optimiser.betas
        optimiser = Adam(net.parameters(), recipe.optimiser.lr, betas)
        if not recipe.loss.gan:
            return cls(net, ema, optimiser, None, None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            judge = VGGDiscriminator(recipe.discriminator.features)
        if recipe.discriminator.init:
            judge.load_state_dict(_discriminator(Path(recipe.discriminator.init)))
        judge = judge.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(net, ema, optimiser, judge, Adam(judge.parameters(), recipe.discriminator.lr, betas))

    def _parts(self) -> dict[str, nn.Module | Adam]:
        named = {name: getattr(self, name) for name in ("net", "ema", "optimiser", "discriminator", "d_optimiser")}
        return {name: part for name, part in named.items() if part is not None}

    def save(self, path: Path, recipe: Recipe, pictures: int) -> None:
        """Writes a checkpoint in place of the one before, which stays until this one is whole."""
        state: dict[str, Any] = {"step": self.step, "pictures": pictures, "recipe": asdict(recipe)}
        state |= {name: part.state_dict() for name, part in self._parts().items()}
        names = _write_parts(state, path, recipe.checkpoint_mib << 20) if recipe.checkpoint_mib else []
        with atomic(path, make_folder=True) as file:
            torch.save({"parts": names} if names else state, file)
        for old in path.parent.glob(f"{path.stem}-*.part"):
            if old.name not in names:
                old.unlink(missing_ok=True)

    def restore(self, path: Path, recipe: Recipe, pictures: int) -> None:
        """Continues from a checkpoint. RobustSRError: it belongs to another recipe or other pictures."""
        state = read(path)
        before, now = _completed(state["recipe"]), asdict(recipe)
        for key in DECIDES:
            if before[key] != now[key]:
                raise RobustSRError(
                    f"{path} was made with another {key} ({before[key]}): resume with the recipe it began with"
                )
        if state["pictures"] != pictures:
            raise RobustSRError(f"{path} was made with {state['pictures']} pictures, there are {pictures} now")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step = int(state["step"])


def read(path: Path) -> dict[str, Any]:
    """What `State.save` wrote, on the CPU. OSError: no such file; RobustSRError: a part is missing or damaged."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
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
    state = torch.load(whole, map_location="cpu", weights_only=True)
    return state


def _write_parts(state: dict[str, Any], path: Path, size: int) -> list[str]:
    """Writes files of at most ``size`` bytes beside ``path``, named by what is in them; none of an earlier state."""
    whole = io.BytesIO()
    torch.save(state, whole)
    view, names = whole.getbuffer(), []
    for start in range(0, len(view), size):
        data = bytes(view[start : start + size])
        names.append(_part_name(path, data))
        with atomic(path.with_name(names[-1]), make_folder=True) as file:
            file.write_bytes(data)
    return names


def _part_name(path: Path, data: bytes) -> str:
    return f"{path.stem}-{hashlib.sha256(data).hexdigest()[:16]}.part"


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as it was saved, with the defaults of keys that came later."""
    defaults = asdict(Recipe("", data=Data(hr="-")))
    return {k: {**v, **recipe.get(k, {})} if isinstance(v, dict) else recipe.get(k, v) for k, v in defaults.items()}


def _discriminator(path: Path) -> dict[str, Any]:
    """The discriminator in a run's checkpoint. RobustSRError: there is none."""
    try:
        found: dict[str, Any] = read(path)["discriminator"]
    except (OSError, KeyError) as error:
        raise RobustSRError(f"discriminator.init: no discriminator in {path} ({error!r})") from None
    return found
