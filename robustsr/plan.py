"""How what is asked of an upscaler is carried out: tiles, passes, precision, and what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .catalogue import catalogue
from .engine import buffers_kept
from .models import Loaded, noise_inside
from .settings import Smoothing, Target
from .smoothing import Gray, Smoothed
from .tiling import Tiled, balanced
from .types import RobustSRError, Upscaler, Wrapper

SMALLEST_TILE = 32  # LR pixels of a tile without its context, below which memory is not what is wrong


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
        flags = " and ".join(flag for flag, given in (("--tile", tile), ("--tile-pad", context)) if given)
        high, wide = network.fixed_size
        raise RobustSRError(f"{network.name} takes tiles of {wide}x{high} only: leave out {flags}")
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

    ``gray``: the picture's channels are equal, and so will be the result's. ``watch`` is told after each call of the
    network how many windows it held.
    """
    shared = overlap(network, plan.context)
    window = network.fixed_size or tuple(balanced(n, plan.tile, shared, network.align) for n in size)
    inner: Upscaler = network if watch is None else Watched(network, watch)
    if smoothing is not None and smoothing.sigma > 0:
        chunk = max(1, plan.batch // (min(window[0], size[0]) * min(window[1], size[1])))
        inner = Smoothed(inner, **vars(smoothing), gray=gray, chunk=1 if network.fixed_size else chunk)
    elif gray:
        inner = Gray(inner)
    return Tiled(inner, (window[0], window[1]), plan.context, network.feather, network.align, network.device)


def refuse_too_large(target: Target, w: int, h: int, native: int, limit: int) -> None:
    """RobustSRError: a picture of (w, h) becomes more than ``limit`` pixels, by a network of scale ``native``."""
    largest = _most_pixels(target, w, h, native)
    if largest <= limit:
        return
    upscalers = (entry for entry in catalogue().values() if entry.use == "upscale")
    less = [entry for entry in upscalers if _most_pixels(target, w, h, entry.scale) <= limit]
    factors = [native**n for n in range(1, target.passes(w, h, native) + 1)]
    fits = max((factor for factor in factors if w * h * factor**2 <= limit), default=0)
    raise RobustSRError(
        f"{w}x{h} enlarged {factors[-1]} times has {largest:,} pixels, over the limit of {limit:,}: "
        f"{f'--scale {fits} is possible, or ' if fits else ''}"
        f"{f'take a model of x{less[0].scale} ({less[0].name}), or ' if less else ''}"
        f"set --max-pixels to {largest} if memory allows (about {largest * 24 / 2**30:,.1f} GB)"
    )


def _most_pixels(target: Target, w: int, h: int, native: int) -> int:
    """Of the result, or of what the last pass of a network of scale ``native`` gives, if that is larger."""
    factor: int = native ** target.passes(w, h, native)
    width, height = target.size(w, h, native)
    return max(w * h * factor**2, width * height)


@dataclass(frozen=True)
class Watched(Wrapper):
    """An upscaler that says after each call how many windows it held."""

    say: Callable[[int], None]

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        sr = self.inner(x, origin=origin)
        self.say(len(x))
        return sr


@dataclass
class Counter:
    """Adds up work that is done, and tells ``say(done, total)`` after each part."""

    say: Callable[[int, int], None] | None
    total: int
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.say is not None:
            self.say(self.done, self.total)


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


@buffers_kept()
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
