"""A study carried out: models x defences x perturbations x pictures to records."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from . import backbones, corruptions, losses, metrics, threats
from .calibration import estimate_noise
from .catalogue import BICUBIC
from .craft import check_budget, craft
from .engine import buffers_kept
from .files import atomic
from .models import Loaded, load, seeded
from .pairs import Pair
from .perturbations import Norm, norms, random_noise
from .plan import compose, make_plan
from .resample import OnResized
from .settings import Smoothing, refuse_smoothed
from .smoothing import Gray, Smoothed, is_gray
from .study import VERSION, Record, Study, append, parse, records
from .threats import Threat, Variant
from .types import RobustSRError, Upscaler
from .version import __version__


@dataclass(frozen=True)
class Progress:
    """One more record, and how much of the work, in network passes, is behind."""

    record: Record
    done: float
    total: float


def run(study: Study, folder: Path) -> Iterator[Progress]:
    """Measures what ``folder/records.jsonl`` does not hold yet, picture by picture, and yields every record.

    RobustSRError: a model, picture or perturbation that cannot be used, before anything is measured where possible.
    """
    parsed = [parse(spec) for spec in study.perturbations]
    if any(map(threats.is_attack, parsed)):
        threats.variants_for(study.on, next((d for d in study.defences if d), None))
    for threat in parsed:
        if isinstance(threat, Threat):
            losses.loss(threat.loss)  # says what is missing
            if study.quantised and threat.eps_rel is None:  # which depends on the pictures
                check_budget(threat, threat.budget(torch.zeros(1)), 8)
    known = records(folder)
    networks = {
        name: seeded(
            load(name, device=study.device, precision=study.precision, denoise=_denoiser(study, name)), study.seed
        )
        for name in study.models
    }
    source = load(study.source, device=study.device) if study.source else None
    distance = losses.lpips(study.lpips) if study.lpips else None
    for name, network in [*networks.items(), *([(str(study.source), source)] if source else [])]:
        if any(study.defences):
            refuse_smoothed(network)
        if not study.pictures.resized and network.scale != study.pictures.scale:
            raise RobustSRError(f"{name} is x{network.scale}, the pictures are measured at x{study.pictures.scale}")
    total = len(study.pictures.files) * sum(
        _cost(study, name, spec) for name in networks for spec in study.perturbations
    )
    done = 0.0
    for index in range(len(study.pictures.files)):
        pair = study.pictures.load(index)
        for name, network in networks.items():
            for spec in study.perturbations:
                done += _cost(study, name, spec)
                for record in _measured(
                    study, name, pair, index, network, source or network, spec, known, folder, distance
                ):
                    if record["key"] not in known:
                        known[record["key"]] = record
                        append(folder, record)
                    yield Progress({**record, "model": name}, done, total)


def _defences(study: Study, name: str) -> list[Smoothing | None]:
    return [None] if name in BICUBIC else list(study.defences)


def _denoiser(study: Study, name: str) -> str | None:
    return None if name in BICUBIC else study.denoise


def _cost(study: Study, name: str, spec: str) -> float:
    """Network passes over one picture, roughly."""
    threat = parse(spec)
    passes = float(sum(d.samples if d else 1 for d in _defences(study, name)))
    if threats.is_attack(threat):
        each = 3 * threat.iterations * threat.restarts * (6 if losses.backbone_of(threat.loss) == "vgg19" else 1)
        passes += each
        if study.on != "base":
            passes += sum(each * (2 * threat.eot_iter + d.samples) for d in _defences(study, name) if d)
    return passes


def _measured(
    study: Study,
    name: str,
    pair: Pair,
    index: int,
    network: Loaded,
    source: Loaded,
    spec: str,
    known: dict[str, Record],
    folder: Path,
    distance: losses.Loss | None,
) -> Iterator[Record]:
    """The records of one picture, model (``name`` in the study) and perturbation: known ones, and new ones."""
    perturbation = parse(spec)
    inputs: dict[object, Tensor] = {}  # perturbed once for all defences
    for smoothing in _defences(study, name):
        variants: list[Variant | Literal["random"]] = ["base"]
        if threats.is_attack(perturbation):
            variants = [*threats.variants_for("base" if smoothing is None else study.on, smoothing)]
            if smoothing is None:
                variants.append("random")
        for variant in variants:
            settings = {
                "version": VERSION,
                "weights": network.digest,
                "defence": asdict(smoothing) if smoothing else None,
                "perturbation": perturbation.spec if perturbation else "clean",
                "variant": variant,
                "source": source.digest if source is not network else None,
                "picture": pair.name,
                "pixels": pair.digest,
                "resized": study.pictures.resized,
                "border": study.border,
                "quantised": study.quantised,
                "eps": perturbation.budget(pair.lr) if isinstance(perturbation, Threat) and perturbation.size else None,
                "lpips_net": study.lpips,
                "loss": losses.resolved(perturbation.loss) if isinstance(perturbation, Threat) else None,
                "backbones": _backbones(study, perturbation),
                "precision": network.precision,
                "seed": study.seed,
            }
            key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]
            shown = folder / "pictures" / f"{key}.png"
            if key in known and (index >= study.gallery or shown.exists()):
                yield known[key]
                continue
            started = time.perf_counter()
            if "base" not in inputs and variant in ("base", "random"):
                inputs["base"] = _perturbed(study, perturbation, pair, source, None, "base")
            place = variant if variant in ("base", "random") else (variant, smoothing)
            if variant == "random":
                inputs[place] = _as_large(study, perturbation, pair, inputs["base"])
            elif place not in inputs:
                inputs[place] = _perturbed(study, perturbation, pair, source, smoothing, variant)
            x = inputs[place]
            crafted = time.perf_counter()
            with torch.no_grad(), buffers_kept():
                up = defended(network, smoothing, x, study.pictures.resized)
                sr = (up(x.to(network.device)).cpu().clamp(0, 1) * 255).round() / 255
            finished = time.perf_counter()
            if index < study.gallery:
                truth = shown.with_name(f"{pair.digest}.hr.png")
                for path, picture in ((shown, sr), (shown.with_suffix(".lr.png"), x), (truth, pair.hr)):
                    save_png(picture, path)
            yield {
                "key": key,
                "model": network.name,
                **settings,
                **_metrics(sr, pair.hr, study.border, distance),
                **{name: float(v) for name, v in norms(x.cpu() - pair.lr).items()},
                "noise": estimate_noise(x.cpu()),
                "seconds": round(finished - crafted, 3),
                "seconds_attack": round(crafted - started, 3),
                "made": {
                    "with": f"robustsr {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
                    f"{platform.machine()}",
                    "device": str(network.device),
                    "on": date.today().isoformat(),
                },
            }


def _backbones(study: Study, perturbation: Threat | corruptions.Corruption | None) -> dict[str, str | None]:
    """The digests of the classification networks that a figure depends on."""
    names = [losses.LPIPS_BACKBONES[study.lpips]] if study.lpips else []
    if isinstance(perturbation, Threat) and (needed := losses.backbone_of(perturbation.loss)):
        names.append(needed)
    return {name: backbones.digest(name) for name in names}


def _as_large(study: Study, perturbation: Any, pair: Pair, adv: Tensor) -> Tensor:  # noqa: ANN401
    """Random noise of the attack's norm: the baseline of every attack."""
    norm: Norm = perturbation.measure
    size = float(norms(adv.double() - pair.lr.double())[norm])
    return random_noise(pair.lr, size, norm, seed=_seed(study, pair) + 1, bits=8 if study.quantised else None)


