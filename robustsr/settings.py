"""What is asked of an upscaler: how to smooth, and the size of the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from .calibration import Calibration, estimate_noise, sigma_for
from .catalogue import calibration_of
from .models import Loaded, noise_inside
from .smoothing import Draws, Reduce, Smoothed, is_gray
from .types import RobustSRError, Upscaler, number

MOST_SAMPLES = 64  # that --samples auto takes


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
    sigma: float | str | None = None,
    samples: int | Literal["auto"] | None = None,
    draws: Draws | None = None,
    seed: int | None = None,
    tolerance: float | None = None,
) -> Smoothing:
    """How to smooth a model: what is given, else what its catalogue entry says, else sigma .03 and 20 draws.

    ``sigma`` may be text, such as 8/255. "auto": by each picture, its noise for ``sigma``, and for ``samples`` as many
    as ``tolerance`` (default 1/255) needs and at most 64. RobustSRError: there is no calibration for that, a value
    makes no sense, or the model smooths already.
    """
    refuse_smoothed(network)
    entry = network.entry
    level = number(sigma) if isinstance(sigma, str) and sigma != "auto" else sigma
    known = calibration_of(network.digest, entry) if sigma == "auto" else None
    if sigma == "auto" and known is None:
        raise RobustSRError(
            f"{network.name} has no calibration for --sigma auto: give a number like 0.03, take the model psnr, "
            "which has one, or let `robustsr tune FOLDER` make one from sharp pictures, for this model and denoiser"
        )
    if isinstance(level, str):
        level = max(s for _, s in known or [(0.0, 0.0)])
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
        level if level is not None else entry.sigma if entry else 0.03,
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

    ``min_side``: what is smaller gets that shorter side, what is larger keeps its size. None of them: one pass of the
    network. The aspect ratio is kept.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    long_side: int | None = None
    short_side: int | None = None
    min_side: int | None = None

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
        elif self.min_side is not None:
            factor = max(1, self.min_side / min(w, h))
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
