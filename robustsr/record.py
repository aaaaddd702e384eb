"""A certificate in words and as JSON, and its verification: everything is computed again and compared."""

from __future__ import annotations

import hashlib
import math
import operator
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from .bounds import LEVELS, Bounds, certified_psnr
from .certificate import Certificate, Field, OnDraws, certify, find_field, for_picture, window_size
from .certify import Claim
from .metrics import psnr
from .models import Loaded, check_as_loaded
from .noise import ALGORITHM
from .sentences import claimed, not_claimed
from .types import RobustSRError
from .version import __version__

FORMAT = "robustsr-certificate/3"
PICTURES = ("shipped", "lower", "upper")

# Float32 differs by some 1e-6 between devices: a draw next to a rounding boundary then falls on the other side of it.
MOVED_LEVELS = 1
MOVED_SHARE = 0.005
WORDS = {  # entries of a record that are its maker's words, which nobody can check
    *(("input", "name"), ("input", "crop"), ("model", "name"), ("model", "denoiser", "name")),
    *(("files", name) for name in (*PICTURES, "width")),
}
CLAIM_KEYS = ("sigma", "eps", "n", "shipped", "alpha", "beta", "scope", "reduce", "form")
OPTIONS = {"n": "samples", "shipped": "ship", "reduce": "smooth", "field.kind": "field"}  # what people call them


def digest(values: Tensor) -> str:
    """SHA-256 of a tensor: its type, its shape and its little-endian numbers."""
    array = np.ascontiguousarray(values.cpu().numpy())
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    head = f"{array.dtype.name} {'x'.join(map(str, array.shape))}\n"
    return hashlib.sha256(head.encode() + array.tobytes()).hexdigest()


def pictures(certificate: Certificate) -> dict[str, Tensor]:
    """What a certificate is about: the shipped picture and the two that bound it, uint8 ``(3, H, W)``."""
    return {
        "shipped": certificate.shipped,
        "lower": certificate.bounds.lower,
        "upper": certificate.bounds.upper,
    }


def describe(certificate: Certificate, x: Tensor, network: Loaded, hr: Tensor | None = None) -> dict[str, Any]:
    """The JSON record of a certificate; ``hr (3, H, W)`` in [0, 1] adds PSNRs, certified if simultaneous.

    RobustSRError: the weights are no longer those of the file that the record would name.
    """
    check_as_loaded(network)
    c = certificate
    return {
        **_facts(c.claim, c.field, c.seed, c.fresh, c.window, x, network),
        "result": result_of(c.claim, pictures(c), hr),
        "sha256": {name: digest(levels) for name, levels in pictures(c).items()},
        "versions": _versions(network),
    }


def _versions(network: Loaded) -> dict[str, str]:
    return {
        "robustsr": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "device": str(network.device),
    }


def _facts(
    claim: Claim, field: Field, seed: int, fresh: bool, window: tuple[int, int], x: Tensor, network: Loaded
) -> dict[str, Any]:
    """All of a record that follows from what was asked, without a draw."""
    before = {"denoiser": {"sha256": network.before[1]}} if network.before else {}  # both make the model's sha256
    return {
        "format": FORMAT,
        "claim": claimed(claim, field),
        "not_claimed": not_claimed(claim, field),
        "input": {"sha256": digest(x), "height": field.h, "width": field.w},
        "model": {"sha256": network.digest, "scale": network.scale} | before,
        **{key: getattr(claim, key) for key in CLAIM_KEYS},
        "field": {"kind": field.kind, "radius": field.radius},
        "derived": {
            "values": claim.values,
            "r": claim.r,
            "slack": claim.slack,
            "margin": claim.margin,
            "ranks": list(claim.ranks() or ()),
            "failure": claim.failure,
        },
        "noise": {
            "algorithm": ALGORITHM,
            "seed": f"{seed:#x}",  # a string: many JSON readers keep only 53 bits of a number
            "fresh": fresh,
            "draws": "independent",
            "shipped": [0, claim.shipped],
            "bounds": [claim.shipped, claim.shipped + claim.n],
        },
        "clamp": [0, 1],
        "precision": network.with_precision("fp32").precision,  # fp16: of some ONNX files, which have no other
        "window": {"height": window[0], "width": window[1], "context": network.context},
    }


