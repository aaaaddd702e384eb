"""What is asked of an upscaler and how it will be carried out: smoothing, size, tiles, and what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from .calibration import Calibration, estimate_noise, sigma_for
from .catalogue import calibration_of
from .models import Loaded, noise_inside
from .smoothing import Draws, Reduce, Smoothed, is_gray
from .tiling import Tiled, balanced
from .types import RobustSRError, Upscaler, Wrapper

MOST_SAMPLES = 64  # that --samples auto takes
SMALLEST_TILE = 32  # LR pixels of a tile without its context, below which memory is not what is wrong


@dataclass(frozen=True)
class Smoothing:
    """How to smooth; ``sigma`` in [0, 1] units. See `robustsr.smoothing.Smoothed`."""

    reduce: Reduce
    sigma: float
    samples: int
    draws: Draws = "antithetic"
    seed: int = 0

    def settled(self, x: Tensor, network: Upscaler) -> tuple[Smoothing, str]:
        """How to smooth the picture ``x (1, 3, h, w)``, and what there is to say about that."""
        return self, ""


@dataclass(frozen=True)
class AutoSmoothing(Smoothing):
    """Smoothing that each picture decides; ``sigma`` and ``samples`` are the largest that can come out.

    ``calibration``: sigma follows the picture's noise. ``tolerance``, in [0, 1] units: as many draws as bring the
    estimated RMS error against infinitely many below it, judged on four windows, the same draws for all of the picture.
    """

    calibration: Calibration | None = None
    tolerance: float | None = None

    def settled(self, x: Tensor, network: Upscaler) -> tuple[Smoothing, str]:
        sigma, samples = self.sigma, self.samples
        if self.calibration is not None:
            sigma = round(sigma_for(self.calibration, estimate_noise(x)), 4)
        note = f"sigma {sigma:g}" if sigma else "not smoothed"
        if self.tolerance is not None and sigma > 0:
            windows, origin = _four_windows(x)
            smoothed = Smoothed(network, sigma, samples, self.reduce, self.draws, self.seed, is_gray(x))
            border = min(network.context, min(windows.shape[-2:]) // 4) * network.scale
            with torch.inference_mode():
                samples, error = smoothed.enough(windows, self.tolerance, origin=origin, border=border)
            most = ", the most there are" if error > self.tolerance else ""
            note += f", {samples} draws{most}: about {error * 255:.2g}/255 off"
        return Smoothing(self.reduce, sigma, samples, self.draws, self.seed), note


def _four_windows(x: Tensor, side: int = 64) -> tuple[Tensor, Tensor]:
    """The middles of the four quarters of a picture, and where they lie; all of it where it is small."""
    h, w = (min(side, n) for n in x.shape[-2:])
    rows, columns = (sorted({(n - m) // 4, (n - m) * 3 // 4}) for n, m in zip(x.shape[-2:], (h, w), strict=True))
    places = [(top, left) for top in rows for left in columns]
    return torch.cat([x[..., t : t + h, lf : lf + w] for t, lf in places]), torch.tensor(places)


def smoothing_for(
    network: Loaded,
    reduce: Reduce,
    sigma: float | Literal["auto"] | None = None,
    samples: int | Literal["auto"] | None = None,
    draws: Draws | None = None,
    seed: int | None = None,
    tolerance: float | None = None,
) -> Smoothing:
    """How to smooth a model: what is given, else what its catalogue entry says, else sigma .03 and 20 draws.

    "auto": by each picture, its noise for ``sigma``, and for ``samples`` as many as ``tolerance`` (default 1/255) needs
    and at most 64. RobustSRError: there is no calibration for that, a value makes no sense, or the model smooths
    already.
    """
    refuse_smoothed(network)
    entry = network.entry
    known = calibration_of(network.digest, entry) if sigma == "auto" else None
    if sigma == "auto" and known is None:
        raise RobustSRError(
            f"{network.name} has no calibration for --sigma auto: give a number like 0.03, take -m psnr, "
            "which has one, or let `robustsr tune FOLDER`, with -m and --denoise as here, make one from sharp pictures"
        )
    if isinstance(sigma, str):
        sigma = max(s for _, s in known or [(0.0, 0.0)])
    if samples == "auto":
        tolerance, samples = 1 / 255 if tolerance is None else tolerance, MOST_SAMPLES
        if not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
            raise RobustSRError(
                f"--tolerance must be a number above 0 and below 1 (2/255 is two levels of 255), got {tolerance!r}"
            )
    elif samples is not None and not isinstance(samples, int):
        raise RobustSRError(f"--samples must be a whole number or auto, got {samples!r}")
    elif tolerance is not None:
        raise RobustSRError("--tolerance only matters with --samples auto")
    chosen = Smoothing(
        reduce,
        sigma if sigma is not None else entry.sigma if entry else 0.03,
        samples if samples is not None else entry.samples if entry else 20,
        draws or (cast(Draws, entry.draws) if entry else "antithetic"),
        seed or 0,
    )
    Smoothed(network, **vars(chosen))  # refuses what makes no sense
    decided = known is not None or tolerance is not None
    return AutoSmoothing(**vars(chosen), calibration=known, tolerance=tolerance) if decided else chosen


def refuse_smoothed(network: Loaded) -> None:
    """RobustSRError: the model smooths already, and cannot be smoothed."""
    if inside := noise_inside(network):
        raise RobustSRError(
            f"{network.name} smooths already ({inside.reduce} of {inside.samples}, sigma {inside.sigma:g}): "
            "leave out --smooth, or take the model it was exported from"
        )


LARGEST_SCALE = 1000  # beyond any use


@dataclass(frozen=True)
class Target:
    """The size asked for, at most one of these (``width`` and ``height`` together: fit into that box).

    None of them: one pass of the network. The aspect ratio is kept.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    long_side: int | None = None
    short_side: int | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        for name, value in given.items():
            if not 0 < value < math.inf:
                raise RobustSRError(f"--{name.replace('_', '-')} must be positive, got {value:g}")
        if (self.scale or 0) > LARGEST_SCALE:
            raise RobustSRError(f"--scale must be at most {LARGEST_SCALE}, got {self.scale:g}")
        if len(given) > 1 and set(given) != {"width", "height"}:
            raise RobustSRError(f"give one of {', '.join('--' + k.replace('_', '-') for k in given)}, not several")

    def size(self, w: int, h: int, native: int) -> tuple[int, int]:
        """(width, height) of the result for a picture of (w, h) and a network of scale ``native``."""
        if self.scale is not None:
            factor: float = self.scale
        elif self.width is not None or self.height is not None:
            factor = min((self.width or math.inf) / w, (self.height or math.inf) / h)
        elif self.long_side is not None:
            factor = self.long_side / max(w, h)
        elif self.short_side is not None:
            factor = self.short_side / min(w, h)
        else:
            factor = native
        return max(1, round(w * factor)), max(1, round(h * factor))

    def passes(self, w: int, h: int, native: int) -> int:
        """How many times the network runs over the picture to reach the target or pass it; at least once."""
        if native == 1:
            return 1
        width, height = self.size(w, h, native)
        factor = max(width / w, height / h)
        return max(1, math.ceil(math.log(factor) / math.log(native) - 1e-3))


