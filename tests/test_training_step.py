"""A step against the same step by hand, on one process and on two; what each recipe that ships trains."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_run
import torch
import torch.nn.functional as F
from robustsr_training import loop
from robustsr_training import step as training_step
from robustsr_training.checkpoint import State
from robustsr_training.loop import Session
from robustsr_training.objectives import sharpened
from robustsr_training.recipe import Optimiser, Recipe
from robustsr_training.step import Step, learning_rate
from robustsr_training.tables import shipped
from robustsr_training.validation import check
from safetensors.torch import save_file
from torch import nn

from robustsr import backbones, winograd
from robustsr.architectures import UNet
from robustsr.models import load
from robustsr.perturbations import random_in_ball
from robustsr.types import RobustSRError

GAN = ["precision=fp32", "data.patch=16", "data.batch=4", "loss.l1=0.5", "loss.mse=2", "loss.gan=0.3"]
NOISE = ["inputs.sigmas=[0.05, 0.1]", "inputs.draws=[1, 2]"]
ATTACK = ['inputs.attack="fgsm:eps=9/255"', "inputs.attack_share=0.5"]


@pytest.fixture
def folder(tmp_path, photo, home):
    return tiny_run.pictures(tmp_path, photo)


def noises(recipe, step, lr):
    """Of each sigma, ``(draws, N, 3, h, w)``."""
    generator = torch.Generator()
    generator.manual_seed(int(np.random.default_rng((recipe.seed, step, 1)).integers(1 << 62)))
    return [
        sigma * torch.randn(draws, *lr.shape, generator=generator)
        for sigma, draws in zip(recipe.inputs.sigmas, recipe.inputs.draws, strict=True)
    ]


def test_a_cosine_begins_after_the_warm_up_and_ends_at_0():
    config = Optimiser(steps=10, warmup=4, schedule="cosine")
    rates = [learning_rate(config, 1.0, step) for step in (0, 3, 4, 7, 10)]
    assert rates == pytest.approx([0.25, 1, 1, 0.5, 0], abs=1e-9)


def test_an_attack_does_not_start_at_the_noise(folder, monkeypatch):
    """torch's generator looks at 32 bits of a seed: half of the noise's would often be equal to it."""
    seen = []

    def watched(forward, lr, hr, noises, adversary, step, seed):
        seen.append((noises[0][0, :1], seed))
        return attacked(forward, lr, hr, noises, adversary, step, seed)

    attacked = training_step.attacked
    monkeypatch.setattr(training_step, "attacked", watched)
    session = Session.begin(tiny_run.recipe(folder, *NOISE, *ATTACK, "optimiser.steps=12"), "cpu")
    for batch in session.batches.stream(0, 12):
        session.step(*batch)
        session.state.step += 1
    for noise, seed in seen:
        start = random_in_ball(noise, "linf", 1, seed)
        assert abs(float((start.sign() * noise.sign()).mean())) < 0.2
    assert len(seen) == 12


def fgsm(net, lr, hr, noise, eps):
    """One step along the sign, where it raises the L1 of the mean output over all draws."""

    def loss(x):
        mean = torch.stack([net(x + one) for part in noise for one in part]).mean(0)
        return (mean - hr).abs().mean((1, 2, 3))

    x = lr.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(x).sum(), x)
    adv = (lr + eps * slope.sign()).clamp(0, 1)
    with torch.no_grad():
        return torch.where((loss(adv) > loss(lr)).view(-1, 1, 1, 1), adv, lr)


def logistic(of, against, real):
    relative = of - against.mean()
    return -(F.logsigmoid(relative) if real else F.logsigmoid(-relative)).mean()


def by_hand(recipe, state, lr, hr):
    """The terms of one step of GAN, NOISE and ATTACK; ``state`` becomes what it is after it."""
    net, judge, step = state.net, state.discriminator, state.step
    for optimiser, peak in ((state.optimiser, recipe.optimiser.lr), (state.d_optimiser, recipe.discriminator.lr)):
        optimiser.param_groups[0]["lr"] = peak * (step + 1) / recipe.optimiser.warmup
    noise, lr, hr = noises(recipe, step, lr), lr / 255, hr / 255
    half = len(lr) // 2
    first = fgsm(net, lr[:half], hr[:half], [n[:, :half] for n in noise], 9 / 255)
    x = torch.cat([first, lr[half:]])
    outputs = [torch.stack([net(x + one) for one in part]).mean(0) for part in noise]
    terms = {
        "l1": 0.5 * (F.l1_loss(outputs[0], hr) + F.l1_loss(outputs[1], hr)) / 2,
        "mse": 2 * (F.mse_loss(outputs[0], hr) + F.mse_loss(outputs[1], hr)) / 2,
    }
    true, false = judge(hr).detach(), judge(torch.cat(outputs)).split(len(lr))
    terms["gan"] = 0.3 * sum(logistic(true, f, False) + logistic(f, true, True) for f in false) / 4
    for optimiser, loss in ((state.optimiser, sum(terms.values())), (state.d_optimiser, None)):
        if loss is None:
            true, false = judge(hr), judge(torch.cat(outputs).detach()).split(len(lr))
            loss = sum(logistic(true, f, True) + logistic(f, true, False) for f in false) / 4
            terms["discriminator"] = loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    decay = min(recipe.optimiser.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for mine, new in zip(state.ema.parameters(), net.parameters(), strict=True):
            mine.copy_(decay * mine + (1 - decay) * new)
    state.step += 1
    return terms


@pytest.mark.parametrize("features", [8, 16])
def test_two_steps_with_noise_attack_and_gan_are_those_by_hand(folder, features, monkeypatch):
    """At steps 0 and 1 of a warm-up of 3, every term and every weight after Adam; 16: by the fast convolutions.

    Of those Adam makes steps of whole size from differences of rounding, so that only the losses are compared.
    """
    monkeypatch.setattr(winograd, "FEWEST", 0)
    recipe = tiny_run.recipe(folder, *GAN, *NOISE, *ATTACK, f"generator.features={features}")
    exact = features == 8
    session, want = Session.begin(recipe, "cpu"), State.fresh(recipe, torch.device("cpu"))
    for step in range(2):
        lr, hr, heavy = session.batches[step]
        found, hand = session.step(lr, hr, heavy), by_hand(recipe, want, lr, hr)
        session.state.step += 1
        assert found.keys() == hand.keys()
        for name, value in hand.items():
            close = {"rtol": 1e-5, "atol": 1e-6} if exact else {"rtol": 1e-3, "atol": 1e-4}
            torch.testing.assert_close(found[name], value.detach(), **close, msg=name)
    for part in ("net", "ema", "discriminator") if exact else ():
        now = getattr(session.state, part).state_dict()
        for name, value in getattr(want, part).state_dict().items():
            if name != "head.3.bias":  # it cancels in relative logits
                torch.testing.assert_close(now[name], value, rtol=1e-4, atol=2e-5, msg=f"{part} {name}")


def test_bfloat16_gives_nearly_the_same_losses(folder):
    found = []
    for precision in ("fp32", "bf16"):
        session = Session.begin(tiny_run.recipe(folder, *GAN, *NOISE, f"precision={precision}"), "cpu")
        assert session.step.bf16 == (precision == "bf16")
        found.append(session.step(*session.batches[0]))
    for name, value in found[0].items():
        assert value != found[1][name] and abs(value - found[1][name]) < 0.03 * abs(value), name


@pytest.mark.parametrize("objective", ["mse", "restore", "stability", "task"])
def test_the_target_of_each_denoiser(folder, tiny, objective):
    """mse: D against x | restore: against LR | stability: f(D) against f(x) | task: f(D) against HR."""
    more = ["generator.scale=1", f"denoiser.objective={objective}", f'denoiser.model="{tiny}"', "precision=fp32"]
    session = Session.begin(tiny_run.recipe(folder, *more, "inputs.sigmas=[0.1]"), "cpu")
    lr, hr, heavy = session.batches[0]
    (noise,) = noises(session.recipe, 0, lr)
    x, behind = lr / 255, session.step.behind
    with torch.no_grad():
        clean = session.state.net(x + noise[0])
        sr, target = {
            "mse": lambda: (clean, x),
            "restore": lambda: (clean, hr / 255),
            "stability": lambda: (behind(clean), behind(x)),
            "task": lambda: (behind(clean), hr / 255),
        }[objective]()
    torch.testing.assert_close(session.step(lr, hr, heavy)["l1"], F.l1_loss(sr, target))


@pytest.mark.parametrize(("objective", "patch"), [("", 7), ("mse", 31), ("restore", 31), ("stability", 7), ("task", 7)])
def test_outputs_are_large_enough_for_the_discriminator(folder, tiny, objective, patch):
    one = ["generator.scale=1", f'denoiser.model="{tiny}"', "inputs.sigmas=[0.1]"]
    more = [f"denoiser.objective={objective}", "loss.gan=0.1", *(one if objective else [])]
    with pytest.raises(RobustSRError, match=r"loss.gan compares 32 pixels a side or more, outputs have (28|31): set"):
        Session.begin(tiny_run.recipe(folder, *more, f"data.patch={patch}"), "cpu")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_teacher_s_outputs_in_float32_are_the_target(folder, tiny, precision):
    hard = [*GAN, *NOISE, *ATTACK, f"precision={precision}"]
    session = Session.begin(tiny_run.recipe(folder, *hard, f"loss.teacher={tiny}"), "cpu")
    lr, _, heavy = session.batches[0]
    with torch.no_grad():
        hr = load(tiny, device="cpu", precision="fp32")(lr / 255).clamp(0, 1)
    other = Session.begin(tiny_run.recipe(folder, *hard), "cpu")
    found = session.step(*session.batches[0])
    torch.testing.assert_close(found, other.step(lr, hr * 255, heavy))


@pytest.mark.parametrize("teacher", [[], ["loss.teacher=bicubic"]])
def test_what_is_learnt_is_sharpened_truth(folder, teacher):
    hard = [*GAN, *NOISE, *ATTACK]
    session = Session.begin(tiny_run.recipe(folder, *hard, *teacher, "loss.sharpen=0.4"), "cpu")
    lr, hr, heavy = session.batches[0]
    if teacher:
        hr = load("bicubic", device="cpu")(lr / 255).clamp(0, 1) * 255
    other = Session.begin(tiny_run.recipe(folder, *hard), "cpu")
    found = session.step(*session.batches[0])
    torch.testing.assert_close(found, other.step(lr, sharpened(hr / 255, 0.4) * 255, heavy))


@pytest.mark.parametrize("heavily", ["hr", "bicubic"])
def test_what_is_degraded_heavily_may_have_a_teacher_of_its_own(folder, tiny, heavily):
    damage = ["data.degraded=0.9", "data.light=0.5", "data.batch=12"]
    more = [f"loss.teacher={tiny}", f"loss.heavy={heavily}"]
    session = Session.begin(tiny_run.recipe(folder, *damage, *more), "cpu")
    lr, hr, heavy = session.batches[0]
    assert 0 < heavy.sum() < len(heavy)
    with torch.no_grad():
        target, other = (load(name, device="cpu", precision="fp32")(lr / 255) for name in (tiny, "bicubic"))
    target[heavy] = hr[heavy] / 255 if heavily == "hr" else other[heavy]
    want = Session.begin(tiny_run.recipe(folder, *damage), "cpu").step(lr, target.clamp(0, 1) * 255, heavy)
    torch.testing.assert_close(session.step(lr, hr, heavy), want)


def test_attacks_and_noise_are_averaged_over_all_processes_and_so_is_batch_norm(folder):
    """Two processes as threads that meet at every mean: after two steps both hold the very same state."""
    recipe = tiny_run.recipe(folder, *GAN, *NOISE, *ATTACK, "optimiser.ema=0.5")
    batches, meet, given = Session.begin(recipe, "cpu").batches, threading.Barrier(2, timeout=60), {}
    states = [State.fresh(recipe, torch.device("cpu")) for _ in (0, 1)]  # a seed is for one at a time

    def work(number):
        def reduce(mine, how):
            given[number] = mine.clone()
            meet.wait()
            mean = (given[0] + given[1]) / 2
            meet.wait()
            return mean if how == "mean" else 2 * mean

        crew = SimpleNamespace(num_processes=2, process_index=number, reduce=reduce)
        state = states[number]
        step = Step(recipe, state, torch.device("cpu"), crew)
        for t in range(2):
            step(*batches[t])
            state.step += 1

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    for part in ("net", "ema", "discriminator"):
        one, two = (getattr(states[number], part).state_dict() for number in (0, 1))
        assert all(torch.equal(one[name], two[name]) for name in one), part
    assert any("running_mean" in name for name in one)


def test_batch_norm_learns_from_batches_or_keeps_what_it_began_with(folder, tmp_path):
    begun = UNet((4, 8), 8)
    for norm in (m for m in begun.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
    path = tmp_path / "unet.safetensors"
    save_file(begun.state_dict(), path)
    for fixed in (True, False):
        recipe = tiny_run.recipe(
            folder, f"generator.init={path}", f"generator.fixed_norm={fixed}".lower(), *ATTACK, name="unet"
        )
        session = Session.begin(recipe, "cpu")
        for t in range(2):
            session.step(*session.batches[t])
            assert session.step.healthy(session.batches[t][0], {})
            session.state.step += 1
        state, kept = begun.state_dict(), session.state.net.state_dict()
        same = {name: torch.equal(value, kept[name]) for name, value in state.items() if value.is_floating_point()}
        assert all(same[name] == fixed for name in same if "running" in name)
        assert not any(same[name] for name in same if name.endswith("weight"))


def test_without_a_compiler_training_runs_uncompiled(tmp_path):
    code = "import torch; from robustsr_training.step import compiles; print(compiles(torch.device('cpu')))"
    bare = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


# --- what is answered before pictures are decoded ---


@pytest.mark.parametrize(
    "mistake",
    [
        ["loss.perceptual=1"],
        ['inputs.attack="fgsm:loss=paper"'],
        ["generator.scale=1", "denoiser.objective=task", "denoiser.model=nope"],
        ["generator.init=nope"],
        ["generator.fixed_norm=true"],
        ["loss.teacher=denoiser"],
        ["loss.teacher=nope"],
        ["loss.teacher=denoiser", "generator.scale=1", "denoiser.objective=mse"],
        ["loss.sharpen=0.4", "generator.scale=1", "denoiser.objective=mse"],
        ["loss.heavy=denoiser", "data.degraded=0.5"],
        ["loss.heavy=hr", "loss.teacher=psnr"],
        ["loss.heavy=hr", "data.degraded=0.5"],
        ["loss.heavy=hr", "loss.teacher=psnr", "data.degraded=0.5", "data.light=1"],
        ["generator.fixed_norm=true", "generator.init=psnr"],
        ["loss.gan=1", "discriminator.init=nope"],
        ["loss.gan=1", "data.batch=1"],
    ],
    ids=lambda words: words[0],
)
def test_a_mistake_is_found_before_pictures_are_decoded(folder, monkeypatch, mistake):
    def decoded(*_, **__):
        raise AssertionError("pictures were decoded first")

    monkeypatch.setattr(loop, "load_pairs", decoded)
    with pytest.raises(RobustSRError):
        Session.begin(tiny_run.recipe(folder, *mistake), "cpu")


def test_an_architecture_that_takes_more_than_a_picture_is_no_start(folder, tmp_path):
    from spandrel.architectures.DRUNet import DRUNet

    path = tmp_path / "drunet.safetensors"
    save_file(DRUNet(in_nc=4, out_nc=3, nc=[4, 4, 4, 4]).state_dict(), path)  # a noise level goes in with it
    assert load(path, device="cpu", precision="fp32").scale == 1
    with pytest.raises(RobustSRError, match="of an architecture that is called in a way of its own"):
        Session.begin(tiny_run.recipe(folder, "generator.scale=1", f"generator.init={path}"), "cpu")


def test_the_network_behind_a_denoiser_is_loaded_once(folder, tiny, monkeypatch):
    from robustsr_training import step as module

    loads, load = [], module.load
    monkeypatch.setattr(module, "load", lambda *a, **k: (loads.append(a), load(*a, **k))[1])
    more = ["generator.scale=1", "denoiser.objective=task", f'denoiser.model="{tiny}"']
    Session.begin(tiny_run.recipe(folder, *more), "cpu")
    assert len(loads) == 1


def test_float32_is_float32_from_the_first_step_on(folder):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    Session.begin(tiny_run.recipe(folder, "precision=fp32"), "cpu")
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


# --- every recipe that ships ---


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_trains(folder, tiny, request, monkeypatch, name):
    small = [
        "generator.init=",
        "generator.fixed_norm=false",
        "generator.blocks=1",
        "data.patch=16",
        "discriminator.init=",
        "validation.sets=[]",  # whose pictures suit one scale
    ]
    small += [f'denoiser.model="{tiny}"']
    if name == "restorer":  # whose discriminator looks at pictures of the input's size
        small += ["data.patch=32", "denoiser.model=bicubic-x2"]
    recipe = tiny_run.recipe(folder, *small, name=name)
    if recipe.generator.architecture == "unet":
        recipe = tiny_run.recipe(folder, *small, "data.patch=32", name=name)
    if recipe.loss.perceptual or "paper" in recipe.inputs.attack:
        monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(request.getfixturevalue("shared") / "weights"))
        if not backbones.find("vgg19"):
            pytest.skip("VGG19's weights are not here")
    assert isinstance(recipe, Recipe)
    check(recipe)
    session = Session.begin(recipe, "cpu")
    before = {name: value.clone() for name, value in session.state.net.named_parameters()}
    for step in range(2):
        losses = session.step(*session.batches[step])
        session.state.step += 1
        assert all(value.isfinite() for value in losses.values())
    weights = {k for k in ("l1", "mse", "perceptual", "gan") if getattr(recipe.loss, k)}
    assert losses.keys() == weights | ({"discriminator"} if recipe.loss.gan else set())
    assert any(not torch.equal(value, before[name]) for name, value in session.state.net.named_parameters())
