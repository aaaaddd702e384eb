"""Weights of several runs averaged into one model, a model soup: ``python -m robustsr_training.soup``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robustsr.models import Network, load
from robustsr.types import RobustSRError

from .networks import export


@torch.no_grad()
def soup(names: Sequence[str], out: Path) -> None:
    """Writes the mean of the weights of the models ``names`` to ``out``; counts, which have no mean, are the first's.

    Wortsman et al. 2022. Of runs that went on from the same weights, and not too far, the mean is often better than
    each; of others it is of no use: measure it.
    RobustSRError: fewer than two, ``out`` is there already or of another kind, no weights, or those of another network.
    """
    if len(names) < 2:
        raise RobustSRError("a mean needs two models or more")
    if out.suffix != ".safetensors":
        raise RobustSRError(f"{out} is written as safetensors: give it that ending")
    if out.exists():
        raise RobustSRError(f"{out} is there already: name a new file")
    nets = [load(name, device="cpu", precision="fp32") for name in names]
    states = []
    for name, net in zip(names, nets, strict=True):
        if not isinstance(net, Network) or not net.module.state_dict():
            raise RobustSRError(f"{name!r} has no weights to average: name a checkpoint")
        states.append(net.module.state_dict())
        if [(k, v.shape) for k, v in states[-1].items()] != [(k, v.shape) for k, v in states[0].items()]:
            raise RobustSRError(f"{name!r} is another network than {names[0]!r}: their weights have no mean")
    assert isinstance(nets[0], Network)
    for key, first in states[0].items():
        if first.is_floating_point():
            first.copy_(torch.stack([state[key].double() for state in states]).mean(0))
    export(nets[0].module, out, {"mean of": ", ".join(net.digest[:16] for net in nets)})


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
