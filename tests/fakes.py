"""Small true upscalers, a smoothing, scenes and what is needed here, shared by the tests."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass, field, replace

import pytest
import torch

from robustsr.scene import scene
from robustsr.settings import Smoothing

FEW = Smoothing("median", 0.03, 4)
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("gcc") or shutil.which("cc")), reason="needs Linux and a C compiler"
)


@dataclass(frozen=True)
class Plain:
    """The nearest-neighbour upscaler with the face of a loaded network, and ways to fail."""

    scale: int = 4
    context: int = 2
    exact: bool = True
    name: str = "nearest"
    digest: str = "0"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "bf16"
    engine: str = "eager"
    entry: object = None
    fixed_size: tuple[int, int] | None = None
    multiple: int = 1
    min_size: int = 1
    square: bool = False
    before: tuple[str, str] | None = None
    facts: object = None
    as_loaded: bool = True
    memory: int = 10**9  # input pixels it can take
    broken: tuple[str, ...] = ()  # precisions that give no numbers

    def __call__(self, x, *, origin=None):
        if x[:, 0].numel() > self.memory:
            raise torch.OutOfMemoryError("out of memory")
        out = x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return out * float("nan") if self.precision in self.broken else out

    def with_precision(self, precision):
        return replace(self, precision=precision)

    @property
    def feather(self):
        return 0 if self.exact else 16

    @property
    def align(self):
        return 1 if self.exact or self.fixed_size else 32


def here(picture, hr=None, **options):
    """A scene for networks of scale 4."""
    return scene(picture, hr, 4, name="bird.png", **options)


def printed_rows(out):
    """The figures of each row of the printed tables, by its label and the section it is in."""
    found, section = {}, ""
    for line in out.splitlines():
        if cells := re.match(r"^ *(.*?)  +((?:[-\d.]+|n/a)(?: +(?:[-\d.]+|n/a))+) *$", line):
            found[section, cells[1].strip()] = [float(v) if v not in ("n/a", "-") else None for v in cells[2].split()]
        elif line and not line.startswith(" "):
            section = line.strip()
    return found