def _seed(study: Study, pair: Pair) -> int:
    """Of the picture and the study's seed, whatever its place in the folder."""
    return int(hashlib.sha256(f"{study.seed} {pair.digest}".encode()).hexdigest()[:8], 16)


def _perturbed(
    study: Study,
    perturbation: Threat | corruptions.Corruption | None,
    pair: Pair,
    source: Loaded,
    smoothing: Smoothing | None,
    variant: Variant,
) -> Tensor:
    seed = _seed(study, pair)
    if perturbation is None:
        return pair.lr
    if isinstance(perturbation, Threat):
        crafted = craft(
            perturbation,
            source,
            pair.lr,
            pair.hr,
            smoothing=smoothing,
            variant=variant,
            seed=seed,
            bits=8 if study.quantised else None,
            resized=study.pictures.resized if source.scale != 1 else None,
        )
        return crafted.adv.cpu()
    x = perturbation(pair.lr[0], seed)[None]
    return (x * 255).round() / 255 if study.quantised else x


def defended(network: Loaded, smoothing: Smoothing | None, x: Tensor, resized: int | None = None) -> Upscaler:
    """The network for ``x (1, 3, h, w)`` as upscale runs it: smoothed or not, gray as gray, large pictures in tiles.

    ``resized``: the picture was shrunk by so much and enlarged again (`OnResized`), unless the network is of scale 1.
    """
    gray = is_gray(x)
    if resized is None or network.scale == 1:
        return compose(network, smoothing, make_plan(network, smoothing), (x.shape[-2], x.shape[-1]), gray=gray)
    inner = OnResized(network, resized)
    return Smoothed(inner, **vars(smoothing), gray=gray) if smoothing else Gray(inner) if gray else inner


def _metrics(sr: Tensor, hr: Tensor, border: int, distance: losses.Loss | None) -> dict[str, float | None]:
    with torch.no_grad():
        lpips = float(distance(sr, hr)) if distance else None
    return {
        "psnr": float(metrics.psnr(sr, hr, crop=border).clamp(max=100)),
        "ssim": float(metrics.ssim(sr, hr, crop=border)),
        "mse": float(metrics.mse(sr, hr, crop=border)),
        "psnr_y": float(metrics.psnr(sr, hr, crop=border, y=True).clamp(max=100)),
        "ssim_y": float(metrics.ssim(sr, hr, crop=border, y=True)),
        "lpips": lpips,
    }


def save_png(picture: Tensor, path: Path) -> None:
    """Writes ``(1, 3, h, w)`` in [0, 1] as an 8-bit PNG."""
    pixels = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    with atomic(path, make_folder=True) as part:
        Image.fromarray(pixels).save(part, "PNG")
