"""What a step minimises: noise, smoothed outputs, attacks, terms and the relativistic GAN, against plain loops."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from robustsr_training import objectives
from robustsr_training.discriminator import VGGDiscriminator
from robustsr_training.objectives import (
    Terms,
    adversary,
    attacked,
    discriminator_gan,
    generator_gan,
    noisy,
    ragan,
    sharpened,
    smoothed_outputs,
)
from robustsr_training.recipe import Inputs, Loss
from scipy import ndimage
from torch import nn

from robustsr import losses
from robustsr.types import RobustSRError

N = 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def lr():
    return torch.rand(N, 3, 8, 8, generator=seeded(1))


@pytest.fixture
def hr():
    return torch.rand(N, 3, 16, 16, generator=seeded(2))


@pytest.fixture
def net():
    """x2 with a kink."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))


# --- noise and smoothing ---


def test_noise_has_the_asked_draws_and_sizes(lr):
    made = noisy(lr.repeat(100, 1, 1, 1), Inputs(sigmas=(0.0, 0.03, 0.2), draws=(7, 2, 3)), seeded())
    assert [len(noise) for noise in made] == [1, 2, 3]  # the plain picture once, whatever is asked for
    assert not made[0].any()
    assert [float(noise.std()) for noise in made[1:]] == [pytest.approx(0.03, rel=0.02), pytest.approx(0.2, rel=0.02)]
    assert not torch.equal(made[2][0], made[2][1]) and not torch.equal(made[2][0][0], made[2][0][1])
    again = noisy(lr.repeat(100, 1, 1, 1), Inputs(sigmas=(0.0, 0.03, 0.2), draws=(1, 2, 3)), seeded())
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


def test_uniform_noise_has_a_size_per_patch_that_its_draws_share():
    (noise,) = noisy(torch.zeros(400, 3, 16, 16), Inputs(sigmas=(0.2,), draws=(2,), uniform=True), seeded())
    sizes = noise.flatten(2).std(-1)  # (draws, N)
    torch.testing.assert_close(sizes[0], sizes[1], rtol=0.2, atol=1e-3)
    assert sizes.min() < 0.01 and 0.19 < sizes.max() < 0.22
    assert sizes.mean() == pytest.approx(0.1, rel=0.1) and (sizes < 0.05).float().mean() == pytest.approx(
        0.25, abs=0.08
    )


def test_gray_noise_is_that_of_all_channels_in_its_share_of_patches_and_as_large(lr):
    sigma = Inputs(sigmas=(0.1,), draws=(2,))
    (noise,) = noisy(torch.zeros(400, 3, 16, 16), replace(sigma, gray=0.25), seeded())
    gray = (noise == noise[:, :, :1]).flatten(2).all(-1)  # (draws, N)
    assert torch.equal(gray[0], gray[1]) and gray.float().mean() == pytest.approx(0.25, abs=0.07)
    assert not torch.equal(noise[0], noise[1])
    assert noise[gray].std() == pytest.approx(0.1, rel=0.02) == noise[~gray].std()


def test_smoothed_outputs_equal_a_loop_over_sigmas_and_draws(net, lr):
    noises = noisy(lr, Inputs(sigmas=(0.0, 0.05, 0.1, 0.2), draws=(1, 2, 3, 5)), seeded())
    outputs = smoothed_outputs(net, lr, noises)
    assert len(outputs) == 4
    for sr, noise in zip(outputs, noises, strict=True):
        draws = torch.stack([net(lr + one) for one in noise])
        want = draws.mean(0) if len(draws) == 2 else draws.median(0).values
        torch.testing.assert_close(sr, want)
    calls = []
    smoothed_outputs(lambda x: (calls.append(len(x)), net(x))[1], lr, noises)
    assert calls == [11 * N]  # one pass


# --- attacks ---


