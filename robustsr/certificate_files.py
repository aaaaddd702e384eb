"""The files of a certificate: the input as it is decoded, the pictures it is about, their record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import heatmap, images
from .bounds import to_levels
from .catalogue import SAMPLE, package_samples
from .certificate import Certificate, FieldKind, find_field, window_size
from .certify import Claim
from .files import atomic, staged
from .models import Loaded
from .pairs import by_name, pictures_in
from .record import describe, digest, pictures, result_of, unlike, untrue
from .scene import Box, placed
from .types import MAX_PIXELS, RobustSRError

SAMPLE_CROP = (72, 56, 48, 48)
ENDINGS = {"shipped": "certified", "lower": "lower", "upper": "upper"}  # the pictures that verification reads


def names(stem: str) -> dict[str, str]:
    """The file names of the pictures of a certificate, by what they are."""
    return {key: f"{stem}_{name}.png" for key, name in {**ENDINGS, "width": "width"}.items()}


def files(folder: Path, stem: str) -> list[Path]:
    """Where the pictures of a certificate lie, and last its record."""
    return [*(folder / name for name in names(stem).values()), folder / f"{stem}_certificate.json"]


def paired(folder: Path, truths: Path | None) -> list[tuple[Path, Path | None]]:
    """The pictures of a folder but for those of certificates, each with its ground truth of the same name, whatever the
    ending, in ``truths``.

    RobustSRError: there are none, two of one name, or one without its truth.
    """
    ours = {path for record in folder.glob("*_certificate.json") for path in files(folder, record.stem[:-12])}
    found = [path for path in pictures_in(folder) if path not in ours]
    if not found:
        raise RobustSRError(f"{folder} holds certificates only")
    by_name(found, folder)  # whose files would be called alike
    if truths is None:
        return [(path, None) for path in found]
    if not truths.is_dir():
        raise RobustSRError(f"{truths} is no folder: for a folder of pictures --hr is a folder of their truths")
    named = by_name(pictures_in(truths), truths)
    if missing := [path.name for path in found if path.stem not in named]:
        raise RobustSRError(f"{truths} has no picture for {', '.join(missing[:3])}")
    return [(path, named[path.stem]) for path in found]


def known(
    folder: Path,
    stem: str,
    x: Tensor,
    network: Loaded,
    claim: Claim,
    field: FieldKind,
    seed: int | None,
    hr: Tensor | None,
) -> dict[str, Any] | None:
    """The record that is there of this claim about this picture and model, with the PSNRs to ``hr``; None: there is
    none.

    RobustSRError: what is there is something else, or damaged; or there can be no such claim.
    """
    h, w = x.shape[-2:]
    place, window = find_field(network, field, h, w), window_size(network, claim, h, w)
    *_, target = files(folder, stem)
    if not target.exists():
        refuse_others(folder, stem)
        return None
    try:
        record: dict[str, Any] = json.loads(target.read_text("utf-8"))
        others = unlike(record, x, network, claim, place, window, seed)
        if not all(isinstance(record[of]["name"], str) for of in ("input", "model")):
            raise ValueError("no names")
        stored = {key: levels(folder / name) for key, name in names(stem).items() if key in ENDINGS}
        whole = all(digest(stored[key]) == record["sha256"][key] for key in ENDINGS)
        if not others and whole and untrue(record["result"], claim, stored, None)[0]:
            raise ValueError("other numbers")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RobustSRError) as error:
        raise RobustSRError(f"{target} is damaged: give --overwrite, or another -o") from error
    if others:
        raise RobustSRError(f"{target} is of {', '.join(others)}: give --overwrite, or another -o")
    if not whole:
        raise RobustSRError(f"{target} is not about the pictures beside it: give --overwrite, or another -o")
    if hr is not None and record["result"] != (measured := result_of(claim, stored, hr)):
        record["result"] = measured
        _save(record, target)
    return record


def refuse_others(folder: Path, stem: str) -> None:
    """RobustSRError: there is a file where one of a certificate would go."""
    if there := [path.name for path in files(folder, stem) if path.exists()]:
        raise RobustSRError(f"{folder} has {', '.join(there)} already: give --overwrite, or another -o")


def levels(path: Path) -> Tensor:
    """The 8-bit levels ``(3, h, w)`` of a picture that was written here."""
    return to_levels(torch.from_numpy(images.read(path).rgb.transpose(2, 0, 1).copy()))


def read_input(
    path: Path | None, crop: Box | int | None, max_pixels: int = MAX_PIXELS
) -> tuple[Tensor, Box | None, list[str]]:
    """The certified input ``(1, 3, h, w)``, its red, green and blue as decoded, cropped; where it lies; and notes.

    ``path`` None: the bundled sample. ``crop``: see `scene.crop_of`.
    """
    source = path or package_samples() / SAMPLE
    picture = images.read(source, max_pixels=max_pixels)
    notes = list(picture.notes)
    if picture.gray:
        notes.append("gray is treated as three equal channels with noise of their own: the result may be tinted")
    if picture.alpha is not None:
        notes.append("transparency is ignored: colours under it count, and the result is opaque")
    rgb, place = picture.rgb, None
    if crop:
        place = placed(crop, rgb.shape[1], rgb.shape[0])
        if isinstance(crop, int) and crop > min(rgb.shape[:2]):
            notes.append(f"{source.name} is smaller than --crop {crop}: {place[2]}x{place[3]} pixels are certified")
        rgb = rgb[_inside(place, rgb.shape[1], rgb.shape[0])]
    return torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy()), place, notes


def read_truth(path: Path, crop: Box | None, scale: int, x: Tensor, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The ground truth ``(3, scale*h, scale*w)`` of a cropped input. RobustSRError: it has another size."""
    rgb = images.read(path, max_pixels=max_pixels).rgb
    if crop:
        left, top, wide, high = (n * scale for n in crop)
        rgb = rgb[_inside((left, top, wide, high), rgb.shape[1], rgb.shape[0])]
    wanted = (x.shape[-2] * scale, x.shape[-1] * scale)
    if rgb.shape[:2] != wanted:
        raise RobustSRError(
            f"{path} has {rgb.shape[1]}x{rgb.shape[0]} pixels, the result {wanted[1]}x{wanted[0]}: "
            f"--hr must be {scale} times the input"
        )
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())


