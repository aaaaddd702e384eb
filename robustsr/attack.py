"""The work of `robustsr attack` and `robustsr compare`: pictures and networks in, what happened to them out.

Every figure is measured on what a file holds: inputs and outputs are levels of 8 or 16 bits. A `Scene` is what is
upscaled, a `Shown` what upscales it; `run` and `universal` attack, `compare` only looks.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from . import attacks, images, losses, metrics
from .backbones import how_to_get
from .files import atomic
from .images import Metadata, Picture
from .losses import Loss
from .models import BICUBIC, Loaded, Network, load
from .plan import Smoothing, compose, make_plan, pixels_per_second
from .report import Column, Panel, Row, Table
from .resample import resize
from .sheet import WIDEST, amplified, contact_sheet
from .threats import VARIANTS, Threat, Variant, attackable, craft
from .types import RobustSRError
from .version import __version__

Box = tuple[int, int, int, int]  # x, y, width, height
Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Measures = dict[str, float | None]
File = Callable[[str, Tensor], Tensor]  # stores an input (1, 3, h, w) under a name, and reads it back
Say = Callable[[str], None]

LARGEST = 512  # input pixels a side: an attack on more needs minutes and gigabytes
SMALLEST_OUTPUT = 48  # pixels a side that SSIM and LPIPS need, borders off
MEASURES = {"psnr": "PSNR", "psnr_y": "PSNR Y", "ssim": "SSIM", "ssim_y": "SSIM Y", "lpips": "LPIPS"}
HOW = {str(variant): text for variant, text in VARIANTS.items()}
DIGITS = {"psnr": 2, "psnr_y": 2, "ssim": 4, "ssim_y": 4, "lpips": 4, "target": 2}


# --- what is upscaled ---


@dataclass(frozen=True)
class Scene:
    """An input ``x (1, 3, h, w)`` in levels of ``bits``, what is known about it, and where it lies in its picture.

    ``hr``, ``target (1, 3, s*h, s*w)`` in [0, 1]; ``mask (1, 1, h, w)``, 1 where x may be changed.
    """

    name: str
    x: Tensor
    scale: int
    bits: int
    box: Box
    hr: Tensor | None = None
    target: Tensor | None = None
    mask: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return self.x.shape[-2], self.x.shape[-1]

    @property
    def place(self) -> str:
        x, y, w, h = self.box
        return f"{w}x{h} pixels at {x},{y}"


def box(text: str) -> Box:
    """``x,y,width,height``. RobustSRError: something else."""
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise RobustSRError(f"{text!r} is no rectangle: write x,y,width,height in input pixels") from None
    if min(x, y) < 0 or min(w, h) < 1:
        raise RobustSRError(f"the rectangle {text} is empty or begins outside: write x,y,width,height")
    return x, y, w, h


def scene(
    picture: Picture | None,
    hr: Picture | None,
    scale: int,
    *,
    name: str,
    crop: Box | None = None,
    limit: int | None = LARGEST,
    mask: Box | Picture | None = None,
    target: Picture | None = None,
) -> Scene:
    """A picture, cropped, with its truth and mask; without a picture the input is made from ``hr`` by bicubic.

    ``crop`` and a ``mask`` of four numbers are in input pixels; without a crop the centre of a picture larger than
    ``limit`` is taken. RobustSRError: sizes do not fit.
    """
    notes: list[str] = []
    truth = None if hr is None else _tensor(hr)
    if picture is None:
        if truth is None:
            raise RobustSRError("give a picture, or --hr to make one from")
        h, w = (n // scale for n in truth.shape[-2:])
        if min(h, w) < 1:
            raise RobustSRError(f"--hr is too small to be divided by {scale}")
        if truth.shape[-2:] != (h * scale, w * scale):
            notes.append(f"the ground truth was cut to {w * scale}x{h * scale} pixels, a multiple of {scale}")
            truth = truth[..., : h * scale, : w * scale]
        small = Image.fromarray(pixels(truth, 8)).resize((w, h), Image.Resampling.BICUBIC)
        full, bits = _tensor_of(np.asarray(small)), 8
        notes.append("the input was made from the ground truth by bicubic")
    else:
        full, bits = _tensor(picture), picture.bits
        notes += [*picture.notes, *_changes(picture, full)]
        full = full.clamp(0, 1).mul((1 << bits) - 1).round() / ((1 << bits) - 1)
    h, w = full.shape[-2:]
    if truth is not None and truth.shape[-2:] != (h * scale, w * scale):
        raise RobustSRError(
            f"--hr has {truth.shape[-1]}x{truth.shape[-2]} pixels, the output {w * scale}x{h * scale}: "
            f"it must be {scale} times the picture of {w}x{h}"
        )
    if crop is None:
        wide, high = min(w, limit or w), min(h, limit or h)
        crop = ((w - wide) // 2, (h - high) // 2, wide, high)
        if (wide, high) != (w, h):
            notes.append(f"only the centre, {wide}x{high} of {w}x{h} pixels, is used: --crop takes another part")
    x, y, wide, high = crop
    if x + wide > w or y + high > h:
        raise RobustSRError(f"the crop {x},{y},{wide},{high} does not lie inside the picture of {w}x{h} pixels")
    if min(wide, high) * scale < SMALLEST_OUTPUT:
        raise RobustSRError(f"{wide}x{high} pixels are too few: the output needs {SMALLEST_OUTPUT} a side")
    part = (..., slice(y, y + high), slice(x, x + wide))
    large = (..., slice(y * scale, (y + high) * scale), slice(x * scale, (x + wide) * scale))
    return Scene(
        name,
        full[part].contiguous(),
        scale,
        bits,
        crop,
        None if truth is None else truth[large].clamp(0, 1).contiguous(),
        None if target is None else resize(_tensor(target), high * scale, wide * scale).clamp(0, 1),
        None if mask is None else _mask(mask, h, w)[part].contiguous(),
        tuple(notes),
    )


def _changes(picture: Picture, rgb: Tensor) -> Iterator[str]:
    if picture.alpha is not None:
        yield "transparency is ignored: the colours under it count, and results are opaque"
    if picture.gray:
        yield "gray is treated as RGB: changes, and so the results, may be coloured"
    levels = rgb * ((1 << picture.bits) - 1)
    if bool((levels - levels.round()).abs().max() > 0.01) or float(rgb.min()) < 0 or float(rgb.max()) > 1:
        yield f"its colours became sRGB in {picture.bits} bits: changes are counted from there"


def _mask(mask: Box | Picture, h: int, w: int) -> Tensor:
    """(1, 1, h, w) of 0 and 1."""
    if isinstance(mask, Picture):
        if mask.rgb.shape[:2] != (h, w):
            high, wide = mask.rgb.shape[:2]
            raise RobustSRError(f"the mask has {wide}x{high} pixels, the picture {w}x{h}: they must be equal")
        return (_tensor(mask).mean(1, keepdim=True) >= 0.5).float()
    x, y, wide, high = mask
    if x + wide > w or y + high > h:
        raise RobustSRError(f"the mask {x},{y},{wide},{high} does not lie inside the picture of {w}x{h} pixels")
    made = torch.zeros(1, 1, h, w)
    made[..., y : y + high, x : x + wide] = 1
    return made


def _tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.rgb.transpose(2, 0, 1)[None].copy())


def _tensor_of(made: Pixels) -> Tensor:
    """``(h, w, 3)`` integers as ``(1, 3, h, w)`` in [0, 1]."""
    floats = made.astype(np.float32) / np.float32(np.iinfo(made.dtype).max)
    return torch.from_numpy(floats.transpose(2, 0, 1)[None].copy())


def pixels(x: Tensor, bits: int) -> Pixels:
    """``(1, 3, h, w)`` as integers ``(h, w, 3)``, clipped to [0, 1] and rounded."""
    levels = (x[0].clamp(0, 1).double() * ((1 << bits) - 1) + 0.5).floor()
    made = levels.permute(1, 2, 0).cpu().numpy()
    return made.astype(np.uint16) if bits == 16 else made.astype(np.uint8)


# --- what upscales it ---


@dataclass(frozen=True)
class Shown:
    """A network, smoothed or not, under the name that tables give it."""

    label: str
    network: Loaded
    smoothing: Smoothing | None = None

    def __call__(self, x: Tensor, bits: int = 8) -> Pixels:
        """The output for ``x (1, 3, h, w)`` as `upscale` writes it: integers ``(s*h, s*w, 3)``."""
        plan = make_plan(self.network, self.smoothing)
        up = compose(self.network, self.smoothing, plan, (x.shape[-2], x.shape[-1]))
        with torch.inference_mode():
            sr = up(x.cpu())
        if not bool(torch.isfinite(sr).all()):
            raise RobustSRError(f"{self.label} gives values that are not numbers for this picture")
        return pixels(sr, bits)


def smoothed(network: Loaded, smoothing: Smoothing) -> Shown:
    """A smoothed network, named after how it is smoothed."""
    how = f"{smoothing.reduce} of {smoothing.samples}, sigma {smoothing.sigma:g}"
    return Shown(f"{network.name}, {how}", network, smoothing)


def bicubic(scale: int, device: str) -> list[Shown]:
    """The baseline of every table, where there is one of that scale."""
    return [Shown("bicubic", load(name, device=device)) for name, factor in BICUBIC.items() if factor == scale]


# --- measures ---


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
        found = _tensor_of(sr)
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


def sizes(x: Tensor, adv: Tensor) -> dict[str, float]:
    """How much an input was changed: linf, l2 and l2_rel (RMS) as in `attacks.norms`, levels (linf in 1/255), psnr."""
    norms = {key: float(value) for key, value in attacks.norms(adv.double() - x.double()).items()}
    return {**norms, "levels": norms["linf"] * 255, "psnr": float(metrics.psnr(adv.double(), x.double()))}


# --- attacks ---


@dataclass(frozen=True)
class Attempt:
    """An adversarial input: ``adv (1, 3, h, w)`` as its file holds it, ``exact`` before it was rounded."""

    name: str  # one of VARIANTS, or "random"
    adv: Tensor
    exact: Tensor
    sizes: dict[str, float]
    curve: tuple[float, ...] = ()  # the objective, step by step
    c: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a model made of an input ("clean", "random" or a variant)."""

    label: str
    input: str
    sr: Pixels
    measures: Measures