def result_of(claim: Claim, levels: Mapping[str, Tensor], hr: Tensor | None) -> dict[str, Any]:
    """How far apart the bounds in ``levels`` are; with a ground truth also PSNRs."""
    width = (levels["upper"].int() - levels["lower"].int()).double()
    made: dict[str, Any] = {"mean_width": width.mean().item(), "largest_width": int(width.max())}
    if hr is not None:
        shipped = levels["shipped"].double() / (LEVELS - 1)
        made["hr_sha256"] = digest(hr)
        made["psnr"] = _finite(psnr(shipped[None], hr[None].double()).item())
        if claim.scope == "simultaneous":  # per-value bounds would overstate it
            made["certified_psnr"] = _finite(certified_psnr(Bounds(levels["lower"], levels["upper"]), hr))
    return made


def untrue(
    result: Mapping[str, Any], claim: Claim, levels: Mapping[str, Tensor], hr: Tensor | None
) -> tuple[list[str], tuple[str, ...]]:
    """What the ``result`` of a record says that its pictures do not give, in words; and what ``hr`` alone can check."""
    unchecked: tuple[str, ...] = ()
    if "hr_sha256" in result and hr is None:
        unchecked = tuple(key for key in result if "psnr" in key)
        result = {key: value for key, value in result.items() if "psnr" not in key and key != "hr_sha256"}
    found = result_of(claim, levels, hr if "hr_sha256" in result else None)
    problems = [_message(f"result.{key}", was, now, claim) for key, was, now in _differences(result, found)]
    problems += [f"result.{key}: nothing here gives such a number" for key in result.keys() - found.keys()]
    return problems, unchecked


def _finite(value: float) -> float | str:
    """JSON has no infinity: that of equal pictures is a string, which float() reads."""
    return value if math.isfinite(value) else str(value)


# --- verification ---


@dataclass(frozen=True)
class Verdict:
    """What verification found: ``problems``, none if the certificate holds; the share of values that moved a level
    between the two computations, within tolerance; entries of the record that were ``unchecked``; notes."""

    problems: list[str]
    moved: float
    notes: list[str]
    unchecked: tuple[str, ...] = ()


def read_claim(record: Mapping[str, Any]) -> Claim:
    """The claim of a record, without its number of values. RobustSRError: no certificate of ours, or damaged."""
    if record.get("format") != FORMAT:
        raise RobustSRError(f"not a certificate of this version: its format is {record.get('format')}, not {FORMAT}")
    try:
        n, shipped = operator.index(record["n"]), operator.index(record["shipped"])
        return Claim(**{**{key: record[key] for key in CLAIM_KEYS}, "n": n, "shipped": shipped})
    except (KeyError, TypeError) as error:
        raise RobustSRError(f"the certificate is damaged: {error}") from None


def unlike(
    record: Mapping[str, Any],
    x: Tensor,
    network: Loaded,
    claim: Claim,
    field: Field,
    window: tuple[int, int],
    seed: int | None,
) -> list[str]:
    """What makes a record another than that of a claim about a picture and a model, in words; nothing, if it is that.

    ``seed`` None: any that was drawn. KeyError, TypeError, ValueError: the record has no seed.
    """
    drawn, fresh = int(record["noise"]["seed"], 16), bool(record["noise"]["fresh"])
    seeds = [] if (drawn == seed if seed is not None else fresh) else ["another seed"]
    others = _differences(record, _facts(claim, field, drawn, fresh, window, x, network))
    words = {"input.sha256": "another picture", "model.sha256": "other weights"}
    words |= {
        name: f"{OPTIONS.get(name, name)} {was}" for name, was, _ in others if name in CLAIM_KEYS + ("field.kind",)
    }
    return seeds + ([words[name] for name, *_ in others if name in words] or [name for name, *_ in others])


