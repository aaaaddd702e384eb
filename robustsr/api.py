"""The Python interface for pictures in memory: the same pipeline as the command line's, without files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .images import Metadata, Picture
from .models import Loaded, load, seeded
from .pipeline import upscale_picture
from .plan import make_plan
from .settings import Target, smoothing_for
from .smoothing import Draws, Reduce
from .types import RobustSRError

AnyImage = TypeVar("AnyImage", Image.Image, NDArray[np.generic], torch.Tensor)


def upscale(
    image: AnyImage,
    model: str | Path | Loaded | None = None,
    *,
    scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    long_side: int | None = None,
    short_side: int | None = None,
    min_side: int | None = None,
    smooth: Reduce | None = None,
    sigma: float | str | None = None,
    samples: int | Literal["auto"] | None = None,
    tolerance: float | None = None,
    draws: Draws | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    denoise: str | Path | None = None,
    tile: int | None = None,
) -> AnyImage:
    """Upscales a picture in memory and returns the same kind of thing.

    ``image``: a PIL image of mode L, LA, RGB, RGBA or I;16, which comes back upright and with its colour profile; an
    array ``(h, w)``, ``(h, w, 1..4)`` of uint8, uint16 or floats in [0, 1]; or a tensor ``(3, h, w)`` or
    ``(N, 3, h, w)`` of floats in [0, 1]. A fourth (or second) channel is alpha. Results are clamped to [0, 1] and
    rounded to integers for integer input. ``model``: a name, a path, or what ``load`` returned (faster for several
    pictures; ``device`` and ``precision`` are then its own). ``scale``, or sides of the result in pixels (``width`` and
    ``height`` together: to fit into that box; ``min_side``: larger pictures keep their size), as in the command line;
    the model's own scale if none is given.
    ``sigma`` (in [0, 1] units, or text like "8/255" or "auto"), ``samples`` and ``draws`` default to the model's
    catalogue entry; ``samples`` "auto" takes as many as each picture needs for an RMS error of ``tolerance``, 1/255
    unless given.
    ``denoise``: the name or path of a denoiser that runs before the model, on each noisy copy where it is smoothed.
    ``tile``: pixels a side of the pieces that large pictures are upscaled in; smaller ones need less memory.
    RobustSRError: anything else, or an unknown model.
    """
    if isinstance(model, str | Path | None):
        network = load(model, device=device, precision=precision, denoise=denoise)
    elif denoise is not None:
        raise RobustSRError("denoise goes with a model's name or path: load(model, denoise=...) makes both one")
    else:
        network = model
    if smooth is None and any(option is not None for option in (sigma, samples, tolerance, draws)):
        raise RobustSRError("sigma, samples, tolerance and draws only matter with smooth='median' or smooth='mean'")
    network = seeded(network, seed)
    smoothing = smoothing_for(network, smooth, sigma, samples, draws, seed, tolerance) if smooth else None
    target, plan = Target(scale, width, height, long_side, short_side, min_side), make_plan(network, smoothing, tile)

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if not pixels.size or not np.isfinite(pixels).all():
            raise RobustSRError("the picture is empty, or some of its values are no finite numbers")
        if pixels.min() < -0.5 or pixels.max() > 1.5:
            reach = f"these reach from {pixels.min():g} to {pixels.max():g}"
            raise RobustSRError(f"floats must be in [0, 1], {reach}: scale them, as by 1/255, or from [-1, 1]")
        channels = pixels.shape[2]
        gray = channels < 3
        rgb = np.repeat(pixels[..., :1], 3, axis=2) if gray else pixels[..., :3]
        alpha = pixels[..., -1] if channels in (2, 4) else None
        picture = Picture(rgb, alpha, gray, 16, Metadata(), "png")
        made, _ = upscale_picture(picture, network, smoothing, target, plan)
        colours = made.rgb[..., :1] if gray else made.rgb
        both = colours if made.alpha is None else np.concatenate([colours, made.alpha[..., None]], axis=2)
        return both.clip(0, 1)

    if isinstance(image, torch.Tensor):
        batch = image if image.ndim == 4 else image[None]
        if not image.is_floating_point() or batch.ndim != 4 or batch.shape[1] != 3:
            raise RobustSRError(
                f"a tensor must be float (3, h, w) or (N, 3, h, w), got {image.dtype} {tuple(image.shape)}"
            )
        pictures = [run(x.permute(1, 2, 0).float().cpu().numpy()) for x in batch.detach()]
        stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(image.device, image.dtype)
        return stacked if image.ndim == 4 else stacked[0]
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
            like = "RGBA" if "transparency" in image.info or image.mode in ("PA", "La", "RGBa") else "RGB"
            hint = "an array of it, scaled" if image.mode[0] in "IF" else f"image.convert({like!r})"
            raise RobustSRError(f"an image must have mode L, LA, RGB, RGBA or I;16, got {image.mode}: take {hint}")
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # of broken EXIF Pillow raises whatever comes
            upright = image
        large = Image.fromarray(_array(np.asarray(upright), run))
        large.info |= {key: image.info[key] for key in ("icc_profile",) if key in image.info}
        return large
    return _array(np.asarray(image), run)


def _array(
    image: NDArray[np.generic], run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> NDArray[np.generic]:
    """``run`` on an array of any supported kind, and back to its kind."""
    planes = image[..., None] if image.ndim == 2 else image
    if planes.ndim != 3 or not 1 <= planes.shape[2] <= 4:
        hint = ": of a file give PIL.Image.open(path)" if image.dtype.kind in "UO" else ""
        raise RobustSRError(f"an array must be (h, w) or (h, w, 1 to 4), got {image.shape}{hint}")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise RobustSRError(f"an array must be uint8, uint16 or float, got {image.dtype}")
    integer = np.issubdtype(image.dtype, np.integer)
    top = np.iinfo(image.dtype).max if integer else 1  # type: ignore[type-var]
    made = run(planes.astype(np.float32) / np.float32(top))
    result: NDArray[np.generic] = (
        np.floor(made * top + 0.5).astype(image.dtype) if integer else made.astype(image.dtype)
    )
    return result[..., 0] if image.ndim == 2 else result
