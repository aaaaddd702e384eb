"""A certified picture: fresh independent draws, the picture they make, and bounds from other draws.

Windows outside, draws inside: the counts of one window are all that is held, whatever the number of draws. The
function that is certified is the network applied window by window with hard cuts, in float32, output clamped. Noise is
pseudo-random, in float32, and never exceeds 5.9 sigma (see ``noise``): taken for Gaussian. Rounding does not count:
by Winograd's convolutions an output moves by some 1e-5 with what lies outside its receptive field.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .bounds import LEVELS, Bounds, Histogram, bounds, counter, shipped_picture
from .certify import Claim
from .engine import buffers_kept, full_float32, is_out_of_memory
from .models import Loaded, noise_inside
from .noise import gaussian
from .onnx_network import OnnxNetwork
from .plan import Counter, overlap
from .tiling import balanced, windows
from .types import RobustSRError

FieldKind = Literal["auto", "image", "receptive"]
OnDraws = Callable[[int, int], None]

COUNTS = 384 << 20  # bytes of counts per window, about
MOST_COUNTS = 1536 << 20
PASS = 1 << 17  # LR pixels that enter the network at once


@dataclass(frozen=True)
class Field:
    """Where ||delta||_2 is taken: over the whole ``(h, w)`` LR picture, or inside the receptive field of every output
    pixel, the square of ``radius`` LR pixels around it (all three channels) as far as it lies in the picture.

    The second claim is stronger: it needs less of delta.
    """

    h: int
    w: int
    radius: int | None = None  # None: the whole picture

    @property
    def kind(self) -> Literal["image", "receptive"]:
        return "image" if self.radius is None else "receptive"

    @property
    def sides(self) -> tuple[int, int]:
        """(h, w) of the largest field."""
        if self.radius is None:
            return self.h, self.w
        return min(self.h, 2 * self.radius + 1), min(self.w, 2 * self.radius + 1)

    @property
    def values(self) -> int:
        """LR values of the largest field."""
        return 3 * self.sides[0] * self.sides[1]


@dataclass(frozen=True)
class Certificate:
    """A claim with its evidence. ``shipped`` and ``bounds`` are ``(3, s*h, s*w)`` in 8-bit levels.

    Draws 0 to claim.shipped - 1 of ``seed`` made the picture, the next claim.n the bounds. ``fresh``: the seed came
    from the operating system's entropy, not from the caller. ``window``: LR pixels of one window, context included.
    """

    claim: Claim
    field: Field
    seed: int
    fresh: bool
    window: tuple[int, int]
    shipped: Tensor
    bounds: Bounds


@buffers_kept()
def certify(
    x: Tensor,
    network: Loaded,
    claim: Claim,
    *,
    field: FieldKind = "auto",
    seed: int | None = None,
    on_draws: OnDraws | None = None,
) -> Certificate:
    """Makes a picture from ``x (1, 3, h, w)``, float32 in [0, 1], and bounds it; ``claim.values`` is filled in.

    ``field`` "auto" is the receptive field where the network has an exact one, else the whole picture. ``seed``, 64
    bits, is fresh unless given; a claim needs it to be chosen before, and without regard to, any result.
    ``on_draws(done, total)`` counts draws, times windows, and may raise to stop. RobustSRError: too few draws for
    any bound, a field that the network does not have, values that are not numbers, not enough memory.
    """
    if noise_inside(network):
        raise RobustSRError(f"{network.name} adds noise of its own, which no certificate covers: take the model itself")
    h, w = x.shape[-2:]
    claim = for_picture(claim, network, h, w)
    where = find_field(network, field, h, w)
    network = network.with_precision("fp32")
    full_float32()
    key = secrets.randbits(64) if seed is None else seed
    if not 0 <= key < 2**64:
        raise RobustSRError(f"--seed must be 0 to 2^64 - 1, got {key}")
    size = window_size(network, claim, h, w)
    s = network.scale
    rows, columns = (windows(n, m, network.context, align=network.align) for n, m in zip((h, w), size, strict=True))
    progress = Counter(on_draws, len(rows) * len(columns) * (claim.shipped + claim.n))
    picture, lower, upper = (torch.empty(3, h * s, w * s, dtype=torch.uint8) for _ in range(3))
    try:
        for row in rows:
            for column in columns:
                tile = x[..., row.start : row.stop, column.start : column.stop].to(network.device)
                cut = _Cut(row.start, column.start, *(range(n.low - n.start, n.high - n.start) for n in (row, column)))
                made, bound = _certify_window(tile, network, claim, key, cut, progress)
                area = (..., slice(row.low * s, row.high * s), slice(column.low * s, column.high * s))
                picture[area], lower[area], upper[area] = made, bound.lower, bound.upper
    except Exception as error:  # onnxruntime's are no RuntimeErrors
        if is_out_of_memory(error):
            raise RobustSRError(
                f"out of memory, in windows of {size[1]}x{size[0]}: use --crop or another --device"
            ) from None
        raise
    return Certificate(claim, where, key, seed is None, size, picture, Bounds(lower, upper))


def for_picture(claim: Claim, network: Loaded, h: int, w: int) -> Claim:
    """The claim over all output values of an (h, w) LR picture. RobustSRError: it has too few draws."""
    claim = replace(claim, values=3 * h * w * network.scale**2)
    claim.refuse_too_few()
    return claim


def find_field(network: Loaded, asked: FieldKind, h: int, w: int) -> Field:
    """The field that a claim about an (h, w) picture is over. RobustSRError: "receptive", and there is no exact one.

    Networks of inexact context feather their tiles, reach far or everywhere, or depend on where a pixel lies; padding
    by reflection folds far pixels into a field.
    """
    why = ""
    if isinstance(network, OnnxNetwork):
        why = "an ONNX file's word is no proof of its receptive field"
    elif not network.exact or network.feather:
        why = "its receptive field is the whole picture or not known exactly, and its tiles are feathered"
    elif _padded(network, h, w):
        why = f"it takes a {w}x{h} picture only with reflected borders"
    if asked == "receptive" and why:
        raise RobustSRError(f"no receptive-field claim for {network.name}: {why}; use --field image")
    return Field(h, w, None if why or asked == "image" else network.context)


def _padded(network: Loaded, h: int, w: int) -> bool:
    squared = network.square and h != w
    return bool(squared or min(h, w) < network.min_size or h % network.multiple or w % network.multiple)


def window_size(network: Loaded, claim: Claim, h: int, w: int) -> tuple[int, int]:
    """LR pixels (h, w) of a window, context included: as large as its counts allow, the same for all of a picture.

    RobustSRError: a model of one fixed size whose counts are too many.
    """
    each = 3 * network.scale**2 * LEVELS * counter(max(claim.n, claim.shipped)).itemsize
    if network.fixed_size:
        size = (min(h, network.fixed_size[0]), min(w, network.fixed_size[1]))
        if size[0] * size[1] * each > MOST_COUNTS:
            raise RobustSRError(
                f"{network.name} takes {network.fixed_size[1]}x{network.fixed_size[0]} pixels at once: "
                f"the counts would need {size[0] * size[1] * each / 2**30:.1f} GB; use --crop"
            )
        return network.fixed_size
    side = max(1, math.isqrt(COUNTS // each) - network.context)  # windows at a border contribute a context more
    if h * w * each <= COUNTS:
        return h, w
    shared = overlap(network, network.context, feather=0)
    high, wide = (balanced(n, max(side, network.align) + shared, shared, network.align) for n in (h, w))
    return high, wide


@dataclass(frozen=True)
class _Cut:
    """Where a window lies in the picture, and which of its LR rows and columns it contributes."""

    top: int
    left: int
    rows: range
    columns: range


def _certify_window(
    tile: Tensor, network: Loaded, claim: Claim, seed: int, cut: _Cut, progress: Counter
) -> tuple[Tensor, Bounds]:
    """The shipped levels and the bounds of what one window contributes, from disjoint draws."""
    s = network.scale
    store = network.device if network.device.type == "cuda" else torch.device("cpu")
    shape = (3, len(cut.rows) * s, len(cut.columns) * s)
    histogram = Histogram(shape, max(claim.n, claim.shipped), store)
    _draw(histogram, range(claim.shipped), tile, network, claim.sigma, seed, cut, progress)
    picture = shipped_picture(claim, histogram)
    histogram.clear()
    _draw(histogram, range(claim.shipped, claim.shipped + claim.n), tile, network, claim.sigma, seed, cut, progress)
    return picture, bounds(claim, histogram)


def _draw(
    histogram: Histogram,
    draws: range,
    tile: Tensor,
    network: Loaded,
    sigma: float,
    seed: int,
    cut: _Cut,
    progress: Counter,
) -> None:
    """Adds the network's outputs for the noise of ``draws``, several in one pass."""
    s = network.scale
    h, w = network.fixed_size or tile.shape[-2:]
    chunk = max(4, PASS // (h * w) // 4 * 4)  # noise comes in fours
    origin = torch.tensor([[cut.top, cut.left]], device=tile.device)
    rows = slice(cut.rows.start * s, cut.rows.stop * s)
    columns = slice(cut.columns.start * s, cut.columns.stop * s)
    start = draws.start
    while start < draws.stop:
        now = range(start, min(start // chunk * chunk + chunk, draws.stop))
        with torch.inference_mode():
            noise = gaussian(seed, now, 3, tile.shape[-2], tile.shape[-1], origin)[:, 0]
            histogram.add(network(tile + sigma * noise)[..., rows, columns])
        progress.add(len(now))
        start = now.stop
