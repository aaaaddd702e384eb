"""ICC profiles: pixels of any RGB, gray or CMYK profile to sRGB and back, in float32.

Both ways go through linear light and lcms' float pipeline, which does not clip, so colours outside sRGB survive
as values below 0 or above 1; the sRGB curve continues there with odd symmetry, as in scRGB and IEC 61966-2-2.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, TypeAlias

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]
Space: TypeAlias = Literal["rgb", "gray", "cmyk"]

ROWS = 256  # pictures are converted in strips of so many rows, to need no second copy of a large one
_CHANNELS = {"rgb": 3, "gray": 1, "cmyk": 4}
_RELATIVE, _BLACK_POINT = 1, 0x2000  # lcms: colorimetric intent, black point compensation (felt by CMYK only)


@cache
def _linear(space: Space) -> bytes:
    """The profile with sRGB's primaries and white, or gray alone, in linear light."""
    if space == "gray":
        return imagecodecs.cms_profile("gray", gamma=1.0)
    primaries = [0.64, 0.33, 0.30, 0.60, 0.15, 0.06]
    return imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.3290], primaries=primaries, gamma=1.0)


def _transform(pixels: NDArray[Any], source: bytes, target: bytes, space: Space, to: Space) -> Float:
    out = imagecodecs.cms_transform(
        np.ascontiguousarray(pixels),
        source,
        target,
        colorspace=space,
        outcolorspace=to,
        outdtype="float32",
        intent=_RELATIVE,
        flags=_BLACK_POINT,
    )
    return out.reshape(*pixels.shape[:2], _CHANNELS[to])


def _encoded(light: Float) -> Float:
    size = np.abs(light)
    curve = np.where(size <= 0.0031308, 12.92 * size, 1.055 * size ** np.float32(1 / 2.4) - 0.055)
    return np.copysign(curve, light).astype(np.float32)


def _light(encoded: Float) -> Float:
    size = np.abs(encoded)
    curve = np.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055) ** np.float32(2.4))
    return np.copysign(curve, encoded).astype(np.float32)


def to_srgb(pixels: NDArray[Any], icc: bytes, space: Space) -> Float:
    """``(h, w, 3|1|4)`` in the profile's colours to sRGB, ``(h, w, 3)``, or ``(h, w, 1)`` from gray.

    RGB and gray are float32 in [0, 1], CMYK is uint8 with 255 for full ink.
    """
    out: Space = "gray" if space == "gray" else "rgb"
    result = np.empty((*pixels.shape[:2], _CHANNELS[out]), np.float32)
    for top in range(0, len(pixels), ROWS):
        strip = _transform(pixels[top : top + ROWS], icc, _linear(out), space, out)
        result[top : top + ROWS] = _encoded(strip)
    return result


def from_srgb(pixels: Float, icc: bytes, space: Space) -> Float:
    """Inverse of ``to_srgb`` for RGB ``(h, w, 3)`` and gray ``(h, w, 1)``; one strip at a time is the caller's care."""
    return _transform(_light(pixels), _linear(space), icc, space, space)


def is_srgb(icc: bytes, space: Space) -> bool:
    """Whether the profile's colours are sRGB within half an 8-bit level, so that converting would only add noise.

    ValueError: the profile is broken, made for other pixels, or has no way back.
    """
    named = icc[16:20].decode("latin-1").strip()
    if named.lower() != space:
        raise ValueError(
            f"it is made for {named!r}, the picture is {space}" if icc[36:40] == b"acsp" else "no ICC data"
        )
    try:
        probe = np.linspace(0, 1, 9, dtype=np.float32)
        if space == "cmyk":
            to_srgb(np.zeros((1, 1, 4), np.uint8), icc, space)
            return False
        grid = np.stack(np.meshgrid(*[probe] * _CHANNELS[space]), -1).reshape(1, -1, _CHANNELS[space])
        srgb = to_srgb(grid, icc, space)
        from_srgb(srgb, icc, space)
    except imagecodecs.CmsError as error:
        raise ValueError(str(error)) from error
    return bool(np.abs(srgb - grid).max() < 0.5 / 255)