def _inside(box: Box, w: int, h: int) -> tuple[slice, slice]:
    """Rows and columns of a rectangle inside a picture of (w, h)."""
    left, top, wide, high = box
    if left + wide > w or top + high > h:
        where = ",".join(map(str, box))
        raise RobustSRError(f"--crop {where} does not lie inside the picture of {w}x{h} pixels")
    return slice(top, top + high), slice(left, left + wide)


def write(
    made: Certificate,
    x: Tensor,
    network: Loaded,
    folder: Path,
    stem: str,
    *,
    name: str,
    crop: Box | None,
    hr: Tensor | None = None,
) -> dict[str, Any]:
    """Writes the pictures and STEM_certificate.json, all or none. Returns the record.

    ``name``: what the input is called in it. RobustSRError: the disk refuses.
    """
    named = names(stem)
    record = describe(made, x, network, hr)
    record["input"] |= {"name": name, "crop": crop and ",".join(map(str, crop))}
    record["model"]["name"] = network.name
    if network.before:
        record["model"]["denoiser"]["name"] = network.before[0]
    record["files"] = named
    shown = {key: value.permute(1, 2, 0).numpy() for key, value in pictures(made).items()}
    shown["width"] = heatmap.width_map(made.bounds.width.numpy())
    with staged(folder) as part:
        for key, pixels in shown.items():
            images.write_pixels(pixels, part / named[key])
        _save(record, files(part, stem)[-1])
    return record


def _save(record: dict[str, Any], target: Path) -> None:
    with atomic(target) as part:
        part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
