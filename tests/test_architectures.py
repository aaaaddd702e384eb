"""What spandrel does not know: the thesis' U-Net, trained on pictures that were shrunk and enlarged again; a denoiser
and an upscaler in one."""

import pickle

import pytest
import tiny_run
import torch
from PIL import Image
from robustsr_training.checkpoint import State
from robustsr_training.loop import train
from robustsr_training.networks import build, export
from robustsr_training.recipe import Generator, Recipe
from safetensors.torch import load_file, save_file

from robustsr.architectures import UNet, unet_like
from robustsr.craft import attackable
from robustsr.models import load
from robustsr.plan import compose, make_plan
from robustsr.probes import photograph_like
from robustsr.tiling import EFFECTIVE_CONTEXT
from robustsr.torchvision_schema import import_torchvision
from robustsr.types import RobustSRError


def seen(widths=(4, 8), bottleneck=8):
    """A U-Net whose batch norms have seen a few pictures."""
    torch.manual_seed(0)
    net = UNet(widths, bottleneck)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(2, 3, 32, 32))
    return net.eval()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "unet.safetensors"
    export(seen(), path, {})
    return path


@pytest.mark.parametrize(("h", "w"), [(32, 32), (64, 96)])
def test_the_output_is_as_large_as_the_input(h, w):
    assert UNet().eval()(torch.rand(2, 3, h, w)).shape == (2, 3, h, w)


@pytest.mark.parametrize(("h", "w"), [(33, 32), (32, 16)])
def test_other_sizes_are_refused(h, w):
    with pytest.raises(RobustSRError, match=f"multiples of 32, got {w}x{h}"):
        UNet().eval()(torch.rand(1, 3, h, w))


def test_it_has_the_widths_of_the_thesis():
    down = [block[0].out_channels for block in UNet().down]
    assert down == [8, 16, 32, 64, 128] and UNet().bottom[0].out_channels == 128


def test_weights_go_to_a_file_and_back(file):
    net = load(file, device="cpu", precision="fp32")
    assert (net.scale, net.multiple, net.context, net.exact, net.name) == (1, 4, EFFECTIVE_CONTEXT, False, "unet")
    kept = load_file(file)
    assert kept["down.0.1.num_batches_tracked"].item() == 3
    assert kept["down.0.1.num_batches_tracked"].dtype == torch.int64 and kept["last.weight"].dtype == torch.float16
    want = {k: v.half() if v.is_floating_point() else v for k, v in seen().state_dict().items()}
    assert all(torch.equal(v, want[k].to(v)) for k, v in net.module.state_dict().items())
    x = torch.rand(1, 3, 16, 24)
    assert torch.allclose(net(x), seen()(x), atol=5e-3) and torch.equal(net(x), net(x))


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_a_pickled_state_dict_is_known_too(tmp_path, kind):
    state = {k: v.to(kind) if v.is_floating_point() else v for k, v in UNet().state_dict().items()}
    torch.save({"params": state}, tmp_path / "thesis.pth")
    net = load(tmp_path / "thesis.pth", device="cpu", precision="fp32")
    assert (net.scale, net.multiple) == (1, 32) and net.module.last.weight.dtype == torch.float32


