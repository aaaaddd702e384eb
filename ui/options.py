"""Everything that can be asked of an upscaling, as one value: what the form holds, the task, the same command line."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

from robustsr import batch
from robustsr.catalogue import find
from robustsr.models import Loaded, noise_inside, seeded
from robustsr.naming import label
from robustsr.plan import make_plan
from robustsr.settings import Smoothing, Target, smoothing_for
from robustsr.smoothing import Draws, Reduce
from robustsr.types import RobustSRError
from robustsr.types import number as read_number

from .desk import Desk

SIZES = {
    "the model's": (),
    "factor": ("scale",),
    "width": ("width",),
    "height": ("height",),
    "fit into width x height": ("width", "height"),
    "long side": ("long_side",),
    "short side": ("short_side",),
    "short side, at least": ("min_side",),
}
LIKE_INPUT, NONE, MODELS_OWN = "like the input", "none", "the model's"


@dataclass(frozen=True)
class Options:
    """The options of `robustsr upscale`, as a form holds them: numbers are text, for they may be empty.

    ``sigma``: a number, "auto", or "the model's". ``size``: one of SIZES; ``first`` and ``second`` its numbers.
    """

    model: str
    smooth: str = "median"
    sigma: str = MODELS_OWN
    samples: str = ""
    tolerance: str = ""
    size: str = MODELS_OWN
    first: str = ""
    second: str = ""
    format: str = LIKE_INPUT
    quality: str = ""
    lossless: bool = False
    background: str = "white"
    strip_metadata: bool = False
    suffix: str = ""
    draws: str = MODELS_OWN
    seed: str = "0"
    denoise: str = NONE
    device: str = "auto"
    precision: str = "auto"
    tile: str = ""
    tile_pad: str = ""

    @property
    def target(self) -> Target:
        """RobustSRError: a number is missing or makes no sense."""
        names = SIZES[self.size]
        numbers: dict[str, Any] = {}
        for name, text in zip(names, (self.first, self.second), strict=False):
            words = "factor" if name == "scale" else name.replace("_", " ")
            numbers[name] = number(text, words) if name == "scale" else whole(text, words)
            if numbers[name] is None:
                raise RobustSRError(f"the size is {self.size!r}: give its {words}")
        return Target(**numbers)

    @property
    def output(self) -> batch.Output:
        """How results are written, without the server's limit of pixels."""
        return batch.Output(
            self.ending, whole(self.quality, "quality"), self.lossless, self.background, self.strip_metadata
        )

    @property
    def ending(self) -> str | None:
        return None if self.format == LIKE_INPUT else self.format

    @property
    def named(self) -> str:
        """What the names of results end in."""
        return self.suffix or f"_{label(self.model, vars(self.target))}"

    def smoothing(self, desk: Desk) -> Smoothing | None:
        if self.smooth == "off":
            return None
        network = self._network(desk)
        draws = None if self.draws == MODELS_OWN else cast(Draws, self.draws)
        return smoothing_for(
            network,
            cast(Reduce, self.smooth),
            self._sigma,
            self._samples,
            draws,
            whole(self.seed, "seed"),
            number(self.tolerance, "tolerance"),
        )

    def _network(self, desk: Desk) -> Loaded:
        device = "" if self.device == "auto" else self.device  # the server's, then
        network = desk.model(self.model, self.precision, self.denoiser, device)
        return seeded(network, whole(self.seed, "seed") or 0)

    @property
    def _sigma(self) -> float | Literal["auto"] | None:
        return None if self.sigma == MODELS_OWN else level(self.sigma)

    @property
    def _samples(self) -> int | Literal["auto"] | None:
        return "auto" if str(self.samples).strip().lower() == "auto" else whole(self.samples, "samples")

    @property
    def denoiser(self) -> str | None:
        return None if self.denoise == NONE else self.denoise

    def task(self, desk: Desk) -> batch.Task:
        """The task of a batch; loads the model. RobustSRError: an option that makes no sense."""
        target, output = self.target, self.output
        network = self._network(desk)
        smoothing = self.smoothing(desk)
        tile, pad = whole(self.tile, "tile"), whole(self.tile_pad, "tile context")
        plan = make_plan(network, smoothing, tile, pad)
        requested: dict[str, Any] = {"precision": self.precision, "tile": tile, "tile_pad": pad}
        if noise_inside(network):
            requested["seed"] = whole(self.seed, "seed") or 0
        return batch.Task(network, smoothing, target, replace(output, max_pixels=desk.max_pixels), plan, requested)

    def command(self, *names: str, device: str = "auto") -> str:
        """The command line that does the same; ``device``: what the server takes for "auto"."""
        words = ["robustsr", "upscale", *names]
        default = Options(self.model)

        def add(flag: str, value: Any) -> None:  # noqa: ANN401
            if value is not None and value is not False and value != "":  # 0 may be meant
                words.append(f"--{flag}")
                words.extend([] if value is True else [f"{value:.12g}" if isinstance(value, float) else str(value)])

        add("model", self.model)
        if self.smooth != "off":
            add("smooth", self.smooth)
            add("sigma", "auto" if self._sigma == "auto" else None if self.sigma == MODELS_OWN else self.sigma)
            add("samples", self._samples)
            add("tolerance", str(self.tolerance or "").strip())
            add("draws", None if self.draws == MODELS_OWN else self.draws)
        if self.smooth != "off" or find(self.model)[0].suffix == ".onnx":  # which may smooth by itself
            add("seed", whole(self.seed, "seed") or None)
        for name, number in vars(self.target).items():
            add(name.replace("_", "-"), number)
        add("format", self.ending)
        add("quality", whole(self.quality, "quality"))
        for name in ("lossless", "strip_metadata", "suffix"):
            add(name.replace("_", "-"), getattr(self, name))
        add("background", None if self.background == default.background else self.background)
        for name, chosen in (
            ("device", device if self.device == "auto" else self.device),
            ("precision", self.precision),
        ):
            add(name, None if chosen == "auto" else chosen)
        add("denoise", self.denoiser)
        add("tile", whole(self.tile, "tile"))
        add("tile-pad", whole(self.tile_pad, "tile context"))
        return shlex.join(words)


def argument(name: str) -> str:
    """A file's name as an argument, which does not look like an option."""
    return f"./{name}" if name.startswith("-") else name


FIELDS = tuple(f.name for f in fields(Options))


def number(text: str | float | None, name: str) -> float | None:
    """A number as it is typed, 8/255 too; empty: None. RobustSRError: something else."""
    text = str(text if text is not None else "").strip()  # an emptied field may come as None
    if not text:
        return None
    try:
        value = read_number(text)
    except RobustSRError:
        value = math.nan
    if not math.isfinite(value):
        raise RobustSRError(f"{name} must be a number, got {text!r}")
    return value


def whole(text: str | float | None, name: str) -> int | None:
    """A whole number as it is typed; empty: None. RobustSRError: something else."""
    value = number(text, name)
    if value is not None and value != int(value):
        raise RobustSRError(f"{name} must be a whole number, got {text!r}")
    return None if value is None else int(value)


def level(text: str | None) -> float | Literal["auto"] | None:
    """Sigma as it is typed: a number or auto; empty: the model's."""
    if str(text).strip().lower() == "auto":
        return "auto"
    try:
        return number(text, "sigma")
    except RobustSRError as error:
        raise RobustSRError(f"{error}: a number from 0 to 1, or auto") from None
