"""What an adversary may do and against what: an attack's method and budget as one value, carried out on a network.

A smoothed model is attacked in several ways, for none of them is always the strongest: through its base network, and
adaptively through fresh draws (of its median or mean, of the mean instead of the median, of the mean of the losses) and
through the draws that it ships with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from . import attacks
from .attacks import Attacked, Checkpointed, Fresh, Objective, against
from .engine import buffers_kept
from .losses import loss as loss_by_name
from .models import Loaded, Network
from .perturbations import Norm, random_noise, rounded
from .plan import Smoothing
from .resample import OnResized
from .smoothing import Smoothed
from .tiling import Tiled
from .types import RobustSRError, Upscaler, number

Method = Literal["fgsm", "bim", "pgd", "cw", "random"]
Variant = Literal["base", "eot", "mean", "losses", "seed"]
VARIANTS: dict[Variant, str] = {
    "base": "the network without its smoothing",
    "eot": "the smoothed model, fresh draws at every step",
    "mean": "the mean of the outputs for fresh draws",
    "losses": "the mean of the losses of fresh draws",
    "seed": "the smoothed model with the very draws it ships with",
}
USES = {  # settings that only some methods have; the others refuse them
    "norm": ("pgd", "random"),
    "steps": ("bim", "pgd", "cw"),
    "step_size": ("pgd",),
    **dict.fromkeys(("restarts", "clip"), ("fgsm", "bim", "pgd")),
    **dict.fromkeys(("c", "lr", "squared", "drop"), ("cw",)),
}
TILE = 256  # LR pixels beyond which a picture is attacked in tiles, which bounds the memory
LIGHT = 160 * 160  # LR pixels, times draws, beyond which activations are recomputed for the gradient


@dataclass(frozen=True)
class Threat:
    """An attack and its budget; eps and step_size in [0, 1] units, whole-picture L2 where ``norm`` is l2.

    ``eps_rel``: L2 budget relative to the picture: eps = eps_rel * sqrt(3 h w) (thesis eq. 4.4). ``step_size``: of
    pgd; None is eps/4. ``c``, ``lr``, ``squared``: of cw. ``drop``: cw searches the smallest c that costs so many
    dB. ``random``: noise as large as the budget, the baseline. ``draws``: of the adaptive attacks, per step.
    ``clip``: whether attacked inputs stay in [0, 1]; those that are written to files always do.
    """

    method: Method
    norm: Norm = "linf"
    eps: float | None = None
    eps_rel: float | None = None
    steps: int | None = None
    step_size: float | None = None
    restarts: int = 1
    c: float = 0.01
    lr: float = 0.01
    squared: bool = False
    drop: float | None = None
    loss: str = "l1"
    draws: int = 10
    clip: bool = True

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise RobustSRError(f"no attack {self.method!r}; there are: {', '.join(get_args(Method))}, pgd-l2")
        if self.norm not in get_args(Norm):
            raise RobustSRError(f"the norm of an attack is linf or l2, got {self.norm!r}")
        if self.method == "cw" and (self.eps is not None or self.eps_rel is not None):
            raise RobustSRError("cw has no ball, so no eps: it trades the change's L2 size against the loss; set c")
        defaults = {f.name: f.default for f in fields(self)}
        for name, methods in USES.items():
            if getattr(self, name) != defaults[name] and self.method not in methods:
                raise RobustSRError(f"{self.method} has no use for {name}, only {', '.join(methods)}")
        if self.eps_rel is not None and (self.norm != "l2" or self.eps is not None):
            raise RobustSRError("eps_rel is an L2 budget, in place of eps")
        for name in ("eps", "eps_rel", "step_size", "c", "lr", "drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise RobustSRError(f"{name} must be at least 0, got {value:g}")
        if self.linf > 1:
            raise RobustSRError(
                f"eps {self.eps:g} is more than the whole range of [0, 1]: did you mean {self.eps:g}/255?"
            )
        if self.iterations < 1 or self.restarts < 1 or self.draws < 1:
            raise RobustSRError("steps, restarts and draws must be at least 1")

    @property
    def linf(self) -> float:
        return self.eps or 0 if self.norm == "linf" else 0

    @property
    def iterations(self) -> int:
        """Steps: what is asked for, else 10, of cw 6 as in the paper."""
        return (
            self.steps if self.steps is not None else 1 if self.method == "fgsm" else 6 if self.method == "cw" else 10
        )

    @property
    def way(self) -> str:
        """How it goes, with what `spec` leaves to the defaults."""
        if self.method == "cw":
            return f"{self.iterations} steps of Adam at rate {self.lr:g}, c {self.c:g}"
        if self.method == "pgd":
            step = "eps/4" if self.step_size is None else _shown(self.step_size, levels=True)
            return f"{self.iterations} steps of {step} from a random start"
        return {"fgsm": "1 step of eps", "random": "no steps"}.get(self.method, f"{self.iterations} steps of eps/steps")

    def budget(self, x: Tensor) -> float:
        """eps for the picture ``x (N, 3, h, w)``: Linf 8/255 and L2 .5 where nothing else is asked for."""
        if self.eps_rel is not None:
            return self.eps_rel * math.sqrt(x[0].numel())
        return self.eps if self.eps is not None else 8 / 255 if self.norm == "linf" else 0.5

    @property
    def spec(self) -> str:
        """The canonical string that `parse` reads back: everything that differs from the defaults."""
        name = "pgd-l2" if (self.method, self.norm) == ("pgd", "l2") else self.method
        parts = []
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and not (field.name == "norm" and name == "pgd-l2"):
                parts.append(f"{field.name}={_shown(value, field.name in ('eps', 'step_size'))}")
        return f"{name}:{','.join(parts)}" if parts else name


def _shown(value: Any, levels: bool) -> str:  # noqa: ANN401
    if isinstance(value, float):
        whole = round(value * 255)
        return f"{whole}/255" if levels and whole and abs(value * 255 - whole) < 1e-9 else f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(spec: str) -> Threat:
    """An attack from ``METHOD`` or ``METHOD:key=value,...``, such as pgd:eps=10/255,steps=20 or pgd-l2:eps_rel=.05."""
    name, _, rest = spec.partition(":")
    values: dict[str, Any] = {"method": name}
    if name == "pgd-l2":
        values = {"method": "pgd", "norm": "l2"}
    kinds = {f.name: str(f.type) for f in fields(Threat)[1:]}
    for part in filter(None, rest.split(",")):
        key, equals, text = part.partition("=")
        if key in values:
            raise RobustSRError(f"{spec!r} has {key} twice")
        if not equals or key not in kinds:
            raise RobustSRError(f"{spec!r}: {part!r} is none of its settings; there are: {', '.join(kinds)}")
        last = kinds[key]
        try:
            if last.startswith("int"):
                values[key] = int(text)
            elif last == "bool":
                values[key] = {"true": True, "false": False}[text]
            else:
                values[key] = number(text) if "float" in last else text
        except (ValueError, KeyError):
            wanted = "true or false" if last == "bool" else "a whole number"
            raise RobustSRError(f"{spec!r}: {key} must be {wanted}, got {text!r}") from None
    return Threat(**values)


def is_threat(spec: str) -> bool:
    """Whether a perturbation's name means an attack (and not a corruption)."""
    return spec.partition(":")[0] in (*get_args(Method), "pgd-l2")


