"""What is upscaled, and what upscales it: the ground of attacks and comparisons.

Every figure is measured on what a file holds: inputs and outputs are levels of 8 or 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .catalogue import BICUBIC, entry_of, shipped
from .engine import buffers_kept
from .images import Picture
from .models import Loaded, load
from .plan import compose, make_plan
from .resample import resize
from .settings import Smoothing
from .smoothing import is_gray
from .types import RobustSRError

Box = tuple[int, int, int, int]  # x, y, width, height
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Say = Callable[[str], None]  # told what begins

LARGEST = 512  # input pixels a side: an attack on more needs minutes and gigabytes
SMALLEST_OUTPUT = 48  # pixels a side that SSIM and LPIPS need, borders off


# --- what is upscaled ---


@dataclass(frozen=True)
class Scene:
    """An input ``x (1, 3, h, w)`` in levels of ``bits``, what is known about it, and where it lies in its picture.

    ``hr``, ``target (1, 3, s*h, s*w)`` in [0, 1]; ``mask (1, 1, h, w)``, 1 where x may be changed.
    """

    name: str
    x: Tensor
    scale: int
    bits: int
    box: Box
    hr: Tensor | None = None
    target: Tensor | None = None
    mask: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def aimed(self) -> bool:
        """Whether outputs are compared with one picture, not each with what its model made of the clean input."""
        return self.hr is not None or self.target is not None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return self.x.shape[-2], self.x.shape[-1]

    @property
    def place(self) -> str:
        x, y, w, h = self.box
        return f"{w}x{h} pixels at {x},{y}"


def box(text: str) -> Box:
    """``x,y,width,height``. RobustSRError: something else."""
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise RobustSRError(f"{text!r} is no rectangle: write x,y,width,height in input pixels") from None
    if min(x, y) < 0 or min(w, h) < 1:
        raise RobustSRError(f"the rectangle {text} is empty or begins outside: write x,y,width,height")
    return x, y, w, h


def crop_of(text: str) -> Box | int:
    """``x,y,width,height``, or ``side``: the centre of a picture. RobustSRError: something else."""
    if "," in text:
        return box(text)
    try:
        side = int(text)
    except ValueError:  # of more than 4,300 digits, too
        side = 0
    if side < 1:
        raise RobustSRError(
            f"{text[:40]!r} is no crop: write x,y,width,height in input pixels, or a side of the centre"
        )
    return side


def placed(crop: Box | int, w: int, h: int) -> Box:
    """Where a crop lies in a picture of (w, h): its centre, no larger than it, where only a side is given."""
    if not isinstance(crop, int):
        return crop
    wide, high = min(w, crop), min(h, crop)
    return (w - wide) // 2, (h - high) // 2, wide, high


def scene(
    picture: Picture | None,
    hr: Picture | None,
    scale: int,
    *,
    name: str,
    crop: Box | int | None = None,
    limit: int | None = LARGEST,
    mask: Box | Picture | None = None,
    target: Picture | None = None,
) -> Scene:
    """A picture, cropped, with its truth and mask; without a picture the input is made from ``hr`` by bicubic.

    ``crop`` (see `crop_of`) and a ``mask`` of four numbers are in input pixels; without a crop the centre of a picture
    larger than ``limit`` is taken. RobustSRError: sizes do not fit.
    """
    notes: list[str] = []
    truth = None if hr is None else from_picture(hr)
    if picture is None:
        if truth is None:
            raise RobustSRError("give a picture, or --hr to make one from")
        h, w = (n // scale for n in truth.shape[-2:])
        if min(h, w) < 1:
            raise RobustSRError(f"--hr is too small to be divided by {scale}")
        if truth.shape[-2:] != (h * scale, w * scale):
            notes.append(f"the ground truth was cut to {w * scale}x{h * scale} pixels, a multiple of {scale}")
            truth = truth[..., : h * scale, : w * scale]
        small = Image.fromarray(pixels(truth, 8)).resize((w, h), Image.Resampling.BICUBIC)
        full, bits = from_pixels(np.asarray(small)), 8
        notes.append("the input was made from the ground truth by bicubic")
    else:
        full, bits = from_picture(picture), picture.bits
        notes += [*picture.notes, *_changes(picture, full)]
        full = full.clamp(0, 1).mul((1 << bits) - 1).round() / ((1 << bits) - 1)
    h, w = full.shape[-2:]
    if truth is not None and truth.shape[-2:] != (h * scale, w * scale):
        raise RobustSRError(
            f"--hr has {truth.shape[-1]}x{truth.shape[-2]} pixels, the output {w * scale}x{h * scale}: "
            f"it must be {scale} times the picture of {w}x{h}"
        )
    place = placed(crop or limit or max(w, h), w, h)
    x, y, wide, high = place
    if crop is None and (wide, high) != (w, h):
        notes.append(f"only the centre, {wide}x{high} of {w}x{h} pixels, is used: --crop takes another part")
    if x + wide > w or y + high > h:
        raise RobustSRError(f"the crop {x},{y},{wide},{high} does not lie inside the picture of {w}x{h} pixels")
    if min(wide, high) * scale < SMALLEST_OUTPUT:
        raise RobustSRError(f"{wide}x{high} pixels are too few: the output needs {SMALLEST_OUTPUT} a side")
    part = (..., slice(y, y + high), slice(x, x + wide))
    large = (..., slice(y * scale, (y + high) * scale), slice(x * scale, (x + wide) * scale))
    return Scene(
        name,
        full[part].contiguous(),
        scale,
        bits,
        place,
        None if truth is None else truth[large].clamp(0, 1).contiguous(),
        None if target is None else resize(from_picture(target), high * scale, wide * scale).clamp(0, 1),
        None if mask is None else _mask(mask, h, w)[part].contiguous(),
        tuple(notes),
    )


def _changes(picture: Picture, rgb: Tensor) -> Iterator[str]:
    if picture.alpha is not None:
        yield "transparency is ignored: the colours under it count, and results are opaque"
    if picture.gray:
        yield "gray is treated as RGB: changes, and so the results, may be coloured"
    levels = rgb * ((1 << picture.bits) - 1)
    if bool((levels - levels.round()).abs().max() > 0.01) or float(rgb.min()) < 0 or float(rgb.max()) > 1:
        yield f"its colours became sRGB in {picture.bits} bits: changes are counted from there"


def _mask(mask: Box | Picture, h: int, w: int) -> Tensor:
    """(1, 1, h, w) of 0 and 1."""
    if isinstance(mask, Picture):
        if mask.rgb.shape[:2] != (h, w):
            high, wide = mask.rgb.shape[:2]
            raise RobustSRError(f"the mask has {wide}x{high} pixels, the picture {w}x{h}: they must be equal")
        return (from_picture(mask).mean(1, keepdim=True) >= 0.5).float()
    x, y, wide, high = mask
    if x + wide > w or y + high > h:
        raise RobustSRError(f"the mask {x},{y},{wide},{high} does not lie inside the picture of {w}x{h} pixels")
    made = torch.zeros(1, 1, h, w)
    made[..., y : y + high, x : x + wide] = 1
    return made


def from_picture(picture: Picture) -> Tensor:
    """Its red, green and blue as ``(1, 3, h, w)``."""
    return torch.from_numpy(picture.rgb.transpose(2, 0, 1)[None].copy())


def from_pixels(made: Pixels) -> Tensor:
    """``(h, w, 3)`` integers as ``(1, 3, h, w)`` in [0, 1]."""
    floats = made.astype(np.float32) / np.float32(np.iinfo(made.dtype).max)
    return torch.from_numpy(floats.transpose(2, 0, 1)[None].copy())


def pixels(x: Tensor, bits: int) -> Pixels:
    """``(1, 3, h, w)`` as integers ``(h, w, 3)``, clipped to [0, 1] and rounded."""
    levels = (x[0].clamp(0, 1).double() * ((1 << bits) - 1) + 0.5).floor()
    made = levels.permute(1, 2, 0).cpu().numpy()
    return made.astype(np.uint16) if bits == 16 else made.astype(np.uint8)


def eight(made: Pixels) -> NDArray[np.uint8]:
    """The same pixels in 8 bits."""
    return ((made.astype(np.uint32) + 128) // 257 if made.dtype == np.uint16 else made).astype(np.uint8)


# --- what upscales it ---


@dataclass(frozen=True)
class Shown:
    """A network, smoothed or not, under the name that tables give it."""

    label: str
    network: Loaded
    smoothing: Smoothing | None = None

    @buffers_kept()
    def __call__(self, x: Tensor, bits: int = 8) -> Pixels:
        """The output for ``x (1, 3, h, w)`` as `upscale` writes it: integers ``(s*h, s*w, 3)``."""
        plan = make_plan(self.network, self.smoothing)
        up = compose(self.network, self.smoothing, plan, (x.shape[-2], x.shape[-1]), gray=is_gray(x))
        with torch.inference_mode():
            sr = up(x.cpu())
        if not bool(torch.isfinite(sr).all()):
            raise RobustSRError(f"{self.label} gives values that are not numbers for this picture")
        return pixels(sr, bits)


def smoothed(network: Loaded, smoothing: Smoothing) -> Shown:
    """A smoothed network, named after how it is smoothed."""
    how = f"{smoothing.reduce} of {smoothing.samples}, sigma {smoothing.sigma:g}"
    return Shown(f"{network.name}, {how}", network, smoothing)


def bicubic(scale: int, device: str) -> list[Shown]:
    """The baseline of every table, where there is one of that scale."""
    return [Shown("bicubic", load(name, device=device)) for name, factor in BICUBIC.items() if factor == scale]


def distinct(shown: Sequence[Shown]) -> list[Shown]:
    """Each once. RobustSRError: two that are different have one name."""
    made: dict[str, Shown] = {}
    for one in shown:
        if made.setdefault(one.label, one).network.digest != one.network.digest:
            raise RobustSRError(f"two different models are named {one.label!r}: rename one's file")
    return list(made.values())


def others(network: Loaded, names: Sequence[str] | None, device: str) -> list[Shown]:
    """The models besides ``network`` that are shown beside it, and bicubic; None: the upscalers that ship."""
    made = []
    for name in names if names is not None else shipped():
        entry = entry_of(name)
        if name in BICUBIC or (names is None and entry is not None and entry.scale != network.scale):
            continue
        other = load(name, device=device, precision="fp32")
        if other.scale != network.scale:
            raise RobustSRError(f"--compare {name} is x{other.scale}, the attacked model x{network.scale}")
        if other.digest != network.digest:
            made.append(Shown(other.name, other))
    found = distinct([Shown(network.name, network), *made, *bicubic(network.scale, device)])
    return [one for one in found if one.network.digest != network.digest]