@dataclass(frozen=True)
class Result:
    """What an attack did. ``worst``: the name of the strongest attempt against ``victim``, a label of `Shown`."""

    scene: Scene
    threat: Threat
    victim: str
    attempts: tuple[Attempt, ...]
    noise: Attempt
    worst: str
    outcomes: tuple[Outcome, ...]
    ruler: Ruler
    seed: int

    @property
    def strongest(self) -> Attempt:
        return next(a for a in self.attempts if a.name == self.worst)

    @property
    def labels(self) -> list[str]:
        """The models, in the order of the table."""
        return list(dict.fromkeys(o.label for o in self.outcomes))

    def outcome(self, label: str, name: str) -> Outcome:
        return next(o for o in self.outcomes if (o.label, o.input) == (label, name))


def noise(x: Tensor, size: float, norm: attacks.Norm, *, mask: Tensor | None = None, seed: int, bits: int) -> Tensor:
    """``x (1, 3, h, w)`` plus random noise of ``size`` in levels of ``bits``: the baseline of an attack.

    Linf: random signs; L2: Gaussian, scaled so that after clipping and rounding its norm is ``size``, or the largest
    below. Nothing changes where ``mask`` is 0.
    """
    top = (1 << bits) - 1
    chance = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
    chance = chance if mask is None else chance * mask
    if norm == "linf":
        return attacks.rounded(x, (x + size * chance.sign()).clamp(0, 1).to(x), bits=bits, norm=norm, eps=size)

    def noisy(factor: float) -> Tensor:
        return ((x.double() + factor * chance).clamp(0, 1) * top).round() / top

    low, high = 0.0, 100.0  # beyond 100 everything is 0 or 1
    for _ in range(50):
        middle = (low + high) / 2
        length = float(torch.linalg.vector_norm(noisy(middle) - x.double()))
        low, high = (middle, high) if length <= size * (1 + 1e-9) else (low, middle)
    return noisy(low).to(x)


