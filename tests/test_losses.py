"""Losses: formulas, layers, and LPIPS against published values and the lpips package."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from robustsr import losses
from robustsr.types import RobustSRError


@pytest.fixture
def weights(shared, home, monkeypatch):
    """The real backbones."""
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    losses._lpips.cache_clear()
    losses._vgg19.cache_clear()
    return shared / "weights"


@pytest.fixture
def nothing(home):
    losses._lpips.cache_clear()
    losses._vgg19.cache_clear()


def pictures(n=2, size=32, seed=0):
    return torch.rand(2, n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_l1_and_mse_are_means_over_each_picture():
    sr, hr = pictures()
    torch.testing.assert_close(
        losses.loss("l1")(sr, hr), torch.stack([(a - b).abs().mean() for a, b in zip(sr, hr, strict=True)])
    )
    torch.testing.assert_close(
        losses.loss("mse")(sr, hr), torch.stack([((a - b) ** 2).mean() for a, b in zip(sr, hr, strict=True)])
    )


def test_lpips_squeeze_has_the_values_that_torchmetrics_documents(weights):
    generator = torch.Generator().manual_seed(42)
    a, b = ((torch.rand(2, 3, 100, 100, generator=generator) * 2 - 1) for _ in range(2))
    found = losses.lpips("squeeze")((a + 1) / 2, (b + 1) / 2)
    torch.testing.assert_close(found, torch.tensor([0.1024, 0.0938]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("net", ["squeeze", "alex", "vgg"])
def test_lpips_equals_the_package_and_needs_no_network(home, tmp_path, monkeypatch, net):
    """With weights of the right shapes; the package is given the same ones by hand."""
    import lpips

    from robustsr import backbones

    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tmp_path))
    losses._lpips.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    features = {"features." + n.split(".", 2)[2]: t for n, t in package.state_dict().items() if n.startswith("net.")}
    save_file(features, tmp_path / f"{backbones.BACKBONES[losses.LPIPS_BACKBONES[net]].stem}-features.safetensors")
    sr, hr = pictures(2, 64)
    with torch.no_grad():
        want = package(sr * 2 - 1, hr * 2 - 1).view(-1)
    torch.testing.assert_close(losses.lpips(net)(sr, hr), want)
    torch.testing.assert_close(losses.loss("lpips")(sr, hr), want)


def test_which_lpips_can_be_measured(weights, monkeypatch):
    assert losses.best_lpips() == "squeeze"
    monkeypatch.delenv("ROBUSTSR_WEIGHTS")
    assert losses.best_lpips() is None


def test_perceptual_is_zero_for_equals_grows_with_damage_and_has_gradients(weights):
    sr, hr = pictures()
    for loss in (losses.perceptual(), losses.perceptual("conv1_2"), losses.paper()):
        assert bool((loss(hr, hr) == 0).all())
        near = (hr + 0.1 * (sr - hr)).requires_grad_(True)
        assert bool((loss(near, hr) < loss(sr, hr)).all()) and loss(near, hr).shape == (2,)
        assert bool((loss(sr, sr) == 0).all())  # not against the reference before
        (gradient,) = torch.autograd.grad(loss(near, hr).sum(), near)
        assert bool(gradient.isfinite().all() and (gradient != 0).any())
    torch.testing.assert_close(losses.paper()(sr, hr), 0.01 * losses.l1(sr, hr) + losses.perceptual()(sr, hr))


def test_perceptual_is_of_vgg19_on_imagenets_normalised_input(weights):
    features = load_file(weights / "vgg19-features-conv3_4.safetensors")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def conv2_1(x):
        x = (x - mean) / std
        for i in (0, 2):
            x = F.relu(F.conv2d(x, features[f"features.{i}.weight"], features[f"features.{i}.bias"], padding=1))
        return F.conv2d(F.max_pool2d(x, 2), features["features.5.weight"], features["features.5.bias"], padding=1)

    sr, hr = pictures()
    want = (conv2_1(sr) - conv2_1(hr)).abs().mean((1, 2, 3)) / conv2_1(losses._reference()).abs().mean()
    torch.testing.assert_close(losses.perceptual("conv2_1")(sr, hr), want, rtol=1e-3, atol=1e-5)


def test_perceptual_of_several_layers_is_their_mean(weights):
    sr, hr = pictures()
    each = torch.stack([losses.perceptual(layer)(sr, hr) for layer in ("conv1_2", "conv2_2", "conv3_4")])
    torch.testing.assert_close(losses.loss("perceptual:conv3_4+conv1_2+conv2_2")(sr, hr), each.mean(0))


def test_perceptual_does_not_depend_on_the_scale_of_the_activations(weights, tmp_path, monkeypatch):
    sr, hr = pictures()
    want = losses.perceptual("conv1_1")(sr, hr)
    features = load_file(weights / "vgg19-features-conv3_4.safetensors")
    save_file(
        {k: v * 0.01 for k, v in features.items() if k.startswith("features.0.")},
        tmp_path / "vgg19-features.safetensors",
    )
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tmp_path))
    losses._vgg19.cache_clear()
    torch.testing.assert_close(losses.perceptual("conv1_1")(sr, hr), want)


def test_a_partial_file_serves_what_it_has_and_says_what_it_lacks(weights):
    assert losses.deepest_layer() == "conv3_4"
    with pytest.raises(RobustSRError, match="ends at conv3_4, conv5_4 is missing: `robustsr models pull vgg19`"):
        losses.loss("perceptual:conv5_4")
    with pytest.raises(RobustSRError, match="VGG19 has no layer 'conv9_9'"):
        losses.loss("perceptual:conv9_9")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paper", "`robustsr models pull vgg19` gets them"),
        ("lpips-alex", r"`robustsr models pull alexnet` gets them \(233 MB, once\)"),
        ("l2", "no loss 'l2'; there are: l1, mse"),
        ("mse:conv1_1", "no loss 'mse:conv1_1'"),
        ("lpips-resnet", "no loss 'lpips-resnet'"),
    ],
)
def test_what_cannot_be_had_is_explained(nothing, name, message):
    with pytest.raises(RobustSRError, match=message):
        losses.loss(name)


def test_the_layers_have_torchvisions_numbers():
    assert [losses.LAYERS.index(n) for n in ("conv1_1", "conv2_2", "conv3_4", "conv4_4", "conv5_4")] == [
        0,
        7,
        16,
        25,
        34,
    ]
