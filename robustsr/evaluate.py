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
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import corruptions, losses, metrics, threats
from .attacks import Norm, norms, random_noise
from .calibration import estimate_noise
from .files import atomic
from .images import FORMATS, read
from .models import Loaded, load
from .plan import Smoothing, compose, make_plan
from .resample import OnResized
from .smoothing import Smoothed
from .threats import Threat, Variant
from .types import RobustSRError, Upscaler

SMALLEST = 24  # HR pixels a side besides two borders: SSIM and LPIPS need some
VERSION = 2  # of what a record holds and means
Record = dict[str, Any]


# --- pictures ---


@dataclass(frozen=True)
class Pair:
    """A low-resolution picture ``lr (1, 3, h, w)`` and its ground truth ``hr (1, 3, s*h, s*w)``, in [0, 1]."""

    name: str
    lr: Tensor
    hr: Tensor

    @cached_property
    def digest(self) -> str:
        """Of both pictures' values: the same pixels, the same digest, whatever file they came from."""
        mark = hashlib.sha256()
        for t in (self.lr, self.hr):
            mark.update(repr(tuple(t.shape)).encode() + (t * 65535).round().to(torch.int32).numpy().tobytes())
        return mark.hexdigest()[:16]


@dataclass(frozen=True)
class Pictures:
    """A folder of ground truths, with or without the low-resolution pictures that belong to them.

    Without ``lr`` (and without subfolders HR and LR), low resolution is made by Pillow's antialiased bicubic, rounded
    to 8 bits. ``crop``: side of the central square that is used, in LR pixels; ``limit``: so many, in order of their
    names. ``resized``: the thesis' inputs instead: bilinear shrinking by that factor and back to full size, scale 1.
    """

    hr: Path
    scale: int
    lr: Path | None = None
    crop: int | None = None
    limit: int | None = None
    resized: int | None = None

    @cached_property
    def files(self) -> list[tuple[Path, Path | None]]:
        """The pairs of files. RobustSRError: none, or one without its counterpart."""
        hr, lr = self.hr, self.lr
        if self.resized and lr is not None:
            raise RobustSRError("the thesis' inputs are made from the ground truth: leave out --lr")
        if lr is None and (hr / "HR").is_dir() and (hr / "LR").is_dir():
            hr, lr = hr / "HR", None if self.resized else hr / "LR"
        truths = _pictures(hr)[: self.limit]
        if lr is None:
            return [(path, None) for path in truths]
        by_stem = {path.stem: path for path in _pictures(lr)}
        found = [(p, by_stem.get(p.stem) or by_stem.get(f"{p.stem}x{self.scale}")) for p in truths]
        if missing := [p.name for p, other in found if other is None]:
            raise RobustSRError(f"{lr} has no picture for {', '.join(missing[:3])} of {hr}: names must agree")
        return list(found)

    def load(self, index: int) -> Pair:
        """The pair number ``index``, cropped. RobustSRError: unreadable, or of sizes that do not fit."""
        hr_file, lr_file = self.files[index]
        hr = _read(hr_file)
        step = self.resized or self.scale
        if lr_file is None:
            hr = hr.crop((0, 0, hr.width // step * step, hr.height // step * step))
            small = (hr.width // step, hr.height // step)
            kernel = Image.Resampling.BILINEAR if self.resized else Image.Resampling.BICUBIC
            lr = hr.resize(small, kernel)
        else:
            lr = _read(lr_file)
            if (lr.width * step, lr.height * step) != hr.size:
                extra = (hr.width - lr.width * step, hr.height - lr.height * step)
                if min(extra) < 0 or max(extra) >= step:
                    raise RobustSRError(f"{lr_file} is {lr.size}, {hr_file} is {hr.size}: not {step} times as large")
                hr = hr.crop((0, 0, lr.width * step, lr.height * step))
        if self.crop:
            w, h = min(self.crop, lr.width), min(self.crop, lr.height)
            left, top = (lr.width - w) // 2, (lr.height - h) // 2
            lr = lr.crop((left, top, left + w, top + h))
            hr = hr.crop(tuple(step * v for v in (left, top, left + w, top + h)))  # type: ignore[arg-type]
        if min(hr.size) < SMALLEST + 2 * step or (self.resized and self.crop and min(lr.size) < self.crop):
            least = step * self.crop if self.resized and self.crop else SMALLEST + 2 * step
            raise RobustSRError(
                f"{hr_file} has {hr.width}x{hr.height} pixels that can be used: {least} a side are needed"
            )
        if self.resized:
            lr = lr.resize(hr.size, Image.Resampling.BILINEAR)
        return Pair(hr_file.name, _tensor(lr), _tensor(hr))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RobustSRError(f"no folder {folder}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower().lstrip(".") in FORMATS)
    if not found:
        raise RobustSRError(f"no pictures in {folder}")
    return found


def _read(path: Path) -> Image.Image:
    pixels = read(path, max_pixels=400_000_000).rgb
    return Image.fromarray(np.floor(pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


# --- what is measured ---


@dataclass(frozen=True)
class Study:
    """What to measure. ``perturbations``: "clean", corruptions (corruptions.parse) and attacks (threats.parse).

    ``defences``: smoothings, and None for the plain network; smoothing is not applied to bicubic, a linear map, which
    it does not change. ``on``: what of a smoothed model is attacked, see threats.variants_for. ``source``: a model on
    which all attacks are crafted instead (transfer). ``quantised``: inputs are rounded to 8 bits after perturbation,
    as a file would; outputs always are. ``border``: pixels of the output left out of PSNR, SSIM and MSE.
    """

    pictures: Pictures
    models: tuple[str, ...]
    perturbations: tuple[str, ...] = ("clean",)
    defences: tuple[Smoothing | None, ...] = (None,)
    on: str = "base"
    source: str | None = None
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
        specs = [_parse(spec) for spec in self.perturbations]
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
            **({"attacked": self.on + (f", crafted on {self.source}" if self.source else "")} if attacks else {}),
            **({"of several attacks": "the worst, per picture and metric"} if several else {}),
            **({"attacks' loss": f"{', '.join(sorted(resolved))}, float32"} if attacks else {}),
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
    parsed = [_parse(spec) for spec in study.perturbations]
    if any(isinstance(p, Threat) and p.method != "random" for p in parsed):
        threats.variants_for(study.on, next((d for d in study.defences if d), None))
    for threat in parsed:
        if isinstance(threat, Threat):
            losses.loss(threat.loss)  # says what is missing
    known = records(folder)
    networks = {name: load(name, device=study.device, precision=study.precision) for name in study.models}
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


def _parse(spec: str) -> Threat | corruptions.Corruption | None:
    if spec == "clean":
        return None
    return threats.parse(spec) if threats.is_threat(spec) else corruptions.parse(spec)


def _defences(study: Study, name: str) -> list[Smoothing | None]:
    return [None] if name.startswith("bicubic") else list(study.defences)


def _cost(study: Study, name: str, spec: str) -> float:
    """Network passes over one picture, roughly."""
    threat = _parse(spec)
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
    perturbation = _parse(spec)
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
        crafted = threats.craft(
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


# --- what comes out ---

HIGH = ("psnr", "ssim", "psnr_y", "ssim_y")  # metrics of which more is better
Metric = Literal["psnr", "ssim", "mse", "psnr_y", "ssim_y", "lpips", "linf", "l2", "l2_rel"]


@dataclass(frozen=True)
class Results:
    """Records of one study, and the folder that holds its pictures, to ask for means and examples."""

    records: list[Record]
    folder: Path

    def found(
        self, model: str, defence: Smoothing | None, perturbation: str, variant: str = "worst"
    ) -> dict[tuple[str, str], list[Record]]:
        """The records per picture; "worst": of all attacks, which a mean takes the worst of."""
        made: dict[tuple[str, str], list[Record]] = {}
        spec = getattr(_parse(perturbation), "spec", "clean")
        wanted = asdict(defence) if defence else None
        for record in self.records:
            same = (record["model"], record["defence"], record["perturbation"]) == (model, wanted, spec)
            if same and (record["variant"] == variant or (variant == "worst" and record["variant"] != "random")):
                made.setdefault((record["picture"], record["pixels"]), []).append(record)
        return made

    def worst(self, model: str, defence: Smoothing | None, perturbation: str) -> dict[tuple[str, str], Record]:
        """Per picture the record of the attack that left the least PSNR."""
        groups = self.found(model, defence, perturbation)
        return {key: min(group, key=lambda r: float(r["psnr"])) for key, group in groups.items()}

    def mean(
        self, metric: Metric, model: str, defence: Smoothing | None, perturbation: str, variant: str = "worst"
    ) -> float | None:
        """The mean over pictures; None where nothing was, or could be, measured.

        "worst": of several attacks, per picture and metric, the one that makes that metric worst.
        """
        groups = list(self.found(model, defence, perturbation, variant).values())
        if not groups or any(record[metric] is None for group in groups for record in group):
            return None
        worst = min if metric in HIGH else max
        return sum(worst(float(record[metric]) for record in group) for group in groups) / len(groups)

    def best(
        self, metric: Metric, model: str, defences: tuple[Smoothing | None, ...], perturbation: str, *, high: bool
    ) -> Smoothing | None:
        """Which defence has the best mean: the choice of an oracle that knows perturbation and ground truth."""
        found = [(self.mean(metric, model, d, perturbation), i) for i, d in enumerate(defences)]
        rated = [(value if high else -value, -i) for value, i in found if value is not None]
        return defences[-max(rated)[1]] if rated else None

    def kept(self, record: Record) -> tuple[Path, Path] | None:
        """The files of the input and the output of a record, where they were kept."""
        path = self.folder / "pictures" / f"{record['key']}.png"
        return (path.with_suffix(".lr.png"), path) if path.exists() else None

    def truth(self, record: Record) -> Path:
        """The file of a kept record's ground truth."""
        return self.folder / "pictures" / f"{record['pixels']}.hr.png"
