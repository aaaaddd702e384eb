"""The weights of several runs averaged into one model, a model soup: ``python -m robustsr_training.soup``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robustsr import catalogue, checkpoints
from robustsr.types import RobustSRError

from .networks import export


def soup(names: Sequence[str], out: Path) -> None:
    """Writes the mean of the weights of the models ``names`` to ``out``, in float16.

    Wortsman et al. 2022. Of runs that went on from the same weights, and not too far, the mean is often better than
    each; of others it is of no use: measure it.
    RobustSRError: fewer than two, a file that is no checkpoint, another network, one with batch normalisation, whose
    statistics have no mean, weights beyond float16, or ``out`` is there already, of another kind, or cannot be written.
    """
    if len(names) < 2:
        raise RobustSRError("a mean needs two models or more")
    if out.suffix.lower() != ".safetensors":
        raise RobustSRError(f"{out} is written as safetensors: give it that ending")
    if out.exists():
        raise RobustSRError(f"{out} is there already: name a new file")
    paths = [catalogue.find(name)[0] for name in names]
    nets = [checkpoints.read(path).model.float() for path in paths]
    states = [net.state_dict() for net in nets]
    for name, state in zip(names, states, strict=True):
        if [(k, v.shape) for k, v in state.items()] != [(k, v.shape) for k, v in states[0].items()]:
            raise RobustSRError(f"{name!r} is another network than {names[0]!r}: their weights have no mean")
        if any(key.endswith("running_mean") for key in state):
            raise RobustSRError(f"{name!r} has batch normalisation, whose statistics have no mean")
    mean = {key: torch.stack([state[key].double() for state in states]).mean(0) for key in states[0]}
    if not all(value.half().isfinite().all() for value in mean.values()):
        raise RobustSRError(f"the mean of {', '.join(names)} is not finite in float16: these runs have failed")
    nets[0].load_state_dict(mean)
    export(nets[0], out, {"mean of": ", ".join(catalogue.sha256(path)[:16] for path in paths)})


def main(arguments: list[str] | None = None) -> None:
    """``python -m robustsr_training.soup ONE ANOTHER -o MEAN.safetensors``."""
    parser = argparse.ArgumentParser(prog="python -m robustsr_training.soup", description=__doc__)
    parser.add_argument("models", nargs="+", help="names or files of one network, trained in different runs")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the file to write, .safetensors")
    given = parser.parse_args(arguments)
    try:
        soup(given.models, given.out)
    except RobustSRError as error:
        sys.exit(f"error: {error}")
    sys.stderr.write(f"mean of {len(given.models)} models: {given.out}\n")


if __name__ == "__main__":
    main()
