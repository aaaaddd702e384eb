"""How long a recipe takes and how much memory it needs, by a few of its real steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from robustsr.engine import buffers_kept

from .loop import Session
from .recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """``seconds`` a step, without validation and checkpoints; ``memory`` in bytes.

    ``memory`` is the most that the GPU held, on a CPU the most that the process did; None: this system does not tell.
    """

    seconds: float
    steps: int
    device: str
    memory: int | None

    @property
    def total(self) -> float:
        """Seconds that all steps take."""
        return self.seconds * self.steps


def estimate(
    recipe: Recipe, device: str = "cpu", steps: int = 3, *, say: Callable[[str], None] = lambda text: None
) -> Estimate:
    """Runs ``steps`` steps after one to warm up, and writes nothing but the cache of decoded pictures.

    In several processes the figures are those of the calling one. RobustSRError and ``say``: as for `train`.
    """
    session = Session.begin(recipe, device, say=say)
    where = session.step.device
    with buffers_kept():
        for number, batch in enumerate(session.batches.stream(0, steps + 1)):
            losses = session.step(*batch)
            session.state.step += 1
            float(sum(losses.values()))  # waits for the device
            if number == 0:
                start = time.perf_counter()
    seconds = (time.perf_counter() - start) / steps
    session.end()
    return Estimate(seconds, recipe.optimiser.steps, str(where), _memory(where))


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
