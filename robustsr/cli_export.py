"""The command `robustsr export`: a model, smoothed or not, as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import console
from .cli_common import DENOISE, Option, deviation, found, load, model_names, usage
from .types import RobustSRError


def export(
    model: Annotated[str, typer.Argument(help="Name or path.", autocompletion=model_names)],
    out: Annotated[Path, Option("-o", "--out", "--output", help="The .onnx file.")],
    denoise: Annotated[str | None, Option("--denoise", help=DENOISE)] = None,
    smooth: Annotated[
        Literal["median", "mean"] | None,
        Option("--smooth", help="Export the smoothed model: noise, draws and reduction inside the file."),
    ] = None,
    sigma: Annotated[
        float | None,
        Option(
            "--sigma", help="Of the noise, like .03 or 8/255. Default: the model's.", parser=deviation, metavar="FLOAT"
        ),
    ] = None,
    samples: Annotated[int | None, Option("--samples", help="Number of draws. Default: the model's.")] = None,
    draws: Annotated[
        Literal["antithetic", "independent"] | None,
        Option("--draws", help="Pairs of opposite noise, or independent noise. Default: the model's."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16"], Option("--precision", help="Inside the network; input and output are float32.")
    ] = "fp32",
    opset: Annotated[int, Option("--opset", min=13, max=20, help="With --smooth 18 to 20.")] = 20,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a model as ONNX: `robustsr export certsr -o certsr.onnx --smooth median`.

    Batch, height and width are free. The file is compared with torch on three sizes before it is written. Smoothed,
    it takes `seed` and `origin` besides `input`: tiles of a picture, each with its place, have the noise of the whole.
    """
    if smooth is None and (sigma is not None or samples is not None or draws is not None):
        raise typer.BadParameter("--sigma, --samples and --draws only matter with --smooth median or --smooth mean")
    if out.suffix.lower() != ".onnx":
        raise typer.BadParameter(f"-o must name an .onnx file, got {out}")
    if out.exists() and not overwrite:
        raise RobustSRError(f"{out} is there already: add --overwrite, or choose another -o")
    network = load(found(model), "cpu", denoise=denoise and found(denoise))
    from . import export as work
    from .files import atomic
    from .settings import smoothing_for

    with usage():
        smoothing = smoothing_for(network, smooth, sigma, samples, draws) if smooth else None
    made = work.export(network, smoothing, precision=precision, opset=opset)
    with atomic(out, make_folder=True) as part:
        part.write_bytes(made.content)
    how = f"{smoothing.reduce} of {smoothing.samples}, sigma {smoothing.sigma:g}, " if smoothing else ""
    sides = f", for sides of {made.facts.least} pixels or more" if made.facts.least > 1 else ""
    console.say(f"{network.name} x{network.scale}, {how}{precision}, opset {opset}{sides}")
    table = console.table("pictures", ">size", ">largest difference from torch", ">of 1/255")
    for check in made.checks:
        n, h, w = check.size
        table.add_row(str(n), f"{w}x{h}", f"{check.difference:.2g}", f"{check.difference * 255:.2g}")
    console.out.print(table)
    console.say(f"-> {out} ({len(made.content) / 2**20:.1f} MB)", "green")
