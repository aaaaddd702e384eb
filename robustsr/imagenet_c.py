"""The 15 + 4 corruptions of ImageNet-C, with their published constants.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019.
Constants in pixels were chosen for pictures of 224 pixels a side, and are the same for pictures of any size here.
Three things differ: floats are not rounded to 8 bits on the way, ``glass_blur`` exchanges pixels where the published
code, by a slip, copies them, and ``frost`` is synthetic, for its photographs cannot be shipped.

Each takes ``x (3, h, w)`` in [0, 1], a random generator and a severity of 1 to 5; results may leave [0, 1].
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from scipy import fft, ndimage
from torch.nn.functional import interpolate

from .degradation import Float, compressed, filtered

Rng: TypeAlias = np.random.Generator


def noise(x: Float, rng: Rng, sigma: float) -> Float:
    """Gaussian noise of standard deviation ``sigma``, in [0, 1] units."""
    return x + sigma * rng.standard_normal(x.shape, np.float32)


def gaussian_noise(x: Float, rng: Rng, severity: int) -> Float:
    return noise(x, rng, (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1])


def shot_noise(x: Float, rng: Rng, severity: int) -> Float:
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return rng.poisson(x * photons) / np.float32(photons)


def impulse_noise(x: Float, rng: Rng, severity: int) -> Float:
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit, salt = rng.random(x.shape) < amount, rng.random(x.shape) < 0.5
    return np.where(hit, salt.astype(np.float32), x)


def speckle_noise(x: Float, rng: Rng, severity: int) -> Float:
    return x + x * (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1] * rng.standard_normal(x.shape, np.float32)


def taps(size: int, sigma: float, align: str) -> tuple[Float, Float]:
    """Offsets and weights (of sum 1) of a one-dimensional Gaussian, sampled at whole pixels.

    ``even``: ``size``, rounded up to even, taps at -size/2 .. size/2 - 1 around their middle, -1/2: where sigma is
    small this is a box of two pixels, and it moves the picture by half a pixel towards higher coordinates.
    ``odd``: ``size``, rounded up to odd, taps around 0: where sigma is small this does nothing.
    """
    size += size % 2 != (align == "odd")
    offsets = np.arange(size) - size // 2
    squares = (offsets + 0.5 * (align == "even")) ** 2
    weights = np.exp((squares.min() - squares) / (2 * sigma**2))  # the largest is 1: none so small as to vanish all
    return offsets.astype(np.float32), (weights / weights.sum()).astype(np.float32)


def gaussian_blur(x: Float, rng: Rng, severity: int) -> Float:
    sigma = (1, 2, 3, 4, 6)[severity - 1]
    return _smooth(x, sigma)


def _smooth(x: Float, sigma: float) -> Float:
    """``x (..., h, w)`` under a Gaussian of 4 sigma, its edges repeated, as scikit-image has it."""
    smooth: Float = ndimage.gaussian_filter(x, sigma, mode="nearest", axes=(-2, -1))
    return smooth


def defocus_blur(x: Float, rng: Rng, severity: int) -> Float:
    """A disk, its edge softened by a few taps of a narrow Gaussian."""
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    offsets = np.arange(-max(radius, 8), max(radius, 8) + 1)
    disk = (offsets**2 + offsets[:, None] ** 2 <= radius**2).astype(np.float32)
    disk /= disk.sum()  # before its edge is softened, as published: the largest disks then brighten by a hundredth
    _, weights = taps(3 if radius <= 8 else 5, soft, "odd")
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, weights, axis, mode="mirror")
    return filtered(x, disk)


def glass_blur(x: Float, rng: Rng, severity: int) -> Float:
    """Pixels change places with near ones, between two Gaussian blurs."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    x = _smooth(x, sigma)
    _, h, w = x.shape
    rows, columns = np.mgrid[h - reach : reach : -1, w - reach : reach : -1]
    places = (rows * w + columns).ravel()
    order = list(range(h * w))
    for _ in range(rounds):
        down, right = rng.integers(-reach, reach, (2, len(places)))
        for a, b in zip(places.tolist(), (places + down * w + right).tolist(), strict=True):
            order[a], order[b] = order[b], order[a]
    x = x.reshape(3, -1)[:, order].reshape(x.shape)
    return _smooth(x, sigma)


def _streaked(x: Float, radius: int, sigma: float, degrees: float) -> Float:
    """ImageMagick's motion blur of ``x (..., h, w)``: 2 * radius + 1 taps of half a Gaussian along a direction."""
    count, (h, w) = 2 * radius + 1, x.shape[-2:]
    weights = np.exp(-(np.arange(count) ** 2) / (2 * sigma**2))
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(count, count)] * 2, mode="edge")
    total = np.zeros_like(x)
    for i, weight in enumerate((weights / weights.sum()).tolist()):
        top = count + math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        left = count + math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        total += weight * padded[..., top : top + h, left : left + w]
    return total


