"""What the scenes share: noise, colour, and linear light to a picture. Colours are linear until `to_image`."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Array = npt.NDArray[Any]


def smooth(lo: float, hi: float, x: Array) -> Array:
    """Hermite step from 0 at lo to 1 at hi."""
    t = np.clip((x - lo) / (hi - lo), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array | float, b: Array | float, t: Array) -> Array:
    """a where t is 0, b where t is 1; colours (3,) broadcast over a plane of weights."""
    t = t[..., None] if np.ndim(a) > np.ndim(t) or np.shape(a) == (3,) or np.shape(b) == (3,) else t
    return np.asarray(a * (1 - t) + b * t)


def rgb(code: str) -> Array:
    """Linear-light colour (3,) of an sRGB code such as "d9a441"."""
    return np.asarray((np.frombuffer(bytes.fromhex(code), np.uint8) / np.float32(255)) ** 2.2)


@lru_cache(maxsize=64)
def gradients(seed: int) -> tuple[Array, Array]:
    """The unit vectors on a 256 x 256 lattice, flattened."""
    turn = np.random.default_rng(seed).random(65536, dtype=np.float32) * np.float32(2 * np.pi)
    return np.cos(turn), np.sin(turn)


def noise(x: Array, y: Array, seed: int) -> Array:
    """Perlin's gradient noise, about [-1, 1], period 256."""
    gx, gy = gradients(seed)
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    i, j = x0.astype(np.int32) & 255, y0.astype(np.int32) & 255

    def corner(a: int, b: int) -> Array:
        k = ((j + b) & 255) * 256 + ((i + a) & 255)
        return np.asarray(gx[k] * (fx - a) + gy[k] * (fy - b))

    u, v = (t * t * t * (t * (t * 6 - 15) + 10) for t in (fx, fy))
    low = corner(0, 0) * (1 - u) + corner(1, 0) * u
    high = corner(0, 1) * (1 - u) + corner(1, 1) * u
    return np.asarray((low * (1 - v) + high * v) * np.float32(1.5))


def fbm(x: Array, y: Array, octaves: int, seed: int, ridged: bool = False) -> Array:
    """Fractal sum of noise, each octave turned and doubled; ridged ones make crests, in [0, 1]."""
    total, weight = np.zeros(np.broadcast(x, y).shape, np.float32), np.float32(1)
    for k in range(octaves):
        n = noise(x, y, seed + k)
        if ridged:
            n = np.clip(1 - np.abs(n), 0, 1) ** 2 * weight
            weight = np.clip(n * 1.7, 0, 1)
        total += n * np.float32(0.5 ** (k + 1))
        x, y = 1.6 * x + 1.2 * y + 7.3, 1.6 * y - 1.2 * x + 3.1
    return total


def to_image(linear: Array, size: tuple[int, int]) -> Image.Image:
    """Linear light (H, W, 3) through a filmic shoulder (Narkowicz's ACES fit) to an 8-bit picture."""
    x = np.clip(linear, 0, None)
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1) ** (1 / 2.2)
    return Image.fromarray((x * 255 + 0.5).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)


def shifted(mask: Image.Image, blur: float, affine: tuple[float, ...]) -> Image.Image:
    """The soft shadow of a mask."""
    return mask.filter(ImageFilter.GaussianBlur(blur)).transform(mask.size, Image.Transform.AFFINE, affine)
