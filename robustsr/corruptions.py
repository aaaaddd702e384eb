"""What happens to pictures before they are upscaled: noise, blur, weather, compression, by name and parameters."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from . import imagenet_c
from .degradation import WORD, Float, compressed, degrade
from .imagenet_c import Rng
from .types import RobustSRError, meant, named, number, settings, shown

Value: TypeAlias = float | str

SMALLEST = 8  # pixels a side


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption with all its parameters, as ``parse`` makes it; two equal ones do the same."""

    name: str
    params: tuple[tuple[str, Value], ...]

    @property
    def spec(self) -> str:
        """The canonical text that ``parse`` reads: ``fog:severity=3``."""
        values = ",".join(f"{k}={v if isinstance(v, str) else shown(v)}" for k, v in self.params)
        return f"{self.name}:{values}" if values else self.name

    def __call__(self, x: Tensor, seed: int) -> Tensor:
        """``x (3, h, w)``, float RGB in [0, 1], to the same shape, device and range, float32.

        A function of (spec, seed, x) alone; values of ``x`` beyond [0, 1] are clipped. All severities of a kind
        draw the same random numbers.
        RobustSRError: less than 8 pixels a side. ValueError: another shape.
        """
        if x.ndim != 3 or x.shape[0] != 3:
            raise ValueError(f"a picture is (3, h, w), not {tuple(x.shape)}")
        if min(x.shape[1:]) < SMALLEST:
            raise RobustSRError(f"{x.shape[2]} x {x.shape[1]} pixels: at least {SMALLEST} a side are needed")
        rng = np.random.default_rng([seed & WORD, zlib.crc32(self.name.encode())])
        y = KINDS[self.name].function(x.detach().cpu().float().clamp(0, 1).numpy(), rng, **dict(self.params))
        return torch.from_numpy(np.ascontiguousarray(y.clip(0, 1), np.float32)).to(x.device)


@dataclass(frozen=True)
class Param:
    """A parameter: its default, and what is allowed: whole numbers, numbers above 0 up to a limit, or words."""

    default: Value
    allowed: range | float | tuple[str, ...]

    def read(self, text: str) -> Value:
        """The value of a text; ValueError, saying what is allowed, for any other."""
        if isinstance(self.allowed, tuple):
            if text in self.allowed:
                return text
            raise ValueError(f"one of {', '.join(self.allowed)}")
        if isinstance(self.allowed, range):
            if text.isdecimal() and int(text) in self.allowed:
                return int(text)
            raise ValueError(f"a whole number from {self.allowed.start} to {self.allowed.stop - 1}")
        try:
            if 0 < number(text) <= self.allowed:
                return number(text)
        except RobustSRError:
            pass
        raise ValueError(f"a number above 0 and at most {self.allowed:g}")


@dataclass(frozen=True)
class Kind:
    """``function(x, rng, **params)`` on arrays ``(3, h, w)`` (the result need not be clipped), and its help."""

    function: Callable[..., Float]
    params: dict[str, Param]
    about: str


def parse(spec: str) -> Corruption:
    """The corruption that ``NAME`` or ``NAME:key=value,key=value`` names; '-' and '_' are the same in names.

    RobustSRError: an unknown name or parameter, or a value out of range.
    """
    name = named(spec)
    if name not in KINDS:
        raise RobustSRError(f"no corruption {spec.partition(':')[0].strip()!r}; {meant(name, KINDS)}")
    params = KINDS[name].params
    values = {key: param.default for key, param in params.items()}
    for key, text in settings(spec).items():
        if key not in params:
            known = meant(key, params) if params else "it has none"
            raise RobustSRError(f"{spec!r}: {name} has no parameter {key!r}; {known}")
        try:
            values[key] = params[key].read(text)
        except ValueError as error:
            raise RobustSRError(f"{spec!r}: {key} is {text!r}; it must be {error}") from None
    return Corruption(name, tuple(values.items()))


