"""One picture through an upscaler: passes, smoothing, gray, alpha, target size, memory and numeric trouble."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .engine import is_out_of_memory
from .images import Picture, bleed
from .models import Loaded
from .smoothing import Draws, Reduce, Smoothed
from .tiling import Tiled
from .types import RobustSRError, Upscaler

OnWindow = Callable[[int, int], None]
SMALLEST_TILE = 32  # LR pixels of a tile without its context, below which memory is not what is wrong


@dataclass(frozen=True)
class Smoothing:
    """How to smooth; ``sigma`` in [0, 1] units. See `robustsr.smoothing.Smoothed`."""

    reduce: Reduce
    sigma: float
    samples: int
    draws: Draws = "antithetic"
    seed: int = 0


def smoothing_for(
    network: Loaded,
    reduce: Reduce,
    sigma: float | None = None,
    samples: int | None = None,
    draws: Draws | None = None,
    seed: int | None = None,
) -> Smoothing:
    """How to smooth a model: what is given, else what its catalogue entry says, else sigma .03 and 20 draws."""
    entry = network.entry
    chosen = Smoothing(
        reduce,
        sigma if sigma is not None else entry.sigma if entry else 0.03,
        samples if samples is not None else entry.samples if entry else 20,
        draws or (cast(Draws, entry.draws) if entry else "antithetic"),
        seed or 0,
    )
    Smoothed(network, **vars(chosen))  # refuses what makes no sense
    return chosen


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
    """What decides the bytes besides the settings: a function of model, device and settings, never of free memory.

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
        tile = math.isqrt(2**30 // (held * 3 * 4 * network.scale**2)) // 8 * 8
        tile = max(_smallest(network, context), min(tile, 512 if network.exact else 384))
    elif tile < _smallest(network, context):
        raise RobustSRError(f"--tile {tile} is too small: {network.name} needs {_smallest(network, context)} or more")
    engine = "eager" if hasattr(network, "module") else "onnxruntime"
    return Plan(tile, context, 512 * 512, str(network.device), network.precision, engine)


def _smallest(network: Loaded, context: int) -> int:
    return 2 * context + SMALLEST_TILE + 3 * network.feather


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
    overlap = 2 * plan.context + network.feather
    window = network.fixed_size or tuple(_balanced(n, plan.tile, overlap) for n in size)
    inner: Upscaler = network if watch is None else _Watched(network, watch)
    if smoothing is not None and smoothing.sigma > 0:
        chunk = max(1, plan.batch // (min(window[0], size[0]) * min(window[1], size[1])))
        inner = Smoothed(inner, **vars(smoothing), gray=gray, chunk=1 if network.fixed_size else chunk)
    return Tiled(inner, (window[0], window[1]), plan.context, network.feather, network.device)


def _balanced(length: int, tile: int, overlap: int) -> int:
    """The smallest window that covers ``length`` in as few windows as ``tile`` would."""
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return min(length, math.ceil((length - overlap) / count) + overlap)


def upscale_picture(
    picture: Picture,
    network: Loaded,
    smoothing: Smoothing | None,
    target: Target,
    plan: Plan,
    on_window: OnWindow | None = None,
) -> tuple[Picture, Plan]:
    """Upscales a picture, and returns with it the plan that was used: ``plan``, or a smaller tile after an
    out-of-memory, or a higher precision after a result that was not finite.

    ``on_window(done, total)`` is called after each call of the network with the number of windows, times draws, that
    are through, and may raise to stop. RobustSRError: the result is not finite in float32 either, or memory does
    not suffice for any tile.
    """
    while True:
        try:
            return _upscale(picture, network, smoothing, target, plan, on_window), plan
        except _NotFiniteError:
            if network.precision == "fp32":
                raise RobustSRError(f"{network.name} gives values that are not numbers for this picture") from None
            network = network.with_precision("fp32")
            plan = replace(plan, precision="fp32")
        except Exception as error:  # onnxruntime's are no RuntimeErrors
            if not is_out_of_memory(error):
                raise
            now, least = min(plan.tile, max(picture.rgb.shape[:2])), _smallest(network, plan.context)
            if network.fixed_size or now <= least:
                raise RobustSRError(f"out of memory, even in tiles of {now} pixels") from None
            plan = replace(plan, tile=max(now // 2, least), batch=plan.batch // 4)
        if network.device.type == "cuda":
            torch.cuda.empty_cache()


class _NotFiniteError(Exception):
    pass


def _upscale(
    picture: Picture,
    network: Loaded,
    smoothing: Smoothing | None,
    target: Target,
    plan: Plan,
    on_window: OnWindow | None,
) -> Picture:
    h, w = picture.rgb.shape[:2]
    width, height = target.size(w, h, network.scale)
    jobs = [picture.rgb if picture.alpha is None else bleed(picture.rgb, picture.alpha)]
    if picture.alpha is not None:
        jobs.append(np.repeat(picture.alpha[..., None], 3, axis=2))
    passes = target.passes(w, h, network.scale)
    total = count_windows(network, smoothing, plan, (h, w), passes)
    if picture.alpha is not None:
        total += count_windows(network, None, plan, (h, w), passes)
    counter = _Counter(on_window, total)
    planes = []
    for job, (pixels, smooth) in enumerate(zip(jobs, (smoothing, None), strict=False)):
        low, high = min(0.0, float(pixels.min())), max(1.0, float(pixels.max()))  # beyond [0, 1] for wide gamuts
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        gray = bool((x[:, 1:] == x[:, :1]).all())  # also where a file stores it as RGB: no tint
        for number in range(passes):
            smooth_now, size = smooth if number == 0 else None, (x.shape[-2], x.shape[-1])
            up = compose(network, smooth_now, plan, size, gray=gray, watch=counter.add)
            with torch.inference_mode():
                x = up(x)
                if not bool(torch.isfinite(x.sum())):
                    raise _NotFiniteError
                x = x.clamp_(low, high)  # Tiled's own memory
        if job == 1 or picture.gray:
            x = x.mean(1, keepdim=True)
        plane = resize(x[0].permute(1, 2, 0).numpy(), width, height)
        planes.append(np.clip(plane, low, high, out=plane))
    rgb = np.repeat(planes[0], 3, axis=2) if picture.gray else planes[0]
    return replace(picture, rgb=rgb, alpha=planes[1][..., 0] if len(planes) > 1 else None)


@dataclass
class _Counter:
    """Counts windows over all passes and planes of one picture."""

    on_window: OnWindow | None
    total: int
    done: int = 0

    def add(self, windows: int) -> None:
        self.done += windows
        if self.on_window is not None:
            self.on_window(self.done, self.total)


@dataclass(frozen=True)
class _Watched:
    """An upscaler that says after each call how many windows it held."""

    inner: Upscaler
    say: Callable[[int], None]

    @property
    def scale(self) -> int:
        return self.inner.scale

    @property
    def context(self) -> int:
        return self.inner.context

    @property
    def exact(self) -> bool:
        return self.inner.exact

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


def pixels_per_second(network: Loaded, seconds: float = 0.3) -> float:
    """How many LR pixels per second the network does here, measured on a blank picture for a fraction of a second."""
    h, w = network.fixed_size or (128, 128)
    x = torch.zeros(1, 3, h, w, device=network.device)
    with torch.inference_mode():
        network(x).sum().item()  # the first call allocates and tunes
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            network(x).sum().item()
            count += 1
    return count * h * w / (time.perf_counter() - start)


def resize(pixels: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Antialiased Lanczos (PIL, float32) of ``(h, w, c)`` ; may overshoot; untouched if the size is right already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    out = np.empty((height, width, pixels.shape[2]), np.float32)
    for c in range(pixels.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(pixels[..., c]), mode="F")
        out[..., c] = np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS))
    return out