@pytest.mark.parametrize(("h", "w"), [(1, 1), (13, 22), (35, 4)])
def test_pictures_of_any_size_are_padded_and_cut(file, h, w):
    net, x = load(file, device="cpu", precision="fp32"), torch.rand(1, 3, h, w, requires_grad=True)
    sr = net(x)
    assert sr.shape == x.shape and torch.autograd.grad(sr.sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("side", [300, 437])
def test_tiles_that_pool_leave_no_seams(side):
    """Windows begin where the whole picture's cells do, and reach further than a cell."""
    net, x = load("unet-x2", device="cpu", precision="fp32"), photograph_like(side)
    tiled = compose(net, None, make_plan(net, None, tile=256), (side, side))
    again = attackable(net, (side, side))
    with torch.inference_mode():
        whole, made, attacked = net(x), tiled(x), again(x)
    assert len(tiled.grid(side, side)[0]) > 1 and len(again.grid(side, side)[0]) > 1
    assert (made - whole).abs().max() < 1 / 255 and (attacked - whole).abs().max() < 1 / 255


def test_a_deep_one_is_attacked_in_tiles_with_room_for_its_context(tmp_path):
    export(UNet((4,) * 7, 4), tmp_path / "deep.safetensors", {})
    net = load(tmp_path / "deep.safetensors", device="cpu", precision="fp32")
    assert net.multiple == net.align == 128 and net.context == 256
    with torch.inference_mode():
        assert attackable(net, (300, 1000))(torch.rand(1, 3, 300, 1000)).shape == (1, 3, 300, 1000)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("bottom.3.weight"),
        lambda s: s.update({"down.1.0.weight": torch.zeros(9, 4, 3, 3)}),
        lambda s: s.update({"last.weight": torch.zeros(1, 4, 1, 1)}),
        lambda s: s.update({"strange.weight": torch.zeros(1)}),
    ],
)
def test_damaged_weights_are_refused(tmp_path, damage):
    state = seen().state_dict()
    damage(state)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(RobustSRError, match="does not fit the architecture its names tell of"):
        load(tmp_path / "bad.safetensors", device="cpu")


def test_other_architectures_are_left_to_spandrel(tiny):
    assert unet_like(load_file(tiny)) is None and load(tiny, device="cpu").scale == 4


