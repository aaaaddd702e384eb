"""A recipe: everything that decides a training run, read from TOML into frozen dataclasses.

Unknown keys are refused by name; ``--set section.key=value`` overrides one. Sizes are in pixels, noise in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Self

from robustsr.types import RobustSRError

from .tables import build, override, read, toml

RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (  # of lists: each element
    (
        "at least 1",
        lambda v: v >= 1,
        "checkpoint_every generator.features generator.blocks data.batch data.patch inputs.draws "
        "discriminator.features optimiser.steps validation.every",
    ),
    (
        "at least 0",
        lambda v: 0 <= v < math.inf,
        "checkpoint_mib generator.convs data.workers inputs.attack_step inputs.attack_warmup loss.l1 loss.mse "
        "loss.perceptual loss.gan loss.sharpen optimiser.warmup validation.limit validation.crop validation.samples",
    ),
    ("in [0, 2^63)", lambda v: 0 <= v < 1 << 63, "seed"),
    ("more than 0", lambda v: 0 < v < math.inf, "discriminator.lr optimiser.lr"),
    ("in 1 to 8", lambda v: 1 <= v <= 8, "generator.scale"),
    (
        "in [0, 1]",
        lambda v: 0 <= v <= 1,
        "data.degraded data.light data.jpeg inputs.sigmas inputs.attack_share inputs.gray",
    ),
    ("in [0, 1)", lambda v: 0 <= v < 1, "optimiser.betas optimiser.ema"),
    ("in (0, 1]", lambda v: 0 < v <= 1, "data.sizes"),
)


TRUTH = "hr"  # in the place of a teacher


@dataclass(frozen=True)
class Generator:
    """The network that is trained: SRVGGNetCompact (Real-ESRGAN), RRDB (ESRGAN) or the thesis' U-Net."""

    architecture: str = "compact"  # compact | rrdb | unet
    features: int = 64
    convs: int = 16  # compact
    blocks: int = 23  # rrdb
    scale: int = 4  # unet: the factor by which its input was shrunk and enlarged again; its own scale is 1
    init: str = ""  # a robustsr model name or any checkpoint to start from, which brings its own architecture
    denoise: str = ""  # likewise a denoiser, that goes before it and is trained with it
    fixed_norm: bool = False  # batch norm keeps the statistics of ``init``: small batches estimate them badly


@dataclass(frozen=True)
class Data:
    """Where patches come from: a folder of HR pictures, and how LR comes from them."""

    hr: str = ""  # folder of HR pictures, any depth
    lr: str = ""  # folder of LR pictures with the same names; empty: made from HR, rounded to 8 bits
    sizes: tuple[float, ...] = (1.0,)  # each picture shrunk to these shares of its size, 1 as it is: sharper ones
    downscale: str = "bicubic"  # bicubic | bilinear: Pillow's, antialiased
    degraded: float = 0.0  # the share of patches whose LR is made by Real-ESRGAN's second-order degradation instead
    light: float = 0.0  # the share of these that is degraded lightly only (robustsr.degradation.LIGHT)
    jpeg: float = 0.0  # the share of the others whose LR went through JPEG, of quality data.JPEG
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
    gray: float = 0.0  # the share of patches with the same noise in all channels, as gray scans and film grain have it


@dataclass(frozen=True)
class Loss:
    """Weights of the terms that are summed; 0 leaves a term out."""

    l1: float = 1.0
    mse: float = 0.0
    perceptual: float = 0.0  # robustsr.losses.perceptual: VGG19 features before activation
    layer: str = ""  # of VGG19; empty: the deepest in the weights file
    gan: float = 0.0  # relativistic average GAN
    teacher: str = ""  # a model, by name or path, whose outputs for LR stand in for HR (distillation)
    heavy: str = ""  # another teacher for patches that are degraded heavily, or "hr"; empty: that of the others
    sharpen: float = 0.0  # the amount of unsharp masking of HR, as Real-ESRGAN's


@dataclass(frozen=True)
class Discriminator:
    """ESRGAN's VGG-128, used where loss.gan is not 0; trained by Adam at its own rate, on the same schedule."""

    features: int = 64
    lr: float = 1e-4
    init: str = ""  # the checkpoint of a run whose discriminator goes on; empty: PyTorch's initialisation


@dataclass(frozen=True)
class Denoiser:
    """Trains a denoiser D for f(D(x + G)) instead (Salman et al. 2020); the generator then has scale 1.

    ``objective``, by ``loss``: ``mse`` D against x | ``restore`` D against LR as it was before ``data``
    damaged it | ``stability`` f(D) against f(x) | ``task`` f(D) against HR.
    """

    objective: str = ""
    model: str = "psnr"  # f, frozen; with restore its scale alone counts


@dataclass(frozen=True)
class Optimiser:
    """How weights follow gradients; the rate goes linearly up over ``warmup`` steps, then to 0 along a half cosine."""

    method: str = "adam"  # adam | muon (training/muon.py)
    steps: int = 4000
    lr: float = 1e-3
    schedule: str = "cosine"  # cosine | constant
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam; with muon, of what is no matrix
    warmup: int = 100
    ema: float = 0.999  # decay of the averaged weights, which are the ones validated and exported