def motion_blur(x: Float, rng: Rng, severity: int) -> Float:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    return _streaked(x, radius, sigma, rng.uniform(-45, 45))


def _zoomed(x: Float, factor: float) -> Float:
    """The middle of ``x (channels, h, w)``, enlarged linearly to the size of ``x``."""
    _, h, w = x.shape
    rows, columns = math.ceil(h / factor), math.ceil(w / factor)
    top, left = (h - rows) // 2, (w - columns) // 2
    middle = torch.from_numpy(x[:, top : top + rows, left : left + columns].copy())[None]
    size = max(round(rows * factor), h), max(round(columns * factor), w)
    large = interpolate(middle, size, mode="bilinear", align_corners=True)[0].numpy()
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return np.asarray(large[:, top : top + h, left : left + w])


def zoom_blur(x: Float, rng: Rng, severity: int) -> Float:
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, stop, step).tolist()
    return sum((_zoomed(x, factor) for factor in factors), x) / np.float32(len(factors) + 1)


def snow(x: Float, rng: Rng, severity: int) -> Float:
    mean, std, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity - 1]
    flakes = _zoomed(mean + std * rng.standard_normal((1, *x.shape[1:]), np.float32), zoom)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1).astype(np.float32)
    flakes = _streaked(flakes, int(radius), sigma, rng.uniform(-135, -45))
    gray = (x * np.array([0.299, 0.587, 0.114], np.float32).reshape(3, 1, 1)).sum(0)
    veiled: Float = kept * x + (1 - kept) * np.maximum(x, gray * 1.5 + 0.5)
    return veiled + flakes + flakes[:, ::-1, ::-1]


def frost(x: Float, rng: Rng, severity: int) -> Float:
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    return kept * x + ice * _ice(x.shape[1:], rng)


def _ice(shape: tuple[int, ...], rng: Rng) -> Float:
    """Frost ``(3, h, w)`` in [0, 1]: six-armed needles of many sizes and turns, dense where a fractal is high."""
    cover = _fractal(shape, 2, rng)
    bare = np.ones(shape, np.float32)
    for length in (60, 48, 40, 32, 24, 16, 12, 8):
        middle = 2 * length + 1
        star = np.zeros((2 * middle + 1, 2 * middle + 1), np.float32)
        point = star.copy()
        point[middle, middle] = 1
        turn = rng.uniform(0, 60)
        for arm in range(6):
            star += _streaked(point, length, length * 0.6, turn + 60 * arm)
        seeds = (rng.random(shape) < 2 * cover**2 / length**1.7).astype(np.float32)
        bare *= 1 - filtered(seeds, star / star.max() * 0.9).clip(0, 1)
    bright: Float = 0.2 + 0.5 * _smooth(1 - bare, 3) + 0.6 * (1 - bare)
    return bright.clip(0, 1) ** np.array([1.2, 1, 0.85], np.float32).reshape(3, 1, 1)  # bluish


def fog(x: Float, rng: Rng, severity: int) -> Float:
    thickness, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    brightest = x.max()
    fogged: Float = (x + thickness * _fractal(x.shape[1:], decay, rng)) * (brightest / (brightest + thickness))
    return fogged


def _fractal(shape: tuple[int, ...], decay: float, rng: Rng) -> Float:
    """A cloud ``shape`` in [0, 1] by the diamond-square algorithm on a torus; a high decay makes it smooth."""
    side = step = max(256, 1 << (max(shape) - 1).bit_length())
    heights = np.zeros((side, side))
    wibble = 100.0

    def jittered(total: Float) -> Float:
        return total / 4 + wibble * rng.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half = step // 2
        corners, middles = heights[::step, ::step], heights[half::step, half::step]
        pairs = corners + np.roll(corners, -1, 0)
        middles[:] = jittered(pairs + np.roll(pairs, -1, 1))
        beside = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = jittered(beside)
        below = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[half::step, ::step] = jittered(below)
        step, wibble = half, wibble / decay
    heights -= heights.min()
    cloud: Float = (heights / heights.max())[: shape[0], : shape[1]].astype(np.float32)
    return cloud


