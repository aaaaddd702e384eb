"""Render the sample pictures: ground truths in `hr/` and their degraded quarter-size copies in `samples/`.

Everything is computed here, so no photograph and no licence is involved; it takes about a minute on one core, and
every random number has a fixed seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .flat import fabric, scan, sign
from .landscape import landscape
from .still_life import still_life


def main(root: Path, scenes: Sequence[str] = ("landscape", "still-life", "sign", "scan", "fabric")) -> None:
    """Write root/hr/NAME.webp and, from that file shrunk 4 times, root/samples/NAME as a device saves it."""
    exif = Image.Exif()  # a camera held upright: the stored rows are the scene's columns
    exif.update({0x010F: "robustsr render", 0x0110: "path tracer", 0x0112: 6, 0x0132: "2025:06:01 12:00:00"})
    renders: dict[str, tuple[Any, str, float, dict[str, Any]]] = {
        "landscape": (landscape, "png", 0, {"optimize": True}),
        "still-life": (still_life, "jpg", 0.03, {"quality": 85, "exif": exif}),
        "sign": (sign, "png", 0, {"optimize": True}),
        "scan": (scan, "png", 0.04, {"optimize": True}),
        "fabric": (fabric, "webp", 0, {"quality": 80, "method": 6}),
    }
    for folder in ("hr", "samples"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in scenes:
        scene, suffix, sigma, options = renders[name]
        truth = scene()
        truth.save(root / f"hr/{name}.webp", quality=92, method=6)
        with Image.open(root / f"hr/{name}.webp") as stored:
            size = stored.width // 4, stored.height // 4
            lr = stored.convert(truth.mode).resize(size, Image.Resampling.BICUBIC)
        if sigma:
            grain = np.random.default_rng(1).normal(0, 255 * sigma, np.asarray(lr).shape)
            lr = Image.fromarray((np.asarray(lr) + grain).round().clip(0, 255).astype(np.uint8))
        lr = lr.transpose(Image.Transpose.ROTATE_90) if "exif" in options else lr
        lr.save(root / f"samples/{name}.{suffix}", **options)


if __name__ == "__main__":
    main(Path(__file__).parents[1])