@dataclass(frozen=True)
class Plan:
    """What decides the bytes besides the settings: a function of model, device, compiler and settings, never of free
    memory.

    ``tile``: LR pixels of the largest window, context included. ``context``: LR pixels a window sees beyond what
    it contributes. ``batch``: pixels that enter the network at once.
    """

    tile: int
    context: int
    batch: int
    device: str
    precision: str
    engine: str = "eager"


def make_plan(
    network: Loaded, smoothing: Smoothing | None, tile: int | None = None, context: int | None = None
) -> Plan:
    """The plan for a model and a way of smoothing: windows as large as a gigabyte of outputs allows.

    Large windows waste little on context; the outputs of all draws of a window are held until they are reduced.
    ``tile`` and ``context`` override; RobustSRError where they would show in the picture.
    """
    if network.fixed_size and (tile or context):
        raise RobustSRError(f"{network.name} takes tiles of {network.fixed_size} only: leave out --tile and --tile-pad")
    if context is None:
        context = network.context
    elif network.exact and context < network.context:
        raise RobustSRError(f"--tile-pad {context} would leave seams: {network.name} needs {network.context}")
    if tile is None:
        held = smoothing.samples if smoothing and smoothing.reduce == "median" else 2
        if (inside := noise_inside(network)) and inside.reduce == "median":
            held = 2 * inside.samples  # see onnx_smoothing
        tile = math.isqrt(2**30 // (held * 3 * 4 * network.scale**2)) // 8 * 8
        tile = max(smallest_tile(network, context), min(tile, 512 if network.exact else 384))
    elif tile < smallest_tile(network, context):
        raise RobustSRError(
            f"--tile {tile} is too small: {network.name} needs {smallest_tile(network, context)} or more"
        )
    batch = 256 * 256 if network.device.type == "cpu" else 512 * 512  # a processor's cache is small
    return Plan(tile, context, batch, str(network.device), network.precision, network.engine)


def smallest_tile(network: Loaded, context: int) -> int:
    """LR pixels of the smallest window that is worth its context and feathers."""
    return overlap(network, context) + max(SMALLEST_TILE + 2 * network.feather, network.align)


def overlap(network: Loaded, context: int, feather: int | None = None) -> int:
    """LR pixels that neighbouring windows share: their contexts and the feather, to whole steps of ``align``."""
    fade = network.feather if feather is None else feather
    return math.ceil((2 * context + fade) / network.align) * network.align


def compose(
    network: Loaded,
    smoothing: Smoothing | None,
    plan: Plan,
    size: tuple[int, int],
    *,
    gray: bool = False,
    watch: Callable[[int], None] | None = None,
) -> Tiled:
    """``Tiled(Smoothed(network))`` for a picture of (h, w) LR pixels: balanced windows of at most ``plan.tile``.

    ``watch`` is told after each call of the network how many windows it held.
    """
    shared = overlap(network, plan.context)
    window = network.fixed_size or tuple(balanced(n, plan.tile, shared, network.align) for n in size)
    inner: Upscaler = network if watch is None else Watched(network, watch)
    if smoothing is not None and smoothing.sigma > 0:
        chunk = max(1, plan.batch // (min(window[0], size[0]) * min(window[1], size[1])))
        inner = Smoothed(inner, **vars(smoothing), gray=gray, chunk=1 if network.fixed_size else chunk)
    return Tiled(inner, (window[0], window[1]), plan.context, network.feather, network.align, network.device)


@dataclass(frozen=True)
class Watched(Wrapper):
    """An upscaler that says after each call how many windows it held."""

    say: Callable[[int], None]

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        sr = self.inner(x, origin=origin)
        self.say(len(x))
        return sr


def count_windows(network: Loaded, smoothing: Smoothing | None, plan: Plan, size: tuple[int, int], passes: int) -> int:
    """How many windows a picture of (h, w) sends through the network, over all passes and draws."""
    total = 0
    for number in range(passes):
        h, w = (n * network.scale**number for n in size)
        smooth = smoothing if number == 0 else None
        rows, columns = compose(network, smooth, plan, (h, w)).grid(h, w)
        total += len(rows) * len(columns) * (smooth.samples if smooth and smooth.sigma > 0 else 1)
    return total


def cost(network: Loaded, smoothing: Smoothing | None, w: int, h: int, target: Target, alpha: bool = False) -> float:
    """Pixels that a picture sends through the network, all draws and passes counted (context left out)."""
    draws = smoothing.samples if smoothing and smoothing.sigma > 0 else 1
    later: int = sum(network.scale ** (2 * k) for k in range(1, target.passes(w, h, network.scale)))
    return w * h * (draws + later + alpha * (1 + later))


def pixels_per_second(network: Loaded, seconds: float = 0.15) -> float:
    """How many LR pixels per second the network does here, measured on a blank picture for a fraction of a second."""
    h, w = network.fixed_size or ((64, 64) if noise_inside(network) else (128, 128))
    x = torch.zeros(1, 3, h, w, device=network.device)
    with torch.inference_mode():
        network(x).sum().item()  # the first call allocates and tunes
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            network(x).sum().item()
            count += 1
    return count * h * w / (time.perf_counter() - start)
