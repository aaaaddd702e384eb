"""Recipes: the shipped ones, what overrides and bases do, and mistakes by name."""

import pytest
import tiny_run
from robustsr_training.loop import train
from robustsr_training.recipe import RECIPES, Optimiser, Recipe
from robustsr_training.step import learning_rate

from robustsr.types import RobustSRError


def test_every_shipped_recipe_loads_and_has_a_name_of_its_own():
    names = [Recipe.load(path.stem, ["data.hr=pictures"]).name for path in RECIPES.glob("*.toml")]
    assert "psnr" in names and len(set(names)) == len(names)


def test_a_recipe_is_what_differs_from_its_base(tmp_path):
    (tmp_path / "a.toml").write_text('name = "a"\n[data]\nhr = "x"\npatch = 7\n[loss]\nl1 = 2')
    (tmp_path / "b.toml").write_text(f'base = "{tmp_path / "a.toml"}"\nname = "b"\n[data]\npatch = 9')
    made = Recipe.load(str(tmp_path / "b.toml"), ["loss.mse=3"])
    assert (made.name, made.data.hr, made.data.patch, made.loss.l1, made.loss.mse) == ("b", "x", 9, 2.0, 3.0)
    (tmp_path / "a.toml").write_text(f'base = "{tmp_path / "b.toml"}"')
    with pytest.raises(RobustSRError, match=r"base of .*a.toml leads back to .*b.toml"):
        Recipe.load(str(tmp_path / "b.toml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.stepz=3", r"unknown key optimiser.stepz; did you mean optimiser.steps\?"),
        ("colour=3", "unknown key colour; known: name, seed"),
        ("optimiser.steps=many", "optimiser.steps must be int, got 'many'"),
        ("optimiser.steps=0", "optimiser.steps must be at least 1"),
        ("optimiser=3", "optimiser is a section"),
        ("optimiser.schedule=linear", "optimiser.schedule must be cosine or constant"),
        ("precision=int8", "precision must be fp32 or bf16"),
        ("denoiser.objective=psnr", "denoiser.objective must be mse or stability or task"),
        ("inputs.sigmas=[0.1, 0.2]", r"must be as many, got \[0.1, 0.2\] and \[1\]"),
        ("loss.l1=0", "all weights under loss are 0"),
        ("checkpoint_mib=-1", "checkpoint_mib must be at least 1, or 0 for one file"),
        ('inputs.attack="pdg:eps=1/255"', "no attack 'pdg'"),
        ('inputs.attack="random:eps=1/255"', "inputs.attack 'random:eps=1/255' is noise"),
        ('validation.sets=["/no/such/set"]', "no folder /no/such/set"),
        ('validation.perturbations=["fogg"]', "no corruption 'fogg'"),
        ('denoiser={objective="task", model="nope"}', "no model 'nope'"),
        ("steps", "--set wants key=value"),
        ('data.hr=""', "data.hr is empty: --set data.hr=FOLDER"),
        ("data.hr=/no/such/folder", "no folder '/no/such/folder'"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, photo, home, override, message):
    folder = tiny_run.pictures(tmp_path, photo)
    with pytest.raises(RobustSRError, match=message):
        next(train(tiny_run.recipe(folder, override), folder / "run"))
    assert not (folder / "run").exists()


def test_a_missing_recipe_and_broken_toml_are_named(tmp_path):
    with pytest.raises(RobustSRError, match="no recipe 'nope': give a .toml file or one of: .*psnr"):
        Recipe.load("nope")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RobustSRError, match="bad.toml is not valid TOML"):
        Recipe.load(str(tmp_path / "bad.toml"))
    (tmp_path / "empty.toml").write_text("seed = 1")
    with pytest.raises(RobustSRError, match="missing 1 required positional argument: 'name'"):
        Recipe.load(str(tmp_path / "empty.toml"))


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = Optimiser(steps=100, warmup=10)
    rates = [learning_rate(config, 1.0, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0 and rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = Optimiser(steps=100, warmup=10, schedule="constant")
    assert [learning_rate(constant, 3.0, s) for s in (9, 10, 99)] == [3.0] * 3
