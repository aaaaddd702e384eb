"""What an attack maximises: the loss of an upscaler's output, smoothed or not, through fresh draws or its own.

An objective takes inputs ``(N, 3, h, w)`` to one loss per sample ``(N,)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .losses import Loss
from .smoothing import Smoothed
from .types import Upscaler, Wrapper

Objective = Callable[[Tensor], Tensor]


def against(upscaler: Upscaler, reference: Tensor, loss: Loss, *, targeted: bool = False) -> Objective:
    """The loss of ``upscaler``'s output against ``reference (N, 3, s*h, s*w)``; targeted: how near it comes to it."""
    sign = -1 if targeted else 1
    return lambda x: sign * loss(upscaler(x), reference)


@dataclass(frozen=True)
class Fresh(Wrapper):
    """A smoothed upscaler with new independent draws at every call: expectation over transformation (EOT).

    Athalye et al. 2018, for the randomness of `Smoothed`. ``samples``: draws per call.
    """

    inner: Smoothed
    samples: int
    seed: int
    calls: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def draw(self) -> Smoothed:
        """The smoothed upscaler of this call."""
        return self._with(next(self.calls))

    def fixed(self) -> Smoothed:
        """One with draws of its own, always the same: to compare iterates by, which chance must not decide."""
        return self._with(0)

    def _with(self, number: int) -> Smoothed:
        seed = self.seed * 1_000_003 + number + (1 << 40)  # far from the seeds of anything shipped
        return replace(self.inner, samples=self.samples, draws="independent", seed=seed)

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        return self.draw()(x, origin=origin)


def mean_of_losses(smoothed: Smoothed | Fresh, reference: Tensor, loss: Loss) -> Objective:
    """The mean over draws of each draw's loss: smoother to climb than the loss of the median (Salman et al. 2019)."""

    def objective(x: Tensor) -> Tensor:
        now = smoothed.draw() if isinstance(smoothed, Fresh) else smoothed
        losses = [loss(sr, reference.repeat(len(sr) // len(x), 1, 1, 1)).view(-1, len(x)) for sr in now.outputs(x)]
        return torch.cat(losses).mean(0)

    return objective


@dataclass(frozen=True)
class Checkpointed(Wrapper):
    """Forgets the activations inside a call and computes them again for the gradient: less memory, a third slower."""

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.inner(x, origin=origin)
        result: Tensor = checkpoint(lambda z: self.inner(z, origin=origin), x, use_reentrant=False)
        return result
