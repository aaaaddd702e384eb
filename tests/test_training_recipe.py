"""Recipes: the shipped ones, what overrides and bases do, and mistakes by name."""

from dataclasses import is_dataclass

import pytest
import tiny_run
from robustsr_training.loop import train
from robustsr_training.recipe import RANGES, Data, Optimiser, Recipe
from robustsr_training.step import learning_rate
from robustsr_training.tables import RECIPES, override, shipped, written

from robustsr.types import RobustSRError


def test_every_shipped_recipe_loads_and_has_a_name_of_its_own():
    names = [Recipe.load(path.stem, ["data.hr=pictures"]).name for path in RECIPES.glob("*.toml")]
    assert "psnr" in names and len(set(names)) == len(names)


def test_recipes_that_attack_name_the_norm_and_those_as_published_export_what_was_trained():
    for name, about in shipped().items():
        recipe = Recipe.load(name, ["data.hr=x"])
        if "adv" in name:
            assert recipe.inputs.attack and ("L2" in about if "cw" in name or "l2" in name else "Linf" in about)
        if name.startswith(("paper", "thesis")):
            assert recipe.optimiser.ema == 0


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
        ("colour=3", "unknown key colour; known: base, name, seed"),
        ("optimiser.steps=many", "optimiser.steps must be int, got 'many'"),
        ("optimiser.steps=0", "optimiser.steps must be at least 1"),
        ("optimiser=3", "optimiser is a section"),
        ("optimiser.method=sgd", "optimiser.method must be adam or muon, got 'sgd'"),
        ("optimiser.schedule=linear", "optimiser.schedule must be cosine or constant"),
        ("precision=int8", "precision must be auto or fp32 or bf16"),
        ("denoiser.objective=psnr", "denoiser.objective must be mse or restore or stability or task"),
        ("inputs.sigmas=[0.1, 0.2]", r"must be as many, at least one, got \[0.1, 0.2\] and \[1\]"),
        ("inputs.sigmas=[]", "must be as many, at least one"),
        ("inputs.sigmas=0.1", r"inputs.sigmas must be a list, got 0.1: write inputs.sigmas=\[0.1\]"),
        ("validation.sets=Set5", r"must be a list, got 'Set5': write validation.sets=\[\"Set5\"\]"),
        ("inputs.sigmas=[true]", "inputs.sigmas, each, must be float, got True"),
        ("inputs.sigmas=[1.5]", r"inputs.sigmas must be in \[0, 1\], got \[1.5\]"),
        ("inputs.draws=[0]", r"inputs.draws must be at least 1, got \[0\]"),
        ("inputs.draws=[1.5]", "inputs.draws, each, must be int, got 1.5"),
        ("validation.perturbations=[1]", "validation.perturbations, each, must be str, got 1"),
        ("optimiser.betas=[0.9]", r"optimiser.betas must be a list of 2, got \[0.9\]"),
        ("optimiser.betas=[0.9, 1.0]", r"optimiser.betas must be in \[0, 1\), got \[0.9, 1.0\]"),
        ("optimiser.betas=0.9", r"write optimiser.betas=\[0.9, 0.9\]"),
        ("optimiser.lr=0", "optimiser.lr must be more than 0, got 0.0"),
        ("optimiser.lr=inf", "optimiser.lr must be more than 0"),
        ("optimiser.lr=nan", "optimiser.lr must be more than 0"),
        ("discriminator.lr=-1", "discriminator.lr must be more than 0"),
        ("generator.scale=9", "generator.scale must be in 1 to 8, got 9"),
        ("generator.features=0", "generator.features must be at least 1"),
        ("data.workers=-1", "data.workers must be at least 0"),
        ("seed=-1", "seed must be in"),
        ("seed=9223372036854775808", "seed must be in"),
        ("data.sizes=[2.0]", r"data.sizes must be in \(0, 1\], got \[2.0\]"),
        ("data.light=2", r"data.light must be in \[0, 1\], got 2.0"),
        ("inputs.attack_share=1.1", r"inputs.attack_share must be in \[0, 1\]"),
        ("loss.gan=-1", "loss.gan must be at least 0"),
        ("validation.limit=-1", "validation.limit must be at least 0"),
        ("validation.crop=-1", "validation.crop must be at least 0"),
        (
            "denoiser.objective=mse",
            "denoiser.objective=mse trains a network of scale 1, generator.scale is 4: set it to",
        ),
        ("denoiser.objective=stability", "trains a network of scale 1"),
        ("denoiser.objective=task", "trains a network of scale 1"),
        ("loss.l1=0", "all weights under loss are 0"),
        ("checkpoint_mib=-1", "checkpoint_mib must be at least 0"),
        ('inputs.attack="pdg:eps=1/255"', "no attack 'pdg'"),
        ('inputs.attack="random:eps=1/255"', "inputs.attack 'random:eps=1/255' is noise"),
        ('validation.sets=["/no/such/set"]', "no folder /no/such/set"),
        ('validation.perturbations=["fogg"]', "no attack or corruption 'fogg'; did you mean 'fog'"),
        ("steps", "--set wants key=value"),
        ('data.hr=""', "data.hr is empty: --set data.hr=FOLDER"),
        ("data.hr=/no/such/folder", "no folder /no/such/folder"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, photo, home, override, message):
    folder = tiny_run.pictures(tmp_path, photo)
    with pytest.raises(RobustSRError, match=message):
        next(train(tiny_run.recipe(folder, override), folder / "run"))
    assert not (folder / "run").exists()


