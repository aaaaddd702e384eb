"""The command ``upscale``."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import console, progress
from .cli_common import (
    DENOISE,
    Option,
    bring_torch,
    foremost,
    found,
    interruptible,
    model_names,
    number_of,
    sigma_of,
    status,
    typed,
    usage,
)
from .types import MAX_PIXELS, RobustSRError

START = time.perf_counter()
FILES, SIZE, SMOOTHING, RUNNING = "Files", "Size", "Smoothing", "Running"


def upscale(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, folders, patterns like '*.jpg'; URLs, too (s3://...).", show_default=False),
    ] = None,
    more: Annotated[
        list[str] | None,
        Option("-i", "--input", help="The same, as other upscalers want it.", rich_help_panel=FILES),
    ] = None,
    out: Annotated[
        str | None,
        Option(
            "-o",
            "--out",
            "--output",
            help="Folder or file for the results. Default: NAME_upscaled/ beside a folder, NAME_x4.EXT beside a file.",
            rich_help_panel=FILES,
        ),
    ] = None,
    recursive: Annotated[
        bool,
        Option("-r", "--recursive", help="Also the folders below; the tree is kept.", rich_help_panel=FILES),
    ] = False,
    suffix: Annotated[
        str | None,
        Option("--suffix", help="Text added to each name, before the extension.", rich_help_panel=FILES),
    ] = None,
    format: Annotated[
        str | None,
        Option("-f", "--format", help="png, jpg, webp, tif or avif. Default: the input's.", rich_help_panel=FILES),
    ] = None,
    quality: Annotated[
        int | None,
        Option(
            "-q", "--quality", min=1, max=100, help="Quality of JPEG, WebP and AVIF results.", rich_help_panel=FILES
        ),
    ] = None,
    lossless: Annotated[bool, Option("--lossless", help="WebP without loss.", rich_help_panel=FILES)] = False,
    background: Annotated[
        str,
        Option(
            "--background",
            help="Colour under transparency where the format has none (JPEG).",
            rich_help_panel=FILES,
        ),
    ] = "white",
    strip_metadata: Annotated[
        bool,
        Option(
            "--strip-metadata",
            help="Leave out EXIF, XMP, IPTC and resolution (the colour profile stays).",
            rich_help_panel=FILES,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        Option(
            "--overwrite",
            help="Redo results that are there; default: keep those made from the same input with the same settings.",
            rich_help_panel=FILES,
        ),
    ] = False,
    max_pixels: Annotated[
        int,
        Option(
            "--max-pixels",
            min=1,
            help="Refuse pictures with more pixels, before or after enlarging (also if --scale then shrinks them).",
            rich_help_panel=FILES,
        ),
    ] = MAX_PIXELS,
    scale: Annotated[
        float | None,
        Option("-s", "--scale", help="Any factor. Default: the model's own.", rich_help_panel=SIZE),
    ] = None,
    width: Annotated[
        int | None,
        Option("--width", help="Width in pixels; with --height: fit into that box.", rich_help_panel=SIZE),
    ] = None,
    height: Annotated[int | None, Option("--height", help="Height in pixels.", rich_help_panel=SIZE)] = None,
    long_side: Annotated[int | None, Option("--long-side", help="Longer side in pixels.", rich_help_panel=SIZE)] = None,
    short_side: Annotated[
        int | None, Option("--short-side", help="Shorter side in pixels.", rich_help_panel=SIZE)
    ] = None,
    min_side: Annotated[
        int | None,
        Option(
            "--min-side",
            help="Shorter side in pixels, at least: pictures that have it keep their size.",
            rich_help_panel=SIZE,
        ),
    ] = None,
    smooth: Annotated[
        Literal["off", "median", "mean"],
        Option(
            "--smooth",
            help="Median or mean of the model's outputs for noisy copies of the input.",
            rich_help_panel=SMOOTHING,
        ),
    ] = "off",
    sigma: Annotated[
        str | None,
        Option(
            "--sigma",
            callback=lambda text: _checked(sigma_of, text),
            help="Standard deviation of that noise, 0 to 1; auto: by each picture's own. Default: the model's.",
            rich_help_panel=SMOOTHING,
        ),
    ] = None,
    samples: Annotated[
        str | None,
        Option(
            "--samples",
            callback=lambda text: _checked(_copies, text),
            help="Number of noisy copies; auto: as many as each picture needs, 4 to 64. Default: the model's.",
            rich_help_panel=SMOOTHING,
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        Option(
            "--tolerance",
            callback=lambda text: _checked(_tolerance, text),
            help="RMS error that --samples auto aims for, as estimated, 0 to 1. Default: 1/255, one level.",
            rich_help_panel=SMOOTHING,
        ),
    ] = None,
    draws: Annotated[
        Literal["antithetic", "independent"] | None,
        Option(
            "--draws",
            help="Pairs of opposite noise, or independent noise. Default: the model's.",
            rich_help_panel=SMOOTHING,
        ),
    ] = None,
    seed: Annotated[
        int | None, Option("--seed", help="Seed of the noise. Default: 0.", rich_help_panel=SMOOTHING)
    ] = None,
    denoise: Annotated[str | None, Option("--denoise", help=DENOISE, rich_help_panel=SMOOTHING)] = None,
    model: Annotated[
        str | None,
        Option(
            "-m",
            "--model",
            autocompletion=model_names,
            help="Name (`robustsr models list`) or path of a .pth, .safetensors, .ckpt or .onnx file. Default: certsr.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    device: Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING)] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Option("--precision", help="auto: the fastest that stays true to fp32.", rich_help_panel=RUNNING),
    ] = "auto",
    fp32: Annotated[bool, Option("--fp32", help="The same as --precision fp32.", rich_help_panel=RUNNING)] = False,
    tile: Annotated[
        int | None,
        Option("--tile", help="Largest tile, input pixels. Default: by model.", rich_help_panel=RUNNING),
    ] = None,
    tile_pad: Annotated[
        int | None,
        Option(
            "--tile-pad",
            "--tile_pad",
            min=0,
            help="Context around a tile, input pixels. Default: the model's.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Share the work among workers of a Ray cluster: auto, HOST:PORT, ray://... Alone: of this machine.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        Option(
            "--workers",
            min=1,
            help="Number of Ray workers. Default: one per GPU; without a GPU, one per four processors.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        Option("--dry-run", help="Say what would be done, and how long it would take.", rich_help_panel=RUNNING),
    ] = False,
    json: Annotated[
        bool,
        Option("--json", help="A JSON line per file and a summary, on standard output.", rich_help_panel=RUNNING),
    ] = False,
    verbose: Annotated[
        bool, Option("-v", "--verbose", help="Also say where the time went.", rich_help_panel=RUNNING)
    ] = False,
    config: Annotated[
        Path | None,
        Option(
            "--config",
            callback=_config,
            is_eager=True,
            help="TOML file of these options; the command line and ROBUSTSR_* variables override it.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
) -> None:
    """Upscale pictures and folders: `robustsr upscale photos/ --smooth median --sigma 0.03`.

    Every option can also be set by a variable (ROBUSTSR_SIGMA=0.03) or in a --config file.
    """
    inputs = [*(inputs or []), *(more or [])]
    if not inputs:
        raise typer.BadParameter("name pictures or folders: robustsr upscale photos/")
    given = typed(context)
    if smooth == "off" and (idle := [f"--{p}" for p in ("sigma", "samples", "tolerance", "draws") if p in given]):
        raise typer.BadParameter(f"{', '.join(idle)} only matters with --smooth median or --smooth mean")
    names = ("scale", "width", "height", "long_side", "short_side", "min_side")
    sizes = {k: context.params[k] for k in foremost(context, names)}  # others were configured further away
    deviation, copies, limit = None, None, None
    if smooth != "off":
        deviation, copies = sigma_of(sigma), _copies(samples)
        if tolerance is not None and (copies == "auto" or "tolerance" in given):
            limit = _tolerance(tolerance)
    formats = foremost(context, ("fp32", "precision"))
    if fp32 and len(formats) == 2 and precision not in ("auto", "fp32"):
        raise typer.BadParameter(f"--fp32 contradicts --precision {precision}")
    asked = "fp32" if fp32 and "fp32" in formats else precision
    if ray is None and "workers" in given:
        raise typer.BadParameter("--workers only matters with --ray")
    if ray and device.startswith("cuda:"):
        raise typer.BadParameter(f"--device {device} with --ray: say cuda, each worker gets a GPU of its own")
    if ray and any(word.startswith("memory:") for word in (*inputs, out or "")):
        raise typer.BadParameter("memory:// is inside one process: leave out --ray")
    if ray and find_spec("ray") is None:
        raise RobustSRError("--ray needs Ray, which is not installed: pip install 'robustsr[ray]'")

    from . import catalogue, jobs, naming
    from .formats import OUTPUT_FORMATS, QUALITY
    from .remote import check_folder
    from .resume import taken

    name = model or catalogue.default_model()
    entry = catalogue.entry_of(name)
    label = naming.label(name, sizes)
    todo, warnings = jobs.plan_jobs(inputs, out, recursive=recursive, suffix=suffix, format=format, label=label)
    for root in {job.root for job in todo if not (dry_run or taken(job.target))}:
        check_folder(root)
    if "quality" in given and not any(OUTPUT_FORMATS[job.target.suffix.lower()[1:]] in QUALITY for job in todo):
        warnings.append(f"--quality is for {', '.join(QUALITY)}, which no result is (-f chooses)")
    unused = foremost(context, ("sigma", "samples", "tolerance", "draws"))
    if unused and not foremost(context, ("smooth",)):
        warnings.append(
            f"without --smooth nothing is smoothed: {', '.join(sorted(unused))}, which is set, does nothing"
        )
    if (out or "").startswith("memory:"):
        warnings.append("memory:// ends with this process, and the results there with it")
    if entry and entry.use == "restore":
        warnings.append(f"{name} enlarges nothing: it sharpens, at their size, pictures that were enlarged before")
    for one in filter(None, (name, denoise)):
        found(one)

    bring_torch()
    with status() as tell:
        tell(f"loading {name}")
        from . import batch, images
        from .models import load, noise_inside, seeded
        from .plan import make_plan, pixels_per_second
        from .settings import Target, smoothing_for

        imported = time.perf_counter()
        with usage():
            target = Target(**sizes)
            images.check("x.png", 1, 1, quality=quality, lossless=False, background=background)
        output = batch.Output(format, quality, lossless, background, strip_metadata, max_pixels)
        here = {"device": "cpu", "precision": "fp32"} if ray else {"device": device, "precision": asked}
        network = seeded(load(name, **here, denoise=denoise), seed or 0)
    inside = noise_inside(network)
    if smooth == "off" and not inside and "seed" in given:
        raise typer.BadParameter("--seed only matters with --smooth median or --smooth mean")
    with usage():
        smoothing = None
        if smooth != "off":
            smoothing = smoothing_for(network, smooth, deviation, copies, draws, seed, limit)
        plan = make_plan(network, smoothing, tile, tile_pad)
    requested = {"precision": asked, "tile": tile, "tile_pad": tile_pad, **({"seed": seed or 0} if inside else {})}
    task = batch.Task(network, smoothing, target, output, plan, requested)
    loaded = time.perf_counter()

    rows = batch.estimate(todo, task, overwrite=overwrite)
    speed = pixels_per_second(network) if not ray and any(row.size for row in rows) else None
    for warning in warnings:
        console.say(f"note: {warning}", "yellow")
    for line in console.forecast(rows, network, smoothing, speed, "Ray" if ray else ""):
        console.say(line)
    if dry_run:
        console.dry_run(rows, speed, as_json=json)
        raise typer.Exit(int(any(row.error for row in rows)))

    tally = progress.Tally(len(rows), as_json=json)
    with progress.bar({row.job: row.cost for row in rows}) as bar:

        def tick(job: jobs.Job, done: int, total: int) -> None:
            bar.window(job, job.source.name, done, total)

        if ray:
            from . import spread

            recipe = spread.Recipe.of(task, name, denoise, device)
            results = spread.run(
                todo,
                task,
                recipe,
                address=ray,
                workers=workers,
                overwrite=overwrite,
                say=bar.line,
            )
        else:
            results = batch.run(todo, task, overwrite=overwrite, on_window=tick)
        try:
            with interruptible("the same command goes on from here"):
                for result in results:
                    bar.picture(result.job)
                    tally.add(result, bar)
        finally:
            bar.close()
            tally.summary()
    if verbose:
        console.say(
            f"imports {imported - START:.2f} s, model {loaded - imported:.2f} s, "
            f"estimate {tally.start - loaded:.2f} s, network {tally.seconds:.2f} s, "
            f"reading and writing besides {tally.elapsed - tally.seconds:.2f} s"
        )
    if tally.failed:
        raise typer.Exit(1)


def _config(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the values of a TOML file the defaults: the command line and ROBUSTSR_* come before them."""
    if path is not None:
        try:
            values = {k.replace("-", "_"): v for k, v in tomllib.loads(path.read_text(encoding="utf-8-sig")).items()}
        except OSError as error:
            raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:  # of TOML, of UTF-8
            raise typer.BadParameter(f"{path}: {error}") from None
        known = {p.name for p in context.command.params} - {"inputs", "more", "config"}
        if unknown := sorted(set(values) - known):
            raise typer.BadParameter(f"{path}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        context.default_map = {**(context.default_map or {}), **values}
    return path


def _checked(parse: Callable[[str | None], object], text: str | None) -> str | None:
    """The text as it is, which is an error where it cannot be parsed: of an option that does not matter, too."""
    try:
        parse(text)
    except typer.BadParameter as error:
        raise typer.BadParameter(re.sub("^--[a-z-]+ ", "", error.message)) from None  # click says of what
    return text


def _tolerance(text: str | None) -> float | None:
    """What --tolerance says."""
    return None if text is None else number_of(text, "--tolerance")


def _copies(text: str | None) -> int | Literal["auto"] | None:
    """What --samples says."""
    if text is None or text == "auto":
        return text  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"--samples must be a whole number or auto, got {text!r}") from None
