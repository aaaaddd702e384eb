"""A recipe: everything that decides a training run, read from TOML into frozen dataclasses.

Unknown keys are refused by name; ``--set section.key=value`` overrides one. Sizes are in pixels, noise in [0, 1].
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_type_hints

from robustsr.types import RobustSRError

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Generator:
    """The network that is trained: SRVGGNetCompact (Real-ESRGAN), RRDB (ESRGAN) or the thesis' U-Net."""

    architecture: str = "compact"  # compact | rrdb | unet
    features: int = 64
    convs: int = 16  # compact
    blocks: int = 23  # rrdb
    scale: int = 4  # unet: the factor by which its input was shrunk and enlarged again; its own scale is 1
    init: str = ""  # a robustsr model name or any checkpoint to start from, which brings its own architecture


@dataclass(frozen=True)
class Data:
    """Where patches come from: a folder of HR pictures, and how LR comes from them."""

    hr: str = ""  # folder of HR pictures, any depth
    lr: str = ""  # folder of LR pictures with the same names; empty: made from HR, rounded to 8 bits
    downscale: str = "bicubic"  # bicubic | bilinear: Pillow's, antialiased
    degraded: float = 0.0  # the share of patches whose LR is made by Real-ESRGAN's second-order degradation instead
    light: float = 0.0  # the share of these that is degraded lightly only (robustsr.degradation.LIGHT)
    batch: int = 16  # over all processes
    patch: int = 40  # pixels of the network's input
    workers: int = 0  # processes that prepare batches


@dataclass(frozen=True)
class Inputs:
    """What the network sees of a patch; the loss is the mean over sigmas.

    For each of ``sigmas``, the median of the outputs under ``draws`` noises (MRS fine-tuning, CertSR 4.2); one sigma
    with one draw is training with noise, sigma 0 the plain picture. ``attack``: an attack's spec, carried out anew at
    every step on the same draws (adversarial training; with noise: SmoothAdv) in the recipe's ``precision``, without
    restarts and without being scored again in float32. Pictures are in [0, 1] and are not normalised further.
    """

    sigmas: tuple[float, ...] = (0.0,)
    draws: tuple[int, ...] = (1,)
    attack: str = ""  # robustsr.threats.parse
    attack_share: float = 1.0  # of the batch that is attacked; the other patches stay as they are
    attack_step: float = 0.25  # step size as a share of the budget, where the spec names none (pgd)
    attack_warmup: int = 0  # steps over which the attack's budget grows from 0
    uniform: bool = False  # draw each sigma uniformly from 0 to the given one, per patch


@dataclass(frozen=True)
class Loss:
    """Weights of the terms that are summed; 0 leaves a term out."""

    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 0.0  # robustsr.losses.perceptual: VGG19 features before activation
    layer: str = ""  # of VGG19; empty: the deepest in the weights file
    gan: float = 0.0  # relativistic average GAN


@dataclass(frozen=True)
class Discriminator:
    """ESRGAN's VGG-128, used where loss.gan is not 0; trained by Adam at its own rate, on the same schedule."""

    features: int = 64
    lr: float = 1e-4
    init: str = ""  # the checkpoint of a run whose discriminator goes on; empty: PyTorch's initialisation


@dataclass(frozen=True)
class Denoiser:
    """Trains a denoiser D for f(D(x + G)) instead (Salman et al. 2020); the generator then has scale 1."""

    objective: str = ""  # mse: D against x | stability: f(D) against f(x) | task: f(D) against HR; empty: none
    model: str = "psnr"  # f, frozen


@dataclass(frozen=True)
class Optimiser:
    """Adam, the learning rate linearly up over ``warmup`` steps, then down to 0 along a half cosine."""

    steps: int = 4000
    lr: float = 1e-3
    schedule: str = "cosine"  # cosine | constant
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    ema: float = 0.999  # decay of the averaged weights, which are the ones validated and exported


@dataclass(frozen=True)
class Validation:
    """Mean PSNR, SSIM and LPIPS over pictures of each set, on clean, noisy and attacked inputs.

    ``sets``: folders as for `robustsr evaluate`: with HR/ and LR/ of the same names, or of HR pictures alone.
    """

    every: int = 1000
    sets: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ("clean",)  # robustsr.evaluate.Study.perturbations
    limit: int = 8  # pictures of each set
    crop: int = 64  # LR pixels, central; 0: whole pictures
    samples: int = 2  # pictures of each set that are kept as files, input, output and truth side by side


