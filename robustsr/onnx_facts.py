"""What an ONNX file that robustsr exported says of itself, in its metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .version import __version__

_READ: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "bool": "True".__eq__}


@dataclass(frozen=True)
class Facts:
    """The model a file was made from, and how.

    ``sha256``: of its weights. ``least``: LR pixels of the smallest side it takes. ``reduce`` "median" or "mean": it
    smooths by itself, by ``samples`` draws of noise; "": it is the network alone.
    """

    name: str
    scale: int
    context: int
    exact: bool
    sha256: str
    licence: str
    precision: str
    least: int = 1
    reduce: str = ""
    sigma: float = 0.0
    samples: int = 1
    draws: str = ""
    noise: str = ""

    def write(self) -> dict[str, str]:
        """As metadata."""
        return {"robustsr": __version__, **{key: str(value) for key, value in vars(self).items()}}

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Facts | None:
        """From metadata; None: it is not ours, or says what cannot be."""
        try:
            facts = cls(**{f.name: _READ[str(f.type)](metadata[f.name]) for f in fields(cls)})
        except (KeyError, ValueError):
            return None
        sizes = 0 <= facts.context <= 4096 and 1 <= facts.least <= 512
        noise = 0 <= facts.sigma <= 1 and facts.samples >= 1 and facts.reduce in ("", "median", "mean")
        return facts if sizes and noise else None