def _blur(x: Float, rng: Rng, size: int, sigma: float, align: str) -> Float:
    offsets, weights = imagenet_c.taps(size, sigma, align)
    for axis in (1, 2):
        x = ndimage.correlate1d(x, weights, axis, mode="mirror", origin=int(-offsets[0]) - len(offsets) // 2)
    return x


def _jpeg(x: Float, rng: Rng, quality: int) -> Float:
    return compressed(x, "JPEG", quality)


def _webp(x: Float, rng: Rng, quality: int) -> Float:
    return compressed(x, "WEBP", quality)


def _second_order(x: Float, rng: Rng) -> Float:
    return degrade(torch.from_numpy(x), 1, int(rng.integers(1 << 62))).numpy()


_SEVERITY = {"severity": Param(3, range(1, 6))}
_QUALITY = {"quality": Param(30, range(1, 101))}
_CERTSR = {"size": Param(10, range(1, 101)), "sigma": Param(0.3, 100), "align": Param("even", ("even", "odd"))}

KINDS = {
    "noise": Kind(imagenet_c.noise, {"sigma": Param(0.03, 1)}, "Gaussian noise of standard deviation sigma, of 1"),
    "blur": Kind(_blur, _CERTSR, "Gaussian blur of size taps; align=even also moves the picture half a pixel"),
    "jpeg": Kind(_jpeg, _QUALITY, "JPEG at a quality, 4:2:0"),
    "webp": Kind(_webp, _QUALITY, "lossy WebP at a quality"),
    "second-order": Kind(_second_order, {}, "Real-ESRGAN's: blur, resize, noise and JPEG, twice, at random"),
    "gaussian-noise": Kind(imagenet_c.gaussian_noise, _SEVERITY, "ImageNet-C: strong Gaussian noise"),
    "shot-noise": Kind(imagenet_c.shot_noise, _SEVERITY, "ImageNet-C: Poisson noise, of few photons"),
    "impulse-noise": Kind(imagenet_c.impulse_noise, _SEVERITY, "ImageNet-C: salt and pepper, per channel"),
    "defocus-blur": Kind(imagenet_c.defocus_blur, _SEVERITY, "ImageNet-C: out of focus, a disk"),
    "glass-blur": Kind(imagenet_c.glass_blur, _SEVERITY, "ImageNet-C: behind frosted glass, near pixels exchanged"),
    "motion-blur": Kind(imagenet_c.motion_blur, _SEVERITY, "ImageNet-C: a moving camera"),
    "zoom-blur": Kind(imagenet_c.zoom_blur, _SEVERITY, "ImageNet-C: a camera that moves towards the scene"),
    "snow": Kind(imagenet_c.snow, _SEVERITY, "ImageNet-C: falling snow"),
    "frost": Kind(imagenet_c.frost, _SEVERITY, "ImageNet-C: ice on the lens, synthetic, not photographed"),
    "fog": Kind(imagenet_c.fog, _SEVERITY, "ImageNet-C: a fractal fog"),
    "brightness": Kind(imagenet_c.brightness, _SEVERITY, "ImageNet-C: too bright"),
    "contrast": Kind(imagenet_c.contrast, _SEVERITY, "ImageNet-C: little contrast"),
    "elastic-transform": Kind(imagenet_c.elastic_transform, _SEVERITY, "ImageNet-C: small regions pulled and turned"),
    "pixelate": Kind(imagenet_c.pixelate, _SEVERITY, "ImageNet-C: too few pixels"),
    "jpeg-compression": Kind(imagenet_c.jpeg_compression, _SEVERITY, "ImageNet-C: JPEG of quality 25 down to 7"),
    "speckle-noise": Kind(imagenet_c.speckle_noise, _SEVERITY, "ImageNet-C extra: noise in proportion to brightness"),
    "gaussian-blur": Kind(imagenet_c.gaussian_blur, _SEVERITY, "ImageNet-C extra: Gaussian blur of 1 to 6 pixels"),
    "spatter": Kind(imagenet_c.spatter, _SEVERITY, "ImageNet-C extra: drops of water, or mud from severity 4"),
    "saturate": Kind(imagenet_c.saturate, _SEVERITY, "ImageNet-C extra: pale colours at 1 and 2, garish ones from 3"),
}
