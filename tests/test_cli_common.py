from pathlib import Path
from typing import Annotated

import typer
from robustsr_ui.shelf import usable
from typer.testing import CliRunner

from robustsr.catalogue import catalogue, listed, shipped
from robustsr.cli_common import command_line


def test_the_command_line_is_told_as_it_was_typed():
    app = typer.Typer()

    @app.command()
    def look(
        context: typer.Context,
        pictures: list[Path],
        sigma: Annotated[list[str] | None, typer.Option("-s", "--sigma")] = None,
        whole: Annotated[bool, typer.Option("--whole")] = False,
        seed: int = 0,
    ):
        typer.echo(command_line(context))

    words = ["a b.png", "c.png", "-s", ".02", "--sigma", "15/255", "--whole"]
    said = CliRunner().invoke(app, words).stdout.strip()
    assert said == "robustsr look 'a b.png' c.png --sigma .02 --sigma 15/255 --whole"


def test_what_ships_is_named(home):
    ours = {name: entry for name, entry in catalogue().items() if not entry.url}
    assert shipped() == [name for name, entry in ours.items() if entry.scale == 4]
    assert {entry.use for name, entry in ours.items() if name not in shipped()} == {"denoise", "restore"}
    offered = {use: [name for _, name in usable(use) if name in ours] for use in ("upscale", "denoise")}
    assert offered == {"upscale": shipped(), "denoise": ["denoiser"]}
    assert {entry.use for entry in catalogue().values()} == {"upscale", "denoise", "restore"}
    assert {listed()[name] for name in ours} == {"bundled"} and listed()["bsrgan"] == "can be pulled"
