"""A part of a picture upscaled with proven bounds: the core's work, and its files as the browser takes them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustsr import certificate_files, images, scene
from robustsr.catalogue import SAMPLE, package_samples
from robustsr.certificate import certify as certificate_of
from robustsr.certificate import for_picture
from robustsr.certify import Claim
from robustsr.plan import pixels_per_second
from robustsr.render import escaped
from robustsr.smoothing import Reduce
from robustsr.types import RobustSRError, shown

from .desk import Desk, Say
from .options import argument, level, number, whole
from .scenes import CENTRE
from .upscale import watched


@dataclass(frozen=True)
class Certified:
    """The picture, its bounds and the map of their distance as files, the claim, and everything to download."""

    gallery: list[tuple[str, str]]
    claim: str
    files: list[str]
    command: str


def claim_of(smooth: Reduce, sigma: str, eps: str, n: str, ship: str, alpha: str, scope: str) -> Claim:
    """What is to be claimed. RobustSRError: numbers that make no sense, a sigma that follows the picture."""
    if level(sigma) == "auto":
        raise RobustSRError("sigma auto cannot be certified: it would depend on the perturbed picture; give a number")
    deviation = number(sigma, "sigma")
    if deviation is None:
        raise RobustSRError("sigma is missing: give a number from 0 to 1")
    radius = number(eps, "eps")
    radius = deviation if radius is None else radius
    draws, shipped, fails = (
        whole(n, "the samples for the bounds"),
        whole(ship, "those of the picture"),
        number(alpha, "alpha"),
    )
    if draws is None or shipped is None or fails is None:
        raise RobustSRError("the samples for the bounds, those of the picture and alpha have to be given")
    which: Literal["simultaneous", "value"] = "value" if scope == "each value" else "simultaneous"
    return Claim(deviation, radius, draws, shipped, fails, fails / 2, which, smooth)


def certify(
    desk: Desk, who: str, path: Path | None, hr: Path | None, model: str, claim: Claim, crop: str, say: Say
) -> Certified:
    """Upscales with proven bounds. RobustSRError: too few draws for any bound, a crop outside, and so on."""
    if hr is not None and path is None:
        raise RobustSRError("give the picture that belongs to the ground truth")
    part, asked = "", scene.crop_of(crop) if crop.strip() else CENTRE if path else certificate_files.SAMPLE_CROP
    if path is not None and not crop.strip():
        info = images.inspect(path, max_pixels=desk.max_pixels)
        _, _, wide, high = scene.placed(CENTRE, info.width, info.height)
        if (wide, high) != (info.width, info.height):
            part = (
                f"**Only the centre, {wide}x{high} of {info.width}x{info.height} pixels**: the crop takes another part."
            )
    with desk.job(who, say, path, hr) as token:
        say(None, f"loading {model}")
        network = desk.model(model, "fp32")
        x, box, notes = certificate_files.read_input(path, asked, desk.max_pixels)
        hours = x.shape[-2] * x.shape[-1] * (claim.n + claim.shipped) / pixels_per_second(network) / 3600
        if hours > 2:
            raise RobustSRError(
                f"that would take about {hours:.0f} hours: give a smaller crop, or use the command line"
            )
        truth = None
        if hr is not None:
            truth = certificate_files.read_truth(hr, box, network.scale, x, desk.max_pixels)
        claim = for_picture(claim, network, x.shape[-2], x.shape[-1])
        made = certificate_of(x, network, claim, on_draws=watched(token, say, "drawing"))
    folder, source = desk.folder(), path or package_samples() / SAMPLE
    desk.settle(who, folder)
    name = path.name if path else f"sample:{SAMPLE}"
    record = certificate_files.write(made, x, network, folder, source.stem, name=name, crop=box, hr=truth)
    result, files = record["result"], record["files"]
    about = [
        f"Bounds {result['mean_width']:.1f} of 255 levels apart on average, {result['largest_width']} at most; "
        f"r = eps/sigma = {record['derived']['r']:.3g}."
    ]
    if "psnr" in result:
        about.append(f"PSNR {float(result['psnr']):.2f} dB.")
    if "certified_psnr" in result:
        about.append(f"Certified PSNR: at least {float(result['certified_psnr']):.2f} dB.")
    about += map(escaped, notes)
    text = "\n\n".join(
        [*filter(None, [part]), " ".join(about), *record["claim"], *(f"*{line}*" for line in record["not_claimed"])]
    )
    panes = {"shipped": "certified picture", "width": "distance of the bounds", "lower": "lower", "upper": "upper"}
    gallery = [(str(folder / files[key]), caption) for key, caption in panes.items()]
    everything = [str(folder / f"{source.stem}_certificate.json"), *(str(folder / files[key]) for key in panes)]
    words = ["robustsr", "certify", *([argument(path.name)] if path else []), "-m", model, "--smooth", claim.reduce]
    for flag in ("sigma", "eps", "alpha", "beta"):
        words += [f"--{flag}", shown(getattr(claim, flag))]
    words += ["--samples", str(claim.n), "--ship", str(claim.shipped), "--scope", claim.scope]
    words += ["--crop", ",".join(map(str, box))] if box else []
    return Certified(gallery, text, everything, shlex.join([*words, *(["--hr", argument(hr.name)] if hr else [])]))
