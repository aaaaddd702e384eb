"""Which sigma for a picture nobody has the truth of: an estimate of its noise, and what was best at such noise.

`robustsr tune` measures the second on pictures with known truth; ``--sigma auto`` applies it. Not for certificates: a
sigma that depends on the input voids them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Calibration = tuple[tuple[float, float], ...]  # (noise estimate, best sigma), both rising, in [0, 1] units
BLOCK = 16  # pixels: noise is judged where a picture is flattest
FLAT = 0.1  # the share of blocks that is taken for flat


def estimate_noise(x: Tensor) -> float:
    """A measure of the noise's standard deviation in ``x (1, 3, h, w)``, in [0, 1] units, from its flattest blocks.

    Median absolute diagonal Haar coefficient (Donoho & Johnstone 1994) of the mean over channels, per block; the
    10% quantile over blocks, which is a fifth below the standard deviation where there is noise alone. Texture
    everywhere raises it, clipping and compression lower it. Noise is taken for independent over three channels, or
    where they are equal for one.
    """
    if min(x.shape[-2:]) < 2:
        return 0.0
    gray = x[0].mean(0)
    gray = gray[: len(gray) // 2 * 2, : gray.shape[1] // 2 * 2]
    a, b, c, d = gray[::2, ::2], gray[::2, 1::2], gray[1::2, ::2], gray[1::2, 1::2]
    diagonal = ((a - b - c + d) / 2).abs()
    side = BLOCK // 2
    h, w = (n // side for n in diagonal.shape)
    if h and w:
        blocks = diagonal[: h * side, : w * side].reshape(h, side, w, side).transpose(1, 2).reshape(h * w, -1)
    else:
        blocks = diagonal.reshape(1, -1)
    channels = 1 if bool((x[:, 1:] == x[:, :1]).all()) else 3
    spread = blocks.median(dim=1).values / 0.6745 * channels**0.5
    return float(torch.quantile(spread, FLAT))


@dataclass(frozen=True)
class Point:
    """One picture at one sigma: its noise estimate and how good the result was (larger is better)."""

    picture: str
    noise: float
    sigma: float
    score: float


def fit(points: Sequence[Point], bins: int = 6) -> Calibration:
    """The best sigma by mean score in each of ``bins`` equally filled ranges of noise; made to rise with the noise."""
    pictures = sorted({(p.noise, p.picture) for p in points})
    bins = max(1, min(bins, len(pictures)))
    edges = [pictures[i * len(pictures) // bins : (i + 1) * len(pictures) // bins] for i in range(bins)]
    found: list[tuple[float, float]] = []
    for part in edges:
        inside = set(part)
        scores: dict[float, list[float]] = {}
        for p in points:
            if (p.noise, p.picture) in inside:
                scores.setdefault(p.sigma, []).append(p.score)
        best = max(scores, key=lambda s: (sum(scores[s]) / len(scores[s]), -s))
        noise = sum(n for n, _ in part) / len(part)
        found.append((round(noise, 5), max(best, found[-1][1] if found else 0.0)))
    return tuple(found)


def sigma_for(calibration: Calibration, noise: float) -> float:
    """The sigma at a noise estimate: linear between the calibration's points, constant beyond them."""
    noises, sigmas = zip(*calibration, strict=True)
    return float(np.interp(noise, noises, sigmas))
