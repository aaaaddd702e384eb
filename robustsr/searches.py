"""The search for the best sigma laid out: the thesis' Tables A.2 and A.3, its curves, and a calibration for auto."""

from __future__ import annotations

import math

from .calibration import Calibration, Point, fit, sigma_for
from .catalogue import BICUBIC
from .legends import METRICS, THESIS, UNIT, labels, model_labels, protocol_notes, published
from .report import ARROWS, Column, Plot, Row, Section, Table
from .results import Metric, Results
from .study import Record, Study


def tuned(studies: dict[str, Study], results: dict[str, Results], metric: Metric, factor: int | None) -> list[Section]:
    """The best sigma per model and perturbation, and each metric over sigma."""
    unit = UNIT if factor else 1.0
    sections: list[Section] = []
    for name, study in studies.items():
        models = [m for m in study.models if m not in BICUBIC]
        high, named, called = METRICS[metric].better == "high", labels(study), model_labels(models)
        best = {m: [results[name].best(metric, m, study.defences, p, high=high) for p in named] for m in models}
        sigmas = {called[m]: [d.sigma / unit if d else 0.0 for d in found] for m, found in best.items()}
        units = f"normalised units (times {UNIT} for [0, 1])" if factor else "[0, 1] units"
        notes = [f"chosen by {METRICS[metric].name}; sigma in {units}; 0: not smoothed"]
        if factor:  # as Tables A.2 and A.3
            theirs = dict(published("thesis-a2" if factor == 2 else "thesis-a3"))
            source = theirs.pop("source")
            rows = [Row.of(k, v) for k, v in sigmas.items()]
            rows += [Row.of(k, v, section=source, published=True) for k, v in theirs.items()]
            columns = [Column(label, "", None, 3) for label in named.values()]
        else:
            rows = [Row.of(p, [found[i] for found in sigmas.values()]) for i, p in enumerate(named)]
            columns = [Column(label, "", None, 3) for label in sigmas]
        notes = [*protocol_notes(study, results[name]), *notes]
        sections.append(Table(f"Best sigma: {name}", columns, rows, notes, "model" if factor else "perturbation"))
        ordered = sorted(study.defences, key=lambda d: d.sigma if d else 0)
        for model in models:
            for shown in dict.fromkeys((*THESIS[1:], metric)):
                series = []
                for p in study.perturbations:
                    means = [results[name].mean(shown, model, d, p) for d in ordered]
                    ys = [math.nan if v is None else v for v in means]
                    series.append((named[p], [d.sigma / unit if d else 0.0 for d in ordered], ys))
                head = METRICS[shown].name
                sections.append(Plot(f"{called[model]}: {head} over sigma", "sigma", head, series, [units]))
    return sections


def calibrated(
    studies: dict[str, Study], results: dict[str, Results], model: str, metric: Metric
) -> tuple[Calibration, Table]:
    """The calibration for ``--sigma auto`` of a model from all sets, and what it gains over the fixed sigma.

    In the table each picture's sigma comes from a calibration that has not seen it, at the nearest measured sigma;
    with a single picture there is no such calibration. Of fewer than 4 pictures, perturbations or levels of noise the
    calibration is empty.
    """
    high = METRICS[metric].better == "high"
    points: list[Point] = []
    at: dict[tuple[str, str, float], Record] = {}
    for name in studies:
        for record in results[name].records:
            if record["model"] == model and record["variant"] == "base" and record[metric] is not None:
                sigma = record["defence"]["sigma"] if record["defence"] else 0.0
                picture = f"{name} {record['picture']} {record['pixels']}"
                at[record["perturbation"], picture, sigma] = record
                points.append(Point(picture, record["noise"], sigma, record[metric] if high else -record[metric]))
    sigmas = sorted({p.sigma for p in points})
    pictures = {p.picture for p in points}
    unseen = {name: fit([p for p in points if p.picture != name]) for name in pictures} if len(pictures) > 1 else {}
    first = next(iter(studies.values()))
    fixed = next(d.sigma for d in first.defences if d)
    rows = []
    for spec in dict.fromkeys(key[0] for key in at):
        names = [n for s, n, sigma in at if s == spec and sigma == 0]
        each = {s: [float(at[spec, n, s][metric]) for n in names] for s in sigmas}
        means = {s: sum(values) / len(values) for s, values in each.items()}
        chosen = None
        if unseen:
            wanted = [sigma_for(unseen[n], at[spec, n, 0.0]["noise"]) for n in names]
            auto = [min(sigmas, key=lambda s, w=w: abs(s - w)) for w in wanted]  # type: ignore[misc]
            chosen = sum(each[s][i] for i, s in enumerate(auto)) / len(names)
        oracle = (max if high else min)(means.values())
        rows.append(Row.of(spec, [means[0.0], means[fixed], chosen, oracle]))
    digits, better = METRICS[metric].digits, METRICS[metric].better
    heads = ("not smoothed", f"sigma {fixed:g}", "sigma auto", "oracle per row")
    columns = [Column(name, f"{METRICS[metric].name}{ARROWS[better]}", None, digits) for name in heads]
    found = fit(points)
    if min(len(found), len(pictures), len(rows)) < 4:
        found = ()
    called = model_labels(first.models)[model]
    shown = ", ".join(f"{noise:.3f}: {sigma:.3f}" for noise, sigma in found)
    notes = [
        *protocol_notes(first, results[next(iter(studies))]),
        f"calibration (noise estimate: sigma) {shown or 'none: it takes 4 pictures and 4 perturbations or more'}",
        "auto: fitted without the picture itself, on others under the same perturbations; the nearest measured sigma"
        if unseen
        else "auto: n/a, for there is no second picture to fit on",
    ]
    return found, Table(f"Choosing sigma by the picture's noise: {called}", columns, rows, notes, "")
