"""What `robustsr certify` says of certificates, and its option ``--verify``: one computed anew."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import console, progress
from .catalogue import SAMPLE
from .cli_common import bring_torch, found, interruptible, load, show
from .types import RobustSRError

if TYPE_CHECKING:
    from torch import Tensor

    from .models import Loaded
    from .record import Verdict


@contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """A bar over draws on a terminal; a line each minute elsewhere."""
    with progress.work_bar() as update:
        yield lambda done, total: update(done, total, f"draw {done}/{total}")


def forecast(x: Tensor, network: Loaded, draws: int) -> None:
    """Says how long it will take here, context of windows left out."""
    from .plan import pixels_per_second

    seconds = x.shape[-2] * x.shape[-1] * draws / pixels_per_second(network)
    console.say(
        f"{x.shape[-1]}x{x.shape[-2]} pixels, {draws} draws, about {console.duration(seconds)}: "
        f"{network.name} x{network.scale} on {network.device} (fp32)"
    )


def show_table(records: list[dict[str, Any]]) -> None:
    """Widths and PSNRs, and their means over the pictures."""
    from .report import Column, Row, Table

    names = {"mean_width": "mean width", "largest_width": "largest", "psnr": "PSNR", "certified_psnr": "certified PSNR"}
    columns = {key: Column(name, digits=2) for key, name in names.items() if all(key in r["result"] for r in records)}
    figures = [[float(record["result"][key]) for key in columns] for record in records]
    rows = [Row.of(record["input"]["name"], row) for record, row in zip(records, figures, strict=True)]
    rows.append(Row.of("mean", [sum(column) / len(records) for column in zip(*figures, strict=True)]))
    first, failure = records[0], records[0]["derived"]["failure"]
    notes = [
        f"{first['model']['name']}, {first['reduce']} of {first['shipped']} draws, sigma {first['sigma']:g}; eps "
        f"{first['eps']:g} (L2, {_over(first)}); bounds from {first['n']} draws, each picture's may fail with "
        f"probability {failure:.4g}, {first['scope']}",
        "widths in levels of 255" + "; PSNR on RGB, 8 bits, no border cut" * ("psnr" in columns),
    ]
    show(Table("Certificates", list(columns.values()), rows, notes, "picture"))


def show_one(record: dict[str, Any], json: bool) -> None:
    if json:
        console.emit(record)
    else:
        derived, result = record["derived"], record["result"]
        table = console.table("", "")
        table.show_header = False
        how = f"{record['reduce']} of {record['shipped']} draws, sigma {record['sigma']:g}"
        size = f"{record['input']['width']}x{record['input']['height']} x{record['model']['scale']}"
        table.add_row("picture", f"{record['input']['name']} {size} by {record['model']['name']}, {how}")
        table.add_row("eps", f"{record['eps']:g} (L2, {_over(record)}), r = eps/sigma = {derived['r']:.3g}")
        table.add_row("bounds", f"from {record['n']} draws" + (f", ranks {derived['ranks']}" * bool(derived["ranks"])))
        table.add_row("may fail", f"with probability {derived['failure']:.4g}, {record['scope']}")
        table.add_row(
            "width", f"{result['mean_width']:.1f} of 255 levels on average, {result['largest_width']} at most"
        )
        if "psnr" in result:
            certified = result.get("certified_psnr")
            whose = "" if record["beta"] else f" for the true {record['reduce']}"
            least = f", certified at least {float(certified):.2f} dB{whose}" if certified is not None else ""
            table.add_row("PSNR", f"{float(result['psnr']):.2f} dB{least} (RGB, 8 bits, no border cut)")
        console.out.print(table)
        for line in (*record["claim"], *record["not_claimed"]):
            console.out.print(f"\n{line}", markup=False, soft_wrap=True)


def warn(records: list[dict[str, Any]]) -> None:
    """What there is to say of claims that differ by their picture only."""
    record = max(records, key=lambda record: float(record["derived"]["margin"]))
    if (margin := record["derived"]["margin"]) > 0.05:
        most = "up to " * (len(records) > 1)
        console.say(
            f"note: {most}{2 * margin * 255:.0f} levels of the width make room for a mean of only "
            f"{record['shipped']} draws: "
            f"more --ship, --scope value, or --beta 0 (a claim about the true mean alone) narrow it",
            "yellow",
        )
    if not record["noise"]["fresh"]:
        console.say("note: the seed was given: the claim needs that it was chosen before any result was seen", "yellow")


def _over(record: dict[str, Any]) -> str:
    radius = record["field"]["radius"]
    return "whole input" if radius is None else f"inside every receptive field of {2 * radius + 1}x{2 * radius + 1}"


def verify(
    path: Path,
    picture: Path | None,
    model: str | None,
    denoise: str | None,
    hr: Path | None,
    device: str,
    json: bool,
) -> None:
    """Recomputes a certificate; exit code 1 if anything does not hold."""
    bring_torch()
    from . import certificate_files as work
    from .record import verify as check
    from .scene import box

    try:
        record = jsonlib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RobustSRError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no text, or no JSON
        raise RobustSRError(f"{path} is damaged: {error}") from None
    if not isinstance(record, dict) or "format" not in record:
        raise RobustSRError(f"{path} is not a certificate")
    try:
        named, (trained, first) = str(record["input"]["name"]), _names(record["model"])
        crop = box(str(record["input"]["crop"])) if record["input"]["crop"] is not None else None
        names = {key: Path(record["files"][key]).name for key in work.ENDINGS}
    except (KeyError, TypeError, RobustSRError) as error:
        raise RobustSRError(f"{path} is damaged: {error}") from None
    source = picture
    if source is None and named != f"sample:{SAMPLE}":
        near = [folder / Path(named).name for folder in (path.parent, path.parent.parent, Path.cwd())]
        source = next((p for p in near if p.is_file()), None)
        if source is None:
            raise RobustSRError(f"{named} is not near the certificate: give the picture after it")
    x, _, _ = work.read_input(source, crop)
    denoise = denoise or first
    try:
        known = found(model or trained)
    except RobustSRError:
        if model:
            raise
        raise RobustSRError(f"the certificate's model {trained!r} is not installed: give -m and its file") from None
    network = load(known, device, denoise=denoise and found(denoise))
    stored = {key: work.levels(path.parent / name) for key, name in names.items()}
    forecast(x, network, sum(int(record[key]) for key in ("n", "shipped") if isinstance(record.get(key), int)))
    with interruptible("nothing was decided"), bar() as tick:
        reference = work.read_truth(hr, crop, network.scale, x) if hr else None
        verdict = check(record, x, network, stored, reference, tick)
    _verdict(verdict, record, path, json)


def _names(model: dict[str, Any]) -> tuple[str, str | None]:
    """What a record calls its model, and the denoiser before it if there is one."""
    if "denoiser" not in model:
        return str(model["name"]), None
    denoiser = str(model["denoiser"]["name"])
    return str(model["name"]).removesuffix(f" after {denoiser}"), denoiser


def _verdict(verdict: Verdict, record: dict[str, Any], path: Path, json: bool) -> None:
    if json:
        console.emit({"certificate": str(path), "holds": not verdict.problems, **vars(verdict)})
    for note in verdict.notes:
        console.say(f"note: {note}", "yellow")
    for problem in verdict.problems:
        console.say(f"failed: {problem}", "red")
    if verdict.problems:
        console.say(f"{path} does NOT hold", "bold red")
        raise typer.Exit(1)
    same = f"{verdict.moved:.2%} of the values moved by a level, within tolerance" if verdict.moved else "identical"
    but = f", except {' and '.join(verdict.unchecked)}, which only --hr can check" if verdict.unchecked else ""
    console.say(f"{path} holds{but}: recomputed, {same}", "yellow" if but else "green")
    if not json:
        for line in record["claim"]:
            console.out.print(f"\n{line}", markup=False, soft_wrap=True)
