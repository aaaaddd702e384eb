"""What the commands ``attack`` and ``compare`` share: their options, and everything that is read before they work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import catalogue, console
from .cli_common import DENOISE, Option
from .types import RobustSRError

if TYPE_CHECKING:
    from .images import Picture
    from .scene import Box, Scene

MODELS, FILES, RUNNING = "Models", "Files", "Running"
SAMPLE_CROP = "24,24,64,64"

PictureArgument = Annotated[
    Path | None, typer.Argument(help="A picture. Default: a part of a bundled photograph.", show_default=False)
]
HrOption = Annotated[
    Path | None,
    Option("--hr", help="Ground truth; without a picture the input is made from it.", rich_help_panel=FILES),
]
CropOption = Annotated[
    str | None,
    Option("--crop", help="x,y,width,height in input pixels; one number: the centre.", rich_help_panel=FILES),
]
WholeOption = Annotated[
    bool, Option("--whole", help="Use all of a large picture, not only its centre.", rich_help_panel=FILES)
]
OverwriteOption = Annotated[bool, Option("--overwrite", help="Replace what is there.", rich_help_panel=FILES)]
DenoiseOption = Annotated[str | None, Option("--denoise", help=DENOISE, rich_help_panel=MODELS)]
SmoothOption = Annotated[
    Literal["median", "mean"] | None,
    Option("--smooth", help="Median or mean of the outputs for noisy copies.", rich_help_panel=MODELS),
]
SamplesOption = Annotated[
    int | None, Option("--samples", min=1, help="Number of noisy copies. Default: the model's.", rich_help_panel=MODELS)
]
DeviceOption = Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING)]


def stem_of(picture: Path | None, hr: Path | None) -> str:
    chosen = picture or hr or Path(catalogue.SAMPLE)
    return chosen.resolve().name if chosen.is_dir() else chosen.stem


def read_scene(
    picture: Path | None,
    hr: Path | None,
    scale: int,
    crop: Box | int | None,
    limit: int | None,
    mask: str | None = None,
    target: Path | None = None,
) -> Scene:
    """Everything that is read before the work begins, with its notes printed."""
    from . import images, scene

    if picture is not None and picture.is_dir():
        raise RobustSRError(f"{picture} is a folder: give one picture (or, to attack, --universal)")
    source, name = picture, (picture or hr or Path(catalogue.SAMPLE)).name
    if picture is None and hr is None:
        source = catalogue.package_samples() / catalogue.SAMPLE
        crop = crop or scene.box(SAMPLE_CROP)
    allowed: Box | Picture | None = None
    if mask is not None:
        allowed = images.read(Path(mask)) if Path(mask).is_file() or "," not in mask else scene.box(mask)
    made = scene.scene(
        None if source is None else images.read(source),
        None if hr is None else images.read(hr),
        scale,
        name=name,
        crop=crop,
        limit=limit,
        mask=allowed,
        target=None if target is None else images.read(target),
    )
    if made.mask is not None and not bool(made.mask.any()):
        raise RobustSRError(f"--mask {mask} leaves nothing to change in the part of the picture that is attacked")
    for note in made.notes:
        console.say(f"note: {note}", "yellow")
    return made
