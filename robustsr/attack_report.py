"""What people see of an attack: its tables, and one labelled sheet of pictures."""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from .attack import Result
from .report import Column, Panel, Row, Table
from .ruler import DIGITS, MEASURES, in_words
from .scene import Box, Pixels, eight, from_pixels, pixels
from .sheet import WIDEST, amplified, contact_sheet
from .threats import VARIANTS
from .universal import Universal

HOW = {str(variant): text for variant, text in VARIANTS.items()}


def named(result: Result, name: str, label: str) -> str:
    """What a table calls an input, where it shows the model ``label``."""
    if name in ("clean", "random"):
        return {"clean": "clean", "random": "random noise"}[name]
    if len(result.attempts) == 1:
        return "attacked"
    return f"attacked: {name}" + ", the worst" * ((name, label) == (result.worst, result.victim))


def tables(result: Result) -> list[Table]:
    """What was done to the input, and what every model made of it."""
    scene, norm = result.scene, result.threat.measure.capitalize()
    change = [
        Row.of(
            named(result, a.name, result.victim), [a.sizes[key] for key in ("levels", "linf", "l2", "l2_rel", "psnr")]
        )
        for a in (*result.attempts, result.noise)
    ]
    columns = [
        Column("1/255", "Linf", None, 1 if scene.bits == 8 else 2),
        Column("[0,1]", "Linf", None, 4),
        Column("whole", "L2", None, 3),
        Column("RMS", "L2", None, 5),
        Column("PSNR", "input", None, 2),
    ]
    what = "The truth (--hr)" if scene.hr is not None else "The same model's output for the clean input (no --hr)"
    notes = [f"Measured from the written files. Random noise: of equal {norm}.", f"Reference: {what}."]
    if result.strongest.c is not None:
        notes.append(f"c = {result.strongest.c:.3g}. CW hardly moves values at 0 or 1.")
    keys = [*MEASURES, *(["target"] if scene.target is not None else [])]
    rows = [
        Row.of(named(result, o.input, o.label), [_shown(o.measures[k]) for k in keys], section=o.label)
        for o in result.outcomes
        if o.input != "clean" or scene.aimed
    ]
    measured = [Column(name, "output", None, DIGITS[key]) for key, name in MEASURES.items()]
    if scene.target is not None:
        measured.append(Column("PSNR", "to target", None, 2))
    about = f"{result.threat.spec} on {result.victim}"
    return [
        Table(f"Change of the input: {about}", columns, change, [notes[0], *notes[2:]]),
        Table("Outputs", measured, rows, [notes[1], *result.ruler.notes(scene.scale)]),
    ]


def verdict(result: Result) -> str:
    """What came of it, in a line or two: the attacked model's PSNR, and the others' for the same picture."""
    scene, victim = result.scene, result.victim
    key = "psnr" if scene.target is None else "target"
    what = "the target" if key == "target" else "its clean output" if scene.hr is None else "the truth"
    inputs = {"clean": "clean"} if scene.aimed else {}
    inputs |= {result.worst: "attacked", "random": "with random noise as large"}
    got = [f"{words} {_psnr(result, victim, name, key)}" for name, words in inputs.items()]
    said = f"{victim}, PSNR to {what}: {', '.join(got)}."
    if key == "target" or len(result.labels) == 1:
        return said
    order = sorted(result.labels, key=lambda label: -(result.outcome(label, result.worst).measures[key] or 0.0))
    others = "; ".join(f"{label} {_psnr(result, label, result.worst, key)}" for label in order if label != victim)
    return f"{said}\nOthers, given the picture made against it, each to {what}: {others}."


def _psnr(result: Result, label: str, name: str, key: str) -> str:
    value = result.outcome(label, name).measures[key]
    return "no change" if value == math.inf else f"{value:.1f} dB"


def _shown(value: float | None) -> float | str | None:
    """A measure as a table has it: no PSNR where there is no difference."""
    return "-" if value == math.inf else value


