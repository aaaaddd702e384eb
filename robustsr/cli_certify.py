"""The command `robustsr certify`: a picture with bounds that small perturbations cannot push it out of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import console
from .catalogue import SAMPLE
from .cli_common import (
    DENOISE,
    Option,
    bring_torch,
    found,
    interruptible,
    load,
    model_names,
    number_of,
    typed,
    usage,
)
from .cli_scene import CropOption
from .cli_verify import bar, forecast, show_one, show_table, warn
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
    from .remote import check_folder
    from .scene import crop_of

    with usage():
        asked = crop_of(crop) if crop else None if picture else work.SAMPLE_CROP
    folder = out or Path("certified")
    check_folder(folder)
    if picture is not None and picture.is_dir():
        jobs = work.paired(picture, hr)
        network = load(found(model), device, denoise=denoise and found(denoise))
        _each(jobs, Asked(network, claim, asked, field, seed, folder), overwrite, json)
        return
    stem = (picture or Path(SAMPLE)).stem
    if not overwrite:
        work.refuse_others(folder, stem)
    work.read_input(picture, asked)  # says what is wrong before a model is loaded
    network = load(found(model), device, denoise=denoise and found(denoise))
    record = _one(picture, hr, Asked(network, claim, asked, field, seed, folder))
    show_one(record, json)
    warn([record])
    console.say(f"certificate: {work.files(folder, stem)[-1]}", "green")


@dataclass(frozen=True)
class Asked:
    """What is asked of every picture, and where its certificate goes."""

    network: Loaded
    claim: Claim
    crop: Box | int | None
    field: FieldKind
    seed: int | None
    folder: Path


def _one(
    picture: Path | None, hr: Path | None, asked: Asked, *, again: bool = True, outcome: str = "nothing was written"
) -> dict[str, Any]:
    """The record of one certificate, which is written; that which is there already, unless ``again``.

    ``outcome``: what comes of it when it is interrupted.
    """
    from . import certificate_files as work
    from .certificate import certify as run
    from .certificate import for_picture

    network, folder, field, seed = asked.network, asked.folder, asked.field, asked.seed
    x, place, notes = work.read_input(picture, asked.crop)
    reference = work.read_truth(hr, place, network.scale, x) if hr else None
    for note in notes:
        console.say(f"note: {note}", "yellow")
    claim = for_picture(asked.claim, network, x.shape[-2], x.shape[-1])
    stem = (picture or Path(SAMPLE)).stem
    if not again and (known := work.known(folder, stem, x, network, claim, field, seed, reference)):
        return known
    forecast(x, network, claim.n + claim.shipped)
    with interruptible(outcome), bar() as tick:
        made = run(x, network, claim, field=field, seed=seed, on_draws=tick)
    name = picture.name if picture else f"sample:{SAMPLE}"
    return work.write(made, x, network, folder, stem, name=name, crop=place, hr=reference)


def _each(jobs: list[tuple[Path, Path | None]], asked: Asked, overwrite: bool, json: bool) -> None:
    """A certificate for each picture, and a table of them; exit code 1 where one failed."""
    from .certificate_files import files

    records, kept = list[dict[str, Any]](), 0
    outcome = f"the certificates that are whole stay in {asked.folder}, and the same command goes on"
    for picture, hr in jobs:
        console.say(picture.name)
        there = files(asked.folder, picture.stem)[-1].exists() and not overwrite
        try:
            record = _one(picture, hr, asked, again=overwrite, outcome=outcome)
        except RobustSRError as error:
            console.say(f"failed: {picture.name}: {error}", "red")
            continue
        records.append(record)
        kept += there
        if json:
            console.emit(record)
    if records:
        if not json:
            show_table(records)
        warn(records)
    said = f"{len(records)} certificate{'s' * (len(records) != 1)}"
    said += f" ({kept} {'was' if kept == 1 else 'were'} there already)" * bool(kept)
    said += f", {len(jobs) - len(records)} failed" * (len(records) < len(jobs))
    console.say(f"{said} -> {asked.folder}", "green")
    if len(records) < len(jobs):
        raise typer.Exit(1)
