"""Records to ask for means, the worst of several attacks, and the best of several defences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Literal

from .report import Cell
from .settings import Smoothing
from .study import Record, parse

HIGH = ("psnr", "ssim", "psnr_y", "ssim_y")  # metrics of which more is better
Metric = Literal["psnr", "ssim", "mse", "psnr_y", "ssim_y", "lpips", "linf", "l2", "l2_rel"]


@dataclass(frozen=True)
class Results:
    """Records of one study, and the folder that holds its pictures, to ask for means and examples."""

    records: list[Record]
    folder: Path

    def found(
        self, model: str, defence: Smoothing | None, perturbation: str, variant: str = "worst"
    ) -> dict[tuple[str, str], list[Record]]:
        """The records per picture; "worst": of all attacks, which a mean takes the worst of."""
        made: dict[tuple[str, str], list[Record]] = {}
        spec = getattr(parse(perturbation), "spec", "clean")
        wanted = asdict(defence) if defence else None
        for record in self.records:
            same = (record["model"], record["defence"], record["perturbation"]) == (model, wanted, spec)
            if same and (record["variant"] == variant or (variant == "worst" and record["variant"] != "random")):
                made.setdefault((record["picture"], record["pixels"]), []).append(record)
        return made

    def worst(self, model: str, defence: Smoothing | None, perturbation: str) -> dict[tuple[str, str], Record]:
        """Per picture the record of the attack that left the least PSNR."""
        groups = self.found(model, defence, perturbation)
        return {key: min(group, key=lambda r: float(r["psnr"])) for key, group in groups.items()}

    def values(
        self, metric: Metric, model: str, defence: Smoothing | None, perturbation: str, variant: str = "worst"
    ) -> list[float]:
        """One value per picture; none where one of them was not, or could not be, measured.

        "worst": of several attacks, per picture and metric, the one that makes that metric worst.
        """
        groups = list(self.found(model, defence, perturbation, variant).values())
        if any(record[metric] is None for group in groups for record in group):
            return []
        worst = min if metric in HIGH else max
        return [worst(float(record[metric]) for record in group) for group in groups]

    def mean(
        self, metric: Metric, model: str, defence: Smoothing | None, perturbation: str, variant: str = "worst"
    ) -> float | None:
        """The mean of `values`; None where there are none."""
        values = self.values(metric, model, defence, perturbation, variant)
        return sum(values) / len(values) if values else None

    def cell(
        self, metric: Metric, model: str, defence: Smoothing | None, perturbation: str, variant: str = "worst"
    ) -> Cell:
        """The mean of `values`, and its standard error where there are two or more."""
        values = self.values(metric, model, defence, perturbation, variant)
        some = len(values) > 1 and all(map(math.isfinite, values))
        error = stdev(values) / math.sqrt(len(values)) if some else None
        return Cell(sum(values) / len(values) if values else None, error=error)

    def best(
        self, metric: Metric, model: str, defences: tuple[Smoothing | None, ...], perturbation: str, *, high: bool
    ) -> Smoothing | None:
        """Which defence has the best mean: the choice of an oracle that knows perturbation and ground truth."""
        found = [(self.mean(metric, model, d, perturbation), i) for i, d in enumerate(defences)]
        rated = [(value if high else -value, -i) for value, i in found if value is not None]
        return defences[-max(rated)[1]] if rated else None

    def kept(self, record: Record) -> tuple[Path, Path] | None:
        """The files of the input and the output of a record, where they were kept."""
        path = self.folder / "pictures" / f"{record['key']}.png"
        return (path.with_suffix(".lr.png"), path) if path.exists() else None

    def truth(self, record: Record) -> Path:
        """The file of a kept record's ground truth."""
        return self.folder / "pictures" / f"{record['pixels']}.hr.png"


def pooled(cells: Sequence[Cell]) -> Cell:
    """The mean of the means of several sets, which count alike, and its standard error; where all have one."""
    values = [cell.value for cell in cells if isinstance(cell.value, float)]
    errors = [cell.error for cell in cells if cell.error is not None]
    mean = sum(values) / len(cells) if len(values) == len(cells) else None
    return Cell(mean, error=math.hypot(*errors) / len(cells) if len(errors) == len(cells) else None)
