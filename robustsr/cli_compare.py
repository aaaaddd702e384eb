"""The command ``compare``: models and defences side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import catalogue, console
from .cli_common import (
    Option,
    bring_torch,
    command_line,
    found,
    interruptible,
    load,
    model_names,
    show,
    sigma_of,
    status,
    usage,
)
from .cli_scene import (
    FILES,
    MODELS,
    RUNNING,
    CropOption,
    DenoiseOption,
    DeviceOption,
    HrOption,
    OverwriteOption,
    PictureArgument,
    SamplesOption,
    SmoothOption,
    WholeOption,
    read_scene,
    stem_of,
)
from .remote import check_folder
from .types import RobustSRError

COMPARED = 256  # input pixels a side that are compared where no crop is given


def compare(
    context: typer.Context,
    picture: PictureArgument = None,
    model: Annotated[
        list[str] | None,
        Option(
            "-m",
            "--model",
            autocompletion=model_names,
            help="Name or path, as often as needed. Default: those that ship.",
        ),
    ] = None,
    denoise: DenoiseOption = None,
    smooth: SmoothOption = None,
    sigma: Annotated[
        list[str] | None,
        Option(
            "--sigma",
            help="Standard deviation of the noise, as often as needed. Default: the model's.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    samples: SamplesOption = None,
    hr: HrOption = None,
    crop: CropOption = None,
    whole: WholeOption = False,
    out: Annotated[
        Path | None,
        Option("-o", "--out", help="A .png; the .html beside it. Default: compared/NAME.png.", rich_help_panel=FILES),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Option("--precision", help="auto: the fastest that stays true to fp32.", rich_help_panel=RUNNING),
    ] = "auto",
) -> None:
    """Show models and defences side by side on one crop: `robustsr compare photo.jpg -m psnr --smooth median`.

    Writes a labelled grid and an HTML page whose panels zoom together, and prints times, and figures where there is
    a ground truth.
    """
    if smooth is None and (sigma or samples):
        raise typer.BadParameter("--sigma and --samples only matter with --smooth median or --smooth mean")
    names = list(dict.fromkeys(model or catalogue.shipped()))
    for name in (*names, *([denoise] if denoise else [])):
        found(name)
    sheet = out or Path("compared") / f"{stem_of(picture, hr)}.png"
    if sheet.is_dir() or not sheet.suffix:
        sheet = sheet / f"{stem_of(picture, hr)}.png"
    if sheet.suffix.lower() != ".png":
        raise typer.BadParameter(f"the grid is a .png, got {sheet}: JPEG would change what is compared")
    page = sheet.with_suffix(".html")
    if (there := [str(p) for p in (sheet, page) if p.exists()]) and not overwrite:
        raise RobustSRError(f"{' and '.join(there)} would be replaced: add --overwrite, or choose another -o")
    check_folder(sheet.parent)
    bring_torch()
    from . import compare as work
    from . import scene as scenes
    from .files import atomic
    from .report import Gallery, Report
    from .ruler import Ruler
    from .settings import smoothing_for
    from .sheet import contact_sheet
    from .webpage import to_html

    with usage():
        place = None if crop is None else scenes.crop_of(crop)
        deviations = [sigma_of(text) for text in sigma] if sigma else [None]
    before = [None, denoise] if denoise else [None]
    plain = [name for name in names if name not in catalogue.BICUBIC]
    networks = [load(name, device, precision, first) for name in plain for first in before]
    scale = max((network.scale for network in networks), default=4)
    scene = read_scene(picture, hr, scale, place, None if whole else COMPARED)
    shown = scenes.bicubic(scale, device)
    for network in networks:
        shown.append(scenes.Shown(network.name, network))
        with usage():
            how = [smoothing_for(network, smooth, s, samples) for s in deviations] if smooth is not None else []
        shown += [scenes.smoothed(network, smoothing.settled(scene.x, network)[0]) for smoothing in how]
    shown = scenes.distinct(shown)
    console.say(f"{len(shown)} models on {scene.name}, {scene.place}")
    ruler = Ruler.best()
    with interruptible("nothing was written"), status() as say:
        made = work.compare(scene, shown, ruler, say)
    table, rows = work.table(scene, made, ruler), work.rows(scene, made)
    title = f"{scene.name}, {scene.place}, x{scale}"
    gallery = Gallery("Outputs", rows, scene.place)
    weights = {network.name: f"{network.digest[:12]}, {network.precision}" for network in networks}
    protocol = {"input": scene.name, "bits": scene.bits, "device": shown[0].network.device, **weights}
    report = Report(f"Comparison: {title}", "", [gallery, table], protocol, command_line(context))
    html = to_html(report)
    with atomic(sheet, make_folder=True) as part:
        contact_sheet(rows, title=title, notes=table.notes).save(part, "png")
    with atomic(page) as part:
        part.write_bytes(html.encode("utf-8", "replace"))
    show(table)
    console.say(f"-> {sheet}, {page}", "green")