def test_gradients_reach_the_first_layer_and_weights_follow_from_the_seed():
    net, again = (build(Generator("unet"), 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    net(torch.rand(2, 3, 64, 64)).square().mean().backward()
    norms = [p.grad.norm() for p in net.parameters() if p.ndim == 4]
    assert norms[0] > 1e-3 * max(norms)


@pytest.fixture
def recipe(tmp_path, photo):
    """A short run on 32-pixel patches shrunk and enlarged twice, validated on one picture."""
    (tmp_path / "hr").mkdir()
    for i in range(2):
        Image.fromarray(photo(70, 90, seed=i)).save(tmp_path / "hr" / f"{i}.png")
    sets = {
        "data.hr": f'"{tmp_path / "hr"}"',
        "validation.sets": f'["{tmp_path / "hr"}"]',
        "validation.crop": 32,
        "data.patch": 32,
        "data.batch": 2,
        "optimiser.steps": 3,
        "checkpoint_every": 1,
        "precision": "fp32",
    }
    return Recipe.load("thesis-standard", [f"{k}={v}" for k, v in sets.items()])


def test_it_trains_on_pictures_that_were_enlarged_before(recipe, tmp_path, home):
    made = list(train(recipe, tmp_path / "run"))[-1].measured
    assert made["hr clean"]["psnr"] > 3
    net = load(tmp_path / "run" / "thesis-standard.safetensors", device="cpu", precision="fp32")
    assert net.scale == 1 and net.module.down[0][1].num_batches_tracked == 3
    with pytest.raises(RobustSRError, match="is x1, the recipe's is x2"):
        build(Generator(init=str(tmp_path / "run" / "thesis-standard.safetensors"), scale=2), 0)
    start = build(Generator("unet", init=str(tmp_path / "run" / "thesis-standard.safetensors"), scale=2), 0)
    assert start.training and torch.equal(start.last.weight, net.module.last.weight)


def test_looking_whether_a_run_is_healthy_teaches_it_nothing(recipe, tmp_path, home):
    asked = iter([False, True])
    list(train(recipe, tmp_path / "parts", stop=lambda: next(asked)))
    state = State.resumed(tmp_path / "parts" / "checkpoint.pt", recipe, torch.device("cpu"))
    assert state.net.down[0][1].num_batches_tracked == 2


def test_a_denoiser_and_an_upscaler_train_as_one(tmp_path, photo, home):
    folder = tiny_run.pictures(tmp_path, photo)
    made = tiny_run.recipe(folder, 'generator.init="psnr"', 'generator.denoise="denoiser"', "optimiser.steps=1")
    start = build(made.generator, 0)
    export(start, tmp_path / "both.safetensors", {})
    both, apart = (
        load(name, device="cpu", precision="fp32", denoise=first)
        for name, first in ((tmp_path / "both.safetensors", None), ("psnr", "denoiser"))
    )
    x = torch.rand(1, 3, 24, 31)
    assert (both(x) - apart(x)).abs().max() < 1e-5
    assert (both.scale, both.context, both.exact) == (4, apart.context, True)
    list(train(made, folder / "run"))
    trained = load_file(folder / "run" / f"{made.name}.safetensors")
    for part in ("denoiser.", "upscaler."):
        assert any(k.startswith(part) and not torch.equal(v, start.state_dict()[k].half()) for k, v in trained.items())
    again = [f'generator.init="{folder / "run" / made.name}.safetensors"', 'generator.denoise="denoiser"']
    assert build(tiny_run.recipe(folder, again[0]).generator, 0).state_dict().keys() == trained.keys()
    with pytest.raises(RobustSRError, match="has a denoiser of its own"):
        build(tiny_run.recipe(folder, *again).generator, 0)


def test_such_a_run_resumes_without_what_it_began_with(tmp_path, photo, home):
    folder = tiny_run.pictures(tmp_path, photo)
    own = tmp_path / "own.safetensors"
    export(load("denoiser", device="cpu", precision="fp32").module, own, {})
    list(train(tiny_run.recipe(folder, f'generator.denoise="{own}"', "optimiser.steps=2"), folder / "run"))
    own.unlink()
    gone = tiny_run.recipe(folder, 'generator.denoise="elsewhere.safetensors"', "optimiser.steps=2")
    assert State.resumed(folder / "run" / "checkpoint.pt", gone, torch.device("cpu")).step == 2


def test_a_denoiser_in_front_has_to_be_one(tmp_path, photo, home):
    with pytest.raises(RobustSRError, match=r"generator.denoise 'psnr' is x4, the recipe's is x1"):
        build(Generator(denoise="psnr"), 0)
    save_file({"denoiser.weight": torch.ones(3), "upscaler.weight": torch.ones(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(RobustSRError, match="holds no architecture"):
        load(tmp_path / "odd.safetensors")
    four = load("psnr", device="cpu").module.state_dict()
    twice = {f"{part}.{k}": v.clone().contiguous() for part in ("denoiser", "upscaler") for k, v in four.items()}
    save_file(twice, tmp_path / "twice.safetensors")
    with pytest.raises(RobustSRError, match="does not fit the architecture its names tell of: the denoiser is x4"):
        load(tmp_path / "twice.safetensors")


@pytest.mark.parametrize("name", ["PLKSR", "RealPLKSR"])
def test_networks_that_write_over_what_their_gradients_need_have_them(name, tmp_path):
    import_torchvision()
    from spandrel.architectures import PLKSR

    torch.manual_seed(0)
    net = getattr(PLKSR, name)(dim=16, n_blocks=2, kernel_size=5, upscaling_factor=2)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    loaded = load(tmp_path / "net.pth", device="cpu", precision="fp32")
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    (found,) = torch.autograd.grad(loaded(x).square().sum(), x)
    (want,) = torch.autograd.grad(net.train()(x).square().sum(), x)  # in training they write elsewhere
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(loaded))
    assert torch.equal(torch.autograd.grad(again(x).square().sum(), x)[0], found)
    weights = [list(module.requires_grad_(True).parameters()) for module in (again.module, net)]
    found, want = (torch.autograd.grad(up(x).square().sum(), w) for up, w in zip((again, net), weights, strict=True))
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)
