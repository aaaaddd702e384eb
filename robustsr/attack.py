"""The work of `robustsr attack`: adversarial inputs for a scene, and what they, and noise as large, do to models."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import perturbations
from .craft import craft
from .models import Loaded
from .network import Network
from .plan import pixels_per_second
from .ruler import Measures, Ruler, sizes
from .scene import Pixels, Say, Scene, Shown, from_pixels, smoothed
from .settings import Smoothing
from .threats import VARIANTS, Threat, Variant

File = Callable[[str, Tensor], Tensor]  # stores an input (1, 3, h, w) under a name, and reads it back


# --- what an attack finds ---


@dataclass(frozen=True)
class Attempt:
    """An adversarial input: ``adv (1, 3, h, w)`` as its file holds it, ``exact`` before it was rounded."""

    name: str  # one of VARIANTS, "random", or of a universal attack the input
    adv: Tensor
    exact: Tensor
    sizes: dict[str, float]
    curve: tuple[float, ...] = ()  # the objective, step by step
    c: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a model made of an input ("clean", "random" or a variant)."""

    label: str
    input: str
    sr: Pixels
    measures: Measures


@dataclass(frozen=True)
class Result:
    """What an attack did. ``worst``: the name of the strongest attempt against ``victim``, a label of `Shown`."""

    scene: Scene
    threat: Threat
    victim: str
    attempts: tuple[Attempt, ...]
    noise: Attempt
    worst: str
    outcomes: tuple[Outcome, ...]
    ruler: Ruler
    seed: int
    weights: dict[str, str]  # SHA-256 by label

    @property
    def strongest(self) -> Attempt:
        return next(a for a in self.attempts if a.name == self.worst)

    @property
    def labels(self) -> list[str]:
        """The models, in the order of the table."""
        return list(dict.fromkeys(o.label for o in self.outcomes))

    def outcome(self, label: str, name: str) -> Outcome:
        return next(o for o in self.outcomes if (o.label, o.input) == (label, name))


# --- attacking ---


def kept(name: str, x: Tensor) -> Tensor:
    """A `File` that writes nothing: the input stays in memory as it is."""
    return x


def run(
    scene: Scene,
    network: Loaded,
    threat: Threat,
    *,
    variants: Sequence[Variant] = ("base",),
    smoothing: Smoothing | None = None,
    others: Sequence[Shown] = (),
    seed: int = 0,
    file: File = kept,
    say: Say = lambda text: None,
) -> Result:
    """Attacks the scene's input through ``network`` and measures what comes out of it, of it smoothed, and of others.

    The reference is the target, else the ground truth, else the model's own clean output. The attacked model is the
    smoothed one where ``variants`` has an adaptive one; all of these are measured on it and on the plain one, others
    get the strongest. Beside them: random noise as large. ``file``: where inputs go and are read back from. ``say``:
    told what begins.
    """
    ruler = Ruler.best()
    shown = [Shown(network.name, network)]
    if smoothing is not None and smoothing.sigma > 0:
        shown.append(smoothed(network, smoothing))
    victim = shown[-1] if any(v != "base" for v in variants) else shown[0]
    own, measured = len(shown), [*shown, *others]
    outcomes: list[Outcome] = []
    clean: dict[str, Tensor] = {}

    def look(one: Shown, name: str, x: Tensor) -> None:
        say(f"measuring {one.label} on {name}")
        sr = one(x, scene.bits)
        reference = scene.hr if scene.hr is not None else clean.setdefault(one.label, from_pixels(sr))
        outcomes.append(Outcome(one.label, name, sr, ruler(sr, reference, scene.scale, scene.target)))

    for one in measured:
        look(one, "clean", scene.x)
    attempts = [_attempt(scene, network, threat, v, smoothing, seed, file, say) for v in variants]
    for attempt in attempts:
        for one in shown:
            look(one, attempt.name, attempt.adv)
    results = [next(o for o in outcomes if (o.label, o.input) == (victim.label, a.name)).measures for a in attempts]
    strength = [-(m["psnr"] or 0) if scene.target is None else m["target"] or 0 for m in results]
    worst = attempts[strength.index(max(strength))]
    norm = threat.measure
    random = perturbations.random_noise(
        scene.x, worst.sizes[norm], norm, mask=scene.mask, seed=seed + 1, bits=scene.bits
    )
    stored = file("random", random)
    baseline = Attempt("random", stored, random, sizes(scene.x, stored))
    for i, one in enumerate(measured):
        look(one, "random", baseline.adv)
        if i >= own:
            look(one, worst.name, worst.adv)
    order = {one.label: i for i, one in enumerate(measured)}
    rows = ["clean", "random", *(a.name for a in attempts)]
    outcomes.sort(key=lambda o: (order[o.label], rows.index(o.input)))
    weights = {one.label: one.network.digest for one in measured}
    return Result(
        scene, threat, victim.label, tuple(attempts), baseline, worst.name, tuple(outcomes), ruler, seed, weights
    )


def _attempt(
    scene: Scene,
    network: Loaded,
    threat: Threat,
    variant: Variant,
    smoothing: Smoothing | None,
    seed: int,
    file: File,
    say: Say,
) -> Attempt:
    start = time.perf_counter()
    what = f"attacking {network.name}: {VARIANTS[variant]}"
    say(what)
    crafted = craft(
        threat,
        watched(network, say, what),
        scene.x,
        scene.target if scene.target is not None else scene.hr,
        smoothing=smoothing,
        variant=variant,
        targeted=scene.target is not None,
        mask=scene.mask,
        seed=seed,
        bits=scene.bits,
    )
    found, adv = crafted.found, crafted.adv.cpu()
    stored = file(variant, adv)
    exact, curve = (found.adv.cpu(), tuple(map(float, found.curve))) if found else (adv, ())
    spent = time.perf_counter() - start
    return Attempt(variant, stored, exact, sizes(scene.x, stored), curve, crafted.c, spent)


def forecast(
    size: tuple[int, int],
    network: Loaded,
    threat: Threat,
    variants: Sequence[Variant],
    smoothing: Smoothing,
    count: int,
    others: int = 0,
) -> float:
    """Roughly how many seconds an attack on ``count`` inputs of (h, w) takes, measures on the smoothed model included.

    And on ``others``, taken to be as fast.

    From a fraction of a second of the network; a gradient counts as four runs.
    """
    draws = {
        "base": 1,
        "eot": 2 * threat.eot_iter,
        "mean": 2 * threat.eot_iter,
        "losses": 2 * threat.eot_iter,
        "seed": smoothing.samples,
    }
    steps = threat.iterations * threat.restarts * (10 if threat.drop is not None else 1)
    crafting = 0 if threat.method == "random" else sum(draws[v] for v in variants) * (4 * steps + 3)
    looking = (2 + len(variants)) * (1 + smoothing.samples + others)
    return count * size[0] * size[1] * (crafting + looking) / pixels_per_second(network)


def watched(network: Loaded, say: Say, what: str) -> Loaded:
    """The network, which says ``what`` it does and how often it has run."""
    if not isinstance(network, Network):
        return network
    call, count = network.call, 0

    def counted(module: torch.nn.Module, x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        say(f"{what}, run {count} of the network")
        return call(module, x)

    return replace(network, call=counted)
