"""The Python interface for pictures in memory: the same pipeline as the command line's, without files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Real
from os import PathLike
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .images import Metadata, Picture
from .models import Loaded, load, seeded
from .pipeline import upscale_picture
from .plan import Plan, make_plan, refuse_too_large
from .settings import Smoothing, Target, smoothing_for
from .smoothing import Draws, Reduce
from .types import MAX_PIXELS, RobustSRError

AnyImage = TypeVar("AnyImage", Image.Image, NDArray[np.generic], torch.Tensor)
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # `_upscaled`


@contextmanager
def _without_flags() -> Iterator[None]:
    """In messages --long-side and the like are called as the parameters here are."""
    try:
        yield
    except RobustSRError as error:
        flags = "|".join(name.replace("_", "-") for name in inspect.signature(upscale).parameters)
        words = re.sub(rf"(?<![\w-])--({flags})(?![\w-])", lambda flag: flag[1].replace("-", "_"), str(error))
        raise RobustSRError(words) from error.__cause__


@_without_flags()
def upscale(
    image: AnyImage,
    model: str | PathLike[str] | Loaded | None = None,
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
    device: str | torch.device = "auto",
    precision: str = "auto",
    denoise: str | PathLike[str] | None = None,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> AnyImage:
    """Upscales a picture in memory and returns the same kind of thing.

    ``image``: a PIL image of mode 1, L, LA, P, RGB, RGBA or I;16, which comes back upright and with its colour profile
    (of mode 1 and P as L and RGB; with alpha if a colour is transparent, but for I;16); an array ``(h, w)``, ``(h, w,
    1..4)`` of uint8, uint16 or floats in [0, 1]; or a tensor ``(3, h, w)`` or ``(N, 3, h, w)`` of floats in [0, 1]. A
    fourth (or second) channel is alpha. Results are clamped to [0, 1] and rounded to integers for integer input.
    ``model``: a name, a path, or what ``load`` returned (faster for several pictures; ``device`` and ``precision`` are
    then its own). ``scale``, or sides of the result in pixels (``width`` and ``height`` together: to fit into that box;
    ``min_side``: larger pictures keep their size), as in the command line; the model's own scale if none is given.
    ``sigma`` (in [0, 1] units, or text like "8/255" or "auto"), ``samples`` and ``draws`` default to the model's
    catalogue entry; ``samples`` "auto" takes as many as each picture needs for an RMS error of ``tolerance``, 1/255
    unless given.
    ``denoise``: the name or path of a denoiser that runs before the model, on each noisy copy where it is smoothed.
    ``tile``: pixels a side of the pieces that large pictures are upscaled in; smaller ones need less memory.
    ``max_pixels``: of the result, and of what a pass gives before it is shrunk to that.
    No gradients go through it: call what ``load`` returns. RobustSRError: anything else, or an unknown model.
    """
    sides = {"width": width, "height": height, "long_side": long_side, "short_side": short_side, "min_side": min_side}
    target = Target(_plain("scale", scale, whole=False), **{name: _plain(name, side) for name, side in sides.items()})
    tile, seed, most = _plain("tile", tile), _plain("seed", seed) or 0, _plain("max_pixels", max_pixels)
    if not most or most < 1:
        raise RobustSRError(f"max_pixels must be at least 1, got {max_pixels}")
    count = samples if isinstance(samples, str) else _plain("samples", samples)
    level = sigma if isinstance(sigma, str) else _plain("sigma", sigma, whole=False)
    limit = _plain("tolerance", tolerance, whole=False)
    if isinstance(model, str | PathLike | None):
        network = load(model, device=device, precision=precision, denoise=denoise)
    elif not isinstance(model, Loaded):
        raise RobustSRError(f"model is a name, a path or what robustsr.load returned, got {type(model).__name__}")
    elif denoise is not None:
        raise RobustSRError("denoise goes with a model's name or path: load(model, denoise=...) makes both one")
    else:
        network = model
    if smooth is None and any(option is not None for option in (sigma, samples, tolerance, draws)):
        raise RobustSRError("sigma, samples, tolerance and draws only matter with smooth='median' or smooth='mean'")
    network, smoothing = seeded(network, seed), None
    if smooth not in (None, "median", "mean"):
        raise RobustSRError(f"smooth is 'median', 'mean' or None, got {smooth!r}")
    if smooth is not None:
        smoothing = smoothing_for(network, smooth, level, count, draws, seed, limit)
    plan = make_plan(network, smoothing, tile)

    run = partial(_upscaled, network=network, smoothing=smoothing, target=target, plan=plan, max_pixels=most)
    if isinstance(image, torch.Tensor):
        return _of_tensor(image, run)
    if isinstance(image, Image.Image):
        return _of_image(image, run)
    if isinstance(image, np.ma.MaskedArray):
        raise RobustSRError("a masked array has pixels without a value: give image.filled(...)")
    return _of_array(np.asarray(image), run)


def _plain(name: str, value: Any, *, whole: bool = True) -> Any:  # noqa: ANN401
    """A number, numpy's too, as Python's own. RobustSRError: it is none."""
    if value is None:
        return None
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else None
    if number is None or not abs(number) < 1e30 or (whole and number != int(number)):
        raise RobustSRError(f"{name} must be a {'whole ' * whole}number, got {value!r}")
    return int(number) if whole else float(number)


def _upscaled(
    pixels: NDArray[np.float32],
    network: Loaded,
    smoothing: Smoothing | None,
    target: Target,
    plan: Plan,
    max_pixels: int,
) -> NDArray[np.float32]:
    """``(h, w, 1..4)`` to ``(H, W, 1..4)``, floats in [0, 1], the second or fourth channel alpha."""
    if not pixels.size or not np.isfinite(pixels).all():
        raise RobustSRError("the picture is empty, or some of its values are no finite numbers")
    refuse_too_large(target, pixels.shape[1], pixels.shape[0], network.scale, max_pixels)
    if pixels.min() < -0.5 or pixels.max() > 1.5:  # what resizing overshoots is let in
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


# --- kinds of pictures ---


def _of_tensor(image: torch.Tensor, run: Run) -> torch.Tensor:
    if image.layout != torch.strided or image.is_meta or not image.is_floating_point():
        raise RobustSRError(f"a tensor must be dense and of floats, got {image.dtype}, {image.layout}, {image.device}")
    batch = image if image.ndim == 4 else image[None]
    if batch.ndim != 4 or batch.shape[1] != 3 or not image.numel():
        raise RobustSRError(f"a tensor must be (3, h, w) or (N, 3, h, w), and not empty, got {tuple(image.shape)}")
    if image.requires_grad and torch.is_grad_enabled():
        raise RobustSRError("upscale gives no gradients: give image.detach(), or call what robustsr.load(...) returns")
    pictures = [run(x.permute(1, 2, 0).float().cpu().numpy()) for x in batch.detach()]
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(image.device, image.dtype)
    return stacked if image.ndim == 4 else stacked[0]


def _of_image(image: Image.Image, run: Run) -> Image.Image:
    mode = {"1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
    if mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        hint = "an array of it, scaled" if mode[0] in "IF" else "image.convert('RGB')"
        raise RobustSRError(f"an image must have mode 1, L, LA, P, RGB, RGBA or I;16, got {mode}: take {hint}")
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # of broken EXIF Pillow raises whatever comes
        upright = image
    if image.has_transparency_data and mode in ("L", "RGB"):
        with suppress(TypeError, ValueError):  # it is of another mode
            upright = upright.convert({"L": "LA", "RGB": "RGBA"}[mode])
    if upright.mode == image.mode != mode:
        upright = upright.convert(mode)
    large = Image.fromarray(_of_array(np.asarray(upright), run))
    large.info |= {key: image.info[key] for key in ("icc_profile",) if key in image.info}
    return large


def _of_array(image: NDArray[np.generic], run: Run) -> NDArray[np.generic]:
    planes = image[..., None] if image.ndim == 2 else image
    if planes.ndim != 3 or not 1 <= planes.shape[2] <= 4:
        hint = ": of a file give PIL.Image.open(path)" if image.dtype.kind in "UO" else ""
        raise RobustSRError(f"an array must be (h, w) or (h, w, 1 to 4), got {image.shape}{hint}")
    if image.dtype.newbyteorder("=") not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        hint = ": values of 0 to 255 are image.astype('uint8')" if image.dtype.kind in "iu" else ""
        raise RobustSRError(f"an array must be uint8, uint16 or float, got {image.dtype}{hint}")
    integer = np.issubdtype(image.dtype, np.integer)
    top = np.iinfo(image.dtype).max if integer else 1  # type: ignore[type-var]
    made = run(planes.astype(np.float32) / np.float32(top))
    result: NDArray[np.generic] = (
        np.floor(made * top + 0.5).astype(image.dtype) if integer else made.astype(image.dtype)
    )
    return result[..., 0] if image.ndim == 2 else result