def kept(name: str, x: Tensor) -> Tensor:
    """A `File` that is none."""
    return x


def run(
    scene: Scene,
    network: Loaded,
    threat: Threat,
    *,
    variants: Sequence[Variant] = ("base",),
    smoothing: Smoothing | None = None,
    others: Sequence[Shown] = (),
    seed: int = 0,
    file: File = kept,
    say: Say = lambda text: None,
) -> Result:
    """Attacks the scene's input through ``network`` and measures what comes out of it, of it smoothed, and of others.

    The reference is the target, else the ground truth, else the model's own clean output. The attacked model is the
    smoothed one where ``variants`` has an adaptive one; all of these are measured on it and on the plain one, others
    get the strongest. Beside them: random noise as large. ``file``: where inputs go and are read back from. ``say``:
    told what begins.
    """
    ruler = Ruler.best()
    shown = [Shown(network.name, network)]
    if smoothing is not None and smoothing.sigma > 0:
        shown.append(smoothed(network, smoothing))
    victim = shown[-1] if any(v != "base" for v in variants) else shown[0]
    own, measured = len(shown), [*shown, *others]
    outcomes: list[Outcome] = []
    clean: dict[str, Tensor] = {}

    def look(one: Shown, name: str, x: Tensor) -> None:
        say(f"measuring {one.label} on {name}")
        sr = one(x, scene.bits)
        reference = scene.hr if scene.hr is not None else clean.setdefault(one.label, _tensor_of(sr))
        outcomes.append(Outcome(one.label, name, sr, ruler(sr, reference, scene.scale, scene.target)))

    for one in measured:
        look(one, "clean", scene.x)
    attempts = [_attempt(scene, network, threat, v, smoothing, seed, file, say) for v in variants]
    for attempt in attempts:
        for one in shown:
            look(one, attempt.name, attempt.adv)
    results = [next(o for o in outcomes if (o.label, o.input) == (victim.label, a.name)).measures for a in attempts]
    strength = [-(m["psnr"] or 0) if scene.target is None else m["target"] or 0 for m in results]
    worst = attempts[strength.index(max(strength))]
    norm: attacks.Norm = "l2" if threat.method == "cw" else threat.norm
    random = noise(scene.x, worst.sizes[norm], norm, mask=scene.mask, seed=seed + 1, bits=scene.bits)
    stored = file("random", random)
    baseline = Attempt("random", stored, random, sizes(scene.x, stored))
    for i, one in enumerate(measured):
        look(one, "random", baseline.adv)
        if i >= own:
            look(one, worst.name, worst.adv)
    order = {one.label: i for i, one in enumerate(measured)}
    rows = ["clean", "random", *(a.name for a in attempts)]
    outcomes.sort(key=lambda o: (order[o.label], rows.index(o.input)))
    return Result(scene, threat, victim.label, tuple(attempts), baseline, worst.name, tuple(outcomes), ruler, seed)


