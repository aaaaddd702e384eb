"""Adversarial attacks on upscalers: small changes of the input that make the output as bad as they can.

An attack maximises an objective, a function of inputs ``(N, 3, h, w)`` to one loss per sample ``(N,)``; `against`
makes one from any upscaler, smoothed or not. Everything runs in the dtype and on the device of ``x``, is
deterministic in ``seed`` (sample i uses ``seed + i``, whatever the batch), and stays in [0, 1].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .losses import Loss
from .smoothing import Smoothed
from .types import RobustSRError, Upscaler, Wrapper

Norm = Literal["linf", "l2"]
Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attacked:
    """What an attack found: ``adv (N, 3, h, w)`` in [0, 1], its ``loss (N,)``, and ``curve``, a ``(N,)`` per step.

    The curve holds the objective of every iterate in turn (of the first restart), the clean input first; for `cw`
    the value J that it minimises is in ``j`` likewise.
    """

    adv: Tensor
    loss: Tensor
    curve: list[Tensor]
    j: list[Tensor] | None = None


# --- objectives ---


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


# --- norms ---


def norms(delta: Tensor) -> dict[str, Tensor]:
    """Sizes of perturbations ``(N, 3, h, w)``, each ``(N,)``: linf, l2, and l2_rel = l2 / sqrt(3*h*w) (RMS)."""
    l2 = _l2(delta)
    return {"linf": delta.abs().amax(dim=(1, 2, 3)), "l2": l2, "l2_rel": l2 / math.sqrt(delta[0].numel())}


def _l2(delta: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3))
    return length


def project(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """The nearest perturbation with ``norm`` at most ``eps``."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    shrink: Tensor = (eps / _l2(delta).clamp(min=1e-12)).clamp(max=1)
    return delta * shrink.view(-1, 1, 1, 1)


def _step(gradient: Tensor, norm: Norm, seed: int) -> Tensor:
    """The direction of steepest ascent with norm 1; random where the gradient is zero and the norm L2."""
    if norm == "linf":
        return gradient.sign()
    length = _l2(gradient).view(-1, 1, 1, 1)
    direction = gradient / length.clamp(min=1e-30)
    if bool((length == 0).any()):
        chance = _normal(gradient, seed)
        direction = torch.where(length == 0, chance / _l2(chance).view(-1, 1, 1, 1), direction)
    return direction


def _normal(like: Tensor, seed: int) -> Tensor:
    """Standard normal numbers of ``like``'s shape, the same on every device, each sample from a seed of its own."""
    rows = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in range(len(like))]
    return torch.stack(rows).to(like)


def random_in_ball(x: Tensor, norm: Norm, eps: float, seed: int) -> Tensor:
    """Uniform in the ball: ``(N, 3, h, w)`` like ``x``."""
    normal = _normal(x, seed)
    if norm == "linf":
        uniform: Tensor = torch.special.ndtr(normal)
        return uniform * (2 * eps) - eps
    d = x[0].numel()
    radius: Tensor = torch.special.ndtr(_normal(x[:, :1, :1, :1], seed + 500_009)) ** (1 / d)
    return eps * radius * normal / _l2(normal).view(-1, 1, 1, 1)


def random_noise(
    x: Tensor, size: float, norm: Norm, *, mask: Tensor | None = None, seed: int = 0, bits: int | None = None
) -> Tensor:
    """``x (N, 3, h, w)`` plus random noise of ``size`` in ``norm``, in [0, 1]: the baseline of every attack.

    Linf: random signs. L2: Gaussian, scaled so that after clipping its norm is ``size``, or the largest below. Nothing
    changes where ``mask`` (broadcastable to x, 0 or 1) is 0. ``bits``: x is in the levels of such a file, and so is
    the result, rounded without growing.
    """
    clean = x.cpu().double()  # there is no float64 on some devices
    chance = _normal(x.cpu(), seed).double()
    chance = chance if mask is None else chance * mask.cpu()
    if norm == "linf":
        signs = (clean + size * chance.sign()).clamp(0, 1).to(x)
        return signs if bits is None else rounded(x, signs, bits=bits, norm=norm, eps=size)

    def noisy(factor: Tensor) -> Tensor:
        made = (clean + factor.view(-1, 1, 1, 1) * chance).clamp(0, 1)
        return made if bits is None else (made * ((1 << bits) - 1)).round() / ((1 << bits) - 1)

    low = torch.zeros(len(x), dtype=torch.float64)
    high = low + 100  # beyond which everything is 0 or 1
    for _ in range(50):
        middle = (low + high) / 2
        fits = _l2(noisy(middle) - clean) <= size * (1 + 1e-9)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return noisy(low).to(x)


# --- attacks ---