def spatter(x: Float, rng: Rng, severity: int) -> Float:
    """Drops of water (severity 1 to 3) or mud (4, 5) where smoothed noise is high."""
    mean, std, sigma, threshold, strength = (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    )[severity - 1]
    liquid = _smooth(mean + std * rng.standard_normal(x.shape[1:], np.float32), sigma)
    if severity > 3:
        mud = _smooth((liquid > threshold).astype(np.float32), strength)
        mud[mud < 0.8] = 0
        return x * (1 - mud) + mud * _colour(63, 42, 20)
    liquid = np.floor(np.where(liquid < threshold, 0, liquid).clip(0, 1) * 255)
    if not liquid.any():
        return x
    depth = ndimage.distance_transform_edt(~_edges(liquid, 50, 150)).clip(max=20)
    depth = _equalised(ndimage.uniform_filter(depth, 3, mode="mirror").astype(np.uint8))
    lit: Float = ndimage.correlate(depth, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror").clip(0, 255)
    water: Float = liquid * ndimage.uniform_filter(lit, 3, mode="mirror")
    water *= strength / max(water.max(), 1)
    return x + water * _colour(175, 238, 238)  # pale turquoise


def _colour(*rgb: int) -> Float:
    return np.array(rgb, np.float32).reshape(3, 1, 1) / 255


def _edges(image: Float, low: float, high: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Canny's edges of ``image (h, w)`` in [0, 255], as OpenCV's: Sobel, L1 norm, ridges above low joined to high."""
    gy, gx = ndimage.sobel(image, 0, mode="nearest"), ndimage.sobel(image, 1, mode="nearest")
    steep = np.abs(gx) + np.abs(gy)
    sector = np.round(np.arctan2(gy, gx) / (np.pi / 4)).astype(int) % 4
    around, (h, w) = np.pad(steep, 1), steep.shape
    ridge = np.zeros(steep.shape, bool)
    for k, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[1 + down : 1 + down + h, 1 + right : 1 + right + w]
        behind = around[1 - down : 1 - down + h, 1 - right : 1 - right + w]
        ridge |= (sector == k) & (steep > behind) & (steep >= ahead)
    labels, _ = ndimage.label(ridge & (steep > low), np.ones((3, 3)))
    return np.isin(labels, np.unique(labels[ridge & (steep > high)]))


def _equalised(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Float:
    """OpenCV's histogram equalisation of 8-bit values: the lowest becomes 0, the highest 255."""
    counts = np.bincount(image.ravel(), minlength=256)
    counts[image.min()] = 0
    table: Float = np.round(np.cumsum(counts) * (255 / max(counts.sum(), 1)))
    return table[image]


def brightness(x: Float, rng: Rng, severity: int) -> Float:
    """HSV's value raised; hue and saturation stay, so that colours are scaled."""
    value: Float = x.max(0)
    raised: Float = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clip(max=1)
    return np.where(value > 0, x * raised / np.where(value > 0, value, 1), raised)


def saturate(x: Float, rng: Rng, severity: int) -> Float:
    """HSV's saturation changed. Gray has hue 0 there, red, as published."""
    factor, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    value: Float = x.max(0)
    spread: Float = np.ptp(x, 0)
    away = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), np.array([0, 1, 1]).reshape(3, 1, 1))
    changed: Float = (spread / np.where(value > 0, value, 1) * factor + offset).clip(0, 1)
    return value - away * value * changed


def contrast(x: Float, rng: Rng, severity: int) -> Float:
    means: Float = x.mean((1, 2), keepdims=True)
    return (x - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1] + means


def elastic_transform(x: Float, rng: Rng, severity: int) -> Float:
    """A random affine map of three points near the middle, then smooth random displacements."""
    strength, sigma, jitter = (
        (244 * 2, 244 * 0.7, 244 * 0.1),
        (244 * 2, 244 * 0.08, 244 * 0.2),
        (244 * 0.05, 244 * 0.01, 244 * 0.02),
        (244 * 0.07, 244 * 0.01, 244 * 0.02),
        (244 * 0.12, 244 * 0.01, 244 * 0.02),
    )[severity - 1]
    _, h, w = x.shape
    third = min(h, w) // 3
    source = np.array([h // 2, w // 2]) + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    target = source + rng.uniform(-jitter, jitter, (3, 2))
    back = np.linalg.lstsq(np.column_stack([target, np.ones(3)]), source, rcond=None)[0].T  # rows: (y, x, 1) -> y or x
    x = np.stack([ndimage.affine_transform(c, back[:, :2], back[:, 2], order=1, mode="mirror") for c in x])

    wave = [np.exp(-0.5 * (sigma * np.pi * np.arange(n) / n) ** 2) for n in (h, w)]
    moved = [
        place + strength * fft.idctn(fft.dctn(rng.uniform(-1, 1, (h, w))) * np.outer(*wave))  # a Gaussian filter
        for place in np.mgrid[:h, :w]
    ]
    return np.stack([ndimage.map_coordinates(c, moved, order=1, mode="reflect") for c in x])


def pixelate(x: Float, rng: Rng, severity: int) -> Float:
    part = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    _, h, w = x.shape
    small = [Image.fromarray(c).resize((int(w * part), int(h * part)), Image.Resampling.BOX) for c in x]
    return np.stack([np.asarray(c.resize((w, h), Image.Resampling.BOX)) for c in small])


def jpeg_compression(x: Float, rng: Rng, severity: int) -> Float:
    return compressed(x, "JPEG", (25, 18, 15, 10, 7)[severity - 1])