def _attempt(
    scene: Scene,
    network: Loaded,
    threat: Threat,
    variant: Variant,
    smoothing: Smoothing | None,
    seed: int,
    file: File,
    say: Say,
) -> Attempt:
    start = time.perf_counter()
    if threat.method == "random":
        made = noise(scene.x, threat.budget(scene.x), threat.norm, mask=scene.mask, seed=seed, bits=scene.bits)
        stored = file(variant, made)
        return Attempt(variant, stored, made, sizes(scene.x, stored), seconds=time.perf_counter() - start)
    say(f"attacking {network.name}: {VARIANTS[variant]}")
    crafted = craft(
        threat,
        watched(network, say, f"attacking {network.name}: {VARIANTS[variant]}"),
        scene.x,
        scene.target if scene.target is not None else scene.hr,
        smoothing=smoothing,
        variant=variant,
        targeted=scene.target is not None,
        mask=scene.mask,
        seed=seed,
        bits=scene.bits,
    )
    found = crafted.found
    assert found is not None
    stored = file(variant, crafted.adv.cpu())
    curve = tuple(float(step) for step in found.curve)
    spent = time.perf_counter() - start
    return Attempt(variant, stored, found.adv.cpu(), sizes(scene.x, stored), curve, crafted.c, spent)


def forecast(
    size: tuple[int, int],
    network: Loaded,
    threat: Threat,
    variants: Sequence[Variant],
    smoothing: Smoothing,
    count: int,
) -> float:
    """Roughly how many seconds an attack on ``count`` inputs of (h, w) takes, measures on the smoothed model included.

    From a fraction of a second of the network; a gradient counts as four runs.
    """
    draws = {"base": 1, "eot": threat.draws, "losses": threat.draws, "seed": smoothing.samples}
    steps = threat.iterations * threat.restarts * (10 if threat.drop is not None else 1)
    crafting = 0 if threat.method == "random" else sum(draws[v] for v in variants) * (4 * steps + 3)
    looking = (2 + len(variants)) * (1 + smoothing.samples)
    return count * size[0] * size[1] * (crafting + looking) / pixels_per_second(network)


