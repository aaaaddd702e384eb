"""Small true upscalers that the tests share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch


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
    entry: object = None
    fixed_size: tuple[int, int] | None = None
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
