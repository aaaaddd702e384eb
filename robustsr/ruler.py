"""What an output is measured with, and how much an input was changed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import losses, metrics, perturbations
from .backbones import how_to_get
from .losses import Loss
from .scene import Pixels, from_pixels
from .types import RobustSRError

Measures = dict[str, float | None]

MEASURES = {"psnr": "PSNR", "psnr_y": "PSNR Y", "ssim": "SSIM", "ssim_y": "SSIM Y", "lpips": "LPIPS"}
DIGITS = {"psnr": 2, "psnr_y": 2, "ssim": 4, "ssim_y": 4, "lpips": 4, "target": 2}


@dataclass(frozen=True)
class Ruler:
    """What outputs are measured with; ``lpips`` names its network, ``missing`` says how to get one."""

    lpips: str | None
    distance: Loss | None
    missing: str = ""

    @staticmethod
    def best() -> Ruler:
        """With the best LPIPS that this machine has the weights for, if any."""
        net = losses.best_lpips()
        if net is None:
            return Ruler(None, None, how_to_get("squeezenet"))
        try:
            return Ruler(net, losses.lpips(net))
        except RobustSRError as error:
            return Ruler(None, None, str(error))

    def __call__(self, sr: Pixels, reference: Tensor, scale: int, target: Tensor | None = None) -> Measures:
        """PSNR and SSIM without ``scale`` pixels at the borders, on RGB and Y; LPIPS; PSNR to the target."""
        found = from_pixels(sr)
        made: Measures = {
            "psnr": float(metrics.psnr(found, reference, crop=scale)),
            "psnr_y": float(metrics.psnr(found, reference, crop=scale, y=True)),
            "ssim": float(metrics.ssim(found, reference, crop=scale)),
            "ssim_y": float(metrics.ssim(found, reference, crop=scale, y=True)),
            "lpips": None,
        }
        if self.distance is not None:
            with torch.no_grad():
                made["lpips"] = float(self.distance(found, reference))
        if target is not None:
            made["target"] = float(metrics.psnr(found, target, crop=scale))
        return made

    def notes(self, scale: int) -> list[str]:
        """The protocol, for under a table."""
        which = f"LPIPS: {self.lpips}, whole picture." if self.lpips else f"LPIPS n/a: {self.missing}."
        return [f"PSNR (dB) and SSIM: RGB and Y (BT.601), {scale} border pixels off. {which}"]


def in_words(measures: Measures) -> str:
    """The main figures, for under a picture."""
    if measures["psnr"] == math.inf:
        return "the reference"
    text = f"{measures['psnr']:.2f} dB, SSIM {measures['ssim']:.3f}"
    return text if measures["lpips"] is None else f"{text}, LPIPS {measures['lpips']:.3f}"


def sizes(x: Tensor, adv: Tensor) -> dict[str, float]:
    """How much an input was changed: `perturbations.norms` (linf, l2, l2_rel), levels (linf in 1/255), psnr."""
    norms = {key: float(value) for key, value in perturbations.norms(adv.double() - x.double()).items()}
    return {**norms, "levels": norms["linf"] * 255, "psnr": float(metrics.psnr(adv.double(), x.double()))}
