import errno
from pathlib import Path
from typing import Annotated

import pytest
import typer
from robustsr_ui.shelf import usable
from typer.testing import CliRunner

from robustsr.catalogue import catalogue, listed, shipped
from robustsr.cli import app
from robustsr.cli_common import command_line, interruptible, quota


def test_the_command_line_is_told_as_it_was_typed():
    app = typer.Typer()

    @app.command()
    def look(
        context: typer.Context,
        pictures: list[Path],
        sigma: Annotated[list[str] | None, typer.Option("-s", "--sigma")] = None,
        whole: Annotated[bool, typer.Option("--whole")] = False,
        seed: int = 0,
        save: Annotated[bool, typer.Option()] = True,
    ):
        typer.echo(command_line(context))

    words = ["a b.png", "c.png", "-s", ".02", "--sigma", "15/255", "--whole", "--no-save"]
    said = CliRunner().invoke(app, words).stdout.strip()
    assert said == "robustsr look 'a b.png' c.png --sigma .02 --sigma 15/255 --whole --no-save"


@pytest.mark.parametrize("late", [None, BrokenPipeError(errno.EPIPE, "its processes are gone"), RuntimeError("late")])
def test_an_interrupt_stays_one_though_cleaning_up_fails(late):
    app = typer.Typer()

    @app.command()
    def work():
        with interruptible("go on"):
            try:
                raise KeyboardInterrupt
            finally:
                if late:
                    raise late

    said = CliRunner().invoke(app)
    assert said.exit_code == 130 and "interrupted: go on" in said.stderr
    with pytest.raises(BrokenPipeError), interruptible("go on"):
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "6400000 100000\n"}, None),  # more than there are
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_share_of_the_processors_is_known(tmp_path, monkeypatch, files, limit):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(64), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota(tmp_path) == limit


def test_what_ships_is_named(home):
    ours = {name: entry for name, entry in catalogue().items() if not entry.url}
    assert shipped() == [name for name, entry in ours.items() if entry.scale == 4]
    assert {entry.use for name, entry in ours.items() if name not in shipped()} == {"denoise", "restore"}
    offered = {use: [name for _, name in usable(use) if name in ours] for use in ("upscale", "denoise")}
    assert offered == {"upscale": shipped(), "denoise": ["denoiser", "denoiser-stability"]}
    assert {entry.use for entry in catalogue().values()} == {"upscale", "denoise", "restore"}
    assert {listed()[name] for name in ours} == {"bundled"} and listed()["bsrgan"] == "can be pulled"


@pytest.mark.parametrize(
    "words",
    [
        ["corrupt", "s3://bucket/in"],
        ["corrupt", "-k", "fog", "-o", "s3://bucket/out"],
        ["export", "psnr", "--out=s3://bucket/psnr.onnx"],
        ["compare", "-os3://bucket/x.png"],
        ["attack", "http://host/a.png"],
        ["evaluate", "memory://folder"],
        ["certify", "file:///a.png"],
        ["train", "psnr", "-o", "gs://bucket/run"],
        ["corrupt", "-k", "fog", "-o", "S3://bucket/out"],
        ["corrupt", "-k", "fog", "-o", "my-store://bucket/out"],
    ],
)
def test_urls_are_not_taken_for_folders(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner(env={"COLUMNS": "300"}).invoke(app, words)
    assert said.exit_code == 2 and "only pictures and -o of `robustsr upscale` may be at URLs" in said.stderr
    assert list(tmp_path.iterdir()) == []
    assert "cannot read" in str(CliRunner().invoke(app, ["compare", "C://no/such.png"]).exception)  # a drive is none
    asked = CliRunner().invoke(app, ["ui", "--auth", "me://secret", "--device", "cuda:9"])  # a password is none
    assert "no device 'cuda:9'" in str(asked.exception)
