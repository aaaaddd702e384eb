"""The files of an attack: pictures that are read back before they are measured, arrays, and a JSON record."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import images
from .attack import File, Result
from .attack_report import contact
from .files import atomic, move, sha256, strict_json
from .scene import from_picture, pixels
from .sheet import amplified
from .universal import Universal
from .version import __version__


def reread(folder: Path, bits: int) -> File:
    """A `File` that writes PNGs into ``folder`` and reads them back."""

    def through(name: str, x: Tensor) -> Tensor:
        path = folder / f"{name}.png"
        images.write_pixels(pixels(x, bits), path)
        return from_picture(images.read(path, max_pixels=1 << 40))

    return through


def slug(label: str) -> str:
    """A label as a part of a file's name; labels that only differ in other characters get a mark."""
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in label)
    short = "-".join(filter(None, kept.split("-")))
    plain = label.replace(", ", "-").replace(" ", "-") == short
    return short if plain else f"{short}-{zlib.crc32(label.encode()):08x}"


def write(result: Result, folder: Path, about: dict[str, Any]) -> None:
    """Writes what `run` found, besides the adversarial pictures that `reread` wrote, into ``folder``.

    adversarial.png and .npy (float32 ``(h, w, 3)``, before rounding), the other variants' likewise, clean.png,
    difference.png, output-MODEL-INPUT.png, sheet.png, record.json with ``about``.
    """
    for attempt in result.attempts:
        name = "adversarial" if attempt.name == result.worst else f"adversarial-{attempt.name}"
        move(folder / f"{attempt.name}.png", folder / f"{name}.png")
        _save_array(attempt.exact, folder / f"{name}.npy")
    move(folder / "random.png", folder / "random-noise.png")
    images.write_pixels(pixels(result.scene.x, result.scene.bits), folder / "clean.png")
    delta = (result.strongest.adv - result.scene.x)[0].permute(1, 2, 0).numpy()
    difference, factor = amplified(delta)
    images.write_pixels(difference, folder / "difference.png")
    for o in result.outcomes:
        if o.input in ("clean", result.worst):
            what = "clean" if o.input == "clean" else "attacked"
            images.write_pixels(o.sr, folder / f"output-{slug(o.label)}-{what}.png")
    with atomic(folder / "sheet.png") as part:
        contact(result).save(part, "png")
    kept = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.name.startswith(("clean", "adversarial"))}
    found = {**record(result), "difference_times": factor, "sha256": kept}
    _save_json({**about, **found}, folder / "record.json")


def write_universal(result: Universal, folder: Path, about: dict[str, Any]) -> None:
    """Writes universal.npy (float32 ``(h, w, 3)``), universal.png (amplified) and record.json into ``folder``."""
    _save_array(result.delta, folder / "universal.npy")
    shown, factor = amplified(result.delta[0].permute(1, 2, 0).numpy())
    images.write_pixels(shown, folder / "universal.png")
    rows = [
        {
            "picture": row.scene.name,
            "box": row.scene.box,
            "sizes": row.attempt.sizes,
            "random_sizes": row.noise.sizes,
            "outputs": [{"model": o.label, "input": o.input, **o.measures} for o in row.outcomes],
        }
        for row in result.rows
    ]
    found = {"threat": result.threat.spec, "seed": result.seed, "curve": result.curve, "pictures": rows}
    _save_json({**about, **found, "lpips_net": result.ruler.lpips, "difference_times": factor}, folder / "record.json")


def record(result: Result) -> dict[str, Any]:
    """All figures of a result, for JSON."""
    scene = result.scene
    return {
        "robustsr": __version__,
        "torch": torch.__version__,
        "input": {"name": scene.name, "box": scene.box, "bits": scene.bits, "scale": scene.scale, "notes": scene.notes},
        "threat": result.threat.spec,
        "victim": result.victim,
        "targeted": scene.target is not None,
        "masked": None if scene.mask is None else float(scene.mask.mean()),
        "crafted_against": "target" if scene.target is not None else "hr" if scene.hr is not None else "clean output",
        "measured_against": "hr" if scene.hr is not None else "each model's clean output",
        "seed": result.seed,
        "lpips_net": result.ruler.lpips,
        "worst": result.worst,
        "attempts": [
            {"name": a.name, **a.sizes, "c": a.c, "seconds": round(a.seconds, 3), "loss": a.curve}
            for a in (*result.attempts, result.noise)
        ],
        "outputs": [{"model": o.label, "input": o.input, **o.measures} for o in result.outcomes],
        "weights": result.weights,
    }


def _save_array(x: Tensor, path: Path) -> None:
    with atomic(path) as part, open(part, "wb") as file:
        np.save(file, x[0].permute(1, 2, 0).contiguous().numpy().astype(np.float32))


def _save_json(values: dict[str, Any], path: Path) -> None:
    with atomic(path) as part:
        part.write_text(strict_json(values), encoding="utf-8")