def universal_table(result: Universal) -> Table:
    """A row per picture and their mean: PSNR to each model's clean output, or to the target, with it and with noise."""
    first = result.rows[0].scene
    key, what = (
        ("psnr", "The same model's output for the clean input") if first.target is None else ("target", "target")
    )
    columns = [Column(n, label, None, 2) for label in result.labels for n in ("random", "universal")]
    values = [[o.measures[key] or 0.0 for o in row.outcomes] for row in result.rows]
    rows = [Row.of(row.scene.name, line) for row, line in zip(result.rows, values, strict=True)]
    rows.append(Row.of("mean", [statistics.fmean(column) for column in zip(*values, strict=True)]))
    notes = [
        f"Reference: {what}. Random noise: of equal norm, picture by picture.",
        f"RGB, {first.scale} border pixels off, measured from the written files; more in record.json.",
    ]
    title = f"Universal {result.threat.spec} for {len(result.rows)} pictures: PSNR (dB)"
    return Table(title, columns, rows, notes, "picture")


def detail(result: Result) -> Box:
    """The part of the input, small enough for a sheet, whose output changed most."""
    h, w = result.scene.size
    side = max(8, WIDEST // result.scene.scale)
    high, wide = min(h, side), min(w, side)
    clean, attacked = (result.outcome(result.victim, name).sr for name in ("clean", result.worst))
    change = (from_pixels(attacked) - from_pixels(clean)).abs().mean(1, keepdim=True)
    small = F.avg_pool2d(change, result.scene.scale)
    spots = F.avg_pool2d(small, (high, wide), stride=1)[0, 0]
    at = int(spots.argmax())
    return at % spots.shape[1], at // spots.shape[1], wide, high


def contact(result: Result) -> Image.Image:
    """One labelled sheet: the inputs, and what every model made of them, in the part that changed most."""
    scene = result.scene
    x, y, w, h = part = detail(result)
    s = scene.scale

    def cut(made: Pixels, factor: int) -> NDArray[np.uint8]:
        return eight(made)[y * factor : (y + h) * factor, x * factor : (x + w) * factor]

    def change(a: NDArray[np.uint8], b: NDArray[np.uint8], factor: int | None = None) -> tuple[NDArray[np.uint8], int]:
        return amplified((a.astype(np.float32) - b.astype(np.float32)) / np.float32(255), factor)

    trio = {"clean": scene.x, "random": result.noise.adv, result.worst: result.strongest.adv}
    inputs = {name: cut(pixels(tensor, scene.bits), 1) for name, tensor in trio.items()}
    outputs = {o.label: {} for o in result.outcomes}  # type: dict[str, dict[str, NDArray[np.uint8]]]
    for o in result.outcomes:
        outputs[o.label][o.input] = cut(o.sr, s)
    victim = outputs[result.victim]
    spread = np.abs(victim[result.worst].astype(int) - victim["clean"].astype(int))
    common = max(1, int(127 / max(1, float(np.quantile(spread, 0.995)))))
    difference, factor = change(inputs[result.worst], inputs["clean"])
    sized = {"random": result.noise.sizes, result.worst: result.strongest.sizes}
    titles = {"clean": "clean", "random": "random noise", result.worst: "attacked"}
    top = [
        Panel(titles[n], inputs[n], f"Linf {z['levels']:.3g}/255, L2 {z['l2']:.3g}" if (z := sized.get(n)) else "")
        for n in trio
    ]
    rows = [("input", [*top, Panel(f"attacked - clean, x{factor}", difference)])]
    for label, made in outputs.items():
        panels = [Panel(titles[n], made[n], in_words(result.outcome(label, n).measures)) for n in trio]
        wide = change(made[result.worst], made["clean"], common)[0]
        rows.append((label, [*panels, Panel(f"attacked - clean, x{common}", wide)]))
    aims = {"ground truth": scene.hr, "target": scene.target}
    if goals := [Panel(name, cut(pixels(goal, 8), s)) for name, goal in aims.items() if goal is not None]:
        rows.append(("what outputs are compared with", goals))
    against = "the truth" if scene.hr is not None else "the model's own clean output"
    notes = [
        f"Detail {w}x{h} at {part[0]},{part[1]} of the input of {scene.size[1]}x{scene.size[0]} pixels; "
        f"figures are for all of it, against {against}. Gray in a difference is no change."
    ]
    if len(result.attempts) > 1:
        notes.append(f"Attacked: {HOW[result.strongest.name]}, the worst of {len(result.attempts)}.")
    return contact_sheet(rows, title=f"{scene.name}: {result.threat.spec} on {result.victim}", notes=notes)
