"""The command `robustsr certify`: a picture with bounds that small perturbations cannot push it out of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import console
from .cli_common import (
    DENOISE,
    Option,
    bring_torch,
    found,
    interruptible,
    load,
    model_names,
    number_of,
    show,
    typed,
    usage,
)
from .cli_scene import CropOption
from .cli_verify import bar, forecast
from .cli_verify import verify as recompute
from .types import RobustSRError

if TYPE_CHECKING:
    from .certificate import FieldKind
    from .certify import Claim
    from .models import Loaded
    from .scene import Box

CLAIM, FILES, RUNNING = "Claim", "Files", "Running"


def certify(
    context: typer.Context,
    picture: Annotated[
        Path | None,
        typer.Argument(help="A picture, or a folder. Default: 48x48 pixels of a sample.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        Option(
            "-m", "--model", autocompletion=model_names, help="Name or path. Default: certsr.", rich_help_panel=RUNNING
        ),
    ] = None,
    denoise: Annotated[str | None, Option("--denoise", help=DENOISE, rich_help_panel=RUNNING)] = None,
    smooth: Annotated[
        Literal["median", "mean"],
        Option("--smooth", help="Median or mean of the outputs for noisy copies.", rich_help_panel=CLAIM),
    ] = "median",
    sigma: Annotated[
        str, Option("--sigma", help="Standard deviation of the noise, like .06 or 15/255.", rich_help_panel=CLAIM)
    ] = ".06",
    eps: Annotated[
        str | None,
        Option(
            "--eps",
            help="Changes of a smaller L2 norm are covered, like .05 or 8/255. Default: sigma.",
            rich_help_panel=CLAIM,
        ),
    ] = None,
    samples: Annotated[
        int, Option("--samples", min=1, help="Noisy copies for the bounds.", rich_help_panel=CLAIM)
    ] = 1000,
    ship: Annotated[
        int, Option("--ship", min=1, help="Noisy copies that make the picture itself.", rich_help_panel=CLAIM)
    ] = 101,
    alpha: Annotated[float, Option("--alpha", help="Probability that the bounds fail.", rich_help_panel=CLAIM)] = 0.05,
    beta: Annotated[
        float,
        Option(
            "--beta",
            help="Probability that the picture itself is below the bounds, and that it is above; 0: no claim about it.",
            rich_help_panel=CLAIM,
        ),
    ] = 0.025,
    scope: Annotated[
        Literal["simultaneous", "value"],
        Option(
            "--scope",
            help="Whether alpha and beta hold for all values at once, or for each value alone.",
            rich_help_panel=CLAIM,
        ),
    ] = "simultaneous",
    field: Annotated[
        Literal["auto", "image", "receptive"],
        Option(
            "--field",
            help="Whether eps limits the change of the whole picture, or in every receptive field (a stronger claim).",
            rich_help_panel=CLAIM,
        ),
    ] = "auto",
    form: Annotated[
        Literal["cdf", "simple"],
        Option("--form", help="How a mean is bounded: cdf (tighter) or simple.", rich_help_panel=CLAIM),
    ] = "cdf",
    hr: Annotated[
        Path | None,
        Option(
            "--hr", help="Ground truth, or a folder of the same names, for the certified PSNR.", rich_help_panel=FILES
        ),
    ] = None,
    crop: CropOption = None,
    out: Annotated[
        Path | None, Option("-o", "--out", help="Folder. Default: certified.", rich_help_panel=FILES)
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is there.", rich_help_panel=FILES)] = False,
    seed: Annotated[
        int | None,
        Option("--seed", min=0, help="Seed of the noise. Default: a fresh random one.", rich_help_panel=RUNNING),
    ] = None,
    device: Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING)] = "auto",
    json: Annotated[
        bool, Option("--json", help="The certificate on standard output.", rich_help_panel=RUNNING)
    ] = False,
    verify: Annotated[
        Path | None,
        Option("--verify", help="Recompute this NAME_certificate.json and compare.", rich_help_panel=RUNNING),
    ] = None,
) -> None:
    """Upscale a picture with proven bounds: with probability .9, no change of L2 norm below eps moves it out of them.

    Writes NAME_certified.png, NAME_lower.png, NAME_upper.png, NAME_width.png and NAME_certificate.json. The budgets
    are small: far below an Linf attack of 8/255, JPEG compression or camera noise. Of a folder all pictures, and a
    table: what is there already is kept.
    """
    given = typed(context)
    if verify is not None:
        if idle := sorted(given - {"verify", "picture", "model", "denoise", "hr", "device", "json"}):
            flags = ", ".join(f"--{name}" for name in idle)
            raise typer.BadParameter(f"{flags}: with --verify the certificate says that")
        recompute(verify, picture, model, denoise, hr, device, json)
        return
    from .certify import Claim

    if sigma.strip().lower() == "auto":
        raise typer.BadParameter(
            "--sigma auto cannot be certified: it would depend on the perturbed picture, and the noise must not; "
            "give a number, like --sigma .06"
        )
    deviation = number_of(sigma, "--sigma")
    radius = number_of(eps, "--eps") if eps is not None else deviation
    if smooth == "median" and "form" in given:
        raise typer.BadParameter("--form only matters with --smooth mean")
    with usage():
        claim = Claim(deviation, radius, samples, ship, alpha, beta, scope, smooth, form)
    bring_torch()
    from . import certificate_files as work
    from .scene import crop_of

    with usage():
        asked = crop_of(crop) if crop else None if picture else work.SAMPLE_CROP
    folder = out or Path("certified")
    if picture is not None and picture.is_dir():
        jobs = work.paired(picture, hr)
        network = load(found(model), device, denoise=denoise and found(denoise))
        _each(jobs, asked, network, claim, field, seed, folder, overwrite, json)
        return
    stem = (picture or Path(work.SAMPLE)).stem
    there = [path.name for path in work.files(folder, stem) if path.exists()]
    if there and not overwrite:
        raise RobustSRError(f"{folder} has {', '.join(there)} already: give --overwrite, or another -o")
    network = load(found(model), device, denoise=denoise and found(denoise))
    with interruptible("nothing was written"):
        record = _one(picture, hr, asked, network, claim, field, seed, folder)
    _show(record, json)
    _warn(record)
    console.say(f"certificate: {work.files(folder, stem)[-1]}", "green")


def _one(
    picture: Path | None,
    hr: Path | None,
    crop: Box | int | None,
    network: Loaded,
    claim: Claim,
    field: FieldKind,
    seed: int | None,
    folder: Path,
    *,
    again: bool = True,
) -> dict[str, Any]:
    """The record of one certificate, which is written; that which is there already, unless ``again``."""
    from . import certificate_files as work
    from .certificate import certify as run
    from .certificate import for_picture

    x, place, notes = work.read_input(picture, crop)
    reference = work.read_truth(hr, place, network.scale, x) if hr else None
    for note in notes:
        console.say(f"note: {note}", "yellow")
    claim = for_picture(claim, network, x.shape[-2], x.shape[-1])
    stem = (picture or Path(work.SAMPLE)).stem
    if not again and (known := work.known(folder, stem, x, network, claim, field, seed, reference)):
        return known
    forecast(x, network, claim.n + claim.shipped)
    with bar() as tick:
        made = run(x, network, claim, field=field, seed=seed, on_draws=tick)
    name = picture.name if picture else f"sample:{work.SAMPLE}"
    return work.write(made, x, network, folder, stem, name=name, crop=place, hr=reference)


def _each(
    jobs: list[tuple[Path, Path | None]],
    crop: Box | int | None,
    network: Loaded,
    claim: Claim,
    field: FieldKind,
    seed: int | None,
    folder: Path,
    overwrite: bool,
    json: bool,
) -> None:
    """A certificate for each picture, and a table of them; exit code 1 where one failed."""
    records: list[dict[str, Any]] = []
    with interruptible(f"the certificates that are whole stay in {folder}, and the same command goes on"):
        for picture, hr in jobs:
            console.say(picture.name)
            try:
                record = _one(picture, hr, crop, network, claim, field, seed, folder, again=overwrite)
            except RobustSRError as error:
                console.say(f"failed: {picture.name}: {error}", "red")
                continue
            records.append(record)
            if json:
                console.emit(record)
    if records:
        if not json:
            _table(records)
        _warn(records[0])
    said = f"{len(records)} certificates" + f", {len(jobs) - len(records)} failed" * (len(records) < len(jobs))
    console.say(f"{said} -> {folder}", "green")
    if len(records) < len(jobs):
        raise typer.Exit(1)


def _table(records: list[dict[str, Any]]) -> None:
    """Widths and PSNRs, and their means over the pictures."""
    from .report import Column, Row, Table

    names = {"mean_width": "mean width", "largest_width": "largest", "psnr": "PSNR", "certified_psnr": "certified PSNR"}
    columns = {key: Column(name, digits=2) for key, name in names.items() if key in records[0]["result"]}
    figures = [[float(record["result"][key]) for key in columns] for record in records]
    rows = [Row.of(record["input"]["name"], row) for record, row in zip(records, figures, strict=True)]
    rows.append(Row.of("mean", [sum(column) / len(records) for column in zip(*figures, strict=True)]))
    first, failure = records[0], records[0]["derived"]["failure"]
    notes = [
        f"{first['model']['name']}, {first['reduce']} of {first['shipped']} draws, sigma {first['sigma']:g}; eps "
        f"{first['eps']:g} (L2, {_over(first)}); bounds from {first['n']} draws, each picture's may fail with "
        f"probability {failure:.4g}, {first['scope']}",
        "widths in levels of 255; PSNR on RGB, 8 bits, no border cut",
    ]
    show(Table("Certificates", list(columns.values()), rows, notes, "picture"))


def _show(record: dict[str, Any], json: bool) -> None:
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


def _warn(record: dict[str, Any]) -> None:
    """What there is to say of a claim."""
    if (margin := record["derived"]["margin"]) > 0.05:
        console.say(
            f"note: {2 * margin * 255:.0f} levels of the width make room for a mean of only {record['shipped']} draws: "
            f"more --ship, --scope value, or --beta 0 (a claim about the true mean alone) narrow it",
            "yellow",
        )
    if not record["noise"]["fresh"]:
        console.say("note: the seed was given: the claim needs that it was chosen before any result was seen", "yellow")


def _over(record: dict[str, Any]) -> str:
    radius = record["field"]["radius"]
    return "whole input" if radius is None else f"inside every receptive field of {2 * radius + 1}x{2 * radius + 1}"