@pytest.mark.parametrize(
    ("spec", "norm", "eps"),
    [
        ("fgsm:eps=9/255", "linf", 9 / 255),
        ("bim:eps=9/255,steps=2", "linf", 9 / 255),
        ("pgd:eps=9/255,steps=3", "linf", 9 / 255),
        ("pgd:eps=9/255,steps=3,step_size=1/255", "linf", 9 / 255),
        ("pgd-l2:eps_rel=.05,steps=3,loss=mse", "l2", 0.05 * (3 * 8 * 8) ** 0.5),
        ("cw:c=1,steps=4", "l2", None),
    ],
)
@pytest.mark.parametrize("noise", [(0.0, 1), (0.1, 2)], ids=["plain", "smoothed"])
def test_an_attack_stays_in_ball_and_box_and_raises_the_loss_on_the_same_noise(net, lr, hr, spec, norm, eps, noise):
    net.requires_grad_(False)
    inputs = Inputs(sigmas=noise[:1], draws=noise[1:], attack=spec, attack_step=0.5)
    noises = noisy(lr, inputs, seeded())
    foe = adversary(inputs)
    x = attacked(net, lr, hr, noises, foe, 0, 7)
    assert not x.requires_grad and x.min() >= 0 and x.max() <= 1 and not torch.equal(x, lr)
    if eps is not None:
        size = (x - lr).flatten(1)
        size = size.abs().amax(1) if norm == "linf" else size.norm(dim=1)
        assert (size <= eps * (1 + 1e-5) + 1e-6).all() and (size > eps / 4).all()

    def loss(z):
        mean = torch.stack([net(z + one) for one in noises[0]]).mean(0)
        return losses.loss("mse" if "mse" in spec else "l1")(mean, hr)

    assert (loss(x) > loss(lr)).all()
    assert torch.equal(attacked(net, lr, hr, noises, foe, 0, 7), x)
    if spec.startswith("pgd"):
        assert not torch.equal(attacked(net, lr, hr, noises, foe, 0, 8), x)  # starts from elsewhere


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_attacked_share_is_that_of_the_whole_batch(share, processes):
    foe = adversary(Inputs(attack="fgsm", attack_share=share))
    each = 16 // processes
    counts = [min(each, foe.count(16, each * i)) for i in range(processes)]
    assert sum(counts) == 16 * share and counts == sorted(counts, reverse=True)
    assert adversary(Inputs()) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pgd:restarts=2", "training has no restarts: leave it out"),
        ("cw:drop=3", "training has no drop"),
        ("pgd:eot_iter=4", "training has no eot_iter: leave it out; inputs.draws says how many"),
        ("random:eps=1/255", "is noise"),
    ],
)
def test_settings_of_an_attack_that_training_has_not_are_refused(spec, message):
    with pytest.raises(RobustSRError, match=message):
        adversary(Inputs(attack=spec))


def test_cw_minimises_the_distance_that_its_spec_names(net, lr, hr, monkeypatch):
    seen = []
    found = objectives.attacks.cw
    monkeypatch.setattr(objectives.attacks, "cw", lambda *a, **k: (seen.append(k["squared"]), found(*a, **k))[1])
    for spec in ("cw:steps=1", "cw:steps=1,squared=true"):
        attacked(net, lr, hr, noisy(lr, Inputs(), seeded()), adversary(Inputs(attack=spec)), 0, 7)
    assert seen == [False, True]


@pytest.mark.parametrize("spec", ["fgsm:eps=8/255", "bim:eps=8/255,steps=2", "pgd:eps=8/255,steps=2,step_size=9/255"])
def test_the_warm_up_scales_the_budget(net, lr, hr, spec):
    inputs = Inputs(attack=spec, attack_warmup=4)
    noises = noisy(lr, inputs, seeded())
    inner = lr * 0.8 + 0.1  # no value meets the box
    foe = adversary(inputs)
    sizes = [(attacked(net, inner, hr, noises, foe, step, 7) - inner).abs().max() for step in (0, 1, 3, 9)]
    torch.testing.assert_close(torch.stack(sizes), torch.tensor([0.25, 0.5, 1.0, 1.0]) * 8 / 255, atol=1e-6, rtol=1e-4)


def test_the_warm_up_scales_the_weight_of_cw(net, lr, hr, monkeypatch):
    seen = []
    found = objectives.attacks.cw
    monkeypatch.setattr(objectives.attacks, "cw", lambda *a, **k: (seen.append(k["c"]), found(*a, **k))[1])
    foe = adversary(Inputs(attack="cw:c=.02,steps=1", attack_warmup=4))
    for step in (0, 3):
        attacked(net, lr, hr, noisy(lr, Inputs(), seeded()), foe, step, 7)
    assert seen == [pytest.approx(0.005), pytest.approx(0.02)]


