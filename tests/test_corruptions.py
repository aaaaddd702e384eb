"""What every kind of corruption keeps to, and the closed forms of those that have one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color, filters

from robustsr.corruptions import KINDS, Corruption, parse
from robustsr.metrics import psnr
from robustsr.types import RobustSRError

IMAGENET_C = [name for name, kind in KINDS.items() if "severity" in kind.params]
FIXED = {"blur", "jpeg", "webp", "defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg-compression"}
FIXED |= {"gaussian-blur", "saturate"}
BLURS = [
    "blur",
    "blur:align=odd",
    "defocus-blur",
    "glass-blur",
    "motion-blur",
    "zoom-blur",
    "gaussian-blur",
    "pixelate",
]
WORSE = ["gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "defocus-blur", "motion-blur", "zoom-blur"]
WORSE += ["glass-blur", "snow", "brightness", "contrast", "pixelate", "jpeg-compression", "gaussian-blur", "spatter"]


@pytest.fixture
def picture(photo):
    def make(h=96, w=120, seed=0):
        return torch.from_numpy(photo(h, w, seed).astype(np.float32).transpose(2, 0, 1) / 255)

    return make


def run(spec, x, seed=0):
    return parse(spec)(x, seed)


def decibel(a, b):
    return float(psnr(a[None], b[None]))


def gray(value, h=64, w=64):
    return torch.full((3, h, w), float(value))


# --- every kind ---


@pytest.mark.parametrize("name", KINDS)
def test_is_a_function_of_picture_spec_and_seed_alone(name, picture):
    x = picture(37, 53)
    before = x.clone()
    np.random.seed(1)
    torch.manual_seed(1)
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = run(name, x, 5)
    assert np.array_equal(np.random.get_state()[1], state) and torch.equal(torch.get_rng_state(), torch_state)
    np.random.seed(2)
    torch.manual_seed(2)
    assert torch.equal(run(name, x, 5), first) and torch.equal(x, before)
    assert first.shape == x.shape and first.dtype == torch.float32 and first.is_contiguous()
    assert not torch.equal(first, x)
    assert torch.equal(run(name, x, 6), first) == (name in FIXED)


@pytest.mark.parametrize("name", KINDS)
def test_any_size_and_any_content_stays_in_range(name, picture):
    for severity in range(1, 6) if name in IMAGENET_C else [None]:
        spec = f"{name}:severity={severity}" if severity else name
        for x in (picture(8, 8), picture(9, 40), gray(0, 8, 11), gray(1, 16, 8), picture(20, 13) * 3 - 1):
            y = run(spec, x, 3)
            assert y.shape == x.shape and bool(torch.isfinite(y).all())
            assert float(y.min()) >= 0 and float(y.max()) <= 1


@pytest.mark.parametrize("name", WORSE)
def test_a_higher_severity_is_worse(name, picture):
    pairs = [(picture(seed=seed), seed) for seed in range(2)]
    quality = [np.mean([decibel(run(f"{name}:severity={s}", x, i), x) for x, i in pairs]) for s in range(1, 6)]
    slack = 1 if name == "glass-blur" else 0.3  # its severity 2 has a longer reach but fewer rounds
    assert all(b <= a + slack for a, b in zip(quality, quality[1:], strict=False)), quality
    assert quality[4] < quality[0] - 1


@pytest.mark.parametrize("name", sorted(set(KINDS) - {n for n in KINDS if "noise" in n or n == "second-order"}))
def test_gray_stays_gray_but_for_coloured_weather(name, picture):
    x = picture().mean(0, keepdim=True).expand(3, -1, -1)
    spread = float(np.ptp(run(name, x).numpy(), 0).max())
    if name in ("frost", "spatter"):
        assert 0.02 < spread < 0.6
    else:
        assert spread <= 2 / 255


@pytest.mark.parametrize("spec", [*BLURS, "elastic-transform", "contrast"])
def test_a_plain_picture_has_nothing_to_blur_or_move(spec):
    assert torch.allclose(run(spec, gray(0.37, 40, 30)), gray(0.37, 40, 30), atol=1e-5)


# --- noise ---


@pytest.mark.parametrize(
    ("spec", "std"),
    [("noise", 0.03), ("noise:sigma=0.1", 0.1), ("gaussian-noise:severity=1", 0.08), ("speckle-noise:severity=2", 0.1)]
    + [("shot-noise:severity=1", (0.5 / 60) ** 0.5)],
)
def test_noise_has_its_standard_deviation(spec, std):
    noise = run(spec, gray(0.5, 200, 200)) - 0.5
    assert float(noise.std()) == pytest.approx(std, rel=0.02) and abs(float(noise.mean())) < std / 50


def test_kinds_draw_numbers_of_their_own():
    a, b = ((run(spec, gray(0.5)) - 0.5).flatten() for spec in ("noise:sigma=0.08", "gaussian-noise:severity=1"))
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.1


def test_impulse_noise_hits_its_share_half_of_it_white():
    y = run("impulse-noise:severity=5", gray(0.5, 200, 200))
    assert float((y == 1).float().mean()) == pytest.approx(0.135, abs=0.005)
    assert float((y == 0).float().mean()) == pytest.approx(0.135, abs=0.005)


# --- blur ---


def spread_of_a_point(spec, size=41):
    """Weights of a point's image, and the offset of their centre and their standard deviation, (row, column)."""
    x = torch.zeros(3, size, size)
    x[:, size // 2, size // 2] = 1
    y = run(spec, x)[0].double()
    at = torch.arange(size, dtype=torch.float64) - size // 2
    centre = [float((y.sum(1 - axis) * at).sum() / y.sum()) for axis in (0, 1)]
    std = [float((y.sum(1 - a) * (at - centre[a]) ** 2).sum() / y.sum()) ** 0.5 for a in (0, 1)]
    return y, centre, std


def test_the_even_narrow_blur_is_a_box_that_moves_half_a_pixel(picture):
    x = picture()
    y = run("blur:size=10,sigma=0.3,align=even", x)
    box = (x[:, 1:, 1:] + x[:, :-1, 1:] + x[:, 1:, :-1] + x[:, :-1, :-1]) / 4
    assert torch.allclose(y[:, 1:, 1:], box, atol=1e-4)
    _, centre, std = spread_of_a_point("blur")
    assert centre == pytest.approx([0.5, 0.5], abs=1e-4) and std == pytest.approx([0.5, 0.5], abs=1e-3)


def test_the_odd_narrow_blur_does_nearly_nothing(picture):
    x = picture()
    assert decibel(run("blur:size=10,sigma=0.3,align=odd", x), x) > 55
    assert decibel(run("blur:align=even", x), x) < 40


@pytest.mark.parametrize(("spec", "shift"), [("size=30,sigma=3,align=even", 0.5), ("size=31,sigma=3,align=odd", 0)])
def test_a_wide_blur_is_the_gaussian_it_says(spec, shift):
    _, centre, std = spread_of_a_point(f"blur:{spec}")
    assert centre == pytest.approx([shift, shift], abs=1e-3) and std == pytest.approx([3, 3], rel=0.01)


def test_sizes_are_rounded_up_to_the_parity_of_the_alignment(picture):
    x = picture()
    for given, same in [("size=9,sigma=2,align=even", "size=10,sigma=2,align=even")] + [
        ("size=10,sigma=2,align=odd", "size=11,sigma=2,align=odd")
    ]:
        assert torch.equal(run(f"blur:{given}", x), run(f"blur:{same}", x))


def test_gaussian_blur_is_that_of_scikit_image(picture):
    x = picture()
    want = filters.gaussian(x.permute(1, 2, 0).numpy(), sigma=2, channel_axis=-1)
    assert np.allclose(run("gaussian-blur:severity=2", x).permute(1, 2, 0), want, atol=1e-5)


def test_a_point_out_of_focus_is_a_disk():
    y, centre, _ = spread_of_a_point("defocus-blur:severity=1")
    rows, columns = torch.meshgrid(*[torch.arange(41) - 20] * 2, indexing="ij")
    assert torch.equal(y > 1e-4, rows**2 + columns**2 <= 9) and centre == pytest.approx([0, 0], abs=1e-4)
    flat = torch.full((3, 40, 40), 0.5)  # the published kernel of large disks sums to more than 1
    sums = [float(run(f"defocus-blur:severity={s}", flat).mean()) / 0.5 for s in range(1, 6)]
    assert sums == pytest.approx([1, 1, 1, 1.01298, 1.01079], abs=1e-4)


def test_motion_draws_a_point_out_into_half_a_line():
    y, _, std = spread_of_a_point("motion-blur:severity=3", 81)
    lit = (y > 1e-6).nonzero() - 40
    assert 22 <= len(lit) <= 31 and float(y.sum()) == pytest.approx(1, abs=1e-4)
    near = lit.abs().amax(1) < 10  # strongest at its start, the point itself
    assert float(y[tuple((lit[near] + 40).T)].sum()) > 0.6 and float(y[40, 40]) > 0 and max(std) > 3
    far = lit[lit.square().sum(1).argmax()].double()
    assert 25 < float(far.norm()) < 31
    across = (lit[:, 0] * far[1] - lit[:, 1] * far[0]) / far.norm()
    assert float(across.abs().max()) < 1.1


def test_glass_only_moves_pixels_between_its_blurs(picture):
    x = picture()
    y = run("glass-blur:severity=5", x)
    assert torch.allclose(y.mean((1, 2)), x.mean((1, 2)), atol=0.01)


def test_pixelate_makes_blocks_of_their_mean(picture):
    x = picture(32, 48)
    y = run("pixelate:severity=2", x)
    blocks = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.allclose(y, blocks, atol=1e-5)


# --- colour and weather ---


@pytest.mark.parametrize("severity", range(1, 6))
def test_brightness_and_saturation_are_those_of_hsv(severity, picture):
    x = picture(24, 24)
    x[:, :8, :8] = x[:1, :8, :8]  # gray
    x[:, :2, :2] = 0
    rgb = x.permute(1, 2, 0).double().numpy()
    bright, vivid = color.rgb2hsv(rgb), color.rgb2hsv(rgb)
    bright[..., 2] = (bright[..., 2] + severity / 10).clip(0, 1)
    factor, offset = [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)][severity - 1]
    vivid[..., 1] = (vivid[..., 1] * factor + offset).clip(0, 1)
    for name, want in (("brightness", bright), ("saturate", vivid)):
        y = run(f"{name}:severity={severity}", x).permute(1, 2, 0)
        assert np.allclose(y, color.hsv2rgb(want), atol=1e-5), name


