"""The geometry of perturbations: norms, balls, random ones, and what of them a file of integers keeps."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]


def norms(delta: Tensor) -> dict[str, Tensor]:
    """Sizes of perturbations ``(N, 3, h, w)``, each ``(N,)``: linf, l2, and l2_rel = l2 / sqrt(3*h*w) (RMS)."""
    l2 = l2_length(delta)
    return {"linf": delta.abs().amax(dim=(1, 2, 3)), "l2": l2, "l2_rel": l2 / math.sqrt(delta[0].numel())}


def l2_length(delta: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3))
    return length


def project(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """The nearest perturbation with ``norm`` at most ``eps``."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    shrink: Tensor = (eps / l2_length(delta).clamp(min=1e-12)).clamp(max=1)
    return delta * shrink.view(-1, 1, 1, 1)


def steepest(gradient: Tensor, norm: Norm, seed: int) -> Tensor:
    """The direction of steepest ascent with norm 1; random where the gradient is zero and the norm L2."""
    if norm == "linf":
        return gradient.sign()
    length = l2_length(gradient).view(-1, 1, 1, 1)
    direction = gradient / length.clamp(min=1e-30)
    if bool((length == 0).any()):
        chance = normal(gradient, seed)
        direction = torch.where(length == 0, chance / l2_length(chance).view(-1, 1, 1, 1), direction)
    return direction


def normal(like: Tensor, seed: int) -> Tensor:
    """Standard normal numbers of ``like``'s shape, the same on every device, each sample from a seed of its own."""
    rows = [torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in range(len(like))]
    return torch.stack(rows).to(like)


def random_in_ball(x: Tensor, norm: Norm, eps: float, seed: int, mask: Tensor | None = None) -> Tensor:
    """Uniform in the ball: ``(N, 3, h, w)`` like ``x``; of the values where ``mask``, broadcastable to x, is 1."""
    allowed = torch.ones_like(x) if mask is None else mask.expand_as(x)
    gaussian = normal(x, seed)
    if norm == "linf":
        uniform: Tensor = torch.special.ndtr(gaussian)
        return (uniform * (2 * eps) - eps) * allowed
    gaussian, count = gaussian * allowed, allowed.sum((1, 2, 3), keepdim=True).clamp(min=1)
    radius: Tensor = torch.special.ndtr(normal(x[:, :1, :1, :1], seed + 500_009)) ** (1 / count)
    return eps * radius * gaussian / l2_length(gaussian).clamp(min=1e-30).view(-1, 1, 1, 1)


def random_noise(
    x: Tensor, size: float, norm: Norm, *, mask: Tensor | None = None, seed: int = 0, bits: int | None = None
) -> Tensor:
    """``x (N, 3, h, w)`` plus random noise of ``size`` in ``norm``, in [0, 1]: the baseline of every attack.

    Linf: random signs. L2: Gaussian, scaled so that after clipping its norm is ``size``, or the largest below. Nothing
    changes where ``mask`` (broadcastable to x, 0 or 1) is 0. ``bits``: x is in the levels of such a file, and so is
    the result, rounded without growing.
    """
    clean = x.cpu().double()  # there is no float64 on some devices
    chance = normal(x.cpu(), seed).double()
    chance = chance if mask is None else chance * mask.cpu()
    if norm == "linf":
        signs = (clean + size * chance.sign()).clamp(0, 1).to(x.dtype)
        return (signs if bits is None else rounded(x.cpu(), signs, bits=bits, norm=norm, eps=size)).to(x)

    def noisy(factor: Tensor) -> Tensor:
        made = (clean + factor.view(-1, 1, 1, 1) * chance).clamp(0, 1)
        return made if bits is None else (made * ((1 << bits) - 1)).round() / ((1 << bits) - 1)

    low = torch.zeros(len(x), dtype=torch.float64)
    high = low + 100  # beyond which everything is 0 or 1
    for _ in range(50):
        middle = (low + high) / 2
        fits = l2_length(noisy(middle) - clean) <= size * (1 + 1e-9)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return noisy(low).to(x)


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
        order = cost.argsort()[: int((difference != 0).sum())]
        chosen = order[: int((gain[order].cumsum(0) < excess).sum()) + 1]
        difference[chosen] -= difference[chosen].sign()
    return levels + difference.view_as(levels)