class Ascent(TypedDict, total=False):
    """The options that `fgsm`, `bim` and `pgd` pass on to `ascend`."""

    restarts: int
    mask: Tensor | None
    goal: float
    seed: int
    score: Objective | None


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

    ``step_size``: eps/4 if omitted, the choice of both seeds' evaluations.
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
    goal: float = math.inf,
    seed: int = 0,
    score: Objective | None = None,
) -> Attacked:
    """Steps of ``step_size`` up the objective inside the ball ``eps`` around ``x (N, 3, h, w)``; the best iterate.

    ``start``: size of the uniform random start, as a fraction of the ball. ``restarts``: that many runs, the best per
    sample. ``mask`` (broadcastable to x, 0 or 1): only there may x change. ``goal``: a sample whose objective reaches
    it is left alone from then on. ``score``: what iterates are compared by, where the objective draws anew at every
    call and the luckiest draw would win; the objective itself if omitted. The result is never worse than ``x`` itself.
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
            z = _confined(x, random_in_ball(x * allowed, norm, eps * (start or 1), base) * allowed, norm, eps)
        for number in range(steps):
            value, gradient = _gradient(objective, z)
            with torch.no_grad():
                value = judge(z) if score else value.detach()
            keep(z, value)
            if restart == 0 and (number > 0 or start > 0):
                curve.append(value)
            if bool((best_loss >= goal).all()):
                break
            step = _step(gradient * allowed, norm, base + number + 1) * allowed
            moved = _confined(x, z + step_size * step - x, norm, eps)
            z = torch.where((best_loss >= goal).view(-1, 1, 1, 1), z, moved)
        with torch.no_grad():
            value = judge(z)
        keep(z, value)
        if restart == 0:
            curve.append(value)
    return Attacked(best, best_loss, curve)


def _confined(x: Tensor, delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """x + delta in the ball and in [0, 1]: clipping moves every value towards x, so it leaves no ball."""
    return (x + project(delta, norm, eps)).clamp(0, 1)


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
    w = (w + start * _normal(w, seed) if start else w).requires_grad_(True)
    adam = torch.optim.Adam([w], lr=lr)
    with torch.no_grad():
        clean = (score or objective)(x)
    best, best_loss, best_j = x.clone(), clean, -c * values * clean
    curve, js = [clean], [best_j]
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
        js.append(j)
        adam.step()
    return Attacked(best, best_loss, curve, js)


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

    ``rounds`` of bisection on a logarithmic scale. RobustSRError: no c that was tried reaches it.
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
        raise RobustSRError("the target cannot be reached: take more --steps, or ask for a smaller drop")
    return found


def universal(
    batches: list[tuple[Tensor, Objective]],
    eps: float,
    *,
    steps: int = 10,
    step_size: float | None = None,
    norm: Norm = "linf",
    seed: int = 0,
) -> tuple[Tensor, list[float]]:
    """One perturbation ``(1, 3, h, w)`` for all pictures (Moosavi-Dezfooli et al. 2017), and the mean loss per step.

    ``batches``: pairs of inputs ``(N, 3, h, w)`` and the objective on them; each picture gets clip01(x + delta).
    """
    like, count = batches[0][0][:1], sum(len(x) for x, _ in batches)
    step_size = eps / 4 if step_size is None else step_size
    delta = random_in_ball(like, norm, eps, seed)
    best, best_value, curve = delta, -math.inf, []
    for number in range(steps + 1):
        value, gradient = 0.0, torch.zeros_like(delta)
        for x, objective in batches:
            losses, g = _gradient(lambda d, x=x, objective=objective: objective((x + d).clamp(0, 1)), delta)  # type: ignore[misc]
            value, gradient = value + float(losses.detach().sum()) / count, gradient + g
        curve.append(value)
        if value > best_value:
            best, best_value = delta, value
        if number < steps:
            delta = project(delta + step_size * _step(gradient, norm, seed + number + 1), norm, eps).detach()
    return best, curve


# --- files ---


def rounded(x: Tensor, adv: Tensor, *, bits: int = 8, norm: Norm | None = None, eps: float = math.inf) -> Tensor:
    """``adv`` in the levels of an integer file, still inside the ball around ``x``, whose values are such levels.

    Linf: rounded towards x, so that no difference grows. L2: rounded to the nearest, then the values whose return
    towards x costs least are moved back until the norm is at most ``eps`` (towards x everywhere keeps only half of a
    small norm). Without a norm: to the nearest. ``x, adv (N, 3, h, w)`` in [0, 1].
    """
    top = (1 << bits) - 1
    levels = (x.double() * top).round()
    exact = adv.double() * top
    if norm == "linf":
        difference = exact - levels
        limit = math.floor(eps * top * (1 + 1e-6)) if math.isfinite(eps) else top
        whole = (difference.abs() + 1e-3).floor().clamp(max=limit)  # what float32 left of a whole level is one
        return ((levels + difference.sign() * whole) / top).to(x)
    made = exact.round().clamp(0, top)
    if norm == "l2":
        for i in range(len(x)):
            made[i] = _shrunk(levels[i], made[i], exact[i], eps * top)
    return (made / top).to(x)


def _shrunk(levels: Tensor, made: Tensor, exact: Tensor, eps: float) -> Tensor:
    """Moves single values of ``made`` one level towards ``levels`` until the distance is at most ``eps`` levels."""
    difference = (made - levels).flatten()
    wanted = (exact - levels).flatten()
    while (excess := float(difference.square().sum()) - eps**2) > 0:
        gain = 2 * difference.abs() - 1  # what one step back takes off the squared norm
        # cheapest: those that rounding moved away furthest, for what they take off
        error = (difference - difference.sign() - wanted).abs() - (difference - wanted).abs()
        cost = torch.where(difference != 0, error / gain.clamp(min=1), torch.inf)
        order = cost.argsort()
        taken = int((gain[order].cumsum(0) < excess).sum()) + 1
        taken = min(taken, max(1, int((difference != 0).sum())))
        chosen = order[:taken]
        difference[chosen] -= difference[chosen].sign()
    return levels + difference.view_as(levels)