# --- carrying it out ---


def attackable(
    network: Loaded, size: tuple[int, int], smoothing: Smoothing | None = None, resized: int | None = None
) -> Upscaler | Smoothed:
    """The network, smoothed or not, in float32 and so composed that gradients through a picture of ``size`` fit.

    ``resized``: see `robustsr.resample.OnResized`. RobustSRError: the model gives no gradients.
    """
    if not isinstance(network, Network):
        raise RobustSRError(f"{network.name} is an ONNX model, which has no gradients: craft on a checkpoint, transfer")
    draws = smoothing.samples if smoothing else 1
    inner: Upscaler = network.with_precision("fp32")
    if size[0] * size[1] * draws > LIGHT:
        inner = Checkpointed(inner)
    if resized is not None:
        inner = OnResized(inner, resized)
    elif max(size) > TILE:
        inner = Tiled(inner, (min(TILE, size[0]), min(TILE, size[1])), feather=network.feather)
    if smoothing is not None and smoothing.sigma > 0:
        return Smoothed(inner, **vars(smoothing), chunk=max(1, LIGHT // (size[0] * size[1])))
    return inner


@dataclass(frozen=True)
class Crafted:
    """An adversarial input ``adv (N, 3, h, w)`` in the levels of its file, and how it was found."""

    variant: Variant | Literal["random"]
    adv: Tensor
    found: Attacked | None
    c: float | None = None  # that cw used


def craft(
    threat: Threat,
    network: Loaded,
    x: Tensor,
    reference: Tensor | None = None,
    *,
    smoothing: Smoothing | None = None,
    variant: Variant = "base",
    targeted: bool = False,
    mask: Tensor | None = None,
    seed: int = 0,
    bits: int | None = 8,
    resized: int | None = None,
) -> Crafted:
    """Attacks ``x (N, 3, h, w)`` in [0, 1] and rounds the result to ``bits`` inside its ball (None: leaves floats).

    ``reference (N, 3, s*h, s*w)``: the HR picture, or the target where ``targeted``; None: the attacked model's own
    clean output, and then the search begins at a little noise, for there the gradient is zero. ``smoothing`` and
    ``variant``: see ``VARIANTS``; without smoothing there is only "base".
    """
    x = x.to(network.device)
    eps = threat.budget(x)
    if bits is not None and threat.norm == "linf" and threat.method != "cw" and 0 < eps * ((1 << bits) - 1) < 1 - 1e-6:
        raise RobustSRError(f"eps {eps:g} is less than one level of an {bits}-bit file: nothing of it would be left")
    if threat.method == "random":
        noisy = random_noise(x, eps, threat.norm, mask=mask, seed=seed, bits=bits)
        return Crafted("random", noisy, None)
    if targeted and threat.drop is not None:
        raise RobustSRError("a drop is how far the output is from the truth, which an attack with a target leaves be")
    size = (x.shape[-2], x.shape[-1])
    up = attackable(network, size, smoothing if variant != "base" else None, resized)
    own = reference is None
    if reference is None:
        with torch.no_grad():
            reference = up(x)
    reference = reference.to(x)
    if reference.shape[-1] != x.shape[-1] * up.scale:
        raise RobustSRError(f"{network.name} is x{up.scale}: it cannot craft attacks for outputs of another size")
    objective, score = _objective(threat, up, variant, reference, targeted, seed)
    found, c = _search(threat, x, objective, score, up, reference, own, mask, seed, eps, bits)
    return Crafted(variant, _filed(threat, x, found.adv, bits, eps), found, c)


def _objective(
    threat: Threat, up: Upscaler | Smoothed, variant: Variant, reference: Tensor, targeted: bool, seed: int
) -> tuple[Objective, Objective | None]:
    """What is climbed, and, where that draws anew at every call, what iterates are compared by."""
    loss = loss_by_name(threat.loss)
    if variant == "base" or variant == "seed":
        return against(up, reference, loss, targeted=targeted), None
    if not isinstance(up, Smoothed):
        raise RobustSRError(f"attack {variant!r} is for smoothed models: give --smooth and a --sigma above 0")
    fresh = Fresh(up, threat.draws, seed)
    score = against(fresh.fixed(), reference, loss, targeted=targeted)
    if variant == "mean":
        fresh = replace(fresh, inner=replace(up, reduce="mean"))
    if variant != "losses":
        return against(fresh, reference, loss, targeted=targeted), score
    objective = attacks.mean_of_losses(fresh, reference, loss)
    return (lambda z: -objective(z)) if targeted else objective, score


@buffers_kept()
def _search(
    threat: Threat,
    x: Tensor,
    objective: Objective,
    score: Objective | None,
    up: Upscaler,
    reference: Tensor,
    own: bool,
    mask: Tensor | None,
    seed: int,
    eps: float,
    bits: int | None,
) -> tuple[Attacked, float | None]:
    small = 0.1 if own else 0.0  # of the ball: leaves the point where the gradient is zero
    if threat.method == "cw":
        options: attacks.CW = {
            "values": reference[0].numel(),
            "steps": threat.iterations,
            "lr": threat.lr,
            "squared": threat.squared,
            "start": small / 100,  # of w: an Adam step is .01, and noise of that size would hide what it finds
            "mask": mask,
            "seed": seed,
            "score": score,
        }
        if threat.drop is None:
            return attacks.cw(x, objective, c=threat.c, **options), threat.c
        drop = threat.drop
        with torch.no_grad():
            before = (up(x).clamp(0, 1) - reference).square().mean().clamp(min=1e-6)  # 60 dB where there is no HR

        def reached(adv: Tensor) -> bool:  # by what is left in the file; ``up`` has the victim's own draws
            with torch.no_grad():
                after = (up(_filed(threat, x, adv, bits, eps).to(x)).clamp(0, 1) - reference).square().mean()
            return bool(after >= before * 10 ** (drop / 10))

        return attacks.cw_search(x, objective, reached, c=threat.c, **options)
    ascent: attacks.Ascent = {
        "restarts": threat.restarts,
        "mask": mask,
        "seed": seed,
        "score": score,
        "clip": threat.clip,
    }
    if threat.method == "fgsm":
        return attacks.fgsm(x, objective, eps, start=small, **ascent), None
    if threat.method == "bim":
        return attacks.bim(x, objective, eps, threat.iterations, start=small, **ascent), None
    return attacks.pgd(x, objective, eps, threat.iterations, threat.step_size, threat.norm, **ascent), None


def _filed(threat: Threat, x: Tensor, adv: Tensor, bits: int | None, eps: float) -> Tensor:
    x, adv = x.cpu(), adv.cpu()  # in float64, which not every device has
    if bits is None:
        return adv
    return rounded(x, adv.clamp(0, 1), bits=bits, norm=None if threat.method == "cw" else threat.norm, eps=eps)


def variants_for(on: str, smoothing: Smoothing | None) -> list[Variant]:
    """Which attacks ``--on`` stands for: base; smoothed, the adaptive ones; worst, all; or some, with commas.

    A model that is not smoothed has only "base", one smoothed by the mean no "mean".
    RobustSRError: no such name, or nothing smoothed to attack.
    """
    adaptive: list[Variant] = list(VARIANTS)[1:]
    groups: dict[str, list[Variant]] = {"smoothed": adaptive, "worst": list(VARIANTS)}
    groups |= {v: [v] for v in VARIANTS}
    if unknown := [part for part in on.split(",") if part not in groups]:
        raise RobustSRError(f"attack on base, smoothed, worst, {', '.join(adaptive)}; got {', '.join(unknown)}")
    wanted = {v for part in on.split(",") for v in groups[part]}
    if smoothing is None or smoothing.sigma == 0:
        if "base" not in wanted:
            raise RobustSRError(f"--on {on} attacks a smoothed model: add --smooth median or --smooth mean")
        return ["base"]
    return [v for v in VARIANTS if v in wanted and (v != "mean" or smoothing.reduce != "mean" or wanted == {"mean"})]


def with_options(threat: Threat, **given: Any) -> Threat:  # noqa: ANN401
    """A threat with those options replaced that are not None."""
    return replace(threat, **{k: v for k, v in given.items() if v is not None})
