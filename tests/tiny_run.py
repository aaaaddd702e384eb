"""A training run small enough for tests: a folder of pictures and a recipe on it."""

from __future__ import annotations

from PIL import Image
from robustsr_training.recipe import Recipe


def pictures(root, photo):
    """``hr``: four usable pictures, one too small and one broken; ``val``: a validation set of one pair."""
    hr = root / "hr"
    hr.mkdir()
    for i in range(4):
        Image.fromarray(photo(70 + i, 90, seed=i)).save(hr / f"{i}.png")
    Image.fromarray(photo(20, 20)).save(hr / "small.png")
    (hr / "broken.png").write_bytes(b"no picture")
    for part, size in (("HR", (64, 48)), ("LR", (16, 12))):
        (root / "val" / part).mkdir(parents=True)
        Image.fromarray(photo(48, 64)).resize(size, Image.Resampling.BICUBIC).save(root / "val" / part / "v.png")
    return root


def settings(folder):
    """What makes any shipped recipe small, as for ``--set``."""
    return [
        f'data.hr="{folder / "hr"}"',
        f'validation.sets=["{folder / "val"}"]',
        "generator.features=8",
        "generator.convs=2",
        "discriminator.features=4",
        "data.batch=2",
        "data.patch=12",
        "optimiser.steps=12",
        "optimiser.warmup=3",
        "checkpoint_every=4",
        "validation.every=6",
        "validation.limit=1",
        "compile=false",
    ]


def recipe(folder, *extra, name="psnr"):
    return Recipe.load(name, [*settings(folder), *extra])
