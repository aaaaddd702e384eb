"""Adversarial attacks on upscalers: small changes of the input that make the output as bad as they can.

An attack maximises one of `robustsr.objectives`. Everything runs in the dtype and on the device of ``x``, is
deterministic in ``seed`` (sample i uses ``seed + i``, whatever the batch), and stays in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from .objectives import Objective
from .perturbations import Norm, normal, project, random_in_ball, steepest
from .types import RobustSRError


@dataclass(frozen=True)
class Attacked:
    """What an attack found: ``adv (N, 3, h, w)`` in [0, 1], its ``loss (N,)``, and ``curve``, a ``(N,)`` per step.

    The curve holds the objective of every iterate in turn (of the first restart), the clean input first.
    """

    adv: Tensor
    loss: Tensor
    curve: list[Tensor]


class Ascent(TypedDict, total=False):
    """The options that `fgsm`, `bim` and `pgd` pass on to `ascend`."""

    restarts: int
    mask: Tensor | None
    seed: int
    score: Objective | None
    clip: bool


class CW(TypedDict, total=False):
    """The options that `cw_search` passes on to `cw`."""

    values: int
    steps: int
    lr: float
    squared: bool
    start: float
    mask: Tensor | None
    seed: int
    score: Objective | None


def fgsm(x: Tensor, objective: Objective, eps: float, *, start: float = 0, **options: Unpack[Ascent]) -> Attacked:
    """One step of size ``eps`` along the gradient's sign (Goodfellow et al. 2015; CertSR eq. 1)."""
    return ascend(x, objective, eps, eps, 1, start=start, **options)


def bim(
    x: Tensor, objective: Objective, eps: float, steps: int = 10, *, start: float = 0, **options: Unpack[Ascent]
) -> Attacked:
    """``steps`` sign steps of ``eps / steps`` (Kurakin et al. 2017; CertSR 3.1)."""
    return ascend(x, objective, eps, eps / steps, steps, start=start, **options)


def pgd(
    x: Tensor,
    objective: Objective,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    *,
    start: float = 1,
    **options: Unpack[Ascent],
) -> Attacked:
    """Projected gradient ascent from a uniform random start (Madry et al. 2018; thesis A.15 with ``norm="l2"``).

    ``step_size``: eps/4 if omitted, as the thesis evaluates.
    """
    step_size = eps / 4 if step_size is None else step_size
    return ascend(x, objective, eps, step_size, steps, norm=norm, start=start, **options)


def ascend(
    x: Tensor,
    objective: Objective,
    eps: float,
    step_size: float,
    steps: int,
    *,
    norm: Norm = "linf",
    start: float = 0,
    restarts: int = 1,
    mask: Tensor | None = None,
    seed: int = 0,
    score: Objective | None = None,
    clip: bool = True,
) -> Attacked:
    """Steps of ``step_size`` up the objective inside the ball ``eps`` around ``x (N, 3, h, w)``; the best iterate.

    ``start``: size of the uniform random start, as a fraction of the ball. ``restarts``: that many runs, the best per
    sample. ``mask`` (broadcastable to x, 0 or 1): only there may x change. ``score``: what iterates are compared by,
    where the objective draws anew at every call and the luckiest draw would win; the objective itself if omitted.
    ``clip``: to [0, 1], at every step. The result is never worse than ``x`` itself.
    """
    if not eps >= 0 or steps < 1 or restarts < 1:
        raise RobustSRError(f"eps must be at least 0, steps and restarts at least 1; got {eps}, {steps}, {restarts}")
    allowed = torch.ones_like(x[:1, :1]) if mask is None else mask.to(x)
    judge = score or objective
    with torch.no_grad():
        best_loss = judge(x)
    best, curve = x.clone(), [best_loss]

    def keep(z: Tensor, value: Tensor) -> None:
        nonlocal best, best_loss
        better = (value > best_loss).view(-1, 1, 1, 1)
        best, best_loss = torch.where(better, z, best), torch.maximum(value, best_loss)

    for restart in range(restarts):
        base = seed + 1_000_003 * restart
        z = x
        if start > 0 or restart > 0:
            first = random_in_ball(x, norm, eps * (start or 1), base, allowed)
            z = _confined(x, first, norm, eps, clip)
        for number in range(steps):
            value, gradient = _gradient(objective, z)
            with torch.no_grad():
                value = judge(z) if score else value.detach()
            keep(z, value)
            if restart == 0 and (number > 0 or start > 0):
                curve.append(value)
            step = steepest(gradient * allowed, norm, base + number + 1) * allowed
            z = _confined(x, z + step_size * step - x, norm, eps, clip)
        with torch.no_grad():
            value = judge(z)
        keep(z, value)
        if restart == 0:
            curve.append(value)
    return Attacked(best, best_loss, curve)


def _confined(x: Tensor, delta: Tensor, norm: Norm, eps: float, clip: bool) -> Tensor:
    """x + delta in the ball and, with ``clip``, in [0, 1]: that moves every value towards x, so it leaves no ball."""
    moved = x + project(delta, norm, eps)
    return moved.clamp(0, 1) if clip else moved


