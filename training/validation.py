"""How good a network is while it learns: `robustsr evaluate` on a few pictures, and sheets of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from robustsr import losses
from robustsr.evaluate import run
from robustsr.files import atomic
from robustsr.pairs import Pictures, pictures_in
from robustsr.study import Study, parse
from robustsr.threats import Threat

from .networks import own_scale
from .recipe import Recipe

METRICS = ("psnr_y", "psnr", "ssim", "lpips")
Measured = dict[str, dict[str, float]]  # "Set5 clean" to METRICS


def check(recipe: Recipe) -> None:
    """Finds what would stop a run at its first validation. RobustSRError: a picture or perturbation cannot be used."""
    for folder in recipe.validation.sets:
        pictures = _pictures(recipe, Path(folder))
        for index in range(len(pictures.files)):
            pictures.load(index)
    for spec in recipe.validation.perturbations:
        threat = parse(spec)
        if isinstance(threat, Threat):
            losses.loss(threat.loss)


def trained_on(recipe: Recipe) -> list[Path]:
    """The validation pictures that are among those it learns from: figures of them say little of others."""
    if not recipe.validation.sets:
        return []
    learnt = {path.resolve() for path in pictures_in(Path(recipe.data.hr), recursive=True)}
    sets = (_pictures(recipe, Path(folder)).files for folder in recipe.validation.sets)
    return [hr for files in sets for hr, _ in files if hr.resolve() in learnt]


def _pictures(recipe: Recipe, folder: Path) -> Pictures:
    """Those of a set that are measured."""
    config, scale = recipe.validation, recipe.generator.scale
    resized = scale if own_scale(recipe.generator) != scale else None
    return Pictures(folder, scale, crop=config.crop or None, limit=config.limit or None, resized=resized)


def validate(recipe: Recipe, weights: Path, out: Path, device: str) -> tuple[Measured, list[dict[str, Any]]]:
    """Means over the pictures of each set and perturbation, and the records of the sample pictures.

    On the exported ``weights``, as `robustsr evaluate` measures them: float32, 8-bit input and output, border of
    ``scale`` left out of PSNR and SSIM, attacks against HR on the network alone.
    """
    config, measured, samples = recipe.validation, Measured(), []
    for folder in map(Path, config.sets):
        study = Study(
            _pictures(recipe, folder),
            (str(weights),),
            config.perturbations,
            border=recipe.generator.scale,
            lpips=losses.best_lpips(),
            gallery=config.samples,
            device=device,
        )
        rows = [at.record for at in run(study, out) if at.record["variant"] == "base"]
        for spec in dict.fromkeys(row["perturbation"] for row in rows):
            chosen = [row for row in rows if row["perturbation"] == spec]
            measured[f"{folder.name} {spec}"] = {
                m: sum(row[m] for row in chosen) / len(chosen) for m in METRICS if chosen[0][m] is not None
            }
        samples += [row for row in rows if (out / "pictures" / f"{row['key']}.png").exists()]
    return measured, samples


def sheet(samples: list[dict[str, Any]], folder: Path, path: Path) -> Image.Image | None:
    """One row per sample: what goes in (enlarged pixel by pixel), what comes out, the truth. None: no samples."""
    rows = []
    for row in samples:
        files = (f"{row['key']}.lr.png", f"{row['key']}.png", f"{row['pixels']}.hr.png")
        lr, sr, hr = (Image.open(folder / "pictures" / name).convert("RGB") for name in files)
        rows.append((lr.resize(hr.size, Image.Resampling.NEAREST), sr, hr))
    if not rows:
        return None
    wide, tall = max(r[2].width for r in rows), sum(r[2].height for r in rows)
    picture = Image.new("RGB", (3 * wide, tall))
    top = 0
    for row_ in rows:
        for i, cell in enumerate(row_):
            picture.paste(cell, (i * wide, top))
        top += row_[2].height
    with atomic(path, make_folder=True) as part:
        picture.save(part, "PNG")
    return picture
