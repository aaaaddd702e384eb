"""The training module: recipes, data, and a loop that resumes to the very same weights."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from robustsr_training.data import batches, load_pairs
from robustsr_training.loop import learning_rate, train
from robustsr_training.networks import build
from robustsr_training.recipe import RECIPES, Generator, Optimiser, Recipe
from safetensors.torch import load_file

from robustsr.models import load
from robustsr.types import RobustSRError


@pytest.fixture
def folder(tmp_path, photo):
    """Four usable pictures, one too small and one broken; a validation set."""
    hr = tmp_path / "hr"
    hr.mkdir()
    for i in range(4):
        Image.fromarray(photo(70 + i, 90, seed=i)).save(hr / f"{i}.png")
    Image.fromarray(photo(20, 20)).save(hr / "small.png")
    (hr / "broken.png").write_bytes(b"no picture")
    for part, size in (("HR", (64, 48)), ("LR", (16, 12))):
        (tmp_path / "val" / part).mkdir(parents=True)
        Image.fromarray(photo(48, 64)).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "val" / part / "v.png")
    return tmp_path


def recipe(folder, *extra):
    sets = [
        f'data.hr="{folder / "hr"}"',
        f'validation.sets=["{folder / "val"}"]',
        "generator.features=8",
        "generator.convs=2",
        "data.batch=2",
        "data.patch=12",
        "optimiser.steps=12",
        "optimiser.warmup=3",
        "checkpoint_every=4",
        "validation.every=6",
        "compile=false",
    ]
    return Recipe.load("psnr", [*sets, *extra])


def test_a_stopped_and_resumed_run_ends_with_the_same_weights(folder):
    list(train(recipe(folder), folder / "whole", every=1))  # reports before the first checkpoint too
    asked = iter([False] * 6 + [True])
    list(train(recipe(folder), folder / "parts", stop=lambda: next(asked)))
    assert not (folder / "parts" / "psnr.safetensors").exists()
    last = list(train(recipe(folder), folder / "parts", resume=True))
    assert last[0].step == 7 and last[-1].step == 12 and last[-1].psnr["val"] > 5
    log = [json.loads(line) for line in (folder / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == sorted({row["step"] for row in log}) and log[-1]["psnr"] == last[-1].psnr
    a, b = (load_file(folder / run / "psnr.safetensors") for run in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert load(folder / "whole" / "psnr.safetensors", device="cpu").scale == 4


def test_training_lowers_the_loss_below_nearest_neighbour(folder):
    more = ("optimiser.steps=150", "optimiser.lr=3e-3", "precision=fp32", "data.patch=16")
    progress = list(train(recipe(folder, *more), folder / "run", every=25))
    assert progress[-1].loss < 0.8 * progress[1].loss
    assert "broken.png" in progress[0].message and "small.png: 20x20 is smaller than a patch" in progress[0].message


def test_a_run_is_not_overwritten_and_not_resumed_with_another_recipe(folder):
    list(train(recipe(folder), folder / "run"))
    with pytest.raises(RobustSRError, match="--resume continues it"):
        next(train(recipe(folder), folder / "run"))
    with pytest.raises(RobustSRError, match="made with another optimiser"):
        next(train(recipe(folder, "optimiser.lr=1"), folder / "run", resume=True))
    with pytest.raises(RobustSRError, match="nothing to resume"):
        next(train(recipe(folder), folder / "elsewhere", resume=True))
    (folder / "hr" / "3.png").unlink()
    with pytest.raises(RobustSRError, match="made with 4 pictures, there are 3 now"):
        next(train(recipe(folder), folder / "run", resume=True))


def test_a_run_that_diverges_keeps_only_states_that_can_go_on(folder):
    wild = recipe(folder, "optimiser.lr=1e30", "precision=fp32", "checkpoint_every=1")
    with pytest.raises(RobustSRError, match="the run diverged by step 1 .*no state was kept"):
        list(train(wild, folder / "run", every=1))
    assert not (folder / "run").exists()

    asked = iter([False] * 3 + [True])
    list(train(recipe(folder), folder / "good", stop=lambda: next(asked)))
    before = (folder / "good/checkpoint.pt").read_bytes()
    state = torch.load(folder / "good/checkpoint.pt", weights_only=True)
    state["optimiser"]["state"][0]["exp_avg"].fill_(float("nan"))
    torch.save(state, folder / "good/checkpoint.pt")
    poisoned = (folder / "good/checkpoint.pt").read_bytes()
    with pytest.raises(RobustSRError, match="the run diverged by step 8 .*the last good state is"):
        list(train(recipe(folder), folder / "good", resume=True))
    assert (folder / "good/checkpoint.pt").read_bytes() == poisoned != before


def test_pictures_of_any_kind_train_alike(tmp_path):
    """16-bit gray is not white, and a turned picture is upright."""
    (tmp_path / "hr").mkdir()
    Image.fromarray(np.full((64, 80), 30_000, np.uint16)).save(tmp_path / "hr" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 64)).save(tmp_path / "hr" / "b.png", exif=exif)
    (_, gray), (_, turned) = load_pairs(tmp_path / "hr", 4, 8, lambda _: None)
    assert set(gray.flatten().tolist()) == {117} and turned.shape == (80, 64, 3)


def test_batches_depend_on_seed_and_step_only_and_fit_each_other(folder):
    pairs = load_pairs(folder / "hr", 4, 12, lambda _: None)
    stream = batches(pairs, 4, 12, 3, 5, start=0)
    first, second = next(stream), next(stream)
    assert torch.equal(next(batches(pairs, 4, 12, 3, 5, start=1))[0], second[0])
    assert not torch.equal(first[0], second[0])
    lr, hr = first
    assert lr.shape == (3, 3, 12, 12) and hr.shape == (3, 3, 48, 48) and lr.dtype == torch.uint8
    small = torch.nn.functional.interpolate(hr.float(), scale_factor=0.25, mode="bicubic", antialias=True)
    inner = (small - lr)[..., 3:-3, 3:-3].abs()
    assert inner.mean() < 2  # the LR patch shows what the HR patch shows, turned and flipped alike


def test_the_initialisation_lets_the_gradient_through():
    net = build(Generator(), 0)
    x = torch.rand(1, 3, 12, 12)
    net(x).square().mean().backward()
    norms = [p.grad.norm() for n, p in net.named_parameters() if n.endswith("weight") and p.ndim == 4]
    assert norms[0] > 1e-3 * max(norms)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    config = Optimiser(steps=100, lr=1.0, warmup=10)
    rates = [learning_rate(config, s) for s in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == 1.0 and rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads(path):
    assert Recipe.load(path.stem, ["data.hr=pictures"]).name == path.stem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.stepz=3", r"unknown key optimiser.stepz; did you mean optimiser.steps\?"),
        ("colour=3", "unknown key colour; known: name, seed"),
        ("optimiser.steps=many", "optimiser.steps must be int, got 'many'"),
        ("optimiser.steps=0", "optimiser.steps must be at least 1"),
        ("optimiser=3", "optimiser is a section"),
        ("precision=int8", "precision must be fp32 or bf16"),
        ("steps", "--set wants key=value"),
        ('data.hr=""', "data.hr is empty: --set data.hr=FOLDER"),
        ("data.hr=/no/such/folder", "no folder '/no/such/folder'"),
    ],
)
def test_mistakes_in_a_recipe_are_named(folder, override, message):
    with pytest.raises(RobustSRError, match=message):
        next(train(recipe(folder, override), folder / "run"))


def test_a_missing_recipe_and_broken_toml_are_named(tmp_path):
    with pytest.raises(RobustSRError, match="no recipe 'nope': give a .toml file or one of: .*psnr"):
        Recipe.load("nope")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RobustSRError, match="bad.toml is not valid TOML"):
        Recipe.load(str(tmp_path / "bad.toml"))
    (tmp_path / "empty.toml").write_text("seed = 1")
    with pytest.raises(RobustSRError, match="missing 1 required positional argument: 'name'"):
        Recipe.load(str(tmp_path / "empty.toml"))


def test_pixels_agree_with_a_bicubic_downscale(folder):
    lr, hr = load_pairs(folder / "hr", 4, 12, lambda _: None)[0]
    assert hr.shape[0] % 4 == 0 and lr.shape[0] == hr.shape[0] // 4
    want = Image.fromarray(hr).resize((lr.shape[1], lr.shape[0]), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(want), lr)
