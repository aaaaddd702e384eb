"""How results are laid out: the tables, curves and galleries of the two works, beside their published figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from .catalogue import BICUBIC
from .legends import METRICS, PAPER, THESIS, UNIT, labels, model_labels, protocol_notes, published, thesis_attack
from .report import Cell, Column, Gallery, Panel, Plot, Row, Section, Table
from .results import Metric, Results, pooled
from .settings import Smoothing
from .study import Record, Study
from .threats import is_attack, is_threat, parse, variants_for

TUNED_EPS = (0, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2)
PAPER_SIGMAS = {"clean": 0.0, "noise": 0.0, "blur": 0.05, "fgsm": 0.06, "bim": 0.07, "pgd": 0.06, "cw": 0.03}
PAPER_SETS = {"NTIRE": 0.03, "AIM": 0.06}  # the paper's sigma for each real-world set, in the order of its columns
ATTACKED = (("on the network (vanilla)", "base"), ("on the smoothed model", "eot"), ("the worse of both", "worst"))


def _oracle(study: Study) -> tuple[Metric, bool]:
    """By which metric sigma is chosen: LPIPS as the paper does, where it can be measured; else SSIM, as the thesis."""
    return ("lpips", False) if study.lpips and not study.pictures.resized else ("ssim", True)


def _rows(
    study: Study,
    results: Results,
    perturbations: Sequence[str],
    wanted: Sequence[Metric],
    theirs: Sequence[float] = (),
) -> tuple[list[Row], list[str]]:
    """Bicubic, then each model plain, with the fixed sigma and with the oracle's; and notes on the oracle's choices.

    ``theirs``: the paper's sigma for each perturbation, of which there is a row where all were measured. Where a
    smoothed model was attacked in several ways, a row for each of them, of the fixed sigma.
    """
    notes: list[str] = []
    metric, high = _oracle(study)
    named = labels(study)
    attacks = [p if is_threat(p) and is_attack(parse(p)) else None for p in perturbations]

    def line(model: str, defences: Sequence[Smoothing | None], way: str = "worst") -> list[Cell]:
        pairs = zip(perturbations, defences, strict=True)
        return [results.cell(m, model, d, p, way if is_threat(p) else "worst") for p, d in pairs for m in wanted]

    rows = []
    for model, label in model_labels(study.models).items():
        section = "No network" if model in BICUBIC else label
        rows.append(Row(label, line(model, [None] * len(perturbations)), section=section))
        if any(attacks):
            noise = [results.cell(m, model, None, p, "random") if p else Cell() for p in attacks for m in wanted]
            rows.append(Row("random noise of equal norm", noise, section=section, ranked=False))
        if model in BICUBIC:
            continue
        smooth = [d for d in study.defences if d]
        if not smooth:
            continue
        fixed = smooth[0]
        how = f"{fixed.reduce} of {fixed.samples}{' antithetic' * (fixed.draws == 'antithetic')}"
        always = [fixed] * len(perturbations)
        rows.append(Row(f"{how}, sigma {fixed.sigma:g}", line(model, always), section=label))
        ways = variants_for(study.on, fixed) if any(attacks) else []
        for way in ways if len(ways) > 1 else []:
            rows.append(Row(f"the same, attack {way}", line(model, always, way), section=label, ranked=False))
        by_sigma = {0.0: None, **{d.sigma: d for d in smooth}}
        if theirs and by_sigma.keys() >= set(theirs):
            paper = line(model, [by_sigma[sigma] for sigma in theirs])
            rows.append(Row(f"{how}, CertSR's sigmas", paper, section=label, ranked=False))
        if len(smooth) > 1:
            best = [results.best(metric, model, study.defences, p, high=high) for p in perturbations]
            rows.append(Row(f"{how}, oracle sigma", line(model, best), section=label, ranked=False))
            chosen = ", ".join(f"{named[p]} {d.sigma if d else 0:g}" for p, d in zip(perturbations, best, strict=True))
            notes.append(
                f"{label}, oracle sigma by {metric.upper()}: {chosen} (0: not smoothed); chosen on these pictures with "
                "their ground truth, as the papers do"
            )
    return rows, notes


def table(title: str, key: str, groups: Sequence[str], wanted: Sequence[Metric]) -> Any:  # noqa: ANN401
    def layout(studies: dict[str, Study], results: dict[str, Results]) -> list[Section]:
        sections: list[Section] = []
        theirs = dict(published(key)) if key else {}
        source, note = theirs.pop("source", ""), theirs.pop("note", "")
        for name, study in studies.items():
            shown = [p for p in study.perturbations if p != "clean" or "Clean" in groups or not groups]
            heads = groups or [labels(study)[p] for p in shown]
            columns = [replace(METRICS[m], group=g) for g in heads for m in wanted]
            sigmas = [PAPER_SIGMAS[p.partition(":")[0]] for p in shown] if key.startswith("paper") else []
            rows, notes = _rows(study, results[name], shown, wanted, sigmas)
            extra = [None] * (len(columns) - len(next(iter(theirs.values()), [])))
            rows += [
                Row.of(label, [*values, *extra], section=source, published=True) for label, values in theirs.items()
            ]
            notes = [*protocol_notes(study, results[name]), *notes, *([note] if note else [])]
            sections.append(Table(f"{title}: {name}", columns, rows, notes, "model"))
        sections += galleries(studies, results)
        return sections

    return layout


def paired(studies: dict[str, Study], results: dict[str, Results]) -> list[Section]:
    """Table 3: metrics over sets, and their average."""
    theirs = dict(published("paper-table3"))
    source, note = theirs.pop("source"), theirs.pop("note")
    names = list(studies)
    columns = [
        replace(METRICS[m], name=name, group=METRICS[m].name)
        for m in PAPER
        for name in [*names, *(["mean"] * (len(names) > 1))]
    ]
    rows: dict[tuple[str, str], dict[str, Sequence[Cell]]] = {}  # by section and label; of each set, PAPER's
    notes: list[str] = []
    for name, study in studies.items():
        sigma = [PAPER_SETS[name]] if name in PAPER_SETS else []
        made, more = _rows(study, results[name], ("clean",), PAPER, sigma)
        notes += [f"{name}: {line}" for line in more]
        for row in made:
            rows.setdefault((row.section, row.label), {})[name] = row.cells
    lines = []
    for (section, label), values in rows.items():
        cells: list[Cell] = []
        for k in range(len(PAPER)):
            per_set = [values.get(name, [Cell()] * len(PAPER))[k] for name in names]
            cells += [*per_set, *([pooled(per_set)] * (len(names) > 1))]
        lines.append(Row(label, cells, section=section))
    if set(names) <= set(PAPER_SETS):
        for label, v in theirs.items():
            filled: list[float] = []
            for k in range(len(PAPER)):
                both = dict(zip(PAPER_SETS, v[2 * k : 2 * k + 2], strict=True))
                filled += [*(both[name] for name in names), *([sum(both.values()) / 2] * (len(names) > 1))]
            lines.append(Row.of(label, filled, section=source, published=True))
        notes.append(note)
    else:
        notes.append("the published figures are for sets named NTIRE and AIM")
    first = next(iter(studies.values()))
    table = Table(
        "CertSR, Table 3: paired real-world pictures",
        columns,
        lines,
        [*protocol_notes(first, results[next(iter(studies))]), *notes],
        "model",
    )
    return [table, *galleries(studies, results)]


def norms(studies: dict[str, Study], results: dict[str, Results]) -> list[Section]:
    """Table A.1 and Figures A.1 and A.2: attacks on the network against attacks on the smoothed model."""
    sections: list[Section] = []
    theirs = dict(published("thesis-a1"))
    source = theirs.pop("source")
    for name, study in studies.items():
        model_rows: list[Row] = []
        smooth = [d for d in study.defences if d]
        called = model_labels(study.models)
        for model in study.models:
            for eps in (0.01, 0.05):
                spec = thesis_attack(eps)
                side = 160 if study.pictures.crop is None else study.pictures.crop * (study.pictures.resized or 1)
                found = [results[name].mean("l2", model, smooth[0], spec, v) for v in ("base", "eot")]
                values = [eps * math.sqrt(3) * side, *(v / UNIT if v is not None else None for v in found)]
                if model not in BICUBIC:
                    model_rows.append(Row.of(f"eps_rel {eps:g}", values, section=called[model]))
        model_rows += [Row.of(k, v, section=source, published=True) for k, v in theirs.items()]
        columns = [Column("eps", digits=6), Column("|e_f|", digits=6), Column("|e_g|", digits=6)]
        notes = [*protocol_notes(study, results[name]), "normalised units: [0, 1] norms divided by " + str(UNIT)]
        sections.append(
            Table(f"Thesis, Table A.1: size of the perturbations: {name}", columns, model_rows, notes, "attack")
        )
        for model in (m for m in study.models if m not in BICUBIC):
            for smoothing in smooth:
                for metric in THESIS[1:]:
                    series = [
                        (label, TUNED_EPS, _curve(results[name], metric, model, smoothing, variant))
                        for label, variant in ATTACKED
                    ]
                    title = f"Thesis, Figures A.1 and A.2: {called[model]}, sigma_g {smoothing.sigma / UNIT:.2g}"
                    label = METRICS[metric].name
                    notes = [f"k = {smoothing.samples}; in the original each network is trained with noise of sigma_g"]
                    sections.append(Plot(title, "eps_rel", f"adversarial {label}", series, notes))
    return sections


def _curve(results: Results, metric: Any, model: str, smoothing: Smoothing, variant: str) -> list[float]:  # noqa: ANN401
    found = []
    for eps in TUNED_EPS:
        value = results.mean(metric, model, smoothing, thesis_attack(eps), variant if eps else "base")
        found.append(math.nan if value is None else value)
    return found


def generic(study: Study, results: Results, name: str) -> list[Section]:
    """A table of any study: a group of columns per perturbation."""
    heads = ["Clean" if p == "clean" else labels(study)[p] for p in study.perturbations]
    layout = table("Measured", "", heads, (*PAPER, "psnr_y", "ssim_y"))
    made: list[Section] = layout({name: study}, {name: results})
    return made


def galleries(studies: dict[str, Study], results: dict[str, Results]) -> list[Section]:
    """What went in and what came out, a row per perturbation: the layout of the papers' figures."""
    made: list[Section] = []
    for name, study in studies.items():
        found = results[name]
        defences = [None, *[d for d in study.defences if d][:1]]
        columns = [(m, d) for m in study.models for d in defences if d is None or m not in BICUBIC]
        named, called = labels(study), model_labels(study.models)
        for key in list(dict.fromkeys((r["picture"], r["pixels"]) for r in found.records))[: study.gallery]:
            rows = []
            for spec in study.perturbations:
                panels: list[Panel] = []
                before = b""
                for model, smoothing in columns:
                    record = found.worst(model, smoothing, spec).get(key)
                    if record is None or (files := found.kept(record)) is None:
                        continue
                    own, data = is_threat(spec) and record["source"] is None, files[0].read_bytes()
                    if not panels:
                        panels.append(Panel("ground truth", np.asarray(Image.open(found.truth(record)))))
                    each = own and study.pictures.resized and data != before  # the thesis' figures show every input
                    before = data
                    if len(panels) == 1 or each:
                        made_for = f"against {called[model]}"
                        made_for += "; each model has its own" * (not study.pictures.resized)
                        panels.append(Panel("input", np.asarray(Image.open(files[0])), made_for if own else ""))
                    how = f", {smoothing.reduce} {smoothing.sigma:g}" if smoothing else ""
                    panels.append(Panel(called[model] + how, np.asarray(Image.open(files[1])), _caption(record)))
                if panels:
                    rows.append((named[spec], panels))
            if rows:
                made.append(Gallery(f"{name}: {key[0]}", rows, "inputs enlarged without interpolation"))
    return made


def _caption(record: Record) -> str:
    lpips = f", LPIPS {record['lpips']:.3f}" if record["lpips"] is not None else ""
    return f"{record['psnr']:.2f} dB{lpips}"
