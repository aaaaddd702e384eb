"""The README: its commands, their options and what these name exist. What they print is measured by hand."""

import contextlib
import importlib
import re
import shlex
import shutil
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
from robustsr_training.recipe import Recipe
from robustsr_training.tables import written

from robustsr import backbones, catalogue, corruptions, protocols, study, threats
from robustsr.cli import app

ROOT = Path(__file__).resolve().parents[1]
NAMED = {
    "perturb": study.parse,
    "kind": corruptions.parse,
    "method": threats.parse,
    "protocol": protocols.protocol,
    "names": lambda name: (catalogue.catalogue() | backbones.BACKBONES)[name],
}


def calls(program, prefix=r"(?:[A-Z_]+=\S+ |.*&& |torchrun .*-m )?"):
    """The arguments of every call of ``program`` in the README's blocks of commands and, in backquotes, in its text."""
    text = (ROOT / "README.md").read_text("utf-8").replace("\\\n", "")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
    lines += (i.replace("\n", " ") for i in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    found = [re.match(rf"{prefix}{program}( .*)", re.split(" [#>] ?", line)[0]) for line in lines]
    return sorted({" ".join(match[1].split()) for match in found if match})


@pytest.mark.parametrize("line", calls("robustsr"))
def test_its_commands_have_options_that_there_are(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("settings.toml").write_text('smooth = "median"')
    Path("mine.toml").write_text(written(Recipe.load("certsr-photo", ["data.hr=x"])), "utf-8")
    command, args, context = typer.main.get_command(app), shlex.split(line), None
    while getattr(command, "commands", None):
        context = command.make_context(command.name, args[:1], parent=context, resilient_parsing=True)
        _, command, args = command.resolve_command(context, args)
    with contextlib.suppress(typer.Exit):  # of --list
        given = command.make_context(command.name, args, parent=context).params
        if given.get("recipe"):
            Recipe.load(given["recipe"], ["data.hr=x"] * given["show"] + (given["set_"] or []))
        for name, parse in NAMED.items():
            value = given.get(name) or []
            for one in [value] if isinstance(value, str) else value:
                parse(one)


@pytest.mark.parametrize("line", calls("--set", prefix=""))
def test_what_it_sets_in_recipes_can_be_set(line):
    Recipe.load("certsr", ["data.hr=pictures", *shlex.split(line.replace("--set ", ""))])


@pytest.mark.parametrize("line", calls(r"python -m", prefix=""))
def test_its_modules_take_the_arguments_it_gives(line, monkeypatch, capsys):
    module, *args = shlex.split(line)
    monkeypatch.syspath_prepend(str(ROOT))
    assert find_spec(module)
    if not any(arg.startswith("-") for arg in args):
        return  # some take none, and would begin
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module).main()
    assert end.value.code == 0
    known = capsys.readouterr().out
    assert [arg for arg in args if arg.startswith("-") and not re.search(rf"(?<!\S){arg}\b", known)] == []


def test_the_python_of_the_readme_runs(home, tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text("utf-8").partition("### From Python\n")[2].partition("\n### ")[0]
    first, second = re.findall("```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "photos").mkdir()
    shutil.copy(files("robustsr_assets") / "samples" / "landscape.png", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(first + second, names)
    assert max(names["large"].size) == 600
    assert 0 < float(names["moved"]) < 1 and bool((names["bounds"].lower <= names["bounds"].upper).all())
    assert tuple(names["bounds"].lower.shape) == (3, 128, 128)
