"""The training loop: one function, a generator of progress, resumable at every checkpoint."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsr.files import atomic
from robustsr.metrics import psnr
from robustsr.types import RobustSRError

from .data import batches, load_pairs, pictures, read
from .networks import build, export
from .recipe import Optimiser, Recipe


@dataclass(frozen=True)
class Progress:
    """Where a run stands after ``step`` steps; ``psnr`` (dB, by set) only where it was measured."""

    step: int
    steps: int
    loss: float  # mean since the last report
    rate: float  # steps per second since the last report
    psnr: dict[str, float]
    message: str = ""

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) / self.rate if self.rate else math.inf


def learning_rate(config: Optimiser, step: int) -> float:
    """The rate of step ``step`` (from 0): linear warm-up, then a half cosine down to 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    every: int = 50,
) -> Iterator[Progress]:
    """Runs a recipe and yields where it stands every ``every`` steps and after each validation.

    Writes ``out/checkpoint.pt`` and ``out/log.jsonl`` as it goes, and at the end ``out/NAME.safetensors``, the
    averaged weights in float16.
    ``stop`` is asked after each step: when true, a checkpoint is written and the run ends; ``resume`` continues
    it as if it had never stopped. A loss that is not finite ends the run with the last good checkpoint kept.
    """
    checkpoint = out / "checkpoint.pt"
    if resume and not checkpoint.exists():
        raise RobustSRError(f"nothing to resume: there is no {checkpoint}")
    if checkpoint.exists() and not resume:
        raise RobustSRError(f"{checkpoint} is there already: --resume continues it, another -o starts afresh")
    config, scale = recipe.optimiser, recipe.generator.scale
    messages: list[str] = []
    pairs = load_pairs(recipe.data.hr, scale, recipe.data.patch, messages.append)
    net = build(recipe.generator, recipe.seed).to(device)
    ema = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.Adam(net.parameters(), lr=config.lr, betas=config.betas)
    step = _restore(checkpoint, recipe, net, ema, optimiser, device, len(pairs)) if resume else 0
    forward = torch.compile(net) if recipe.compile else net
    stream = batches(pairs, scale, recipe.data.patch, recipe.data.batch, recipe.seed, step)
    losses: list[Tensor] = []
    since = time.perf_counter()
    yield Progress(step, config.steps, math.nan, 0, {}, "\n".join([*messages, f"{len(pairs)} pictures"]))

    while step < config.steps:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(config, step)
        lr, hr = (_unit(t, device) for t in next(stream))
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=recipe.precision == "bf16"):
            sr = forward(lr)
        loss = recipe.loss.l1 * F.l1_loss(sr.float(), hr)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():  # a young average forgets faster, so that it does not carry the initial weights
            decay = min(config.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        losses.append(loss.detach())
        step += 1

        done, stopped = step == config.steps, stop()
        save = done or stopped or step % recipe.checkpoint_every == 0
        if save or step % every == 0:
            mean = float(torch.stack(losses).mean())
            with torch.no_grad():  # a state is only good if the next step can start from it
                healthy = not save or bool(net(lr).isfinite().all())
            if not (math.isfinite(mean) and healthy):
                kept = f"the last good state is {checkpoint}" if checkpoint.exists() else "no state was kept"
                raise RobustSRError(f"the run diverged by step {step} (loss {mean:g}): lower optimiser.lr; {kept}")
            if save:
                _save(checkpoint, recipe, net, ema, optimiser, step, len(pairs))
            measured: dict[str, float] = {}
            if step % recipe.validation.every == 0 or done:
                measured = {Path(s).name: validate(ema, Path(s), scale, device) for s in recipe.validation.sets}
            progress = Progress(step, config.steps, mean, len(losses) / (time.perf_counter() - since), measured)
            out.mkdir(parents=True, exist_ok=True)
            with open(out / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(progress)) + "\n")
            yield progress
            losses, since = [], time.perf_counter()
        if stopped:
            return
    export(ema, out / f"{recipe.name}.safetensors", {"recipe": recipe.name, "steps": str(step)})


def validate(net: nn.Module, folder: Path, scale: int, device: str) -> float:
    """Mean Y-PSNR in dB over a folder with HR/ and LR/, float32, rounded to 8 bits, border crop ``scale``."""
    values = []
    for path in pictures(folder / "HR"):
        hr, lr = (_open(folder / part / path.name, device) for part in ("HR", "LR"))
        with torch.inference_mode():
            sr = (net(lr).clamp(0, 1) * 255).round() / 255
        hr = hr[..., : sr.shape[-2], : sr.shape[-1]]
        values.append(float(psnr(sr[..., : hr.shape[-2], : hr.shape[-1]], hr, crop=scale, y=True)))
    return sum(values) / len(values)


def _open(path: Path, device: str) -> Tensor:
    return _unit(torch.from_numpy(np.array(read(path)).transpose(2, 0, 1)[None].copy()), device)


def _unit(x: Tensor, device: str) -> Tensor:
    return x.to(device, torch.float32, memory_format=torch.channels_last) / 255


def _save(
    path: Path,
    recipe: Recipe,
    net: nn.Module,
    ema: nn.Module,
    optimiser: torch.optim.Adam,
    step: int,
    count: int,
) -> None:
    state = {
        "step": step,
        "pictures": count,
        "recipe": asdict(recipe),
        "net": net.state_dict(),
        "ema": ema.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with atomic(path, make_folder=True) as part:
        torch.save(state, part)


def _restore(
    path: Path,
    recipe: Recipe,
    net: nn.Module,
    ema: nn.Module,
    optimiser: torch.optim.Adam,
    device: str,
    count: int,
) -> int:
    state = torch.load(path, map_location=device, weights_only=True)
    before, now = state["recipe"], asdict(recipe)
    for key in ("generator", "data", "loss", "optimiser", "seed"):
        if before[key] != now[key]:
            raise RobustSRError(
                f"{path} was made with another {key} ({before[key]}): resume with the recipe it began with"
            )
    if state["pictures"] != count:
        raise RobustSRError(f"{path} was made with {state['pictures']} pictures, there are {count} now")
    net.load_state_dict(state["net"])
    ema.load_state_dict(state["ema"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
