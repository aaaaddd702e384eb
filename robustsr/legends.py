"""What the tables of both works call things, and what they say below: names, units, published figures, the protocol."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import PurePath
from typing import Any

from .catalogue import ENDINGS
from .report import Column
from .results import Metric, Results
from .study import Study, parse
from .threats import Threat

UNIT = 0.273  # the thesis' normalised units times this are [0, 1] units: the mean standard deviation of its channels
METRICS: dict[Metric, Column] = {
    "psnr": Column("PSNR", "", "high", 2),
    "ssim": Column("SSIM", "", "high", 3),
    "mse": Column("MSE", "", "low", 4),
    "psnr_y": Column("PSNR-Y", "", "high", 2),
    "ssim_y": Column("SSIM-Y", "", "high", 3),
    "lpips": Column("LPIPS", "", "low", 3),
}
PAPER: tuple[Metric, ...] = ("psnr", "ssim", "lpips")
THESIS: tuple[Metric, ...] = ("mse", "psnr", "ssim")


def published(key: str) -> dict[str, Any]:
    """The figures of a published table by the names of its rows, with its ``source`` and perhaps a ``note``."""
    text = resources.files("robustsr_assets").joinpath("published.toml").read_text("utf-8")
    table: dict[str, Any] = tomllib.loads(text)[key]
    return table


def model_labels(models: Iterable[str]) -> dict[str, str]:
    """What models are called in a table: their names, those of their files; where these are alike, as they were given.

    An ONNX file, which may be another's copy, keeps its ending.
    """
    paths = {name: PurePath(name) for name in models}
    short = {n: p.name if p.suffix == ".onnx" else p.stem if p.suffix in ENDINGS else n for n, p in paths.items()}
    alike = Counter(short.values())
    return {name: label if alike[label] == 1 else name for name, label in short.items()}


def thesis_attack(eps_rel: float) -> str:
    """The thesis' evaluation attack: 10 steps of eps/4 on the MSE; ``eps_rel`` in its normalised units."""
    return f"pgd-l2:eps_rel={eps_rel * UNIT:.6g},loss=mse" if eps_rel else "clean"


def labels(study: Study) -> dict[str, str]:
    """What each perturbation is called: all of it; the thesis' by their eps_rel."""
    made = {spec: spec for spec in study.perturbations}
    for spec in study.perturbations if study.pictures.resized else ():
        for part in spec.partition(":")[2].split(","):
            if part.startswith("eps_rel="):
                made[spec] = f"eps_rel {float(part[8:]) / UNIT:.3g}"
    return made


def _came_out(threat: Threat, spec: str, study: Study, results: Results) -> str:
    """How large its changes were, after rounding: from the smallest mean over the pictures to the largest."""
    size: Metric = threat.measure if threat.eps_rel is None else "l2_rel"
    means = [results.mean(size, model, None, spec) for model in study.models]
    ends = sorted(mean for mean in means if mean is not None)
    texts = [f"{end * 255:.3g}/255" if threat.measure == "linf" else f"{end:.3g}" for end in (*ends[:1], *ends[-1:])]
    return f", came out as {' to '.join(dict.fromkeys(texts))}" if texts else ""


def protocol_notes(study: Study, results: Results) -> list[str]:
    """The protocol as lines under a table."""
    lines = [f"{k}: {v}" for k, v in study.protocol(results.records).items()]
    parsed = {spec: parse(spec) for spec in study.perturbations}
    threats = {spec: threat for spec, threat in parsed.items() if isinstance(threat, Threat)}
    ways = "; ".join(dict.fromkeys(f"{threat.method}: {threat.way}" for threat in threats.values()))
    budgets = [f"{spec}: {t.size}{_came_out(t, spec, study, results)}" for spec, t in threats.items() if t.size]
    named = model_labels(study.models)
    sizes = [
        f"{named[model]} {size:.2f}"
        for spec, threat in threats.items()
        if threat.method == "cw"
        for model in study.models
        if (size := results.mean("l2", model, None, spec)) is not None
    ]
    units = [
        "column heads have eps_rel in the thesis' normalised units; all else, that of the perturbations included, "
        f"is in [0, 1] units: those times {UNIT}",
        "what upscales, bicubic too, gets the pictures shrunk once more, and its results are resized to fit",
    ] * bool(study.pictures.resized)
    return [
        "; ".join(lines),
        f"perturbations: {'; '.join(p.spec if p else 'clean' for p in parsed.values())}",
        *([f"attacks: {ways}"] if ways else []),
        *([f"their sizes: {'; '.join(budgets)}"] if budgets else []),
        *([f"cw has no budget; mean L2 of its changes: {', '.join(sizes)}"] if sizes else []),
        *units,
    ]
