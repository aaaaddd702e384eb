"""What an adversary may do and against what: an attack's method and budget as one value.

A smoothed model is attacked in several ways, for none of them is always the strongest: through its base network, and
adaptively through fresh draws (of its median or mean, of the mean instead of the median, of the mean of the losses) and
through the draws that it ships with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeGuard, get_args

from torch import Tensor

from .perturbations import Norm
from .settings import Smoothing
from .smoothing import LARGEST_SAMPLES
from .types import NUMBER, RobustSRError, named, number, settings, shown

Method = Literal["fgsm", "bim", "pgd", "cw", "random"]
NAMES = (*get_args(Method), "pgd-l2")
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
    "step_size": ("pgd", "cw"),
    **dict.fromkeys(("restarts", "clip"), ("fgsm", "bim", "pgd")),
    **dict.fromkeys(("c", "squared", "drop"), ("cw",)),
}


@dataclass(frozen=True)
class Threat:
    """An attack and its budget; eps and step_size in [0, 1] units, whole-picture L2 where ``norm`` is l2.

    ``eps_rel``: L2 budget relative to the picture: eps = eps_rel * sqrt(3 h w) (thesis eq. 4.4). ``step_size``: of
    pgd, None is eps/4; and of cw, Adam's rate, None is .01. ``c``, ``squared``: of cw. ``drop``: cw searches the
    smallest c that costs so many dB. ``random``: noise as large as the budget, the baseline. ``eot_iter``: draws per
    step of the adaptive attacks (expectation over transformation).
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
    squared: bool = False
    drop: float | None = None
    loss: str = "l1"
    eot_iter: int = 10
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
        for name in ("eps", "eps_rel", "step_size", "c", "drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise RobustSRError(f"{name} must be at least 0, got {value:g}")
        if self.linf > 1:
            raise RobustSRError(
                f"eps {self.eps:g} is more than the whole range of [0, 1]: did you mean {self.eps:g}/255?"
            )
        if self.iterations < 1 or self.restarts < 1 or self.eot_iter < 1:
            raise RobustSRError("steps, restarts and eot_iter must be at least 1")
        if self.eot_iter > LARGEST_SAMPLES:
            raise RobustSRError(f"eot_iter must be at most {LARGEST_SAMPLES:,}")

    @property
    def linf(self) -> float:
        return self.eps or 0 if self.norm == "linf" else 0

    @property
    def measure(self) -> Norm:
        """The norm that its size is given in: cw makes the L2 norm small, and has no budget."""
        return "l2" if self.method == "cw" else self.norm

    @property
    def iterations(self) -> int:
        """Steps: what is asked for, else 10, of cw 6 as in the paper."""
        return (
            self.steps if self.steps is not None else 1 if self.method == "fgsm" else 6 if self.method == "cw" else 10
        )

    @property
    def rate(self) -> float:
        """Of cw: Adam's learning rate."""
        return 0.01 if self.step_size is None else self.step_size

    @property
    def way(self) -> str:
        """How it goes, with what `spec` leaves to the defaults."""
        if self.method == "cw":
            return f"{self.iterations} steps of Adam at rate {self.rate:g}, c {self.c:g}; values at 0 or 1 hardly move"
        if self.method == "pgd":
            step = "eps/4" if self.step_size is None else shown(self.step_size)
            return f"{self.iterations} steps of {step} from a random start"
        return {"fgsm": "1 step of eps", "random": "no steps"}.get(self.method, f"{self.iterations} steps of eps/steps")

    @property
    def size(self) -> str:
        """Its budget in words; of cw, which has none, nothing."""
        if self.method == "cw":
            return ""
        if self.eps_rel is not None:
            return f"L2 / sqrt(3hw) up to {self.eps_rel:g}"
        eps = self._eps
        return f"L2 up to {eps:g}" if self.norm == "l2" else f"Linf up to {shown(eps)}"

    @property
    def _eps(self) -> float:
        return self.eps if self.eps is not None else 8 / 255 if self.norm == "linf" else 0.5

    def budget(self, x: Tensor) -> float:
        """eps for the picture ``x (N, 3, h, w)``: Linf 8/255 and L2 .5 where nothing else is asked for."""
        return self._eps if self.eps_rel is None else self.eps_rel * math.sqrt(x[0].numel())

    @property
    def spec(self) -> str:
        """The canonical string that `parse` reads back: everything that differs from the defaults."""
        name = "pgd-l2" if (self.method, self.norm) == ("pgd", "l2") else self.method
        parts = []
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default and not (field.name == "norm" and name == "pgd-l2"):
                text = shown(value) if isinstance(value, float) else str(value)
                parts.append(f"{field.name}={text.lower() if isinstance(value, bool) else text}")
        return f"{name}:{','.join(parts)}" if parts else name


def parse(spec: str) -> Threat:
    """An attack from ``METHOD`` or ``METHOD:key=value,...``, such as pgd:eps=10/255,steps=20 or pgd-l2:eps_rel=.05."""
    name = named(spec)
    values: dict[str, Any] = {"method": name}
    if name == "pgd-l2":
        values = {"method": "pgd", "norm": "l2"}
    kinds = {f.name: str(f.type) for f in fields(Threat)[1:]}
    for key, text in settings(spec).items():
        if key not in kinds or key in values:
            raise RobustSRError(f"{spec!r}: {key} is none of its settings; there are: {', '.join(kinds)}")
        last = kinds[key]
        try:
            if last.startswith("int"):
                values[key] = int(text)
            elif last == "bool":
                values[key] = {"true": True, "false": False}[text]
            else:
                values[key] = number(text) if "float" in last else text
        except (ValueError, KeyError, RobustSRError):
            wanted = "true or false" if last == "bool" else "a whole number" if last.startswith("int") else NUMBER
            raise RobustSRError(f"{spec!r}: {key} must be {wanted}, got {text!r}") from None
    return Threat(**values)


def is_threat(spec: str) -> bool:
    """Whether a perturbation's name means an attack (and not a corruption)."""
    return named(spec) in NAMES


def is_attack(perturbation: object) -> TypeGuard[Threat]:
    """Whether a perturbation, parsed, is an attack that searches: no corruption, and no random noise."""
    return isinstance(perturbation, Threat) and perturbation.method != "random"


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


def with_loss(spec: str, loss: str | None) -> str:
    """A perturbation's spec, with ``loss`` where it is an attack that names none."""
    threat = parse(spec) if is_threat(spec) else None
    return with_options(threat, loss=loss).spec if loss and is_attack(threat) and "loss=" not in spec else spec
