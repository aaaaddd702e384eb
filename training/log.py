"""What a run says of itself as it goes: progress, kept in log.jsonl and as TensorBoard's curves."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustsr.files import atomic
from robustsr.types import RobustSRError

from .validation import Measured


@dataclass(frozen=True)
class Progress:
    """Where a run stands after ``step`` steps; ``measured`` (see validation.py) only where it was."""

    step: int
    steps: int
    losses: dict[str, float]  # means since the last report, weighted as in their sum
    rate: float  # steps per second since the last report
    measured: Measured = field(default_factory=dict)
    message: str = ""

    @property
    def seconds_left(self) -> float:
        return (self.steps - self.step) / self.rate if self.rate else math.inf


class Log:
    """``out/log.jsonl``, a line per report, and ``out/tensorboard`` where that is installed.

    A run that goes on after ``step`` steps, behind where it was killed, does these again: what is logged of them goes.
    ``last``: the last step that is logged; -1: none. RobustSRError: the disk is full or refuses.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._path = out / "log.jsonl"
        self.last = _cut(self._path, step) if self._path.exists() else -1
        self._board = _board(out, step)

    def add(self, progress: Progress) -> Progress:
        """Keeps a report and returns it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as log:
                line = asdict(progress)
                log.write(json.dumps({"steps_per_second" if k == "rate" else k: v for k, v in line.items()}) + "\n")
            self._curves(progress)
        except OSError as error:
            raise RobustSRError(
                f"cannot write {self._path}: {error.strerror or error}; --resume goes on from the last checkpoint"
            ) from error
        self.last = progress.step
        return progress

    def show(self, grid: Image.Image, step: int) -> None:
        """Keeps a sheet of samples among the curves."""
        if self._board:
            self._board.add_image("samples", np.asarray(grid), step, dataformats="HWC")

    def close(self) -> None:
        if self._board:
            self._board.close()

    def _curves(self, progress: Progress) -> None:
        if not self._board:
            return
        for name, value in progress.losses.items():
            self._board.add_scalar(f"loss/{name}", value, progress.step)
        if progress.rate:
            self._board.add_scalar("steps per second", progress.rate, progress.step)
        for place, row in progress.measured.items():
            for name, value in row.items():
                self._board.add_scalar(f"{name}/{place}", value, progress.step)


def _cut(path: Path, step: int) -> int:
    """Leaves the lines up to ``step`` in a log, without one that a kill broke off; the last step in it, or -1."""
    kept, last = [], -1
    for line in path.read_text("utf-8", "replace").splitlines(keepends=True):
        try:
            at = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
        if at <= step:
            kept.append(line)
            last = at
    with atomic(path) as part:
        part.write_text("".join(kept), "utf-8")
    return last


def _board(out: Path, step: int) -> Any:  # noqa: ANN401 - tensorboard is optional and not typed
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
