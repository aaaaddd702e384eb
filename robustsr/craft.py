"""A threat carried out on a network: from a picture to an adversarial one in the levels of its file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from . import attacks, metrics
from .attacks import Attacked
from .engine import buffers_kept
from .losses import loss as loss_by_name
from .models import Loaded
from .network import Network
from .objectives import Checkpointed, Fresh, Objective, against, mean_of_losses
from .perturbations import random_noise, rounded
from .plan import smallest_tile
from .resample import OnResized
from .settings import Smoothing
from .smoothing import Smoothed
from .threats import Threat, Variant
from .tiling import Tiled
from .types import RobustSRError, Upscaler

TILE = 256  # LR pixels beyond which a picture is attacked in tiles, which bounds the memory
LIGHT = 160 * 160  # LR pixels, times draws, that a network takes at once
MEMORY = 3 << 29  # bytes of activations that are kept for the gradient, about


def _kept(network: Network) -> int:
    """LR pixels, times draws, whose activations are kept for the gradient; those of more are computed once more."""
    channels = sum(len(m.weight) for m in network.net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return MEMORY // (8 * max(channels, 1))  # twice float32: what goes into a layer's activation, and what comes out


def attackable(
    network: Loaded, size: tuple[int, int], smoothing: Smoothing | None = None, resized: int | None = None
) -> Upscaler | Smoothed:
    """The network, smoothed or not, in float32 and so composed that gradients through a picture of ``size`` fit.

    ``resized``: see `robustsr.resample.OnResized`. RobustSRError: the model gives no gradients.
    """
    network = with_gradients(network)
    draws = smoothing.samples if smoothing else 1
    inner: Upscaler = network.with_precision("fp32")
    if size[0] * size[1] * draws > _kept(network):
        inner = Checkpointed(inner)
    if resized is not None:
        inner = OnResized(inner, resized)
    elif max(size) > TILE:
        most = max(TILE // network.align * network.align, smallest_tile(network, network.context))
        tile = min(most, size[0]), min(most, size[1])
        inner = Tiled(inner, tile, feather=network.feather, align=network.align)
    if smoothing is not None and smoothing.sigma > 0:
        return Smoothed(inner, **vars(smoothing), chunk=max(1, LIGHT // (size[0] * size[1])))
    return inner


def with_gradients(network: Loaded) -> Network:
    """The network itself. RobustSRError: it gives none."""
    if not isinstance(network, Network):
        raise RobustSRError(
            f"{network.name} is an ONNX model, which has no gradients: let a checkpoint be attacked "
            f"(attack -m CHECKPOINT --compare {network.name}, evaluate --craft-on CHECKPOINT)"
        )
    return network


@dataclass(frozen=True)
class Crafted:
    """An adversarial input ``adv (N, 3, h, w)`` in the levels of its file, and how it was found."""

    adv: Tensor
    found: Attacked | None
    c: float | None = None  # that cw used


def check_budget(threat: Threat, eps: float, bits: int) -> None:
    """RobustSRError: ``eps``, in either norm, is too small for a file of integers to keep anything of it."""
    if threat.method != "cw" and 0 < eps * ((1 << bits) - 1) < 1 - 1e-6:
        raise RobustSRError(f"eps {eps:g} is less than one level of an {bits}-bit file: nothing of it would be left")


@buffers_kept()
def craft(
    threat: Threat,
    network: Loaded,
    x: Tensor,
    reference: Tensor | None = None,
    *,
    smoothing: Smoothing | None = None,
    variant: Variant = "base",
    targeted: bool = False,
    mask: Tensor | None = None,
    seed: int = 0,
    bits: int | None = 8,
    resized: int | None = None,
) -> Crafted:
    """Attacks ``x (N, 3, h, w)`` in [0, 1] and rounds the result to ``bits`` inside its ball (None: leaves floats).

    ``reference (N, 3, s*h, s*w)``: the HR picture, or the target where ``targeted``; None: the attacked model's own
    clean output, and then the search begins at a little noise, for there the gradient is zero. ``smoothing`` and
    ``variant``: see `robustsr.threats.VARIANTS`; without smoothing there is only "base".
    """
    x = x.to(network.device)
    eps = threat.budget(x)
    if bits is not None:
        check_budget(threat, eps, bits)
    if threat.method == "random":
        noisy = random_noise(x, eps, threat.norm, mask=mask, seed=seed, bits=bits)
        return Crafted(noisy, None)
    if targeted and threat.drop is not None:
        raise RobustSRError("a drop is how far the output is from the truth, which an attack with a target leaves be")
    size = (x.shape[-2], x.shape[-1])
    up = attackable(network, size, smoothing if variant != "base" else None, resized)
    own = reference is None
    if reference is None:
        with torch.no_grad():
            reference = up(x)
    reference = reference.to(x)
    if reference.shape[-1] != x.shape[-1] * up.scale:
        raise RobustSRError(f"{network.name} is x{up.scale}: it cannot craft attacks for outputs of another size")
    objective, score = _objective(threat, up, variant, reference, targeted, seed)
    found, c = _search(threat, x, objective, score, up, reference, own, mask, seed, eps, bits)
    return Crafted(_filed(threat, x, found.adv, bits, eps), found, c)


def _objective(
    threat: Threat, up: Upscaler | Smoothed, variant: Variant, reference: Tensor, targeted: bool, seed: int
) -> tuple[Objective, Objective | None]:
    """What is climbed, and, where that draws anew at every call, what iterates are compared by."""
    loss = loss_by_name(threat.loss)
    if variant == "base" or variant == "seed":
        return against(up, reference, loss, targeted=targeted), None
    if not isinstance(up, Smoothed):
        raise RobustSRError(f"attack {variant!r} is for smoothed models: give --smooth and a --sigma above 0")
    fresh = Fresh(up, threat.eot_iter, seed)
    score = against(fresh.fixed(), reference, loss, targeted=targeted)
    if variant == "mean":
        fresh = replace(fresh, inner=replace(up, reduce="mean"))
    if variant != "losses":
        return against(fresh, reference, loss, targeted=targeted), score
    objective = mean_of_losses(fresh, reference, loss)
    return (lambda z: -objective(z)) if targeted else objective, score


def _search(
    threat: Threat,
    x: Tensor,
    objective: Objective,
    score: Objective | None,
    up: Upscaler,
    reference: Tensor,
    own: bool,
    mask: Tensor | None,
    seed: int,
    eps: float,
    bits: int | None,
) -> tuple[Attacked, float | None]:
    small = 0.1 if own else 0.0  # of the ball: leaves the point where the gradient is zero
    if threat.method == "cw":
        options: attacks.CW = {
            "values": reference[0].numel(),
            "steps": threat.iterations,
            "lr": threat.rate,
            "squared": threat.squared,
            "start": small / 100,  # of w: an Adam step is .01, and noise of that size would hide what it finds
            "mask": mask,
            "seed": seed,
            "score": score,
        }
        if threat.drop is None:
            return attacks.cw(x, objective, c=threat.c, **options), threat.c
        drop = threat.drop

        def left(x: Tensor) -> Tensor:  # as it is measured; ``up`` has the victim's own draws
            with torch.no_grad():
                return metrics.mse(up(x).clamp(0, 1), reference, crop=up.scale).mean()

        before = left(x).clamp(min=1e-6)  # 60 dB where there is no HR

        def reached(adv: Tensor) -> bool:  # by what is left in the file
            return bool(left(_filed(threat, x, adv, bits, eps).to(x)) >= before * 10 ** (drop / 10))

        return attacks.cw_search(x, objective, reached, c=threat.c, **options)
    ascent: attacks.Ascent = {
        "restarts": threat.restarts,
        "mask": mask,
        "seed": seed,
        "score": score,
        "clip": threat.clip,
    }
    if threat.method == "fgsm":
        return attacks.fgsm(x, objective, eps, start=small, **ascent), None
    if threat.method == "bim":
        return attacks.bim(x, objective, eps, threat.iterations, start=small, **ascent), None
    return attacks.pgd(x, objective, eps, threat.iterations, threat.step_size, threat.norm, **ascent), None


def _filed(threat: Threat, x: Tensor, adv: Tensor, bits: int | None, eps: float) -> Tensor:
    x, adv = x.cpu(), adv.cpu()  # in float64, which not every device has
    if bits is None:
        return adv
    return rounded(x, adv.clamp(0, 1), bits=bits, norm=None if threat.method == "cw" else threat.norm, eps=eps)
