"""What a step minimises: MRS and attacked inputs, the generator's loss, the relativistic average GAN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsr import attacks, losses, threats
from robustsr.smoothing import median
from robustsr.types import RobustSRError

from .recipe import Inputs, Loss

Forward = Callable[[Tensor], Tensor]


def noisy(lr: Tensor, inputs: Inputs, generator: torch.Generator) -> list[Tensor]:
    """The noise of one step for ``lr (N, 3, h, w)``: for each sigma ``(draws, N, 3, h, w)``, already scaled, on CPU."""
    made = []
    for sigma, draws in zip(inputs.sigmas, inputs.draws, strict=True):
        if sigma == 0:
            made.append(torch.zeros(1, *lr.shape))  # the plain picture needs no second draw
            continue
        size = sigma * torch.rand(1, len(lr), 1, 1, 1, generator=generator) if inputs.uniform else sigma
        noise = torch.randn((draws, *lr.shape), generator=generator)
        if inputs.gray:
            gray = torch.rand(len(lr), 1, 1, 1, generator=generator) < inputs.gray
            noise = torch.where(gray, noise[:, :, :1], noise)
        made.append(size * noise)
    return made


def smoothed_outputs(forward: Forward, lr: Tensor, noises: Sequence[Tensor]) -> list[Tensor]:
    """For each sigma the median over its draws of ``forward(lr + noise)``, all in one pass of the network.

    MRS fine-tuning (CertSR, section 4.2 and figure 2): of two draws the median is their mean.
    """
    sr = forward(torch.cat([(lr + noise).flatten(0, 1) for noise in noises])).float()
    made = []
    for part in torch.split(sr, [len(noise) * len(lr) for noise in noises]):
        draws = part.view(-1, len(lr), *sr.shape[1:]).unbind(0)
        made.append(draws[0] if len(draws) == 1 else median(draws))
    return made


def sharpened(hr: Tensor, amount: float, std: float = 2.0) -> Tensor:
    """``hr (N, 3, H, W)`` in [0, 1] plus ``amount`` times its difference from its blur of ``std`` pixels, clipped.

    Unsharp masking of the truth, as in Wang et al. 2021 (Real-ESRGAN+), at a smaller radius and without its threshold:
    outputs are softer than what they are trained towards, the more so the worse the input.
    """
    reach = math.ceil(3 * std)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=hr.device) / std) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    blurred = F.conv2d(F.pad(hr, (reach, reach, 0, 0), mode="replicate"), taps, groups=3)
    blurred = F.conv2d(F.pad(blurred, (0, 0, reach, reach), mode="replicate"), taps.mT, groups=3)
    return (hr + amount * (hr - blurred)).clamp(0, 1)


@dataclass(frozen=True)
class Adversary:
    """The attack that a recipe trains against, with its loss at hand; made by `adversary`."""

    inputs: Inputs
    threat: threats.Threat
    loss: losses.Loss

    def count(self, batch: int, first: int) -> int:
        """How many of the patches from ``first`` on are attacked: those before the share of the whole ``batch``."""
        return max(0, round(self.inputs.attack_share * batch) - first)


def adversary(inputs: Inputs) -> Adversary | None:
    """The attack that a recipe trains against; None: there is none.

    RobustSRError: it is no attack, has settings that training does not carry out, or the weights of its loss are
    missing.
    """
    spec = inputs.attack
    if not spec:
        return None
    threat = threats.parse(spec)
    if threat.method == "random":
        raise RobustSRError(f"inputs.attack {spec!r} is noise: that is what inputs.sigmas are for")
    for name in ("restarts", "drop", "eot_iter"):
        if getattr(threat, name) != getattr(threats.Threat, name):
            hint = "; inputs.draws says how many draws there are" if name == "eot_iter" else ""
            raise RobustSRError(f"inputs.attack {spec!r}: training has no {name}: leave it out{hint}")
    return Adversary(inputs, threat, losses.loss(threat.loss))


def attacked(
    forward: Forward, lr: Tensor, hr: Tensor, noises: Sequence[Tensor], adversary: Adversary, step: int, seed: int
) -> Tensor:
    """``lr`` after the recipe's attack on the mean of the outputs under this step's noise: not part of any gradient.

    Without noise plain adversarial training; with it SmoothAdv (Salman et al. 2019), trained on the same draws. It runs
    in the precision of ``forward``, and its iterates are compared in that: nothing is scored anew in float32.
    """
    inputs, threat = adversary.inputs, adversary.threat
    share = min(1.0, (step + 1) / inputs.attack_warmup) if inputs.attack_warmup else 1.0

    def objective(x: Tensor) -> Tensor:
        outputs = forward(torch.cat([(x + noise).flatten(0, 1) for noise in noises])).float()
        return adversary.loss(outputs.view(-1, len(lr), *outputs.shape[1:]).mean(0), hr)

    eps = threat.budget(lr) * share
    if threat.method == "cw":
        how = attacks.CW(values=hr[0].numel(), steps=threat.iterations, lr=threat.rate, squared=threat.squared)
        found = attacks.cw(lr, objective, c=threat.c * share, **how)  # no seed: it starts at lr
    elif threat.method == "fgsm":
        found = attacks.fgsm(lr, objective, eps, seed=seed)
    elif threat.method == "bim":
        found = attacks.bim(lr, objective, eps, threat.iterations, seed=seed)
    else:
        step_size = threat.step_size * share if threat.step_size is not None else inputs.attack_step * eps
        found = attacks.pgd(lr, objective, eps, threat.iterations, step_size, threat.norm, seed=seed)
    return found.adv


@dataclass(frozen=True)
class Terms:
    """The generator's loss without its adversarial part, from the weights of a recipe."""

    weights: Loss

    def __post_init__(self) -> None:
        if self.weights.perceptual:
            _ = self._perceptual  # RobustSRError: VGG19's weights are missing

    @cached_property
    def _perceptual(self) -> losses.Loss:
        return losses.perceptual(self.weights.layer or None)

    def __call__(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Each term that has a weight, already weighted: scalars, means over the batch ``(N, 3, H, W)``."""
        terms = {}
        if self.weights.l1:
            terms["l1"] = self.weights.l1 * F.l1_loss(sr, hr)
        if self.weights.mse:
            terms["mse"] = self.weights.mse * F.mse_loss(sr, hr)
        if self.weights.perceptual:
            terms["perceptual"] = self.weights.perceptual * self._perceptual(sr, hr).float().mean()
        return terms


def ragan(of: Tensor, against: Tensor, *, real: bool) -> Tensor:
    """Relativistic average GAN loss (Jolicoeur-Martineau 2018; ESRGAN, eq. 1 and 2), binary cross entropy.

    How far the logits ``of`` are from standing ``real`` (or not) against the mean of the others.
    """
    relative = of.float() - against.float().mean()
    return F.binary_cross_entropy_with_logits(relative, torch.full_like(relative, float(real)))


def generator_gan(discriminator: nn.Module, fakes: Sequence[Tensor], real: Tensor) -> Tensor:
    """What the generator minimises, the mean over ``fakes``: that they look more real than ``real`` does."""
    with torch.no_grad():
        true = discriminator(real)
    false = discriminator(torch.cat(list(fakes))).chunk(len(fakes))
    return sum((ragan(true, f, real=False) + ragan(f, true, real=True) for f in false), true.new_zeros(())) / (
        2 * len(fakes)
    )


def discriminator_gan(discriminator: nn.Module, fakes: Sequence[Tensor], real: Tensor) -> Tensor:
    """What the discriminator minimises, on the same outputs, without their gradient."""
    true = discriminator(real)
    false = discriminator(torch.cat([f.detach() for f in fakes])).chunk(len(fakes))
    return sum((ragan(true, f, real=True) + ragan(f, true, real=False) for f in false), true.new_zeros(())) / (
        2 * len(fakes)
    )