# --- terms and the GAN ---


def test_terms_are_weighted_and_those_without_a_weight_are_not_computed():
    sr, hr = torch.rand(2, 2, 3, 8, 8, generator=seeded())
    terms = Terms(Loss(l1=2.0, mse=0.5))(sr, hr)
    assert terms.keys() == {"l1", "mse"}
    torch.testing.assert_close(terms["l1"], 2 * (sr - hr).abs().mean())
    torch.testing.assert_close(terms["mse"], (sr - hr).square().mean() / 2)
    assert Terms(Loss(l1=0.0, gan=1.0))(sr, hr) == {}


def test_the_perceptual_term_is_that_of_the_attacks(shared, home, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    sr, hr = torch.rand(2, 2, 3, 32, 32, generator=seeded())
    terms = Terms(Loss(l1=0.0, perceptual=3.0, layer="conv2_2"))(sr, hr)
    torch.testing.assert_close(terms["perceptual"], 3 * losses.perceptual("conv2_2")(sr, hr).mean())


def test_ragan_is_its_formula():
    """L_D = -E log s(C(r) - E C(f)) - E log(1 - s(C(f) - E C(r))), over 2; L_G the same with r and f exchanged."""
    real, fake = torch.randn(2, 5, 1, generator=seeded())
    mean = torch.mean
    d = -mean(F.logsigmoid(real - mean(fake))) - mean(torch.log(1 - torch.sigmoid(fake - mean(real))))
    g = -mean(F.logsigmoid(fake - mean(real))) - mean(torch.log(1 - torch.sigmoid(real - mean(fake))))
    torch.testing.assert_close(ragan(real, fake, real=True) + ragan(fake, real, real=False), d)
    torch.testing.assert_close(ragan(fake, real, real=True) + ragan(real, fake, real=False), g)

    class Known(nn.Module):
        def forward(self, x):
            return x[:, 0, 0, :1]

    def pictures(logits):
        return logits.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    torch.testing.assert_close(discriminator_gan(Known(), [pictures(fake)], pictures(real)), d / 2)
    torch.testing.assert_close(generator_gan(Known(), [pictures(fake)], pictures(real)), g / 2)
    torch.testing.assert_close(generator_gan(Known(), [pictures(real)], pictures(fake)), d / 2)  # symmetric
    other = torch.randn(5, 1, generator=seeded(9))
    both = discriminator_gan(Known(), [pictures(fake), pictures(other)], pictures(real))
    alone = discriminator_gan(Known(), [pictures(other)], pictures(real))
    torch.testing.assert_close(both, (d / 2 + alone) / 2)


def test_the_two_gan_losses_reach_only_whom_they_train():
    torch.manual_seed(0)
    judge = VGGDiscriminator(2)
    fake, real = torch.rand(2, 2, 3, 64, 64, generator=seeded())
    fake.requires_grad_(True)
    discriminator_gan(judge, [fake], real).backward()
    assert fake.grad is None and all(p.grad is not None for p in judge.parameters())
    judge.requires_grad_(False)
    judge.zero_grad(set_to_none=True)
    generator_gan(judge, [fake], real).backward()
    assert fake.grad.abs().sum() > 0 and all(p.grad is None for p in judge.parameters())


@pytest.mark.parametrize("size", [64, 96, 128])
def test_the_discriminator_takes_several_sizes(size):
    torch.manual_seed(0)
    judge = VGGDiscriminator(4)
    logits = judge(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 1) and logits[0] != logits[1]
    assert judge.features[:-1](torch.rand(2, 3, size, size)).shape == (2, 32, size // 32, size // 32)


def test_sharpening_is_unsharp_masking(photo):
    hr = torch.tensor(photo(60, 50)).permute(2, 0, 1)[None] / 255
    blurred = ndimage.gaussian_filter(hr.numpy(), (0, 0, 2, 2), mode="nearest", truncate=3)
    expected = (hr + 0.7 * (hr - torch.from_numpy(blurred))).clamp(0, 1)
    torch.testing.assert_close(sharpened(hr, 0.7), expected, atol=1e-5, rtol=0)
