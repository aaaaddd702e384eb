"""The work of `robustsr attack --universal`: one perturbation for many pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import attacks, losses, objectives, perturbations
from .attack import Attempt, File, Outcome, kept, watched
from .craft import attackable, check_budget
from .engine import buffers_kept
from .models import Loaded
from .ruler import Ruler, sizes
from .scene import Say, Scene, Shown, bicubic, from_pixels, smoothed
from .settings import Smoothing
from .threats import Threat
from .types import RobustSRError


@dataclass(frozen=True)
class Row:
    """What the perturbation does to one input: ``attempt``, named after the input, and random noise as large.

    ``outcomes`` of both, of each model, are measured against its own clean output.
    """

    scene: Scene
    attempt: Attempt
    noise: Attempt
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Universal:
    """One perturbation ``delta (1, 3, h, w)`` for many inputs; ``labels`` of the models it was measured on."""

    delta: Tensor
    curve: tuple[float, ...]
    threat: Threat
    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    ruler: Ruler
    seed: int


@buffers_kept()
def universal(
    scenes: Sequence[Scene],
    network: Loaded,
    threat: Threat,
    *,
    smoothing: Smoothing | None = None,
    adaptive: bool = False,
    seed: int = 0,
    file: File = kept,
    say: Say = lambda text: None,
    batch: int = 4,
) -> Universal:
    """One perturbation that makes the outputs for all ``scenes``, of one size, as bad as it can.

    Found by pgd against each clean output (or the scenes' common target); through fresh draws of the smoothed model
    where ``adaptive``. Measured on the plain and, with ``smoothing``, the smoothed model, and on bicubic.
    RobustSRError: another method than pgd, or a budget below one level of a file.
    """
    if threat.method != "pgd" or threat.restarts > 1:
        raise RobustSRError(f"a universal attack is --method pgd or pgd-l2, without restarts; got {threat.spec}")
    ruler = Ruler.best()
    plain = Shown(network.name, network)
    shown = [plain] if smoothing is None or smoothing.sigma == 0 else [plain, smoothed(network, smoothing)]
    shown += [one for one in bicubic(network.scale, str(network.device)) if one.network.digest != network.digest]
    what = f"universal attack on {network.name}"
    shipped: Any = attackable(watched(network, say, what), scenes[0].size, smoothing if adaptive else None)
    fresh = objectives.Fresh(shipped, threat.eot_iter, seed) if adaptive and smoothing is not None else None
    loss, target = losses.loss(threat.loss), scenes[0].target
    xs = torch.cat([s.x for s in scenes]).to(network.device)
    batches: list[tuple[Tensor, objectives.Objective]] = []
    scores: list[objectives.Objective] = []
    for part in torch.split(xs, batch):
        with torch.no_grad():
            reference = shipped(part) if target is None else target.to(part).expand(len(part), -1, -1, -1)
        targeted = target is not None
        batches.append((part, objectives.against(fresh or shipped, reference, loss, targeted=targeted)))
        if fresh:
            scores.append(objectives.against(fresh.fixed(), reference, loss, targeted=targeted))
    eps = threat.budget(xs)
    check_budget(threat, eps, min(one.bits for one in scenes))
    settings: dict[str, Any] = {"steps": threat.iterations, "step_size": threat.step_size, "norm": threat.norm}
    delta, curve = attacks.universal(batches, eps, seed=seed, scores=scores, **settings)
    delta = delta.detach().cpu()
    rows = []
    for i, one in enumerate(scenes):
        exact = (one.x + delta).clamp(0, 1)
        adv = file(one.name, perturbations.rounded(one.x, exact, bits=one.bits, norm=threat.norm, eps=eps))
        found = Attempt(one.name, adv, exact, sizes(one.x, adv))
        random = perturbations.random_noise(
            one.x, found.sizes[threat.norm], threat.norm, seed=seed + 1 + i, bits=one.bits
        )
        baseline = Attempt("random", random, random, sizes(one.x, random))
        outcomes = []
        for model in shown:
            say(f"measuring {model.label} on {one.name}")
            reference = from_pixels(model(one.x, one.bits))
            for name, x in (("random", random), ("universal", adv)):
                sr = model(x, one.bits)
                outcomes.append(Outcome(model.label, name, sr, ruler(sr, reference, one.scale, one.target)))
        rows.append(Row(one, found, baseline, tuple(outcomes)))
    labels = tuple(model.label for model in shown)
    return Universal(delta, tuple(curve), threat, tuple(rows), labels, ruler, seed)
