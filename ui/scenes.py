"""A part of a picture attacked or compared: the core's work, and its files as the browser takes them."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from robustsr import attack, attack_files, attack_report, compare, console, images, losses, scene, threats
from robustsr.catalogue import SAMPLE, package_samples, shipped
from robustsr.report import Table
from robustsr.ruler import Ruler, in_words
from robustsr.scene import Scene, Shown
from robustsr.settings import smoothing_for
from robustsr.smoothing import Reduce
from robustsr.types import RobustSRError, shown

from . import view
from .desk import Desk, Say, Token
from .options import argument, level, number, whole

SAMPLE_CROP = (24, 24, 64, 64)
CENTRE = 64  # pixels a side that are used where no crop is given
Word = Callable[[str], None]


def part(desk: Desk, path: Path | None, hr: Path | None, scale: int, crop: str) -> Scene:
    """What is worked on: a crop (`scene.crop_of`), else the centre; of the bundled picture if there is no other."""

    def read(file: Path | None) -> images.Picture | None:
        return None if file is None else images.read(file, max_pixels=desk.max_pixels)

    box = scene.crop_of(crop) if crop.strip() else None
    if path is None and hr is None:
        path, box = package_samples() / SAMPLE, box or SAMPLE_CROP
    name = (path or hr or Path(SAMPLE)).name
    made = scene.scene(read(path), read(hr), scale, name=name, crop=box, limit=CENTRE)
    if max(made.size) > scene.LARGEST:
        raise RobustSRError(f"a crop of at most {scene.LARGEST} pixels a side, got {made.place}")
    return made


def _telling(token: Token, say: Say, seconds: float = math.inf) -> Word:
    """A core's ``say``: passes words on, with the share of the estimated time that is over, and stops when asked to."""
    start = time.perf_counter()

    def word(text: str) -> None:
        token.check()
        over = time.perf_counter() - start
        left = f", about {console.duration(seconds - over)} left" if over < seconds < math.inf else ""
        say(min(0.95, over / seconds), text + left)

    return word


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """A table of the core as headers and rows of text."""
    sectioned = any(row.section for row in table.rows)
    head = ["", *(column.name if column.group == "output" else column.full for column in table.columns)]
    rows = []
    for row in table.rows:
        label = f"{row.section}, {row.label}" if sectioned and row.section else row.label
        rows.append([label, *(cell.text for cell in row.cells)])
    return head, rows


# --- compare ---


@dataclass(frozen=True)
class Compared:
    """Panes for the loupe, a table, and what to say."""

    loupe: view.Loupe
    head: list[str]
    rows: list[list[str]]
    notes: str


def defence(choice: str) -> tuple[str, Reduce | None]:
    """A model and how it is smoothed, from ``MODEL``, ``MODEL + median`` or ``MODEL + mean``."""
    name, _, reduce = choice.partition(" + ")
    return name, reduce or None  # type: ignore[return-value]


def side_by_side(
    desk: Desk, who: str, path: Path | None, hr: Path | None, choices: Sequence[str], sigma: str, crop: str, say: Say
) -> Compared:
    """Up to four models or defences on one crop. RobustSRError: none, too many, or a crop outside."""
    if not 1 <= len(choices) <= 4:
        raise RobustSRError(f"choose one to four models, got {len(choices)}")
    with desk.job(who, say, path, hr) as token:
        word = _telling(token, say)
        ways = [defence(choice) for choice in choices]
        networks = {}
        for name, _ in ways:
            word(f"loading {name}")
            networks[name] = desk.model(name)
        what = part(desk, path, hr, max(network.scale for network in networks.values()), crop)
        models = []
        for name, reduce in ways:
            one = Shown(name, attack.watched(networks[name], word, f"upscaling with {name}"))
            if reduce:
                one = scene.smoothed(
                    one.network, smoothing_for(one.network, reduce, level(sigma)).settled(what.x, one.network)[0]
                )
            models.append(one)
        ruler = Ruler.best()
        found = compare.compare(what, scene.distinct(models), ruler, word)
    table, folder, scale = compare.table(what, found, ruler), desk.folder(), what.scale
    desk.settle(who, folder)
    size = (what.size[1] * scale, what.size[0] * scale)
    small = view.keep(scene.pixels(what.x, 8), folder)
    panes: list[tuple[str, view.View]] = [("input", view.Enlarged(small, size, Image.Resampling.NEAREST))]
    for got in found:
        figures = f": {in_words(got.measures)}" if got.measures else ""
        label = f"{got.label(scale)}{figures}, {got.seconds:.2f} s"
        panes.append((label, view.keep(scene.eight(got.sr), folder)))
    if what.hr is not None:
        panes.append(("ground truth", view.keep(scene.pixels(what.hr, 8), folder)))
    head, rows = grid(table)
    return Compared(view.Loupe(panes, folder), head, rows, "\n\n".join([*what.notes, *table.notes]))


# --- attack ---


