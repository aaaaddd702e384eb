"""Objectives: fresh draws and fixed ones, the mean of losses, gradients that cost less memory."""

from dataclasses import dataclass, replace

import pytest
import torch

from robustsr.attacks import pgd
from robustsr.losses import l1, mse
from robustsr.objectives import Checkpointed, Fresh, against, mean_of_losses
from robustsr.smoothing import Smoothed

EPS = 8 / 255


def picture(n=2, h=8, w=9, seed=0, dtype=torch.float64):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass(frozen=True)
class Spiky:
    """An upscaler of scale 1 whose output jumps with the noise, so that median, mean and draws matter."""

    scale: int = 1
    context: int = 0
    exact: bool = True

    def __call__(self, x, *, origin=None):
        return x + 0.05 * (60 * x).sin()


def test_fresh_draws_differ_between_calls_and_never_equal_the_shipped_ones():
    smoothed = Smoothed(Spiky(), 0.1, samples=6, seed=0)
    fresh = Fresh(smoothed, 6, seed=0)
    x = picture(1)
    a, b = fresh(x), fresh(x)
    assert not torch.equal(a, b)
    assert not any(torch.equal(a, one(x)) for one in (smoothed, replace(smoothed, draws="independent")))
    again = Fresh(smoothed, 6, seed=0)
    assert torch.equal(again(x), a)  # and yet all is reproducible


def test_chance_does_not_choose_the_iterate():
    """With one draw per call the luckiest draw would win; a fixed set of others decides instead."""
    smoothed = Smoothed(Spiky(), 0.2, samples=1, draws="independent")
    x = picture(1, 10, 10)
    fresh = Fresh(smoothed, 1, seed=0)
    objective, score = against(fresh, x, mse), against(replace(fresh, samples=64).fixed(), x, mse)
    found = pgd(x, objective, 0.05, steps=10, score=score)
    torch.testing.assert_close(found.loss, score(found.adv))
    assert bool((found.loss == torch.stack(found.curve).max()).all())
    assert torch.equal(fresh.fixed()(x), fresh.fixed()(x))


def test_the_mean_of_losses_is_what_it_says():
    smoothed = Smoothed(Spiky(), 0.1, samples=5, draws="independent", chunk=2)
    x, hr = picture(3), picture(3, seed=4)
    outputs = torch.cat([o.view(-1, 3, *x.shape[1:]) for o in smoothed.outputs(x)])
    want = torch.stack([mse(o, hr) for o in outputs]).mean(0)
    torch.testing.assert_close(mean_of_losses(smoothed, hr, mse)(x), want)


@pytest.mark.parametrize("reduce", ["median", "mean"])
def test_the_known_seed_attack_beats_the_base_attack_on_a_smoothed_model(reduce):
    smoothed = Smoothed(Spiky(), 0.1, samples=5, reduce=reduce)
    x = picture(2, 12, 12)
    hr = x.clone()
    found = {
        name: pgd(x, objective, 0.05, steps=20).adv
        for name, objective in {
            "base": against(Spiky(), hr, mse),
            "seed": against(smoothed, hr, mse),
            "losses": mean_of_losses(Fresh(smoothed, 8, 0), hr, mse),
        }.items()
    }
    hurt = {name: float(mse(smoothed(adv), hr).mean()) for name, adv in found.items()}
    assert hurt["seed"] > hurt["base"] and hurt["seed"] > float(mse(smoothed(x), hr).mean())
    assert hurt["losses"] > float(mse(smoothed(x), hr).mean())


def test_checkpointing_changes_no_gradient(convs):
    x = picture(2)
    hr = picture(2, 16, 18, seed=3)
    plain, light = (pgd(x, against(up, hr, l1), EPS, seed=1) for up in (convs, Checkpointed(convs)))
    torch.testing.assert_close(plain.adv, light.adv)
