"""The training loop: one function, a generator of progress, resumable at every checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from robustsr.models import Network, load
from robustsr.types import RobustSRError

from .checkpoint import State
from .data import Batches, load_pairs
from .networks import export, own_scale
from .objectives import Forward, Terms, attacked, discriminator_gan, generator_gan, noisy, smoothed_outputs
from .recipe import Optimiser, Recipe
from .validation import Measured, sheet, validate


@dataclass(frozen=True)
class Progress:
    """Where a run stands after ``step`` steps; ``measured`` (see validation.py) only where it was."""

    step: int
    steps: int
    losses: dict[str, float]  # means since the last report, weighted as in their sum
    rate: float  # steps per second since the last report
    measured: Measured = field(default_factory=dict)
    message: str = ""

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) / self.rate if self.rate else math.inf


def learning_rate(config: Optimiser, peak: float, step: int) -> float:
    """The rate of step ``step`` (from 0): linear warm-up to ``peak``, then constant or a half cosine down to 0."""
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    if config.schedule == "constant":
        return peak
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


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

    Writes ``out/checkpoint.pt``, ``out/log.jsonl`` and TensorBoard's events as it goes, at each validation and at the
    end ``out/NAME.safetensors``, the averaged weights in float16, and ``out/samples``.
    ``stop`` is asked after each step: when true, a checkpoint is written and the run ends; ``resume`` continues
    it as if it had never stopped. A loss that is not finite ends the run with the last good checkpoint kept.
    Under `accelerate launch` or `torchrun` every process takes its share of each batch, and the first one reports.
    """
    crew = Accelerator(cpu=device == "cpu")
    where = torch.device(device) if crew.num_processes == 1 else crew.device
    checkpoint, weights = out / "checkpoint.pt", out / f"{recipe.name}.safetensors"
    if resume and not checkpoint.exists():
        raise RobustSRError(f"nothing to resume: there is no {checkpoint}")
    if checkpoint.exists() and not resume:
        raise RobustSRError(f"{checkpoint} is there already: --resume continues it, another -o starts afresh")
    if recipe.data.batch % crew.num_processes:
        raise RobustSRError(f"data.batch {recipe.data.batch} cannot be shared by {crew.num_processes} processes evenly")

    config, scale = recipe.optimiser, recipe.generator.scale
    resized = own_scale(recipe.generator) != scale
    with crew.main_process_first():
        pairs = load_pairs(recipe.data, scale, resized=resized)
    state = State.fresh(recipe, where)
    if resume:
        state.restore(checkpoint, recipe, len(pairs))
    step_ = Step(recipe, state, where, crew)
    board = _board(out) if crew.is_main_process else None
    stream = Batches(pairs, recipe.data, scale, recipe.seed, resized).stream(state.step, config.steps)
    since, kept = time.perf_counter(), list[dict[str, Tensor]]()
    yield Progress(state.step, config.steps, {}, 0, message="\n".join([*pairs.skipped, f"{len(pairs)} pictures"]))

    for lr, hr in stream:
        kept.append(step_(lr, hr))
        state.step += 1
        done, stopped = state.step == config.steps, stop()
        save = done or stopped or state.step % recipe.checkpoint_every == 0
        check = done or state.step % recipe.validation.every == 0
        if save or check or state.step % every == 0:
            means = {k: float(crew.reduce(torch.stack([row[k] for row in kept]).mean(), "mean")) for k in kept[0]}
            rate = len(kept) / (time.perf_counter() - since)
            if not step_.healthy(lr if save else None, means):
                last = f"the last good state is {checkpoint}" if checkpoint.exists() else "no state was kept"
                raise RobustSRError(f"the run diverged by step {state.step} ({means}): lower optimiser.lr; {last}")
            measured: Measured = {}
            if crew.is_main_process:
                if save:
                    state.save(checkpoint, recipe, len(pairs))
                if check:
                    export(state.ema, weights, {"recipe": recipe.name, "steps": str(state.step)})
                    measured, samples = validate(recipe, weights, out / "validation", str(where))
                    grid = sheet(samples, out / "validation", out / "samples" / f"{state.step:07d}.png")
                    if board and grid:
                        board.add_image("samples", np.asarray(grid), state.step, dataformats="HWC")
                progress = Progress(state.step, config.steps, means, rate, measured)
                _log(progress, out, board)
                yield progress
            kept, since = [], time.perf_counter()
        if stopped:
            return


