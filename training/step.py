"""One step of training: inputs, outputs, losses, both optimisers, the moving average."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from robustsr import kernels
from robustsr.engine import auto_precision, memory_format
from robustsr.models import Loaded, load
from robustsr.network import Network
from robustsr.types import RobustSRError
from robustsr.winograd import FastConvolutions

from .checkpoint import State
from .networks import own_scale
from .objectives import (
    Forward,
    Terms,
    adversary,
    attacked,
    discriminator_gan,
    generator_gan,
    noisy,
    sharpened,
    smoothed_outputs,
)
from .recipe import TRUTH, Optimiser, Recipe


def learning_rate(config: Optimiser, peak: float, step: int) -> float:
    """The rate of step ``step`` (from 0): linear warm-up to ``peak``, then constant or a half cosine down to 0."""
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    if config.schedule == "constant":
        return peak
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


@cache
def compiles(device: torch.device) -> bool:
    """Whether torch can compile for ``device`` here: that takes a C++ compiler, on GPUs Triton and a C compiler."""
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except Exception:  # a different kind for everything that can be missing
        return False
    return True


def frozen(recipe: Recipe, device: torch.device) -> Network | None:
    """The network behind a denoiser in training; None: it is not asked for. RobustSRError: it has no gradients."""
    if recipe.denoiser.objective not in ("stability", "task"):
        return None
    behind = load(recipe.denoiser.model, device=str(device), precision="fp32")
    if not isinstance(behind, Network):
        raise RobustSRError(f"denoiser.model {recipe.denoiser.model!r} gives no gradients: name a checkpoint")
    return behind


def teacher(recipe: Recipe, key: str, device: torch.device) -> Loaded | None:
    """The model under ``loss.key`` whose outputs are the target; None: HR is. RobustSRError: it is of another scale."""
    name = getattr(recipe.loss, key)
    if name in ("", TRUTH):
        return None
    model, scale = load(name, device=str(device), precision="fp32"), own_scale(recipe.generator)
    if model.scale != scale:
        raise RobustSRError(f"loss.{key} {model.name!r} is x{model.scale}, the recipe's network x{scale}")
    return model


class Step:
    """One step of a recipe on a state, of which each process of ``crew`` computes its share of the batch.

    Gradients and the buffers of batch norm are averaged over processes, so that a step is that of one process, but for
    what looks at several patches at once: batch norm and RaGAN's mean of logits are those of a process' own share.
    """

    def __init__(self, recipe: Recipe, state: State, device: torch.device, crew: Accelerator) -> None:
        self.recipe, self.state, self.device, self.crew = recipe, state, device, crew
        self.terms, self.behind = Terms(recipe.loss), frozen(recipe, device)
        self.teacher, self.heavy = (teacher(recipe, key, device) for key in ("teacher", "heavy"))
        self.adversary = adversary(recipe.inputs)
        fastest = auto_precision(device, winograd=kernels.available())
        self.bf16 = (fastest if recipe.precision == "auto" else recipe.precision) == "bf16"
        fast = device.type == "cpu" and not self.bf16 and kernels.available()
        self.eager = recipe.compile and not fast and not compiles(device)  # though it was to be compiled
        compiled = recipe.compile and not fast and not self.eager  # fast leaves no convolution to FastConvolutions
        self.net: Forward = torch.compile(state.net) if compiled else state.net
        judge = state.discriminator
        self.judge: nn.Module | None = torch.compile(judge) if compiled and judge is not None else judge  # type: ignore[assignment]
        self.mode = FastConvolutions() if fast else nullcontext()
        self._norms = [m for m in state.net.modules() if isinstance(m, nn.BatchNorm2d)]
        if recipe.generator.fixed_norm and not self._norms:
            raise RobustSRError("generator.fixed_norm: the network has no batch norm")
        self._learn()

    def __call__(self, lr: Tensor, hr: Tensor, heavy: Tensor) -> dict[str, Tensor]:
        """Takes a batch (`data.Batches`); the losses, weighted, detached."""
        with self.mode:
            return self._step(lr, hr, heavy)

    def _step(self, lr: Tensor, hr: Tensor, heavy: Tensor) -> dict[str, Tensor]:
        recipe, state = self.recipe, self.state
        for optimiser, peak in ((state.optimiser, recipe.optimiser.lr), (state.d_optimiser, recipe.discriminator.lr)):
            for group in optimiser.param_groups if optimiser else []:
                group["lr"] = learning_rate(recipe.optimiser, peak, state.step)
        seed, attack_seed = self._seed(1, 1 << 62), self._seed(2, 1 << 31)
        noises = noisy(lr, recipe.inputs, torch.Generator().manual_seed(seed))  # of the whole batch: one for all
        noises = [self._share(noise, 1) for noise in noises]
        lr, hr = self._unit(lr), self._unit(hr)
        with self._autocast():
            target = self._target(lr, hr, self._share(heavy, 0))
            x = self._attacked(lr, target, noises, attack_seed)
            outputs = smoothed_outputs(self._forward, x, noises)
            terms = self._terms(outputs, target)
        self._descend(sum(terms.values(), target.new_zeros(())), state.optimiser)
        if self.judge is not None and state.d_optimiser is not None:
            with self._autocast():
                terms["discriminator"] = discriminator_gan(self.judge, outputs, target)
            self._descend(terms["discriminator"], state.d_optimiser)
        for net in (state.net, state.discriminator):
            self._agree([b for b in net.buffers() if b.is_floating_point()] if net else [])
        self._average()
        return {name: value.detach() for name, value in terms.items()}

    def _seed(self, purpose: int, most: int) -> int:
        """That of this step, of a stream for each purpose: equal seeds would make an attack start at the noise."""
        return int(np.random.default_rng((self.recipe.seed, self.state.step, purpose)).integers(most))

    def healthy(self, lr: Tensor | None, means: dict[str, float]) -> bool:
        """Whether the losses are finite and, where ``lr`` is given, so are the whole state and the output.

        The next step can then start.
        """
        net = self.state.net.eval()  # batch norm would learn from another look
        with torch.no_grad():
            good = lr is None or (self.state.finite() and bool(net(self._unit(lr)).isfinite().all()))
        self._learn()
        return good and all(math.isfinite(value) for value in means.values())

    def _learn(self) -> None:
        """Puts the network into its mode for training, batch norm too unless the recipe keeps its statistics."""
        self.state.net.train()
        for norm in self._norms:
            norm.train(not self.recipe.generator.fixed_norm)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _forward(self, x: Tensor) -> Tensor:
        """What is trained, for attacks and losses alike: the network, or a denoiser before a fixed one."""
        y: Tensor = self.net(x)
        return self.behind(y.float()) if self.behind else y

    def _target(self, lr: Tensor, hr: Tensor, heavy: Tensor) -> Tensor:
        objective = self.recipe.denoiser.objective
        if objective == "mse":
            return lr
        if objective == "stability" and self.behind:
            with torch.no_grad():
                return self.behind(lr)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            target = self.teacher(lr).clamp(0, 1) if self.teacher else hr
            if self.recipe.loss.heavy and heavy.any():
                target = target.clone()
                target[heavy] = self.heavy(lr[heavy]).clamp(0, 1) if self.heavy else hr[heavy]
            return sharpened(target, self.recipe.loss.sharpen) if self.recipe.loss.sharpen else target

    def _attacked(self, lr: Tensor, target: Tensor, noises: list[Tensor], seed: int) -> Tensor:
        """The attack needs no gradient of the weights, and sees batch norm as it will be."""
        first = self.crew.process_index * len(lr)  # sample i of an attack has the seed plus i
        count = self.adversary.count(self.crew.num_processes * len(lr), first) if self.adversary else 0
        if not self.adversary or not count:
            return lr
        net, mine = self.state.net.requires_grad_(False).eval(), [noise[:, :count] for noise in noises]
        step = self.state.step
        x = attacked(self._forward, lr[:count], target[:count], mine, self.adversary, step, seed + first)
        net.requires_grad_(True)
        self._learn()
        return torch.cat([x, lr[count:]])

    def _terms(self, outputs: list[Tensor], target: Tensor) -> dict[str, Tensor]:
        """The generator's weighted losses, means over sigmas."""
        terms: dict[str, Tensor] = {}
        for sr in outputs:
            for name, value in self.terms(sr, target).items():
                terms[name] = terms.get(name, 0) + value / len(outputs)
        judge = self.state.discriminator
        if self.judge is not None and judge is not None:
            judge.requires_grad_(False)
            terms["gan"] = self.recipe.loss.gan * generator_gan(self.judge, outputs, target)
            judge.requires_grad_(True)
        return terms

    def _descend(self, loss: Tensor, optimiser: Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._agree([p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None])
        optimiser.step()

    @torch.no_grad()
    def _agree(self, mine: list[Tensor]) -> None:
        """Each tensor becomes its mean over processes."""
        if self.crew.num_processes == 1 or not mine:
            return
        means = self.crew.reduce(torch.cat([tensor.reshape(-1) for tensor in mine]), "mean")
        for tensor, mean in zip(mine, means.split([tensor.numel() for tensor in mine]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    @torch.no_grad()
    def _average(self) -> None:
        """A young average forgets faster, so that it does not carry the initial weights."""
        net, ema, step = self.state.net, self.state.ema, self.state.step
        decay = min(self.recipe.optimiser.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)
        for mine, new in zip(ema.buffers(), net.buffers(), strict=True):
            mine.copy_(new)

    def _unit(self, x: Tensor) -> Tensor:
        return self._share(x, 0).to(torch.float32, memory_format=memory_format(self.device)) / 255

    def _share(self, x: Tensor, dim: int) -> Tensor:
        mine: Tensor = x.chunk(self.crew.num_processes, dim)[self.crew.process_index]
        return mine.to(self.device)