def test_contrast_shrinks_around_the_mean(picture):
    x = picture()
    y = run("contrast:severity=5", x)
    assert torch.allclose(y.mean((1, 2)), x.mean((1, 2)), atol=1e-5)
    assert torch.allclose(y.std((1, 2)), 0.05 * x.std((1, 2)), atol=1e-5)


def test_fog_takes_contrast_away_and_cannot_light_up_the_dark(picture):
    x = picture()
    y = run("fog:severity=1", x)
    assert float(y.std()) < 0.8 * float(x.std()) and float(y.max()) <= float(x.max()) + 1e-6
    assert float(run("fog", gray(0)).max()) == 0


@pytest.mark.parametrize("name", ["snow", "frost"])
def test_snow_and_frost_are_bright_on_dark_pictures(name):
    y = run(f"{name}:severity=3", gray(0.05, 128, 128))
    assert float(y.mean()) > 0.1 and float(y.max()) > 0.6 and float(y.std()) > 0.05


def test_spatter_is_pale_water_then_dark_mud():
    water = run("spatter:severity=2", gray(0.3, 128, 128)) - 0.3
    mud = run("spatter:severity=5", gray(0.3, 128, 128)) - 0.3
    assert float(water.min()) >= -1e-6 and 0.01 < float((water > 0.05).float().mean()) < 0.5
    hit = mud.abs().sum(0) > 0
    assert 0.02 < float(hit.float().mean()) < 0.5 and float(mud[2][hit].max()) < 0


