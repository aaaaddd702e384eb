"""The state of a run: what a checkpoint holds and a resumed run continues from."""

from __future__ import annotations

import copy
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
from .recipe import Recipe

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
        """Writes a checkpoint in place of the one before."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        with atomic(path, make_folder=True) as file:
            torch.save({"step": self.step, "pictures": pictures, "recipe": asdict(recipe), **state}, file)

    def restore(self, path: Path, recipe: Recipe, pictures: int) -> None:
        """Continues from a checkpoint. RobustSRError: it belongs to another recipe or other pictures."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, now = state["recipe"], asdict(recipe)
        for key in DECIDES:
            if before.get(key) != now[key]:
                raise RobustSRError(
                    f"{path} was made with another {key} ({before.get(key)}): resume with the recipe it began with"
                )
        if state["pictures"] != pictures:
            raise RobustSRError(f"{path} was made with {state['pictures']} pictures, there are {pictures} now")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step = int(state["step"])


def _discriminator(path: Path) -> dict[str, Any]:
    """The discriminator in a run's checkpoint. RobustSRError: there is none."""
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["discriminator"]
    except (OSError, KeyError) as error:
        raise RobustSRError(f"discriminator.init: no discriminator in {path} ({error!r})") from None
    return found