def _gradient(objective: Objective, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        value = objective(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value, gradient


def cw(
    x: Tensor,
    objective: Objective,
    *,
    values: int,
    c: float = 0.01,
    steps: int = 6,
    lr: float = 1e-2,
    squared: bool = False,
    start: float = 0,
    mask: Tensor | None = None,
    seed: int = 0,
    score: Objective | None = None,
) -> Attacked:
    """Carlini and Wagner's attack for pictures: Adam on J = |delta|_2 - c L, delta = (tanh w + 1)/2 - x (CertSR eq. 2).

    L is the objective times ``values``, the number of HR values of a sample: the loss summed over pixels, for with a
    mean and c = .01 the attack does nothing. There is no ball. The iterate with the lowest J is kept, so L never falls
    below its start; ``score`` as in `ascend`. ``squared``: |delta|^2. ``start``: std of the noise on w, needed where
    the reference is the clean output: there the gradient is zero. Values at exactly 0 or 1 hardly move in this
    parametrisation.
    """
    allowed = torch.ones_like(x[:1, :1]) if mask is None else mask.to(x)
    w = torch.atanh((2 * x.detach() - 1) * 0.999999)
    w = (w + start * normal(w, seed) if start else w).requires_grad_(True)
    adam = torch.optim.Adam([w], lr=lr)
    with torch.no_grad():
        clean = (score or objective)(x)
    best, best_loss, best_j = x.clone(), clean, -c * values * clean
    curve = [clean]
    for number in range(steps + 1):
        with torch.enable_grad():
            adv = x + allowed * ((w.tanh() + 1) / 2 - x)
            distance = (adv - x).square().sum(dim=(1, 2, 3))
            if not squared:
                distance = (distance + 1e-12).sqrt()  # the norm has no gradient at 0
            value = objective(adv)
            j = distance - c * values * value
            if number < steps:
                (w.grad,) = torch.autograd.grad(j.sum(), w)
        adv = adv.detach()
        with torch.no_grad():
            value = score(adv) if score else value.detach()
            j = distance.detach() - c * values * value
        best = torch.where((j < best_j).view(-1, 1, 1, 1), adv.clamp(0, 1), best)
        best_loss, best_j = torch.where(j < best_j, value, best_loss), torch.minimum(j, best_j)
        curve.append(value)
        adam.step()
    return Attacked(best, best_loss, curve)


def cw_search(
    x: Tensor,
    objective: Objective,
    reached: Callable[[Tensor], bool],
    *,
    rounds: int = 10,
    c: float = 0.01,
    **options: Unpack[CW],
) -> tuple[Attacked, float]:
    """The smallest c within a factor of 10,000 of ``c`` for which ``reached(adv)`` holds, and what `cw` finds there.

    ``rounds`` of bisection on a logarithmic scale; as many then shorten the change to what reaches it just so, for a
    few steps of Adam are no smaller for a smaller c. ``x``: one picture. RobustSRError: no c that was tried reaches it.
    """
    low, high, found = c * 1e-4, c * 1e4, None
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        result = cw(x, objective, c=middle, **options)
        if reached(result.adv):
            high, found = middle, (result, middle)
        else:
            low = middle
    if found is None:
        raise RobustSRError("the drop cannot be reached: take more --steps, or ask for a smaller one")
    result, c = found
    short, long = 0.0, 1.0
    for _ in range(rounds):
        share = (short + long) / 2
        short, long = (short, share) if reached(x + share * (result.adv - x)) else (share, long)
    adv = x + long * (result.adv - x)
    with torch.no_grad():
        value = (options.get("score") or objective)(adv)
    return replace(result, adv=adv, loss=value), c


def universal(
    batches: list[tuple[Tensor, Objective]],
    eps: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    seed: int = 0,
    scores: list[Objective] | None = None,
) -> tuple[Tensor, list[float]]:
    """One perturbation ``(1, 3, h, w)`` for all pictures (Moosavi-Dezfooli et al. 2017), and the mean loss per step.

    ``batches``: pairs of inputs ``(N, 3, h, w)`` and the objective on them; each picture gets clip01(x + delta).
    ``scores``: for each batch, what iterates are compared by, as ``score`` of `ascend`.
    """
    like, count = batches[0][0][:1], sum(len(x) for x, _ in batches)
    step_size = eps / 4 if step_size is None else step_size
    delta = random_in_ball(like, norm, eps, seed)
    best, best_value, curve = delta, -math.inf, []
    for number in range(steps + 1):
        value, gradient = 0.0, torch.zeros_like(delta)
        for i, (x, objective) in enumerate(batches):
            losses, g = _gradient(lambda d, x=x, objective=objective: objective((x + d).clamp(0, 1)), delta)  # type: ignore[misc]
            if scores:
                with torch.no_grad():
                    losses = scores[i]((x + delta).clamp(0, 1))
            value, gradient = value + float(losses.detach().sum()) / count, gradient + g
        curve.append(value)
        if value > best_value:
            best, best_value = delta, value
        if number < steps:
            delta = project(delta + step_size * steepest(gradient, norm, seed + number + 1), norm, eps).detach()
    return best, curve