def watched(network: Loaded, say: Say, what: str) -> Loaded:
    """The network, which says ``what`` it does and how often it has run."""
    if not isinstance(network, Network):
        return network
    call, count = network.call, 0

    def counted(module: torch.nn.Module, x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        say(f"{what}, run {count} of the network")
        return call(module, x)

    return replace(network, call=counted)


# --- one perturbation for many pictures ---


@dataclass(frozen=True)
class Universal:
    """One perturbation ``delta (1, 3, h, w)`` for many inputs, and ``outcomes`` by input and model.

    ``rows``: the name of an input, its attempt, the baseline, and their outcomes, both measured against the model's
    own clean output.
    """

    delta: Tensor
    curve: tuple[float, ...]
    threat: Threat
    size: tuple[int, int]
    rows: tuple[tuple[Scene, Attempt, Attempt, tuple[Outcome, ...]], ...]
    labels: tuple[str, ...]
    ruler: Ruler
    seed: int


def universal(
    scenes: Sequence[Scene],
    network: Loaded,
    threat: Threat,
    *,
    smoothing: Smoothing | None = None,
    adaptive: bool = False,
    seed: int = 0,
    file: File = kept,
    say: Say = lambda text: None,
    batch: int = 4,
) -> Universal:
    """One perturbation that makes the outputs for all ``scenes``, of one size, as bad as it can.

    Found by pgd against each clean output (or the scenes' common target); through fresh draws of the smoothed model
    where ``adaptive``. Measured on the plain and, with ``smoothing``, the smoothed model. RobustSRError: another
    method than pgd.
    """
    if threat.method != "pgd" or threat.restarts > 1:
        raise RobustSRError(f"a universal attack is --method pgd or pgd-l2, without restarts; got {threat.spec}")
    ruler = Ruler.best()
    plain = Shown(network.name, network)
    shown = [plain] if smoothing is None or smoothing.sigma == 0 else [plain, smoothed(network, smoothing)]
    what = f"universal attack on {network.name}"
    up: Any = attackable(watched(network, say, what), scenes[0].size, smoothing if adaptive else None)
    if adaptive and smoothing is not None:
        up = attacks.Fresh(up, threat.draws, seed)
    loss, target = losses.loss(threat.loss), scenes[0].target
    xs = torch.cat([s.x for s in scenes]).to(network.device)
    batches: list[tuple[Tensor, attacks.Objective]] = []
    for part in torch.split(xs, batch):
        with torch.no_grad():
            reference = up(part) if target is None else target.to(part).expand(len(part), -1, -1, -1)
        batches.append((part, attacks.against(up, reference, loss, targeted=target is not None)))
    eps = threat.budget(xs)
    delta, curve = attacks.universal(
        batches, eps, steps=threat.iterations, step_size=threat.step_size, norm=threat.norm, seed=seed
    )
    delta = delta.detach().cpu()
    rows = []
    for i, one in enumerate(scenes):
        exact = (one.x + delta).clamp(0, 1)
        adv = file(one.name, attacks.rounded(one.x, exact, bits=one.bits, norm=threat.norm, eps=eps))
        found = Attempt(one.name, adv, exact, sizes(one.x, adv))
        random = noise(one.x, found.sizes[threat.norm], threat.norm, seed=seed + 1 + i, bits=one.bits)
        baseline = Attempt("random", random, random, sizes(one.x, random))
        outcomes = []
        for model in shown:
            say(f"measuring {model.label} on {one.name}")
            reference = _tensor_of(model(one.x, one.bits))
            for name, x in (("random", random), ("universal", adv)):
                sr = model(x, one.bits)
                outcomes.append(Outcome(model.label, name, sr, ruler(sr, reference, one.scale, one.target)))
        rows.append((one, found, baseline, tuple(outcomes)))
    labels = tuple(model.label for model in shown)
    return Universal(delta, tuple(curve), threat, scenes[0].size, tuple(rows), labels, ruler, seed)


# --- models side by side ---


@dataclass(frozen=True)
class Compared:
    """A model's output ``(H, W, 3)`` at the size of the largest, how long it took, and how near the truth it is."""

    shown: Shown
    sr: Pixels
    seconds: float
    measures: Measures | None

    def label(self, scale: int) -> str:
        """Its name, and what it is where that is not the scale of the others."""
        native = self.shown.network.scale
        return self.shown.label if native == scale else f"{self.shown.label} (x{native}, resized by bicubic)"


def compare(
    scene: Scene, shown: Sequence[Shown], ruler: Ruler, say: Say = lambda text: None, repeats: int = 3
) -> list[Compared]:
    """Upscales the scene's input with each; times are the median of ``repeats`` runs after one that warms up."""
    made = []
    h, w = (n * scene.scale for n in scene.size)
    for one in shown:
        say(f"upscaling with {one.label}")
        sr = one(scene.x, scene.bits)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            one(scene.x, scene.bits)
            times.append(time.perf_counter() - start)
        if sr.shape[:2] != (h, w):
            sr = pixels(resize(_tensor_of(sr), h, w), scene.bits)
        measures = None if scene.hr is None else ruler(sr, scene.hr, scene.scale)
        made.append(Compared(one, sr, statistics.median(times), measures))
    return made


def comparison_table(scene: Scene, found: Sequence[Compared], ruler: Ruler) -> Table:
    """A row per model: time, and, where there is a ground truth, how near it is."""
    keys = MEASURES if scene.hr is not None else {}
    better: dict[str, Literal["high", "low"]] = {key: "low" if key == "lpips" else "high" for key in keys}
    columns = [Column(name, "against HR", better[key], DIGITS[key]) for key, name in keys.items()]
    rows = [
        Row.of(one.label(scene.scale), [one.seconds, *((one.measures or {}).get(key) for key in keys)]) for one in found
    ]
    device = next(one.shown.network.device for one in found)
    notes = [f"Time: median of 3 runs on {device}, after one that warms up."]
    notes += ruler.notes(scene.scale) if scene.hr is not None else ["No --hr, so nothing is measured against it."]
    return Table(f"{scene.name}, {scene.place}", [Column("s", "time", "low", 2), *columns], rows, notes, "model")


def comparison_rows(scene: Scene, found: Sequence[Compared], columns: int = 4) -> list[tuple[str, list[Panel]]]:
    """The input, the truth and every output as rows of panels: one per model where some are smoothed."""
    first = [Panel("input", pixels(scene.x, 8), f"{scene.size[1]}x{scene.size[0]}")]
    if scene.hr is not None:
        first.append(Panel("ground truth", pixels(scene.hr, 8)))
    models: dict[str, list[Panel]] = {}
    for one in found:
        figures = [f"{one.seconds:.2f} s"] if one.measures is None else [_figures(one.measures), f"{one.seconds:.2f} s"]
        panel = Panel(one.label(scene.scale), _eight(one.sr), ", ".join(figures))
        models.setdefault(one.shown.network.name, []).append(panel)
    if any(one.shown.smoothing for one in found):
        return [("input", first + models.pop("bicubic", [])), *models.items()]
    panels = [*first, *(panel for row in models.values() for panel in row)]
    return [("outputs" if i else "input and outputs", panels[i : i + columns]) for i in range(0, len(panels), columns)]


def _figures(measures: Measures) -> str:
    if measures["psnr"] == math.inf:
        return "the reference"
    text = f"{measures['psnr']:.2f} dB, SSIM {measures['ssim']:.3f}"
    return text if measures["lpips"] is None else f"{text}, LPIPS {measures['lpips']:.3f}"


def _eight(made: Pixels) -> NDArray[np.uint8]:
    return (made >> 8 if made.dtype == np.uint16 else made).astype(np.uint8)


# --- what people see ---


def named(result: Result, name: str, label: str) -> str:
    """What a table calls an input, where it shows the model ``label``."""
    if name in ("clean", "random"):
        return {"clean": "clean", "random": "random noise"}[name]
    if len(result.attempts) == 1:
        return "attacked"
    return f"attacked: {name}" + ", the worst" * ((name, label) == (result.worst, result.victim))


def tables(result: Result) -> list[Table]:
    """What was done to the input, and what every model made of it."""
    scene, norm = result.scene, "L2" if result.threat.method == "cw" or result.threat.norm == "l2" else "Linf"
    change = [
        Row.of(
            named(result, a.name, result.victim), [a.sizes[key] for key in ("levels", "linf", "l2", "l2_rel", "psnr")]
        )
        for a in (*result.attempts, result.noise)
    ]
    columns = [
        Column("1/255", "Linf", None, 1 if scene.bits == 8 else 2),
        Column("[0,1]", "Linf", None, 4),
        Column("whole", "L2", None, 3),
        Column("RMS", "L2", None, 5),
        Column("PSNR", "input", None, 2),
    ]
    what = "The truth (--hr)" if scene.hr is not None else "The same model's output for the clean input (no --hr)"
    notes = [f"Measured from the written files. Random noise: of equal {norm}.", f"Reference: {what}."]
    notes += [f"c = {result.strongest.c:.3g}."] if result.strongest.c is not None else []
    keys = [*MEASURES, *(["target"] if scene.target is not None else [])]
    rows = [
        Row.of(named(result, o.input, o.label), [o.measures[k] for k in keys], section=o.label) for o in result.outcomes
    ]
    measured = [Column(name, "output", None, DIGITS[key]) for key, name in MEASURES.items()]
    if scene.target is not None:
        measured.append(Column("PSNR", "to target", None, 2))
    about = f"{result.threat.spec} on {result.victim}"
    return [
        Table(f"Change of the input: {about}", columns, change, [notes[0], *notes[2:]]),
        Table("Outputs", measured, rows, [notes[1], *result.ruler.notes(scene.scale)]),
    ]


def universal_table(result: Universal) -> Table:
    """A row per picture and their mean: PSNR to each model's clean output, or to the target, with it and with noise."""
    first = result.rows[0][0]
    key, what = (
        ("psnr", "The same model's output for the clean input") if first.target is None else ("target", "target")
    )
    columns = [Column(n, label, None, 2) for label in result.labels for n in ("random", "universal")]
    values = [[o.measures[key] or 0.0 for o in outcomes] for *_, outcomes in result.rows]
    rows = [Row.of(scene.name, line) for (scene, *_), line in zip(result.rows, values, strict=True)]
    rows.append(Row.of("mean", [statistics.fmean(column) for column in zip(*values, strict=True)]))
    notes = [
        f"Reference: {what}. Random noise: of equal norm, picture by picture.",
        f"RGB, {first.scale} border pixels off, measured from the written files; more in record.json.",
    ]
    title = f"Universal {result.threat.spec} for {len(result.rows)} pictures: PSNR (dB)"
    return Table(title, columns, rows, notes, "picture")


def detail(result: Result) -> Box:
    """The part of the input, small enough for a sheet, whose output changed most."""
    h, w = result.scene.size
    side = max(8, WIDEST // result.scene.scale)
    high, wide = min(h, side), min(w, side)
    clean, attacked = (result.outcome(result.victim, name).sr for name in ("clean", result.worst))
    change = (_tensor_of(attacked) - _tensor_of(clean)).abs().mean(1, keepdim=True)
    small = F.avg_pool2d(change, result.scene.scale)
    spots = F.avg_pool2d(small, (high, wide), stride=1)[0, 0]
    at = int(spots.argmax())
    return at % spots.shape[1], at // spots.shape[1], wide, high


def contact(result: Result) -> Image.Image:
    """One labelled sheet: the inputs, and what every model made of them, in the part that changed most."""
    scene = result.scene
    x, y, w, h = part = detail(result)
    s = scene.scale

    def cut(made: Pixels, factor: int) -> NDArray[np.uint8]:
        return _eight(made)[y * factor : (y + h) * factor, x * factor : (x + w) * factor]

    def change(a: NDArray[np.uint8], b: NDArray[np.uint8], factor: int | None = None) -> tuple[NDArray[np.uint8], int]:
        return amplified((a.astype(np.float32) - b.astype(np.float32)) / np.float32(255), factor)

    trio = {"clean": scene.x, "random": result.noise.adv, result.worst: result.strongest.adv}
    inputs = {name: cut(pixels(tensor, scene.bits), 1) for name, tensor in trio.items()}
    outputs = {o.label: {} for o in result.outcomes}  # type: dict[str, dict[str, NDArray[np.uint8]]]
    for o in result.outcomes:
        outputs[o.label][o.input] = cut(o.sr, s)
    victim = outputs[result.victim]
    spread = np.abs(victim[result.worst].astype(int) - victim["clean"].astype(int))
    common = max(1, int(127 / max(1, float(np.quantile(spread, 0.995)))))
    difference, factor = change(inputs[result.worst], inputs["clean"])
    sized = {"random": result.noise.sizes, result.worst: result.strongest.sizes}
    titles = {"clean": "clean", "random": "random noise", result.worst: "attacked"}
    top = [
        Panel(titles[n], inputs[n], f"Linf {z['levels']:.3g}/255, L2 {z['l2']:.3g}" if (z := sized.get(n)) else "")
        for n in trio
    ]
    rows = [("input", [*top, Panel(f"attacked - clean, x{factor}", difference)])]
    for label, made in outputs.items():
        panels = [Panel(titles[n], made[n], _figures(result.outcome(label, n).measures)) for n in trio]
        wide = change(made[result.worst], made["clean"], common)[0]
        rows.append((label, [*panels, Panel(f"attacked - clean, x{common}", wide)]))
    aims = {"ground truth": scene.hr, "target": scene.target}
    if goals := [Panel(name, cut(pixels(goal, 8), s)) for name, goal in aims.items() if goal is not None]:
        rows.append(("what outputs are compared with", goals))
    against = "the truth" if scene.hr is not None else "the model's own clean output"
    notes = [
        f"Detail {w}x{h} at {part[0]},{part[1]} of the input of {scene.size[1]}x{scene.size[0]} pixels; "
        f"figures are for all of it, against {against}. Gray in a difference is no change."
    ]
    if len(result.attempts) > 1:
        notes.append(f"Attacked: {HOW[result.strongest.name]}, the worst of {len(result.attempts)}.")
    return contact_sheet(rows, title=f"{scene.name}: {result.threat.spec} on {result.victim}", notes=notes)


# --- files ---


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder whose files move to ``folder`` at the end, or are gone. RobustSRError: the disk refuses."""
    there = folder.parent.is_dir()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".robustsr-", dir=folder.parent) as name:
            yield Path(name)
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(name).iterdir()):
                os.replace(path, folder / path.name)
    except OSError as error:
        raise RobustSRError(f"cannot write into {folder}: {error.strerror or error}") from error
    finally:
        if not there:
            with suppress(OSError):  # it is not empty: the usual end
                folder.parent.rmdir()


def save_picture(made: Pixels, path: Path) -> None:
    """Writes integers ``(h, w, 3)`` as a PNG of their depth. RobustSRError: another ending, for most change pixels."""
    if path.suffix.lower() != ".png":
        raise RobustSRError(f"cannot write {path}: other formats than png change pixels, and so undo an attack")
    bits = 16 if made.dtype == np.uint16 else 8
    rgb = made.astype(np.float32) / np.float32((1 << bits) - 1)
    images.write(Picture(rgb, None, False, bits, Metadata(), "png"), path)


def reread(folder: Path, bits: int) -> File:
    """A `File` that writes PNGs into ``folder`` and reads them back."""

    def through(name: str, x: Tensor) -> Tensor:
        path = folder / f"{name}.png"
        save_picture(pixels(x, bits), path)
        return _tensor(images.read(path, max_pixels=1 << 40))

    return through


def slug(label: str) -> str:
    """A label as a part of a file's name."""
    kept = "".join(c if c.isalnum() or c in "._" else "-" for c in label)
    return "-".join(filter(None, kept.split("-")))


def write(result: Result, folder: Path, about: dict[str, Any]) -> None:
    """Writes what `run` found, besides the adversarial pictures that `reread` wrote, into ``folder``.

    adversarial.png and .npy (float32 ``(h, w, 3)``, before rounding), the other variants' likewise, clean.png,
    difference.png, output-MODEL-INPUT.png, sheet.png, record.json with ``about``.
    """
    for attempt in result.attempts:
        name = "adversarial" if attempt.name == result.worst else f"adversarial-{attempt.name}"
        os.replace(folder / f"{attempt.name}.png", folder / f"{name}.png")
        _save_array(attempt.exact, folder / f"{name}.npy")
    os.replace(folder / "random.png", folder / "random-noise.png")
    save_picture(pixels(result.scene.x, result.scene.bits), folder / "clean.png")
    delta = (result.strongest.adv - result.scene.x)[0].permute(1, 2, 0).numpy()
    difference, factor = amplified(delta)
    save_picture(difference, folder / "difference.png")
    for o in result.outcomes:
        if o.input in ("clean", result.worst):
            what = "clean" if o.input == "clean" else "attacked"
            save_picture(o.sr, folder / f"output-{slug(o.label)}-{what}.png")
    save_image(contact(result), folder / "sheet.png")
    _save_json({**about, **record(result), "difference_times": factor}, folder / "record.json")


def write_universal(result: Universal, folder: Path, about: dict[str, Any]) -> None:
    """Writes universal.npy (float32 ``(h, w, 3)``), universal.png (amplified) and record.json into ``folder``."""
    _save_array(result.delta, folder / "universal.npy")
    shown, factor = amplified(result.delta[0].permute(1, 2, 0).numpy())
    save_picture(shown, folder / "universal.png")
    rows = [
        {
            "picture": scene.name,
            "box": scene.box,
            "sizes": found.sizes,
            "random_sizes": baseline.sizes,
            "outputs": [{"model": o.label, "input": o.input, **o.measures} for o in outcomes],
        }
        for scene, found, baseline, outcomes in result.rows
    ]
    found = {"threat": result.threat.spec, "seed": result.seed, "curve": result.curve, "pictures": rows}
    _save_json({**about, **found, "lpips": result.ruler.lpips, "difference_times": factor}, folder / "record.json")


def record(result: Result) -> dict[str, Any]:
    """All figures of a result, for JSON."""
    scene = result.scene
    return {
        "robustsr": __version__,
        "torch": torch.__version__,
        "input": {"name": scene.name, "box": scene.box, "bits": scene.bits, "scale": scene.scale, "notes": scene.notes},
        "threat": result.threat.spec,
        "victim": result.victim,
        "targeted": scene.target is not None,
        "masked": None if scene.mask is None else float(scene.mask.mean()),
        "crafted_against": "target" if scene.target is not None else "hr" if scene.hr is not None else "clean output",
        "measured_against": "hr" if scene.hr is not None else "each model's clean output",
        "seed": result.seed,
        "lpips": result.ruler.lpips,
        "worst": result.worst,
        "attempts": [
            {"name": a.name, **a.sizes, "c": a.c, "seconds": round(a.seconds, 3), "loss": a.curve}
            for a in (*result.attempts, result.noise)
        ],
        "outputs": [{"model": o.label, "input": o.input, **o.measures} for o in result.outcomes],
    }


def save_image(picture: Image.Image, path: Path) -> None:
    """Writes a drawing as a PNG, whole or not at all."""
    with atomic(path) as part:
        picture.save(part, "png")


def _save_array(x: Tensor, path: Path) -> None:
    with atomic(path) as part, open(part, "wb") as file:
        np.save(file, x[0].permute(1, 2, 0).contiguous().numpy().astype(np.float32))


def _save_json(values: dict[str, Any], path: Path) -> None:
    with atomic(path) as part:
        part.write_text(json.dumps(_strict(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _strict(value: Any) -> Any:  # noqa: ANN401
    """Infinite figures, such as the PSNR of equal pictures, as strings."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