def test_elastic_moves_but_does_not_recolour(picture):
    x = picture()
    y = run("elastic-transform:severity=5", x)
    assert float(y.min()) >= float(x.min()) - 1e-6 and float(y.max()) <= float(x.max()) + 1e-6
    assert decibel(y, x) < 45


# --- compression ---


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_a_lower_quality_is_worse(codec, picture):
    x = picture()
    quality = [decibel(run(f"{codec}:quality={q}", x), x) for q in (95, 70, 40, 15, 2)]
    assert quality == sorted(quality, reverse=True) and quality[0] > quality[-1] + 5


def test_jpeg_is_what_a_file_would_hold(picture):
    x = picture()
    file = io.BytesIO()
    Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=25)
    want = torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32) / 255).permute(2, 0, 1)
    assert torch.allclose(run("jpeg:quality=25", x), want)
    assert torch.allclose(run("jpeg-compression:severity=1", x), want)


def test_a_side_too_long_for_the_codec_is_refused():
    with pytest.raises(RobustSRError, match=r"20000 x 8 pixels, but WEBP holds at most 16,383 a side"):
        run("webp", torch.zeros(3, 8, 20_000))


# --- names ---


@pytest.mark.parametrize("name", KINDS)
def test_specs_are_canonical(name):
    made = parse(name)
    assert parse(made.spec) == made and parse(f" {name.replace('-', '_').upper()} ") == made
    assert KINDS[name].about


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ("jpeg:quality=30", "jpeg:quality=30"),
        ("fog", "fog:severity=3"),
        ("noise", "noise:sigma=0.03"),
        ("noise:sigma=8px", "noise:sigma=8/255"),
        ("noise:sigma=0.01234567", "noise:sigma=0.01234567"),
        ("blur: align=odd, sigma=2", "blur:size=10,sigma=2,align=odd"),
        ("second_order", "second-order"),
        ("Gaussian_Noise:severity=5", "gaussian-noise:severity=5"),
    ],
)
def test_specs_as_typed(given, spec):
    assert parse(given).spec == spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fogg", "no corruption 'fogg'; did you mean 'fog'?"),
        ("xyzzy", "known: noise, blur, jpeg"),
        ("", "no corruption ''"),
        ("fog:severity=6", "severity is '6'; it must be a whole number from 1 to 5"),
        ("fog:severity=2.5", "whole number"),
        ("fog:severity=", "whole number"),
        ("fog:3", "'3' is not of the form key=value"),
        ("fog:severity=1,severity=2", "severity is given twice"),
        ("jpeg:qualty=3", "jpeg has no parameter 'qualty'; did you mean 'quality'?"),
        ("jpeg:quality=0", "from 1 to 100"),
        ("second-order:scale=2", "no parameter 'scale'; it has none"),
        ("noise:sigma=0", "a number above 0 and at most 1"),
        ("noise:sigma=nan", "a number above 0"),
        ("noise:sigma=two", "a number above 0"),
        ("blur:align=left", "align is 'left'; it must be one of even, odd"),
        ("blur:size=10,odd", "'odd' is not of the form"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(RobustSRError) as error:
        parse(spec)
    assert message in str(error.value)


def test_pictures_too_small_or_of_another_shape_are_refused():
    with pytest.raises(RobustSRError, match="20 x 7 pixels: at least 8 a side"):
        run("fog", torch.zeros(3, 7, 20))
    for shape in [(1, 3, 8, 8), (1, 8, 8), (8, 8)]:
        with pytest.raises(ValueError, match="a picture is"):
            run("noise", torch.zeros(shape))


def test_equal_corruptions_are_equal_and_hashable():
    assert {parse("fog"), parse("fog:severity=3")} == {Corruption("fog", (("severity", 3),))}


def test_sizes_of_noise_are_written_as_everywhere():
    assert parse("noise:sigma=8/255") == parse(f"noise:sigma={8 / 255}") == parse("noise:sigma=8px")