@dataclass(frozen=True)
class Validation:
    """Mean PSNR, SSIM and LPIPS over pictures of each set, on clean, noisy and attacked inputs.

    ``sets``: folders as for `robustsr evaluate`: with HR/ and LR/ of the same names, or of HR pictures alone.
    """

    every: int = 1000
    sets: tuple[str, ...] = ()
    perturbations: tuple[str, ...] = ("clean",)  # robustsr.study.Study.perturbations
    limit: int = 8  # pictures of each set
    crop: int = 64  # LR pixels, central; 0: whole pictures
    samples: int = 2  # pictures of each set that are kept as files, input, output and truth side by side


@dataclass(frozen=True)
class Recipe:
    """One training run. Two runs of one recipe on one machine give the same weights."""

    name: str
    seed: int = 0
    precision: str = "auto"  # fp32 | bf16 (autocast; weights and moments stay float32); auto: bf16 where that is faster
    compile: bool = False  # not where the fast convolutions are: processors in float32 that have a C compiler
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
        for words, holds, keys in RANGES:
            for key in keys.split():
                value = attrgetter(key)(self)
                if not all(holds(v) for v in (value if isinstance(value, tuple) else (value,))):
                    raise RobustSRError(f"recipe: {key} must be {words}, got {toml(value)}")
        for key, chosen, known in (
            ("precision", self.precision, ("auto", "fp32", "bf16")),
            ("generator.architecture", self.generator.architecture, ("compact", "rrdb", "unet")),
            ("data.downscale", self.data.downscale, ("bicubic", "bilinear")),
            ("denoiser.objective", self.denoiser.objective, ("", "mse", "restore", "stability", "task")),
            ("optimiser.method", self.optimiser.method, ("adam", "muon")),
            ("optimiser.schedule", self.optimiser.schedule, ("cosine", "constant")),
        ):
            if chosen not in known:
                raise RobustSRError(f"recipe: {key} must be {' or '.join(k for k in known if k)}, got {chosen!r}")
        if self.name in ("", ".", "..") or any(c in self.name for c in '/\\:"<>|?*'):
            raise RobustSRError(f"recipe: name {self.name!r} is to be that of a file")
        if not self.data.hr:
            raise RobustSRError("recipe: data.hr is empty: --set data.hr=FOLDER names the pictures to train on")
        sigmas, draws = self.inputs.sigmas, self.inputs.draws
        if not sigmas or len(sigmas) != len(draws):
            raise RobustSRError(
                f"recipe: inputs.sigmas and inputs.draws must be as many, at least one, "
                f"got {list(sigmas)} and {list(draws)}"
            )
        if self.denoiser.objective and self.generator.scale != 1:
            raise RobustSRError(
                f"recipe: denoiser.objective={self.denoiser.objective} trains a network of scale 1, generator.scale is "
                f"{self.generator.scale}: set it to 1"
            )
        if self.denoiser.objective == "restore" and not (self.data.degraded or self.data.jpeg or any(sigmas)):
            raise RobustSRError(
                "recipe: denoiser.objective=restore has nothing to restore: set data.degraded, data.jpeg or "
                "inputs.sigmas"
            )
        for key in ("teacher", "heavy", "sharpen"):
            if self.denoiser.objective and getattr(self.loss, key):
                raise RobustSRError(
                    f"recipe: denoiser.objective and loss.{key} both say what the target is: leave one out"
                )
        if not self.data.sizes or (self.data.lr and self.data.sizes != (1.0,)):
            raise RobustSRError("recipe: data.sizes names at least one, and with data.lr none but 1")
        if self.data.jpeg and self.data.degraded == 1:
            raise RobustSRError("recipe: data.jpeg is about patches that are not degraded: data.degraded leaves none")
        if self.loss.heavy and (not self.data.degraded or self.data.light == 1):
            raise RobustSRError("recipe: loss.heavy is about heavily degraded patches: data leaves none")
        if self.loss.heavy == TRUTH and not self.loss.teacher:
            raise RobustSRError(f"recipe: loss.heavy={TRUTH} is what all patches have without loss.teacher")
        if not any(getattr(self.loss, k) for k in ("l1", "mse", "perceptual", "gan")):
            raise RobustSRError("recipe: all weights under loss are 0: nothing to train for")

    @classmethod
    def load(cls, name_or_path: str, overrides: list[str] | None = None, pictures: str = "") -> Self:
        """Reads a shipped recipe by name or a TOML file by path; ``overrides`` are ``key=value`` with a TOML value.

        ``pictures``: data.hr where it says none.
        A recipe may be said as what differs from another: ``base = "NAME"``, or the path of a file from its own folder.
        """
        table = read(name_or_path)
        for one in overrides or []:
            override(table, one)
        if pictures and isinstance(data := table.setdefault("data", {}), dict):
            data.setdefault("hr", pictures)
        return build(cls, table)