class Step:
    """One step of a recipe on a state: inputs, outputs, losses, both optimisers, the moving average."""

    def __init__(self, recipe: Recipe, state: State, device: torch.device, crew: Accelerator) -> None:
        self.recipe, self.state, self.device, self.crew = recipe, state, device, crew
        self.terms = Terms(recipe.loss)
        self.net: Forward = torch.compile(state.net) if recipe.compile else state.net
        judge = state.discriminator
        self.judge: nn.Module | None = torch.compile(judge) if recipe.compile and judge is not None else judge  # type: ignore[assignment]
        self.behind: Network | None = None  # what a denoiser is trained for
        if recipe.denoiser.objective in ("stability", "task"):
            behind = load(recipe.denoiser.model, device=str(device), precision="fp32")
            if not isinstance(behind, Network):
                raise RobustSRError(f"denoiser.model {recipe.denoiser.model!r} gives no gradients: name a checkpoint")
            self.behind = behind

    def __call__(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Takes uint8 ``lr (N, 3, p, p)`` and ``hr (N, 3, s*p, s*p)``; the losses, weighted, detached."""
        recipe, state = self.recipe, self.state
        for optimiser, peak in ((state.optimiser, recipe.optimiser.lr), (state.d_optimiser, recipe.discriminator.lr)):
            for group in optimiser.param_groups if optimiser else []:
                group["lr"] = learning_rate(recipe.optimiser, peak, state.step)
        seed = int(np.random.default_rng((recipe.seed, state.step, 1)).integers(1 << 62))
        noises = noisy(lr, recipe.inputs, torch.Generator().manual_seed(seed))  # of the whole batch: one for all
        lr, hr = self._unit(lr), self._unit(hr)
        noises = [self._share(noise, 1) for noise in noises]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            state.net.requires_grad_(False)  # an attack needs no gradient of the weights
            x = attacked(self._forward, lr, hr, noises, recipe.inputs, state.step, seed % (1 << 31))
            state.net.requires_grad_(True)
            target = self._target(lr, hr)
            outputs = smoothed_outputs(self._forward, x, noises)
            terms: dict[str, Tensor] = {}
            for sr in outputs:
                for name, value in self.terms(sr, target).items():
                    terms[name] = terms.get(name, 0) + value / len(outputs)
            if self.judge is not None and state.discriminator is not None:
                state.discriminator.requires_grad_(False)
                terms["gan"] = recipe.loss.gan * generator_gan(self.judge, outputs, target)
                state.discriminator.requires_grad_(True)
        self._descend(sum(terms.values(), target.new_zeros(())), state.optimiser)
        if self.judge is not None and state.d_optimiser is not None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                terms["discriminator"] = discriminator_gan(self.judge, outputs, target)
            self._descend(terms["discriminator"], state.d_optimiser)
        with torch.no_grad():  # a young average forgets faster, so that it does not carry the initial weights
            decay = min(recipe.optimiser.ema, (1 + state.step) / (10 + state.step))
            torch._foreach_lerp_(list(state.ema.parameters()), list(state.net.parameters()), 1 - decay)
            for mine, new in zip(state.ema.buffers(), state.net.buffers(), strict=True):
                mine.copy_(new)
        return {name: value.detach() for name, value in terms.items()}

    def healthy(self, lr: Tensor | None, means: dict[str, float]) -> bool:
        """Whether the losses are finite and, where ``lr`` is given, so is the output: the next step can start."""
        net = self.state.net.eval()  # batch norm would learn from another look
        with torch.no_grad():
            good = lr is None or bool(net(self._unit(lr)).isfinite().all())
        net.train()
        return good and all(math.isfinite(value) for value in means.values())

    def _forward(self, x: Tensor) -> Tensor:
        """What is trained, for attacks and losses alike: the network, or a denoiser before a fixed one."""
        y: Tensor = self.net(x)
        return self.behind(y.float()) if self.behind else y

    def _target(self, lr: Tensor, hr: Tensor) -> Tensor:
        objective = self.recipe.denoiser.objective
        if objective == "mse":
            return lr
        if objective == "stability" and self.behind:
            with torch.no_grad():
                return self.behind(lr)
        return hr

    def _descend(self, loss: Tensor, optimiser: torch.optim.Adam) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.crew.num_processes > 1:
            grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
            vector_to_parameters(self.crew.reduce(parameters_to_vector(grads), "mean"), grads)
        optimiser.step()

    def _unit(self, x: Tensor) -> Tensor:
        return self._share(x, 0).to(torch.float32, memory_format=torch.channels_last) / 255

    def _share(self, x: Tensor, dim: int) -> Tensor:
        mine: Tensor = x.chunk(self.crew.num_processes, dim)[self.crew.process_index]
        return mine.to(self.device)


def _log(progress: Progress, out: Path, board: Any) -> None:  # noqa: ANN401
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps(asdict(progress)) + "\n")
    if board:
        for name, value in progress.losses.items():
            board.add_scalar(f"loss/{name}", value, progress.step)
        board.add_scalar("rate", progress.rate, progress.step)
        for place, row in progress.measured.items():
            for name, value in row.items():
                board.add_scalar(f"{name}/{place}", value, progress.step)


def _board(out: Path) -> Any:  # noqa: ANN401 - tensorboard is optional and not typed
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
