import os

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
    with pytest.raises(robustsr.RobustSRError, match="^tile 8 is too small"):
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
        (Image.new("CMYK", (4, 4)), "must have mode 1, L, LA, P, RGB, RGBA or I;16, got CMYK"),
        (np.zeros((4, 4, 5), np.uint8), r"must be \(h, w\) or \(h, w, 1 to 4\), got \(4, 4, 5\)"),
        (np.zeros((4, 4, 3), np.int64), "must be uint8, uint16 or float, got int64"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.full((4, 4, 3), 200.0), r"must be in \[0, 1\], these reach from 200 to 200: scale them"),
        (torch.full((3, 4, 4), float("nan")), "no finite numbers"),
        (torch.zeros(1, 4, 4), r"must be \(3, h, w\) or"),
        (torch.zeros(0, 3, 4, 4), r"and not empty, got \(0, 3, 4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "must be dense and of floats, got torch.uint8"),
        (torch.zeros(3, 4, 4).to_sparse(), "must be dense and of floats, got torch.float32, torch.sparse_coo"),
        (torch.zeros(3, 4, 4).to_mkldnn(), "must be dense and of floats"),
        (torch.zeros(3, 4, 4, device="meta"), "must be dense and of floats, got torch.float32, torch.strided, meta"),
        (torch.zeros(3, 4, 4, requires_grad=True), r"gives no gradients: give image.detach\(\)"),
        (np.ma.masked_less(np.ones((4, 4, 3), np.uint8), 2), "pixels without a value"),
        (np.full((4, 4, 3), -0.6), r"must be in \[0, 1\], these reach from -0.6"),
    ],
)
def test_other_things_are_refused(net, image, message):
    with pytest.raises(robustsr.RobustSRError, match=message):
        robustsr.upscale(image, net)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "2"}, "^scale must be a number, got '2'"),
        ({"scale": True}, "^scale must be a number, got True"),
        ({"scale": float("nan")}, "^scale must be a number, got nan"),
        ({"width": 2.5}, "^width must be a whole number, got 2.5"),
        ({"long_side": True}, "^long_side must be a whole number, got True"),
        ({"long_side": 9, "width": 9}, "^give one of width, long_side, not several"),
        ({"tile": "64"}, "^tile must be a whole number, got '64'"),
        ({"seed": 1.5}, "^seed must be a whole number"),
        ({"width": 10**9}, r"pixels, over the limit of 400,000,000: scale 256 is possible, or .*set max_pixels to "),
        ({"max_pixels": 100}, "over the limit of 100"),
        ({"max_pixels": 0}, "^max_pixels must be at least 1, got 0"),
        ({"width": 10**400}, "^width must be a whole number"),
        ({"scale": 10**400}, "^scale must be a number"),
        ({"smooth": "median", "samples": "8"}, "^samples must be a whole number or auto, got '8'"),
        ({"model": "net--model.pth"}, "^no model file 'net--model.pth'"),
        ({"smooth": "median", "samples": True}, "^samples must be a whole number, got True"),
        ({"smooth": "median", "sigma": "auto"}, "no calibration for sigma auto"),
        ({"model": torch.nn.Identity()}, "^model is a name, a path or what robustsr.load returned, got Identity"),
        ({"model": b"psnr"}, "^model is a name, a path or what robustsr.load returned, got bytes"),
        ({"model": "psnr", "denoise": 3}, "^a model is loaded by its name or path, got int"),
        ({"model": ""}, "^no model ''"),
        ({"model": "psnr", "device": "tpu"}, "^no device 'tpu' here"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_the_words_of_python(tiny, photo, options, message):
    model = options.pop("model", tiny)
    with pytest.raises(robustsr.RobustSRError, match=message):
        robustsr.upscale(photo(), model, **options)


def test_numbers_of_numpy_and_devices_of_torch_are_as_good_as_pythons(tiny, photo):
    how = {"smooth": "median", "sigma": np.float32(0.25), "samples": np.int64(2), "seed": np.uint8(3)}
    made = robustsr.upscale(photo(), tiny, scale=np.float64(2), tile=np.int32(64), device=torch.device("cpu"), **how)
    plain = {"smooth": "median", "sigma": 0.25, "samples": 2, "seed": 3}
    assert np.array_equal(made, robustsr.upscale(photo(), tiny, scale=2, tile=64, device="cpu", **plain))
    assert robustsr.upscale(photo(), tiny, width=96.0).shape == (72, 96, 3)
    with os.scandir(tiny.parent) as files:  # an entry has a path, and is not its text
        assert robustsr.load(next(f for f in files if f.name == tiny.name), device="cpu").name == "tiny"
    big = photo().astype(">u2")
    assert robustsr.upscale(big, tiny).dtype == big.dtype
    assert np.array_equal(robustsr.upscale(big, tiny), robustsr.upscale(big.astype(np.uint16), tiny))


def test_a_colour_that_is_transparent_stays_so(net, photo):
    colour, gray = Image.fromarray(photo()), Image.fromarray(photo()).convert("L")
    colour.paste((1, 2, 3), (0, 0, 10, 10))
    gray.paste(5, (0, 0, 10, 10))
    for image, clear, mode in ((colour, (1, 2, 3), "RGBA"), (gray, 5, "LA")):
        image.info["transparency"] = b"of a palette"
        assert robustsr.upscale(image, net).mode == image.mode
        image.info["transparency"] = clear
        made = robustsr.upscale(image, net)
        assert made.mode == mode and not made.getpixel((4, 4))[-1] and made.getpixel((100, 80))[-1] == 255


def test_palettes_and_bitmaps_come_back_as_what_they_show(net, photo):
    palette, bits = Image.fromarray(photo()).quantize(32), Image.fromarray(photo()).convert("1")
    for image, mode in ((palette, "RGB"), (bits, "L"), (Image.fromarray(photo()).convert("RGBa"), "RGBA")):
        made, same = robustsr.upscale(image, net), robustsr.upscale(image.convert(mode), net)
        assert made.mode == mode and np.array_equal(made, same)
    alpha = Image.fromarray(photo()).convert("RGBA")
    alpha.putalpha(Image.fromarray(photo()[..., 0]).point(lambda v: 255 * (v > 128)))
    assert robustsr.upscale(alpha.quantize(16), net).getextrema()[3] == (0, 255)  # of a palette with alpha
    palette.info["transparency"] = palette.getpixel((3, 3))
    made = robustsr.upscale(palette, net)
    assert made.mode == "RGBA" and made.getextrema()[3] == (0, 255)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros(1, 3, 0, 8),
        torch.zeros(1, 3, 8, 8).byte(),
        np.zeros((1, 3, 8, 8), np.float32),
    ],
)
def test_what_load_gives_says_what_it_takes(net, x):
    with pytest.raises(robustsr.RobustSRError, match=r"take tensors of floats, \(N, 3, h, w\), got (torch|ndarray)"):
        net(x)
    assert net(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 32, 32)
    same, other = (robustsr.load("psnr", device="cpu", precision="fp32") for _ in range(2))
    assert len({same, same, other}) == 2


def test_what_resizing_overshoots_is_taken(net):
    lines = np.zeros((30, 30), np.float32)
    lines[14:16], lines[:, 14:16] = 1, 1
    pixels = np.asarray(Image.fromarray(lines).resize((90, 90), Image.Resampling.LANCZOS))
    assert pixels.min() < -0.2 and pixels.max() > 1.2 and robustsr.upscale(pixels, net).shape == (360, 360)


def test_under_no_grad_what_asks_for_gradients_is_a_picture(net):
    x = torch.rand(3, 8, 8, requires_grad=True)
    with torch.no_grad():
        assert not robustsr.upscale(x, net).requires_grad


def test_tab_finds_what_there_is_and_a_path_is_told_to_be_opened(net):
    assert {"load", "upscale"} <= set(dir(robustsr))
    with pytest.raises(robustsr.RobustSRError, match=r"got \(\): of a file give PIL.Image.open"):
        robustsr.upscale("photo.jpg", net)