@pytest.mark.parametrize("said", [["data.sizes=[]"], ["data.sizes=[1, .5]", "data.lr=small"]])
def test_pairs_have_the_size_they_have(said):
    with pytest.raises(RobustSRError, match="data.sizes names at least one, and with data.lr none but 1"):
        Recipe.load("psnr", ["data.hr=pictures", *said])


def test_jpeg_alone_needs_patches_that_are_not_degraded():
    said = ["data.hr=pictures", "data.jpeg=.5"]
    assert Recipe.load("certsr-photo", said).data.jpeg == 0.5
    with pytest.raises(RobustSRError, match="data.jpeg is about patches that are not degraded"):
        Recipe.load("certsr-photo", [*said, "data.degraded=1"])


def test_there_is_something_to_restore():
    clean = ["data.hr=pictures", "data.degraded=0", "data.jpeg=0", "inputs.sigmas=[0]"]
    for damage in ("data.degraded=.1", "data.jpeg=.1", "inputs.sigmas=[.1]"):
        assert Recipe.load("restorer", [*clean, damage]).denoiser.objective == "restore"
    with pytest.raises(RobustSRError, match="has nothing to restore: set data.degraded, data.jpeg or inputs.sigmas"):
        Recipe.load("restorer", clean)


def test_numbers_may_be_set_without_the_zero_before_the_point():
    said = ["optimiser.ema=.99", "inputs.sigmas=[.03, 0.06]", "inputs.draws=[2, 2]", "data.hr=./.5"]
    made = Recipe.load("psnr", said)
    assert (made.optimiser.ema, made.inputs.sigmas, made.data.hr) == (0.99, (0.03, 0.06), "./.5")
    table = {}
    override(table, """data={hr="/.24", lr='a/.5', degraded=.5}""")
    assert table["data"] == {"hr": "/.24", "lr": "a/.5", "degraded": 0.5}


def test_every_number_of_a_recipe_has_a_range_and_every_range_a_key():
    named = [key for _, _, keys in RANGES for key in keys.split()]
    recipe = Recipe("-", data=Data(hr="-"))
    flat = {k: v for k, v in vars(recipe).items() if not is_dataclass(v)}
    flat |= {f"{s}.{k}": v for s, part in vars(recipe).items() if is_dataclass(part) for k, v in vars(part).items()}
    first = {k: v[0] if isinstance(v, tuple) and v else v for k, v in flat.items()}
    assert sorted(named) == sorted(k for k, v in first.items() if type(v) in (int, float))


def test_a_base_is_looked_for_where_the_recipe_lies(tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a.toml").write_text('name = "a"\n[data]\nhr = "x"\npatch = 7')
    (tmp_path / "deep" / "b.toml").write_text('base = "../a.toml"\n[data]\nbatch = 3')
    (tmp_path / "deep" / "er" / "c.toml").write_text('base = "../b.toml"\nname = "c"')
    monkeypatch.chdir(tmp_path)
    made = Recipe.load("deep/er/c.toml")
    assert (made.name, made.data.patch, made.data.batch) == ("c", 7, 3)
    (tmp_path / "a.toml").write_text('base = "deep/er/c.toml"')
    with pytest.raises(RobustSRError, match=r"base of .*a.toml leads back to .*c.toml"):
        Recipe.load("deep/er/c.toml")


def test_a_missing_recipe_and_broken_toml_are_named(tmp_path):
    with pytest.raises(RobustSRError, match="no recipe 'xyz': give a .toml file or one of: .*psnr"):
        Recipe.load("xyz")
    with pytest.raises(RobustSRError, match="no recipe 'resotrer': did you mean 'restorer'"):
        Recipe.load("resotrer")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RobustSRError, match="bad.toml is not valid TOML"):
        Recipe.load(str(tmp_path / "bad.toml"))
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(RobustSRError, match="latin.toml is not UTF-8, as TOML has to be .*: save it as such"):
        Recipe.load(str(tmp_path / "latin.toml"))
    with pytest.raises(RobustSRError, match="no file 'nope.toml'"):
        Recipe.load("nope.toml")


def test_a_recipe_without_a_name_has_that_of_its_file(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "psnr"\n[data]\nhr = "x"')
    assert Recipe.load(str(tmp_path / "mine.toml")).name == "mine"
    for name in ("../x", "a/b", "a:b", "", ".."):
        with pytest.raises(RobustSRError, match="is to be that of a file"):
            Recipe.load("psnr", ["data.hr=x", f"name={name!r}"])


@pytest.mark.parametrize("name", ["certsr-photo", "unet", "denoiser-stability"])
def test_a_written_recipe_is_that_recipe_and_says_what_every_key_is(name, tmp_path):
    recipe = Recipe.load(name, ["data.hr=x"])
    (tmp_path / "again.toml").write_text(written(recipe), "utf-8")
    assert Recipe.load(str(tmp_path / "again.toml")) == recipe
    assert "patch = 32  # pixels of the network's input" in written(Recipe.load("certsr-photo", ["data.hr=x"]))


def test_pictures_are_named_where_a_recipe_names_none(tmp_path):
    (tmp_path / "mine.toml").write_text('base = "psnr"\n[data]\nhr = "my_photos/"')
    assert Recipe.load(str(tmp_path / "mine.toml"), pictures="FOLDER").data.hr == "my_photos/"
    assert Recipe.load("psnr", ["data.hr=a"], pictures="FOLDER").data.hr == "a"
    assert Recipe.load("psnr", pictures="FOLDER").data.hr == "FOLDER"


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = Optimiser(steps=100, warmup=10)
    rates = [learning_rate(config, 1.0, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0 and rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = Optimiser(steps=100, warmup=10, schedule="constant")
    assert [learning_rate(constant, 3.0, s) for s in (9, 10, 99)] == [3.0] * 3
