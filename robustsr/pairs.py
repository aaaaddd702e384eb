"""Folders of ground truths as pairs of low and high resolution: what evaluations measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import FORMATS, read
from .manifest import earlier_results
from .types import RobustSRError

SMALLEST = 24  # HR pixels a side besides two borders: SSIM and LPIPS need some
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """A low-resolution picture ``lr (1, 3, h, w)`` and its ground truth ``hr (1, 3, s*h, s*w)``, in [0, 1]."""

    name: str
    lr: Tensor
    hr: Tensor

    @cached_property
    def digest(self) -> str:
        """Of both pictures' values: the same pixels, the same digest, whatever file they came from."""
        mark = hashlib.sha256()
        for t in (self.lr, self.hr):
            mark.update(repr(tuple(t.shape)).encode() + (t * 65535).round().to(torch.int32).numpy().tobytes())
        return mark.hexdigest()[:16]


@dataclass(frozen=True)
class Pictures:
    """A folder of ground truths, with or without the low-resolution pictures that belong to them.

    Without ``lr`` (and without subfolders HR and LR), low resolution is made by Pillow's antialiased bicubic, rounded
    to 8 bits. ``crop``: side of the central square that is used, in LR pixels; ``limit``: so many, in order of their
    names. ``resized``: the thesis' inputs instead: bilinear shrinking by that factor and back to full size, scale 1.
    Results of ours that were made from others of the pictures are no truths, and are left out.
    """

    hr: Path
    scale: int
    lr: Path | None = None
    crop: int | None = None
    limit: int | None = None
    resized: int | None = None

    @cached_property
    def files(self) -> list[tuple[Path, Path | None]]:
        """The pairs of files. RobustSRError: none, one without its counterpart, or two of one name."""
        hr, lr = self.hr, self.lr
        if self.resized and lr is not None:
            raise RobustSRError("the thesis' inputs are made from the ground truth: leave out --lr")
        if lr is None and (hr / "HR").is_dir() and (hr / "LR").is_dir():
            hr, lr = hr / "HR", None if self.resized else hr / "LR"
        truths = pictures_in(hr)[: self.limit]
        if lr is None:
            return [(path, None) for path in truths]
        named = by_name(pictures_in(lr), lr)
        by_name(truths, hr)  # two of one name would have one LR
        found = [(p, named.get(p.stem) or named.get(f"{p.stem}x{self.scale}")) for p in truths]
        if missing := [p.name for p, other in found if other is None]:
            raise RobustSRError(f"{lr} has no picture for {', '.join(missing[:3])} of {hr}: names must agree")
        return found

    def load(self, index: int) -> Pair:
        """The pair number ``index``, cropped. RobustSRError: unreadable, or of sizes that do not fit."""
        hr_file, lr_file = self.files[index]
        hr = read_rgb(hr_file)
        step = self.resized or self.scale
        if lr_file is None:
            hr = hr.crop((0, 0, hr.width // step * step, hr.height // step * step))
            if self.resized and self.crop:  # the thesis shrinks what was cropped
                hr = _centre(hr, self.crop, step)
            kernel = Image.Resampling.BILINEAR if self.resized else Image.Resampling.BICUBIC
            lr = hr.resize((hr.width // step, hr.height // step), kernel)
        else:
            lr = read_rgb(lr_file)
            if (lr.width * step, lr.height * step) != hr.size:
                extra = (hr.width - lr.width * step, hr.height - lr.height * step)
                if min(extra) < 0 or max(extra) >= step:
                    raise RobustSRError(f"{lr_file} is {lr.size}, {hr_file} is {hr.size}: not {step} times as large")
                hr = hr.crop((0, 0, lr.width * step, lr.height * step))
        if self.crop:
            lr, hr = _centre(lr, self.crop), _centre(hr, self.crop, step)
        if min(hr.size) < SMALLEST + 2 * step or (self.resized and self.crop and min(lr.size) < self.crop):
            least = step * self.crop if self.resized and self.crop else SMALLEST + 2 * step
            raise RobustSRError(
                f"{hr_file} has {hr.width}x{hr.height} pixels that can be used: {least} a side are needed"
            )
        if self.resized:
            lr = lr.resize(hr.size, Image.Resampling.BILINEAR)
        return Pair(hr_file.name, _tensor(lr), _tensor(hr))


def pictures_in(folder: Path, *, recursive: bool = False, say: Say = lambda text: None) -> list[Path]:
    """The picture files of a folder, sorted, without hidden ones and results of ours, of which ``say`` is told.

    RobustSRError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise RobustSRError(f"no folder {folder}")
    found = sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower().lstrip(".") in FORMATS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise RobustSRError(f"no pictures in {folder}")
    if made := earlier_results(found, folder):
        say(f"{len(made)} of the pictures left out, which robustsr made from others of them (first: {made[0]})")
    return [path for path in found if path not in made]


def by_name(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Pictures by their place under ``folder``, without the ending. RobustSRError: two share one."""
    named: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise RobustSRError(f"{named[name]} and {path} have one name but for the ending: rename one")
        named[name] = path
    return named


def read_rgb(path: Path) -> Image.Image:
    """A picture of any kind as 8-bit sRGB, upright. RobustSRError: it cannot be read."""
    return Image.fromarray((read(path).rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _centre(image: Image.Image, side: int, step: int = 1) -> Image.Image:
    """The middle, ``side`` times ``step`` pixels a side or what there is, beginning at a multiple of ``step``."""
    w, h = image.width // step, image.height // step
    wide, high = min(side, w), min(side, h)
    left, top = (w - wide) // 2, (h - high) // 2
    return image.crop((step * left, step * top, step * (left + wide), step * (top + high)))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