@dataclass(frozen=True)
class Recipe:
    """One training run. Two runs of one recipe on one machine give the same weights."""

    name: str
    seed: int = 0
    precision: str = "bf16"  # fp32 | bf16 (autocast; weights and the optimiser stay float32)
    compile: bool = False
    checkpoint_every: int = 500
    checkpoint_mib: int = 0  # a checkpoint is kept in files of at most so many MiB; 0: in one
    generator: Generator = field(default_factory=Generator)
    data: Data = field(default_factory=Data)
    inputs: Inputs = field(default_factory=Inputs)
    denoiser: Denoiser = field(default_factory=Denoiser)
    loss: Loss = field(default_factory=Loss)
    discriminator: Discriminator = field(default_factory=Discriminator)
    optimiser: Optimiser = field(default_factory=Optimiser)
    validation: Validation = field(default_factory=Validation)

    def __post_init__(self) -> None:
        for key, value in (
            ("data.batch", self.data.batch),
            ("data.patch", self.data.patch),
            ("optimiser.steps", self.optimiser.steps),
            ("validation.every", self.validation.every),
            ("checkpoint_every", self.checkpoint_every),
        ):
            if value < 1:
                raise RobustSRError(f"recipe: {key} must be at least 1, got {value}")
        for key, chosen, known in (
            ("precision", self.precision, ("fp32", "bf16")),
            ("generator.architecture", self.generator.architecture, ("compact", "rrdb", "unet")),
            ("data.downscale", self.data.downscale, ("bicubic", "bilinear")),
            ("denoiser.objective", self.denoiser.objective, ("", "mse", "stability", "task")),
            ("optimiser.schedule", self.optimiser.schedule, ("cosine", "constant")),
        ):
            if chosen not in known:
                raise RobustSRError(f"recipe: {key} must be {' or '.join(k for k in known if k)}, got {chosen!r}")
        if not self.data.hr:
            raise RobustSRError("recipe: data.hr is empty: --set data.hr=FOLDER names the pictures to train on")
        if self.checkpoint_mib < 0:
            raise RobustSRError(
                f"recipe: checkpoint_mib must be at least 1, or 0 for one file, got {self.checkpoint_mib}"
            )
        if not 0 <= self.optimiser.ema < 1:
            raise RobustSRError(f"recipe: optimiser.ema must be in [0, 1), got {self.optimiser.ema}")
        sigmas, draws = self.inputs.sigmas, self.inputs.draws
        if not sigmas or len(sigmas) != len(draws) or min(sigmas) < 0 or max(sigmas) > 1 or min(draws) < 1:
            raise RobustSRError(
                f"recipe: inputs.sigmas (each 0 to 1) and inputs.draws (each at least 1) must be as many, "
                f"got {list(sigmas)} and {list(draws)}"
            )
        weights = vars(self.loss)
        if not any(weights[k] for k in ("l1", "mse", "perceptual", "gan")):
            raise RobustSRError("recipe: all weights under loss are 0: nothing to train for")

    @classmethod
    def load(cls, name_or_path: str, overrides: list[str] | None = None) -> Self:
        """Reads a shipped recipe by name or a TOML file by path; ``overrides`` are ``key=value`` with a TOML value.

        A recipe may be said as what differs from another: ``base = "NAME"``, or the path of a file.
        """
        table = _table(name_or_path)
        for override in overrides or []:
            _override(table, override)
        return _build(cls, table, "")


def shipped() -> dict[str, str]:
    """The names of the shipped recipes and what they say of themselves: the first line of the file, a comment."""
    files = sorted(RECIPES.glob("*.toml"))
    return {p.stem: p.read_text("utf-8").partition("\n")[0].removeprefix("#").strip() for p in files}


T = TypeVar("T")


def _table(name_or_path: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The recipe's TOML over that of its base."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise RobustSRError(f"no recipe {name_or_path!r}: give a .toml file or one of: {', '.join(shipped())}")
    if path in seen:
        raise RobustSRError(f"recipe: base of {seen[-1]} leads back to {path}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RobustSRError(f"{path} is not valid TOML: {error}") from None
    base = table.pop("base", "")
    return _merged(_table(base, (*seen, path)), table) if base else table


def _merged(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    both = {k: _merged(base[k], v) for k, v in table.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **table, **both}


def _override(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RobustSRError(f"--set wants key=value, got {override!r}")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text  # an unquoted string, as one types it in a shell
    *sections, last = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RobustSRError(f"--set {override}: {section!r} is a value, not a section")
    table[last] = value


def _build(cls: type[T], table: dict[str, Any], prefix: str) -> T:
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {prefix}{near[0]!s}?" if near else f"; known: {', '.join(hints)}"
            raise RobustSRError(f"recipe: unknown key {prefix}{key}{hint}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise RobustSRError(f"recipe: {prefix}{key} is a section, got {value!r}")
            values[key] = _build(cast(type[Any], kind), value, f"{prefix}{key}.")
            continue
        if isinstance(value, list):
            value = tuple(value)
        expected = getattr(kind, "__origin__", kind)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            raise RobustSRError(f"recipe: {prefix}{key} must be {expected.__name__}, got {value!r}")
        values[key] = value
    try:
        return cls(**values)
    except TypeError as error:  # a required key is missing
        raise RobustSRError(f"recipe: {error}") from None
