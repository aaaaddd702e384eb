"""Models x defences x perturbations x pictures to records: the measurements behind every table.

A record is a dict of plain values, appended as a line of JSON to ``records.jsonl`` and keyed by everything that
decides it, so a run that was interrupted goes on, and another table over the same settings measures nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from . import corruptions, losses, metrics, threats
from .calibration import estimate_noise
from .craft import craft
from .files import atomic
from .models import Loaded, load
from .pairs import Pair, Pictures
from .perturbations import Norm, norms, random_noise
from .plan import Smoothing, compose, make_plan
from .resample import OnResized
from .smoothing import Smoothed
from .threats import Threat, Variant
from .types import RobustSRError, Upscaler

VERSION = 3  # of what a record holds and means
Record = dict[str, Any]


# --- what is measured ---


@dataclass(frozen=True)
class Study:
    """What to measure. ``perturbations``: "clean", corruptions (corruptions.parse) and attacks (threats.parse).

    ``defences``: smoothings, and None for the plain network; smoothing is not applied to bicubic, a linear map, which
    it does not change. ``on``: what of a smoothed model is attacked, see threats.variants_for. ``source``: a model on
    which all attacks are crafted instead (transfer). ``denoise``: a denoiser before all of ``models`` but
    bicubic (models.denoised), which is then what is attacked, unless there is a ``source``. ``quantised``: inputs are
    rounded to 8 bits after perturbation, as a file would; outputs always are. ``border``: pixels of the output left
    out of PSNR, SSIM and MSE.
    """

    pictures: Pictures
    models: tuple[str, ...]
    perturbations: tuple[str, ...] = ("clean",)
    defences: tuple[Smoothing | None, ...] = (None,)
    on: str = "base"
    source: str | None = None
    denoise: str | None = None
    quantised: bool = True
    border: int = 4
    lpips: str | None = None
    gallery: int = 0  # so many pictures' inputs and outputs are kept as files
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"

    def protocol(self, records: Sequence[Record] = ()) -> dict[str, object]:
        """How the numbers were measured, for the reader of a table."""
        p = self.pictures
        lr = "paired" if p.files[0][1] else "bilinear down and up again" if p.resized else "antialiased bicubic, 8 bits"
        specs = [parse(spec) for spec in self.perturbations]
        attacks = [t for t in specs if isinstance(t, Threat) and t.method != "random"]
        resolved = {losses.resolved(t.loss) for t in attacks}
        precision = sorted({f"{r['model']} {r['precision']}" for r in records})
        several = bool(attacks) and self.on != "base"
        return {
            "pictures": f"{len(p.files)} of {p.hr.name}" + (f", centre {p.crop} px of LR" if p.crop else ""),
            "read as": "8-bit RGB, transparency ignored",
            "low resolution": f"{lr}, factor {p.resized or p.scale}",
            "PSNR, SSIM, MSE": f"RGB in [0, 1], 8-bit output, border {self.border} px left out, mean over pictures; "
            "SSIM with a Gaussian window of 11 px, std 1.5; PSNR at most 100 dB",
            "LPIPS": f"{self.lpips}, whole picture" if self.lpips else "not measured",
            "perturbed inputs": "rounded to 8 bits inside their ball" if self.quantised else "floats",
            **({"attacked": f"each model's {self.on}"} if attacks and not self.source else {}),
            **({"attacked": f"{self.source}, for all models"} if attacks and self.source else {}),
            **({"of several attacks": "the worst, per picture and metric"} if several else {}),
            **({"attacks' loss": f"{', '.join(sorted(resolved))}, float32"} if attacks else {}),
            **({"denoiser": f"{self.denoise}, before every model but bicubic"} if self.denoise else {}),
            "precision": ", ".join(precision) or self.precision,
            "seed": self.seed,
        }


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
    if any(isinstance(p, Threat) and p.method != "random" for p in parsed):
        threats.variants_for(study.on, next((d for d in study.defences if d), None))
    for threat in parsed:
        if isinstance(threat, Threat):
            losses.loss(threat.loss)  # says what is missing
    known = records(folder)
    networks = {
        name: load(name, device=study.device, precision=study.precision, denoise=_denoiser(study, name))
        for name in study.models
    }
    source = load(study.source, device=study.device) if study.source else None
    distance = losses.lpips(study.lpips) if study.lpips else None
    for name, network in [*networks.items(), *([(str(study.source), source)] if source else [])]:
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
                for record in _measured(study, pair, index, network, source or network, spec, known, folder, distance):
                    if record["key"] not in known:
                        known[record["key"]] = record
                        _append(folder, record)
                    yield Progress({**record, "model": name}, done, total)


def records(folder: Path) -> dict[str, Record]:
    """The records of a folder by key; lines that are cut short or damaged, or of another version, are left out."""
    path = folder / "records.jsonl"
    found: dict[str, Record] = {}
    for line in path.read_text("ascii", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and record.get("version") == VERSION:
            found[record["key"]] = record
    return found


def _append(folder: Path, record: Record) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "records.jsonl", "ab+") as file:
            if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                file.write(b"\n")  # ends a line that a kill cut short
            file.write(json.dumps(record).encode("ascii") + b"\n")
    except OSError as error:
        raise RobustSRError(f"cannot write {folder / 'records.jsonl'}: {error.strerror}") from error


def parse(spec: str) -> Threat | corruptions.Corruption | None:
    """A perturbation by its spec: an attack, a corruption, or None for "clean"."""
    if spec == "clean":
        return None
    return threats.parse(spec) if threats.is_threat(spec) else corruptions.parse(spec)


def _defences(study: Study, name: str) -> list[Smoothing | None]:
    return [None] if name.startswith("bicubic") else list(study.defences)


def _denoiser(study: Study, name: str) -> str | None:
    return None if name.startswith("bicubic") else study.denoise


def _cost(study: Study, name: str, spec: str) -> float:
    """Network passes over one picture, roughly."""
    threat = parse(spec)
    passes = float(sum(d.samples if d else 1 for d in _defences(study, name)))
    if isinstance(threat, Threat) and threat.method != "random":
        each = 3 * threat.iterations * threat.restarts * (6 if threat.loss.startswith("pa") else 1)
        passes += each
        if study.on != "base":
            passes += sum(each * (2 * threat.draws + d.samples) for d in _defences(study, name) if d)
    return passes


def _measured(
    study: Study,
    pair: Pair,
    index: int,
    network: Loaded,
    source: Loaded,
    spec: str,
    known: dict[str, Record],
    folder: Path,
    distance: losses.Loss | None,
) -> Iterator[Record]:
    """The records of one picture, model and perturbation: known ones, and new ones."""
    perturbation = parse(spec)
    inputs: dict[object, Tensor] = {}  # perturbed once for all defences
    for smoothing in _defences(study, network.name):
        variants: list[Variant | Literal["random"]] = ["base"]
        if isinstance(perturbation, Threat) and perturbation.method != "random":
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
                "lpips": study.lpips,
                "loss": losses.resolved(perturbation.loss) if isinstance(perturbation, Threat) else None,
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
            with torch.no_grad():
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
            }


def _as_large(study: Study, perturbation: Any, pair: Pair, adv: Tensor) -> Tensor:  # noqa: ANN401
    """Random noise of the attack's norm: the baseline of every attack."""
    norm: Norm = "l2" if perturbation.method == "cw" else perturbation.norm
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
    gray = bool((x[:, 1:] == x[:, :1]).all())
    if resized is None or network.scale == 1:
        return compose(network, smoothing, make_plan(network, smoothing), (x.shape[-2], x.shape[-1]), gray=gray)
    inner = OnResized(network, resized)
    return Smoothed(inner, **vars(smoothing), gray=gray) if smoothing else inner


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
