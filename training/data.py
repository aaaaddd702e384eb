"""Training pictures: a folder decoded once into HR/LR arrays, and batches that are a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from robustsr import images
from robustsr.types import RobustSRError

MAX_PIXELS = 400_000_000
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # LR (h, w, 3), HR (s*h, s*w, 3)


def pictures(folder: str | Path) -> list[Path]:
    """The picture files under a folder, sorted, without hidden ones. RobustSRError: no such folder, or none in it."""
    root = Path(folder)
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower()[1:] in images.FORMATS
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    )
    if not found:
        raise RobustSRError(f"no pictures under {str(folder)!r}" if root.is_dir() else f"no folder {str(folder)!r}")
    return found


def read(path: Path) -> Image.Image:
    """A picture of any kind as 8-bit sRGB, upright. RobustSRError: it cannot be read."""
    rgb = images.read(path, max_pixels=MAX_PIXELS).rgb
    return Image.fromarray((rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def downscale(hr: Image.Image, scale: int) -> Image.Image:
    """Antialiased bicubic (PIL, a = -0.5), which agrees closely with MATLAB's imresize; 8-bit in, 8-bit out."""
    return hr.resize((hr.width // scale, hr.height // scale), Image.Resampling.BICUBIC)


def load_pairs(folder: str | Path, scale: int, patch: int, skipped: Callable[[str], None]) -> list[Pair]:
    """Decodes every picture large enough for a patch; says of each other one, through ``skipped``, why not."""
    pairs: list[Pair] = []
    for path in pictures(folder):
        try:
            hr = read(path)
        except RobustSRError as error:
            skipped(str(error))
            continue
        hr = hr.crop((0, 0, hr.width // scale * scale, hr.height // scale * scale))
        if min(hr.size) < patch * scale:
            skipped(f"{path}: {hr.width}x{hr.height} is smaller than a patch of {patch * scale}")
            continue
        pairs.append((np.asarray(downscale(hr, scale)), np.asarray(hr)))
    if not pairs:
        raise RobustSRError(f"no usable picture under {str(folder)!r}")
    return pairs


def batches(
    pairs: list[Pair], scale: int, patch: int, batch: int, seed: int, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, from step ``start`` on, uint8 LR ``(N, 3, p, p)`` and HR ``(N, 3, s*p, s*p)``.

    Pictures are drawn in proportion to their area; each patch is one of the eight flips and rotations.
    What step t yields depends on the seed and t alone, so a resumed run sees the batches it would have seen.
    """
    areas = np.array([lr.shape[0] * lr.shape[1] for lr, _ in pairs], dtype=np.float64)
    share = areas / areas.sum()
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        lrs, hrs = [], []
        for index in rng.choice(len(pairs), size=batch, p=share):
            lr, hr = pairs[index]
            y = int(rng.integers(lr.shape[0] - patch + 1))
            x = int(rng.integers(lr.shape[1] - patch + 1))
            turn, flip = int(rng.integers(4)), bool(rng.integers(2))
            lr = lr[y : y + patch, x : x + patch]
            hr = hr[y * scale : (y + patch) * scale, x * scale : (x + patch) * scale]
            lr, hr = np.rot90(lr, turn), np.rot90(hr, turn)
            if flip:
                lr, hr = lr[:, ::-1], hr[:, ::-1]
            lrs.append(lr)
            hrs.append(hr)
        yield _stack(lrs), _stack(hrs)
        step += 1


def _stack(patches: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2)))