def verify(
    record: Mapping[str, Any],
    x: Tensor,
    network: Loaded,
    stored: Mapping[str, Tensor],
    hr: Tensor | None = None,
    on_draws: OnDraws | None = None,
) -> Verdict:
    """Checks a record against the input, the weights and the three ``stored`` pictures (uint8), then recomputes.

    Bounds may differ from the recomputed ones by one level on 0.5% of the values, as other devices make them; all
    else exactly. What cannot be checked: that the seed was fresh, and that this was the only run.
    """
    claim = read_claim(record)
    h, w = x.shape[-2:]
    try:
        seed, fresh = int(record["noise"]["seed"], 16), bool(record["noise"]["fresh"])
        if not 0 <= seed < 1 << 64:
            raise ValueError("its seed is no number of 64 bits")
        kind = record["field"]["kind"]
        recorded_result, recorded_digests = dict(record["result"]), dict(record["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise RobustSRError(f"the certificate is damaged: {error}") from None
    try:
        field = find_field(network, kind, h, w)
        claim = for_picture(claim, network, h, w)
    except RobustSRError as error:
        return Verdict([f"the certificate cannot be what it says: {error}"], 0, [])
    size = (3, h * network.scale, w * network.scale)
    if wrong := [name for name in PICTURES if stored[name].shape != size]:
        return Verdict([f"{', '.join(wrong)}: not {size[2]}x{size[1]} pixels, as the certified pictures are"], 0, [])
    facts = _facts(claim, field, seed, fresh, window_size(network, claim, h, w), x, network)
    problems = [_message(name, was, now, claim) for name, was, now in _differences(record, facts)]
    known = {*_entries(facts | {"versions": _versions(network)}), *WORDS, *(("sha256", name) for name in PICTURES)}
    known |= {("result", name) for name in recorded_result}  # looked at below
    problems += [
        f"{'.'.join(name)}: no certificate has such an entry" for name in _entries(record) if name not in known
    ]
    for name in PICTURES:
        if digest(stored[name]) != recorded_digests.get(name):
            problems.append(f"{name}: the picture is not the one that was certified (its sha256 differs)")
    if problems:
        return Verdict(problems, 0, [])

    notes = [
        "nobody can check that the seed was fresh, and that this was the only run",
        "its names, its versions and the picture of the width are its maker's words",
    ]
    problems, unchecked = untrue(recorded_result, claim, stored, hr)
    again = certify(x, network, claim, field=kind, seed=seed, on_draws=on_draws)
    moved = 0.0
    for name, levels in pictures(again).items():
        difference = (levels.int() - stored[name].int()).abs()
        share, most = (difference > 0).double().mean().item(), int(difference.max())
        moved = max(moved, share)
        if share > MOVED_SHARE or most > MOVED_LEVELS:
            problems.append(
                f"{name}: {share:.1%} of its values differ from those recomputed, by up to {most} levels, for eps "
                f"{claim.eps:g}, sigma {claim.sigma:g}, n {claim.n}, alpha {claim.alpha:g}, seed {seed:#x}"
            )
    if not fresh:
        notes.append("the seed was given by a person: the claim needs that it was chosen before any result was seen")
    return Verdict(problems, moved, notes, unchecked)


def _entries(record: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of all values in a record, however deep: ("model", "sha256")."""
    for key, value in record.items():
        if isinstance(value, dict) and value:
            yield from _entries(value, (*above, key))
        else:
            yield (*above, key)


def _differences(recorded: Mapping[str, Any], computed: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, recorded, computed) of what differs among the computed entries; floats may differ in the last digits."""
    found: list[tuple[str, Any, Any]] = []
    for name, now in computed.items():
        was = recorded.get(name)
        if isinstance(now, dict):
            inner = _differences(was if isinstance(was, dict) else {}, now)
            found += [(f"{name}.{key}", a, b) for key, a, b in inner]
        elif isinstance(now, float) and isinstance(was, int | float):
            if not abs(now - was) <= 1e-9 * max(1.0, abs(now)):
                found.append((name, was, now))
        elif was != now:
            found.append((name, was, now))
    return found


def _message(name: str, was: object, now: object, claim: Claim) -> str:
    if name in ("claim", "not_claimed"):
        return f"{name}: the sentences do not say what the numbers say"
    if name.startswith("derived."):
        asked = ", ".join(f"{key} {getattr(claim, key)}" for key in CLAIM_KEYS)
        return f"{name}: the certificate says {was}, but {asked} give {now}: one of these was changed"
    if name == "input.sha256":
        return "input.sha256: this is not the picture that was certified"
    if name == "model.sha256":
        return "model.sha256: these are not the weights that were certified"
    return f"{name}: the certificate says {was}, computed was {now}"
