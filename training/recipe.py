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
    """The network that is trained: SRVGGNetCompact ("Compact"), as in Real-ESRGAN."""

    features: int = 64
    convs: int = 16
    scale: int = 4
    init: str = ""  # a robustsr model name or checkpoint to start from; empty: Kaiming initialisation


@dataclass(frozen=True)
class Data:
    """Where patches come from: a folder of HR pictures; LR by PIL's antialiased bicubic, rounded to 8 bits."""

    hr: str = ""  # folder of HR pictures, any depth
    batch: int = 16
    patch: int = 40  # LR pixels


@dataclass(frozen=True)
class Loss:
    """Weights of the terms that are summed."""

    l1: float = 1.0


@dataclass(frozen=True)
class Optimiser:
    """Adam, the learning rate linearly up over ``warmup`` steps, then down to 0 along a half cosine."""

    steps: int = 4000
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    ema: float = 0.999  # decay of the averaged weights, which are the ones validated and exported


@dataclass(frozen=True)
class Validation:
    """Y-PSNR with a border crop of ``scale`` on paired folders, each holding HR/ and LR/ with the same names."""

    every: int = 1000
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One training run. Two runs of one recipe on one machine give the same weights."""

    name: str
    seed: int = 0
    precision: str = "bf16"  # fp32 | bf16 (autocast; weights and the optimiser stay float32)
    compile: bool = False
    checkpoint_every: int = 500
    generator: Generator = field(default_factory=Generator)
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)
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
        if not self.data.hr:
            raise RobustSRError("recipe: data.hr is empty: --set data.hr=FOLDER names the pictures to train on")
        if self.precision not in ("fp32", "bf16"):
            raise RobustSRError(f"recipe: precision must be fp32 or bf16, got {self.precision!r}")
        if not 0 <= self.optimiser.ema < 1:
            raise RobustSRError(f"recipe: optimiser.ema must be in [0, 1), got {self.optimiser.ema}")

    @classmethod
    def load(cls, name_or_path: str, overrides: list[str] | None = None) -> Self:
        """Reads a shipped recipe by name or a TOML file by path; ``overrides`` are ``key=value`` with a TOML value."""
        path = Path(name_or_path)
        if path.suffix != ".toml":
            path = RECIPES / f"{name_or_path}.toml"
        if not path.is_file():
            shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
            raise RobustSRError(f"no recipe {name_or_path!r}: give a .toml file or one of: {shipped}")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise RobustSRError(f"{path} is not valid TOML: {error}") from None
        for override in overrides or []:
            _override(table, override)
        return _build(cls, table, "")


T = TypeVar("T")


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
