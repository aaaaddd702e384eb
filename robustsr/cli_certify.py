"""The command `robustsr certify`: a picture with bounds that small perturbations cannot push it out of."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import console, progress
from .cli_common import DENOISE, Option, bring_torch, found, interruptible, load, number_of, typed, usage
from .cli_scene import CropOption
from .types import RobustSRError

if TYPE_CHECKING:
    from torch import Tensor

    from .images import Picture
    from .models import Loaded
    from .record import Verdict

CLAIM, FILES, RUNNING = "Claim", "Files", "Running"


def certify(
    context: typer.Context,
    picture: Annotated[
        Path | None, typer.Argument(help="A picture. Default: 48x48 pixels of a sample.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, Option("-m", "--model", help="Name or path. Default: certsr.", rich_help_panel=RUNNING)
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
        Path | None, Option("--hr", help="Ground truth, for the certified PSNR.", rich_help_panel=FILES)
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
    are small: far below an Linf attack of 8/255, JPEG compression or camera noise.
    """
    given = typed(context)
    if verify is not None:
        if idle := sorted(given - {"verify", "picture", "model", "denoise", "hr", "device", "json"}):
            flags = ", ".join(f"--{name}" for name in idle)
            raise typer.BadParameter(f"{flags}: with --verify the certificate says that")
        _verify(verify, picture, model, denoise, hr, device, json)
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
    from .certificate import certify as run
    from .certificate import for_picture
    from .scene import crop_of

    with usage():
        asked = crop_of(crop) if crop else None if picture else work.SAMPLE_CROP
    folder = out or Path("certified")
    stem = (picture or Path(work.SAMPLE)).stem
    target = folder / f"{stem}_certificate.json"
    there = [p.name for p in (*(folder / f for f in work.names(stem).values()), target) if p.exists()]
    if there and not overwrite:
        raise RobustSRError(f"{folder} has {', '.join(there)} already: give --overwrite, or another -o")

    x, place, notes = work.read_input(picture, asked)
    network = load(found(model), device, denoise=denoise and found(denoise))
    reference = work.read_truth(hr, place, network.scale, x) if hr else None
    for note in notes:
        console.say(f"note: {note}", "yellow")
    claim = for_picture(claim, network, x.shape[-2], x.shape[-1])
    _forecast(x, network, claim.n + claim.shipped)
    with interruptible("nothing was written"), _bar() as tick:
        made = run(x, network, claim, field=field, seed=seed, on_draws=tick)
    name = picture.name if picture else f"sample:{work.SAMPLE}"
    record = work.write(made, x, network, folder, stem, name=name, crop=place, hr=reference)
    _show(record, target, json)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar over draws on a terminal; a line each minute elsewhere."""
    with progress.work_bar() as update:
        yield lambda done, total: update(done, total, f"draw {done}/{total}")


def _forecast(x: Tensor, network: Loaded, draws: int) -> None:
    """Says how long it will take here, context of windows left out."""
    from .plan import pixels_per_second

    seconds = x.shape[-2] * x.shape[-1] * draws / pixels_per_second(network)
    console.say(
        f"{x.shape[-1]}x{x.shape[-2]} pixels, {draws} draws, about {console.duration(seconds)}: "
        f"{network.name} x{network.scale} on {network.device} (fp32)"
    )


def _show(record: dict[str, Any], target: Path, json: bool) -> None:
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
    if (margin := record["derived"]["margin"]) > 0.05:
        console.say(
            f"note: {2 * margin * 255:.0f} levels of the width make room for a mean of only {record['shipped']} draws: "
            f"more --ship, --scope value, or --beta 0 (a claim about the true mean alone) narrow it",
            "yellow",
        )
    if not record["noise"]["fresh"]:
        console.say("note: the seed was given: the claim needs that it was chosen before any result was seen", "yellow")
    console.say(f"certificate: {target}", "green")


def _over(record: dict[str, Any]) -> str:
    radius = record["field"]["radius"]
    return "whole input" if radius is None else f"inside every receptive field of {2 * radius + 1}x{2 * radius + 1}"


def _verify(
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
    from .record import verify
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
    if source is None and named != f"sample:{work.SAMPLE}":
        near = [folder / Path(named).name for folder in (path.parent, path.parent.parent, Path.cwd())]
        source = next((p for p in near if p.is_file()), None)
        if source is None:
            raise RobustSRError(f"{named} is not near the certificate: give the picture after it")
    x, _, _ = work.read_input(source, crop)
    denoise = denoise or first
    network = load(found(model or trained), device, denoise=denoise and found(denoise))
    stored = {key: _levels(path.parent / name) for key, name in names.items()}
    _forecast(x, network, sum(int(record[key]) for key in ("n", "shipped") if isinstance(record.get(key), int)))
    with interruptible("nothing was decided"), _bar() as tick:
        reference = work.read_truth(hr, crop, network.scale, x) if hr else None
        verdict = verify(record, x, network, stored, reference, tick)
    _verdict(verdict, record, path, json)


def _names(model: dict[str, Any]) -> tuple[str, str | None]:
    """What a record calls its model, and the denoiser before it if there is one."""
    if "denoiser" not in model:
        return str(model["name"]), None
    denoiser = str(model["denoiser"]["name"])
    return str(model["name"]).removesuffix(f" after {denoiser}"), denoiser


def _levels(path: Path) -> Tensor:
    """The 8-bit levels ``(3, h, w)`` of a picture that was written here."""
    import torch

    from . import images
    from .bounds import to_levels

    picture: Picture = images.read(path)
    return to_levels(torch.from_numpy(picture.rgb.transpose(2, 0, 1).copy()))


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
