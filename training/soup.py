"""The weights of several runs averaged, a model soup, or leant to others: ``python -m robustsr_training.soup``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robustsr import catalogue, checkpoints
from robustsr.types import RobustSRError

from .networks import export


def soup(names: Sequence[str], out: Path, *, towards: str = "", share: float = 0.1) -> None:
    """Writes the mean of the weights of the models ``names`` to ``out``, in float16.

    Wortsman et al. 2022. Of runs that went on from the same weights, and not too far, the mean is often better than
    each; of others it is of no use: measure it.
    ``towards``: a model that lies behind them, as the one trained for PSNR behind a GAN's; the result goes the
    ``share``, in (0, 1), of the way there (network interpolation, ESRGAN, section 3.4). Where they are a denoiser and
    an upscaler in one, it may be the upscaler alone.
    RobustSRError: fewer than two and nothing ``towards``, a file that is no checkpoint, another network, one with batch
    normalisation, whose statistics have no mean, weights beyond float16, another share, or ``out`` is there already, of
    another kind, or cannot be written.
    """
    if len(names) < 2 and not towards:
        raise RobustSRError("a mean needs two models or more")
    if not 0 < share < 1:
        raise RobustSRError(f"the share must be between 0 and 1, got {share:g}")
    if out.suffix.lower() != ".safetensors":
        raise RobustSRError(f"{out} is written as safetensors: give it that ending")
    if out.exists():
        raise RobustSRError(f"{out} is there already: name a new file")
    paths = [catalogue.find(name)[0] for name in names]
    nets = [checkpoints.read(path).model.float() for path in paths]
    states = [net.state_dict() for net in nets]
    facts = {"mean of": ", ".join(catalogue.sha256(path)[:16] for path in paths)}
    for name, state in zip(names, states, strict=True):
        if [(k, v.shape) for k, v in state.items()] != [(k, v.shape) for k, v in states[0].items()]:
            raise RobustSRError(f"{name!r} is another network than {names[0]!r}: their weights have no mean")
        if any(key.endswith("running_mean") for key in state):
            raise RobustSRError(f"{name!r} has batch normalisation, whose statistics have no mean")
    mean = {key: torch.stack([state[key].double() for state in states]).mean(0) for key in states[0]}
    if towards:
        path = catalogue.find(towards)[0]
        goal = checkpoints.read(path).model.float().state_dict()
        part = goal if mean.keys() == goal.keys() else {f"upscaler.{key}": value for key, value in goal.items()}
        if any(key not in mean or mean[key].shape != value.shape for key, value in part.items()):
            raise RobustSRError(f"{towards!r} is no part of {names[0]!r}: nothing lies between them")
        mean |= {key: mean[key].lerp(value.double(), share) for key, value in part.items()}
        facts["towards"] = f"{share:g} of {catalogue.sha256(path)[:16]}"
    if not all(value.half().isfinite().all() for value in mean.values()):
        raise RobustSRError(f"the mean of {', '.join(names)} is not finite in float16: these runs have failed")
    nets[0].load_state_dict(mean)
    export(nets[0], out, facts)


def main(arguments: list[str] | None = None) -> None:
    """``python -m robustsr_training.soup ONE ANOTHER -o MEAN.safetensors``."""
    parser = argparse.ArgumentParser(prog="python -m robustsr_training.soup", description=__doc__)
    parser.add_argument("models", nargs="+", help="names or files of one network, trained in different runs")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the file to write, .safetensors")
    parser.add_argument("--towards", default="", metavar="MODEL", help="go a share of the way to this one's weights")
    parser.add_argument("--share", type=float, default=0.1, help="which, between 0 and 1 (default 0.1)")
    given = parser.parse_args(arguments)
    try:
        soup(given.models, given.out, towards=given.towards, share=given.share)
    except RobustSRError as error:
        sys.exit(f"error: {error}")
    also = f", {given.share:g} of the way to {given.towards}" if given.towards else ""
    sys.stderr.write(f"mean of {len(given.models)} model{'s'[: len(given.models) > 1]}{also}: {given.out}\n")


if __name__ == "__main__":
    main()
