import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import robustsr


@pytest.fixture(scope="module")
def net(tiny):
    return robustsr.load(tiny, device="cpu", precision="fp32")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pil_images_come_back_as_they_were(net, photo, mode):
    image = Image.fromarray(photo()).convert(mode)
    made = robustsr.upscale(image, net)
    assert isinstance(made, Image.Image) and made.mode == mode and made.size == (128, 96)


def test_a_photograph_comes_back_upright_with_its_profile(net, photo, tmp_path):
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif[0x0112] = 6
    Image.fromarray(photo()).save(tmp_path / "x.png", exif=exif, icc_profile=profile)
    with Image.open(tmp_path / "x.png") as image:
        made = robustsr.upscale(image, net)
    turned = robustsr.upscale(np.rot90(photo(), -1).copy(), net)
    assert np.array_equal(np.asarray(made), turned) and made.info == {"icc_profile": profile}
    broken = Image.fromarray(photo())
    broken.info["exif"] = b"garbage"
    assert np.array_equal(np.asarray(robustsr.upscale(broken, net)), robustsr.upscale(photo(), net))
    deep = Image.fromarray(photo()[..., 0].astype(np.uint16) * 257)
    assert deep.mode == "I;16" and robustsr.upscale(deep, net).mode == "I;16"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_arrays_keep_dtype_and_channels(net, dtype, channels):
    shape = (9, 8) if channels is None else (9, 8, channels)
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    made = robustsr.upscale(image, net, smooth="median", sigma=0.02, samples=4)
    assert made.dtype == dtype and made.shape == (36, 32, *shape[2:])
    assert made.max() <= top and made.mean() > 0.2 * top


def test_tensors_keep_shape_and_equal_the_network(net):
    x = torch.rand(2, 3, 9, 8)
    assert torch.allclose(robustsr.upscale(x, net), net(x).clamp(0, 1), atol=1e-6)
    assert robustsr.upscale(x[0], net).shape == (3, 36, 32)
    assert robustsr.upscale(x[0].double(), net, scale=1.5).shape == (3, 14, 12)


def test_sizes_and_tiles_are_those_of_the_command_line(net):
    x = torch.rand(3, 40, 64)
    assert robustsr.upscale(x, net, long_side=100).shape == (3, 62, 100)
    assert robustsr.upscale(x, net, width=64, height=64).shape == (3, 40, 64)
    pieces = robustsr.upscale(x, net, tile=48)
    assert torch.allclose(pieces, robustsr.upscale(x, net), atol=1e-5)
    with pytest.raises(robustsr.RobustSRError, match="--tile 8 is too small"):
        robustsr.upscale(x, net, tile=8)


def test_sigma_may_be_written_as_everywhere_and_is_never_ignored(net):
    x = torch.rand(3, 12, 16)
    how = {"smooth": "median", "samples": 4}
    assert torch.equal(robustsr.upscale(x, net, sigma="8/255", **how), robustsr.upscale(x, net, sigma=8 / 255, **how))
    with pytest.raises(robustsr.RobustSRError, match="'0,03' is no size"):
        robustsr.upscale(x, net, sigma="0,03", **how)
    with pytest.raises(robustsr.RobustSRError, match=r"must be in \[0, 1\], these reach from -"):
        robustsr.upscale(2 * x - 1, net)


def test_without_a_name_the_default_is_loaded():
    assert robustsr.load(device="cpu").name == "certsr" and sorted(dir(robustsr)) == sorted(robustsr.__all__)


def test_a_model_can_be_named_by_path(tiny, photo):
    made = robustsr.upscale(photo(), tiny, device="cpu")
    assert made.shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("CMYK", (4, 4)), "must have mode L, LA, RGB, RGBA or I;16, got CMYK"),
        (np.zeros((4, 4, 5), np.uint8), r"must be \(h, w\) or \(h, w, 1 to 4\), got \(4, 4, 5\)"),
        (np.zeros((4, 4, 3), np.int64), "must be uint8, uint16 or float, got int64"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.full((4, 4, 3), 200.0), r"must be in \[0, 1\], these reach from 200 to 200: scale them"),
        (torch.full((3, 4, 4), float("nan")), "no finite numbers"),
        (torch.zeros(1, 4, 4), r"must be float \(3, h, w\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"must be float \(3, h, w\)"),
    ],
)
def test_other_things_are_refused(net, image, message):
    with pytest.raises(robustsr.RobustSRError, match=message):
        robustsr.upscale(image, net)


def test_tab_finds_what_there_is_and_a_path_is_told_to_be_opened(net):
    assert {"load", "upscale"} <= set(dir(robustsr))
    with pytest.raises(robustsr.RobustSRError, match=r"got \(\): of a file give PIL.Image.open"):
        robustsr.upscale("photo.jpg", net)
