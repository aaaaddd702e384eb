"""What is measured, and the records that hold what was found.

A record is a dict of plain values, appended as a line of JSON to ``records.jsonl`` and keyed by everything that
decides it, so a run that was interrupted goes on, and another table over the same settings measures nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import backbones, corruptions, losses, threats
from .files import append_line
from .pairs import Pictures
from .settings import Smoothing
from .threats import Threat
from .types import RobustSRError, meant, named, settings

VERSION = 6  # of what a record holds and means
Record = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What to measure. ``perturbations``: "clean", corruptions (corruptions.parse) and attacks (threats.parse).

    ``defences``: smoothings, and None for the plain network; smoothing is not applied to bicubic, a linear map, which
    it does not change. ``on``: what of a smoothed model is attacked, see threats.variants_for. ``source``: a model on
    which all attacks are crafted instead (transfer). ``denoise``: a denoiser before all of ``models`` but
    bicubic (models.denoised), which is then what is attacked, unless there is a ``source``. ``quantised``: inputs are
    rounded to 8 bits after perturbation, as a file would; outputs always are. ``border``: pixels of the output left
    out of PSNR, SSIM and MSE.
    """

    pictures: Pictures
    models: tuple[str, ...]
    perturbations: tuple[str, ...] = ("clean",)
    defences: tuple[Smoothing | None, ...] = (None,)
    on: str = "base"
    source: str | None = None
    denoise: str | None = None
    quantised: bool = True
    border: int = 4
    lpips: str | None = None
    gallery: int = 0  # so many pictures' inputs and outputs are kept as files
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"

    def protocol(self, records: Sequence[Record] = ()) -> dict[str, object]:
        """How the numbers were measured, for the reader of a table."""
        p = self.pictures
        lr = "paired" if p.files[0][1] else "bilinear down and up again" if p.resized else "antialiased bicubic, 8 bits"
        specs = [parse(spec) for spec in self.perturbations]
        attacks = [t for t in specs if threats.is_attack(t)]
        resolved = {losses.resolved(t.loss) for t in attacks}
        precision = sorted({f"{r['model']} {r['precision']}" for r in records})
        smooth = next((d for d in self.defences if d), None)
        ways = threats.variants_for(self.on, smooth) if attacks else []
        several = len(ways) > 1
        backbone = self.lpips and backbones.digest(losses.LPIPS_BACKBONES[self.lpips])
        whom = f"each model's {self.on}"
        if ways == ["base"] and smooth:
            whom = "each model's network, of smoothed ones, too (--on worst attacks what is smoothed)"
        return {
            "pictures": f"{len(p.files)} of {p.hr.name}" + (f", centre {p.crop} px of LR" if p.crop else ""),
            "read as": "8-bit RGB, transparency ignored",
            "low resolution": f"{lr}, factor {p.resized or p.scale}",
            "PSNR, SSIM, MSE": f"RGB in [0, 1], 8-bit output, border {self.border} px left out, mean over pictures; "
            "-Y: on luma (BT.601), of every picture in records.jsonl, in tables without --protocol; "
            "SSIM with a Gaussian window of 11 px, std 1.5; PSNR at most 100 dB",
            "LPIPS": f"{self.lpips} (weights {backbone[:12]}), whole picture" if backbone else "not measured",
            "perturbed inputs": "rounded to 8 bits inside their ball" if self.quantised else "floats",
            **({"draws": smooth.draws} if smooth else {}),
            **({"attacked": whom} if attacks and not self.source else {}),
            **({"attacked": f"{self.source}, for all models"} if attacks and self.source else {}),
            **({"of several attacks": "the worst, per picture and metric"} if several else {}),
            **({f"attack {v}": words for v, words in threats.VARIANTS.items() if v in ways} if several else {}),
            **({"attacks' loss": f"{', '.join(sorted(map(losses.in_words, resolved)))}, float32"} if attacks else {}),
            **({"denoiser": f"{self.denoise}, before every model but bicubic"} if self.denoise else {}),
            "precision": ", ".join(precision) or self.precision,
            "seed": self.seed,
        }


def records(folder: Path) -> dict[str, Record]:
    """The records of a folder by key; lines that are cut short or damaged, or of another version, are left out."""
    path = folder / "records.jsonl"
    found: dict[str, Record] = {}
    for line in path.read_text("ascii", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and record.get("version") == VERSION and "key" in record:
            found[record["key"]] = record
    return found


def append(folder: Path, record: Record) -> None:
    """Adds a line to the records of a folder, which is made. RobustSRError: it cannot be written."""
    append_line(folder / "records.jsonl", json.dumps(record))


def parse(spec: str) -> Threat | corruptions.Corruption | None:
    """A perturbation by its spec: an attack, a corruption, or None for "clean". RobustSRError: it is neither."""
    name = named(spec)
    if name == "clean":
        if settings(spec):
            raise RobustSRError(f"{spec!r}: clean has no settings")
        return None
    if threats.is_threat(spec):
        return threats.parse(spec)
    if name not in corruptions.KINDS:
        raise RobustSRError(
            f"no attack or corruption {name!r}; {meant(name, ['clean', *threats.NAMES, *corruptions.KINDS])}"
        )
    return corruptions.parse(spec)