@dataclass(frozen=True)
class Attacked:
    """Pictures with captions, panes for the loupe, tables, the loss step by step, files to download, and words."""

    gallery: list[tuple[str, str]]
    loupe: view.Loupe
    change: tuple[list[str], list[list[str]]]
    outputs: tuple[list[str], list[list[str]]]
    curve: list[tuple[str, int, float]]
    files: list[str]
    about: str
    command: str


def threat_of(method: str, eps: str, steps: str, loss: str) -> threats.Threat:
    """The attack that a form describes; empty fields are the method's defaults. RobustSRError: a wrong one."""
    made = threats.parse(method)
    given: dict[str, Any] = {}
    if made.method != "cw":
        given["eps"] = number(eps, "eps")
    if made.method not in ("fgsm", "random"):
        given["steps"] = whole(steps, "steps")
    return threats.with_options(made, **given, loss=loss)


def attacked(
    desk: Desk,
    who: str,
    path: Path | None,
    hr: Path | None,
    model: str,
    threat: threats.Threat,
    on: str,
    smooth: Reduce,
    sigma: str,
    samples: str,
    crop: str,
    say: Say,
) -> Attacked:
    """Attacks a part of a picture, and shows what is left of every model that ships, of it smoothed, and of bicubic."""
    losses.loss(threat.loss)
    with desk.job(who, say, path, hr) as token:
        word = _telling(token, say)
        word(f"loading {model}")
        network = desk.model(model, "fp32")
        if level(sigma) == "auto":
            raise RobustSRError("sigma auto follows each picture, and so the attack itself: give a number")
        smoothing = smoothing_for(network, smooth, level(sigma), whole(samples, "samples"))
        variants = threats.variants_for(on, smoothing)
        what, folder = part(desk, path, hr, network.scale, crop), desk.folder()
        seconds = attack.forecast(what.size, network, threat, variants, smoothing, 1, len(shipped()))
        if seconds > 2 * 3600:
            raise RobustSRError(f"that would take about {console.duration(seconds)}: fewer steps, or the command line")
        word = _telling(token, say, seconds)
        others = scene.others(network, None, desk.device)
        result = attack.run(
            what,
            attack.watched(network, word, f"running {network.name}"),
            threat,
            variants=variants,
            smoothing=smoothing,
            others=[replace(o, network=attack.watched(o.network, word, f"measuring {o.label}")) for o in others],
            file=attack_files.reread(folder, what.bits),
            say=word,
        )
        smoothed = vars(smoothing)
        about = {"model": {"name": network.name, "sha256": network.digest}, "smoothing": smoothed, "variants": variants}
        attack_files.write(result, folder, about)
    desk.settle(who, folder)
    change, outputs = (grid(table) for table in attack_report.tables(result))
    names = ["clean.png", "adversarial.png", "difference.png", "adversarial.npy", "sheet.png", "record.json"]
    times = json.loads((folder / "record.json").read_text("utf-8"))["difference_times"]
    size = result.strongest.sizes
    captions = ["clean input", f"attacked: Linf {size['levels']:.3g}/255, L2 {size['l2']:.3g}", f"difference x{times}"]
    gallery = [(_large(folder / name, folder), text) for name, text in zip(names[:3], captions, strict=True)]
    victim = result.victim
    panes = [(f"{victim}, clean", view.keep(scene.eight(result.outcome(victim, "clean").sr), folder))]
    panes += [
        (f"{label}, attacked", view.keep(scene.eight(result.outcome(label, result.worst).sr), folder))
        for label in result.labels
    ]
    curve = [(attack_report.HOW[a.name], i, value) for a in result.attempts for i, value in enumerate(a.curve)]
    words = f"Attack: {threat.spec} on {result.victim}; {what.place}."
    if on != "base":
        words += f" Of {len(variants)} ways the strongest: {attack_report.HOW[result.worst]}."
    files = [str(folder / name) for name in names]
    told = "\n\n".join([words, *attack_report.verdict(result).splitlines(), *what.notes])
    line = [
        "robustsr",
        "attack",
        *([argument(path.name)] if path else []),
        "-m",
        model,
        "--method",
        threat.spec,
        "--on",
        on,
    ]
    line += ["--smooth", smooth, "--sigma", shown(smoothing.sigma), "--samples", str(smoothing.samples)]
    line += ["--crop", ",".join(map(str, what.box))]
    command = shlex.join([*line, *(["--hr", argument(hr.name)] if hr else [])])
    return Attacked(gallery, view.Loupe(panes, folder), change, outputs, curve, files, told, command)


def _large(path: Path, folder: Path, side: int = 384) -> str:
    """A small picture enlarged by a whole factor, pixel by pixel."""
    small = view.read(path, folder, 1 << 30)
    w, h = small.size
    factor = max(1, side // max(w, h))
    return view.saved(small.region((0, 0, w, h)).resize((w * factor, h * factor), 0), folder)
