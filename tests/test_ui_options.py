import shlex

import pytest
import typer
from robustsr_ui.desk import Desk
from robustsr_ui.options import Options, argument

from robustsr import cli
from robustsr.cli_common import sigma_of
from robustsr.naming import label
from robustsr.settings import Target
from robustsr.types import RobustSRError

COMMAND = typer.main.get_command(cli.app).commands["upscale"]
NOT_OF_A_PICTURE = {  # options about folders, terminals and other machines, and the server's own limit
    *("inputs", "more", "out", "recursive", "overwrite", "max_pixels", "fp32", "ray", "workers"),
    *("dry_run", "json", "verbose", "config", "help"),
}
SIZES = {"scale", "width", "height", "long_side", "short_side", "min_side"}


def parsed(command):
    """What the command line makes of a command."""
    words = shlex.split(command)
    assert words[:2] == ["robustsr", "upscale"]
    return COMMAND.make_context("upscale", words[2:], resilient_parsing=True).params


def test_every_option_of_the_command_is_in_the_form():
    of_the_command = {p.name for p in COMMAND.params} - NOT_OF_A_PICTURE
    of_the_form = set(vars(Options("psnr"))) - {"size", "first", "second"} | SIZES
    assert of_the_command == of_the_form


def test_the_command_says_the_same():
    asked = Options(
        "psnr",
        smooth="mean",
        sigma="0.05",
        samples="6",
        size="long side",
        first="900",
        format="jpg",
        quality="88",
        background="#102030",
        strip_metadata=True,
        suffix="_big",
        draws="independent",
        seed="7",
        precision="fp32",
        tile="200",
        tile_pad="30",
        denoise="cleaner",
        device="cpu",
    )
    found = parsed(asked.command("my photo.jpg"))
    assert found["inputs"] == ["my photo.jpg"]
    assert parsed(Options("psnr").command(argument("-dash.png")))["inputs"] == ["./-dash.png"]
    want = {"model": "psnr", "smooth": "mean", "sigma": "0.05", "samples": "6", "long_side": 900, "format": "jpg"}
    want |= {"quality": 88, "background": "#102030", "strip_metadata": True, "suffix": "_big", "draws": "independent"}
    want |= {"seed": 7, "precision": "fp32", "tile": 200, "tile_pad": 30, "denoise": "cleaner", "device": "cpu"}
    assert {key: found[key] for key in want} == want
    assert parsed(Options("unet-x2", smooth="off", tile_pad="0").command("p.png"))["tile_pad"] == 0  # none is not auto


def test_results_are_named_as_the_command_names_them(tmp_path):
    for options, name in (
        (Options("certsr"), "_x4"),
        (Options("certsr", size="factor", first="2.5"), "_x2.5"),
        (Options("certsr", size="width", first="900"), "_upscaled"),
        (Options("mine.pth"), "_upscaled"),
        (Options("certsr", suffix="_big"), "_big"),
    ):
        found = parsed(options.command("a.png"))
        sizes = {name: found[name] for name in SIZES}
        assert options.named == (found["suffix"] or "_" + label(found["model"], sizes)) == name


def test_sigma_as_a_fraction_is_understood_by_both():
    command = Options("psnr", sigma="8/255").command("a.png")
    assert sigma_of(parsed(command)["sigma"]) == pytest.approx(8 / 255)


def test_the_servers_device_and_exact_factors_are_said():
    command = Options("psnr", size="factor", first="3.3333333").command("a.png", device="cpu")
    assert parsed(command)["device"] == "cpu" and parsed(command)["scale"] == 3.3333333


def test_a_plain_form_is_a_plain_command():
    assert Options("psnr", smooth="off").command("a.png") == "robustsr upscale a.png --model psnr"
    assert Options("psnr", smooth="off", sigma="0.1").command("a.png") == "robustsr upscale a.png --model psnr"


@pytest.mark.parametrize(
    ("size", "first", "second", "target"),
    [
        ("the model's", "3", "", Target()),
        ("factor", "2.5", "", Target(scale=2.5)),
        ("fit into width x height", "300", "200", Target(width=300, height=200)),
        ("short side", "64", "9", Target(short_side=64)),
        ("short side, at least", "64", "", Target(min_side=64)),
    ],
)
def test_sizes(size, first, second, target):
    assert Options("psnr", size=size, first=first, second=second).target == target


def test_what_is_wrong_is_said(tmp_path, home, tiny):
    desk = Desk(tmp_path, device="cpu")
    for options, text in (
        (Options(str(tiny), size="width"), "give its width"),
        (Options(str(tiny), samples="many"), "samples must be a number, got 'many'"),
        (Options(str(tiny), samples="2.5"), "samples must be a whole number"),
        (Options(str(tiny), sigma="strong"), "sigma must be a number"),
        (Options(str(tiny), samples="inf"), "samples must be a number, got 'inf'"),
        (Options(str(tiny), tile="nan"), "tile must be a number"),
        (Options("no-such"), "no model 'no-such'"),
        (Options(str(tiny), tile="3"), "too small"),
    ):
        with pytest.raises(RobustSRError, match=text):
            options.task(desk)


def test_the_task_carries_what_was_asked(tmp_path, home, tiny):
    desk = Desk(tmp_path, device="cpu", max_pixels=5000)
    task = Options(str(tiny), sigma="8/255", samples="6", quality="80", precision="fp32", tile="64").task(desk)
    assert task.smoothing.reduce == "median" and task.smoothing.samples == 6
    assert task.smoothing.sigma == pytest.approx(8 / 255)
    assert task.output.quality == 80 and task.output.max_pixels == 5000 and task.plan.tile == 64
    assert Options(str(tiny), smooth="off").task(desk).smoothing is None
