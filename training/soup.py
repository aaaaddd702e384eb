"""Weights of several runs averaged (a model soup), or moved to another's: ``python -m robustsr_training.soup``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robustsr import catalogue, checkpoints
from robustsr.files import sha256
from robustsr.types import RobustSRError

from .networks import export

SHARE = 0.1  # of the way to another network, unless said


def soup(
    names: Sequence[str],
    out: Path,
    *,
    counts: Sequence[float] | None = None,
    towards: str | None = None,
    share: float = SHARE,
) -> None:
    """Writes the mean of the weights of the models ``names`` to ``out``, in float16.

    Wortsman et al. 2022. Of runs that went on from the same weights, and not too far, the mean is often better than
    each; of others it is of no use: measure it. ``counts``: how much each counts, above 0; None: alike.
    ``towards``: a model that lies behind them, as the one trained for PSNR behind a GAN's; the result goes the
    ``share``, in (0, 1), of the way there (network interpolation, ESRGAN, section 3.4). Where they are a denoiser and
    an upscaler in one, it may be the upscaler alone.
    RobustSRError: fewer than two and nothing ``towards``, not a count for each, a file that is no checkpoint, another
    network, one with batch normalisation, whose statistics have no mean, weights beyond float16, another share, or
    ``out`` is there already, of another kind, or cannot be written.
    """
    if len(names) < 2 and towards is None:
        raise RobustSRError("a mean needs two models or more, or one and another to go towards")
    counts = [1.0] * len(names) if counts is None else counts
    if len(counts) != len(names) or not all(0 < count < math.inf for count in counts):
        raise RobustSRError(
            f"{len(names)} models need as many counts above 0, got {', '.join(f'{c:g}' for c in counts)}"
        )
    if not 0 < share < 1:
        raise RobustSRError(f"the share must be more than 0 and less than 1, got {share:g}")
    if out.suffix.lower() != ".safetensors":
        raise RobustSRError(f"{out} is written as safetensors: give it that ending")
    if out.exists():
        raise RobustSRError(f"{out} is there already: name a new file")
    paths = [catalogue.find(name)[0] for name in names]
    nets = [checkpoints.read(path).model.float() for path in paths]
    states = [net.state_dict() for net in nets]
    shares = torch.tensor(counts).double() / sum(counts)
    parts = [f"{s:.3g} of {sha256(path)[:16]}" for s, path in zip(shares.tolist(), paths, strict=True)]
    facts = {"mean of": ", ".join(parts)}
    for name, state in zip(names, states, strict=True):
        if [(k, v.shape) for k, v in state.items()] != [(k, v.shape) for k, v in states[0].items()]:
            raise RobustSRError(f"{name!r} is another network than {names[0]!r}: their weights have no mean")
        if any(key.endswith("running_mean") for key in state):
            raise RobustSRError(f"{name!r} has batch normalisation, whose statistics have no mean")
    mean = {key: torch.tensordot(shares, torch.stack([s[key].double() for s in states]), 1) for key in states[0]}
    if towards is not None:
        path = catalogue.find(towards)[0]
        goal = checkpoints.read(path).model.float().state_dict()
        prefix = "" if mean.keys() == goal.keys() else "upscaler."
        part = {prefix + key: value for key, value in goal.items()}
        if {k: v.shape for k, v in part.items()} != {k: v.shape for k, v in mean.items() if k.startswith(prefix)}:
            raise RobustSRError(f"{towards!r} is neither the network of {names[0]!r} nor its upscaler")
        mean |= {key: mean[key].lerp(value.double(), share) for key, value in part.items()}
        facts["towards"] = f"{share:g} of {sha256(path)[:16]}"
    if not all(value.half().isfinite().all() for value in mean.values()):
        of = ", ".join(filter(None, (*names, towards)))
        raise RobustSRError(f"the mean of {of} is not finite in float16: one of them has failed")
    nets[0].load_state_dict(mean)
    export(nets[0], out, facts)


def main(arguments: list[str] | None = None) -> None:
    """``python -m robustsr_training.soup ONE ANOTHER -o MEAN.safetensors``."""
    parser = argparse.ArgumentParser(prog="python -m robustsr_training.soup", description=__doc__)
    parser.add_argument("models", nargs="+", help="names or files of one network, trained in different runs")
    parser.add_argument("-o", "--out", required=True, type=Path, help="the file to write, .safetensors")
    parser.add_argument("--counts", type=float, nargs="+", help="how much each of them counts (default alike)")
    parser.add_argument("--towards", metavar="MODEL", help="then go a share of the way to this one's weights")
    parser.add_argument("--share", type=float, help=f"of that way, more than 0 and less than 1 (default {SHARE})")
    given = parser.parse_args(arguments)
    if given.share is not None and given.towards is None:
        parser.error("--share only matters with --towards")
    share = SHARE if given.share is None else given.share
    try:
        soup(given.models, given.out, counts=given.counts, towards=given.towards, share=share)
    except RobustSRError as error:
        sys.exit(f"error: {error}")
    also = f", {share:g} of the way to {given.towards}" if given.towards else ""
    sys.stderr.write(f"mean of {', '.join(given.models)}{also}: {given.out}\n")


if __name__ == "__main__":
    main()
