"""The work of `robustsr compare`: models and defences side by side, how long they take and how near they come."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .catalogue import BICUBIC
from .report import Column, Panel, Row, Table
from .resample import resize
from .ruler import DIGITS, MEASURES, Measures, Ruler, in_words
from .scene import Pixels, Say, Scene, Shown, eight, from_pixels, pixels


@dataclass(frozen=True)
class Compared:
    """A model's output ``(H, W, 3)`` at the size of the largest, how long it took, and how near the truth it is."""

    shown: Shown
    sr: Pixels
    seconds: float
    measures: Measures | None

    def label(self, scale: int) -> str:
        """Its name, and what it is where that is not the scale of the others."""
        native = self.shown.network.scale
        return self.shown.label if native == scale else f"{self.shown.label} (x{native}, resized by bicubic)"


def compare(scene: Scene, shown: Sequence[Shown], ruler: Ruler, say: Say = lambda text: None) -> list[Compared]:
    """Upscales the scene's input with each; times are the median of 3 runs after one that warms up."""
    made = []
    h, w = (n * scene.scale for n in scene.size)
    for one in shown:
        say(f"upscaling with {one.label}")
        sr = one(scene.x, scene.bits)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            one(scene.x, scene.bits)
            times.append(time.perf_counter() - start)
        if sr.shape[:2] != (h, w):
            sr = pixels(resize(from_pixels(sr), h, w), scene.bits)
        measures = None if scene.hr is None else ruler(sr, scene.hr, scene.scale)
        made.append(Compared(one, sr, statistics.median(times), measures))
    return made


def table(scene: Scene, found: Sequence[Compared], ruler: Ruler) -> Table:
    """A row per model: time, and, where there is a ground truth, how near it is."""
    keys = MEASURES if scene.hr is not None else {}
    better: dict[str, Literal["high", "low"]] = {key: "low" if key == "lpips" else "high" for key in keys}
    columns = [Column(name, "against HR", better[key], DIGITS[key]) for key, name in keys.items()]
    rows = [
        Row.of(one.label(scene.scale), [one.seconds, *((one.measures or {}).get(key) for key in keys)]) for one in found
    ]
    device = next(one.shown.network.device for one in found)
    notes = [f"Time: median of 3 runs on {device}, after one that warms up."]
    notes += ruler.notes(scene.scale) if scene.hr is not None else ["There is no ground truth (hr) to measure against."]
    return Table(f"{scene.name}, {scene.place}", [Column("s", "time", "low", 2), *columns], rows, notes, "model")


def rows(scene: Scene, found: Sequence[Compared], columns: int = 4) -> list[tuple[str, list[Panel]]]:
    """The input, the truth and every output as rows of panels: one per model where some are smoothed."""
    first = [Panel("input", pixels(scene.x, 8), f"{scene.size[1]}x{scene.size[0]}")]
    if scene.hr is not None:
        first.append(Panel("ground truth", pixels(scene.hr, 8)))
    models: dict[str, list[Panel]] = {}
    for one in found:
        figures = [f"{one.seconds:.2f} s"] if one.measures is None else [in_words(one.measures), f"{one.seconds:.2f} s"]
        panel = Panel(one.label(scene.scale), eight(one.sr), ", ".join(figures))
        models.setdefault(one.shown.network.name, []).append(panel)
    if any(one.shown.smoothing for one in found):
        return [("input", first + [p for name in BICUBIC for p in models.pop(name, [])]), *models.items()]
    panels = [*first, *(panel for row in models.values() for panel in row)]
    return [("outputs" if i else "input and outputs", panels[i : i + columns]) for i in range(0, len(panels), columns)]
