import numpy as np
import pytest
import torch
from fakes import here
from PIL import Image

from robustsr import images
from robustsr.models import load
from robustsr.pipeline import upscale_picture
from robustsr.plan import make_plan
from robustsr.scene import Shown, box, crop_of, from_picture, pixels
from robustsr.settings import Smoothing, Target
from robustsr.types import RobustSRError


def test_rectangles():
    assert box("1,2,3,4") == (1, 2, 3, 4)
    for wrong in ("1,2,3", "a,b,c,d", "0,0,0,3", "-1,0,3,3", ""):
        with pytest.raises(RobustSRError, match="rectangle"):
            box(wrong)
    assert (crop_of("1,2,3,4"), crop_of("48")) == ((1, 2, 3, 4), 48)
    for wrong, words in (("0", "crop"), ("-3", "crop"), ("4.5", "crop"), ("1,2", "rectangle"), ("9" * 5000, "crop")):
        with pytest.raises(RobustSRError, match=f"is no {words}: write x,y,width,height"):
            crop_of(wrong)


def test_crops_are_the_same_part_of_everything(picture, photo):
    hr = picture(64, 80, seed=1)
    made = here(picture(), hr, crop=(3, 2, 14, 12), mask=(5, 4, 2, 1))
    assert made.size == (12, 14) and made.place == "14x12 pixels at 3,2"
    assert np.array_equal(pixels(made.x, 8), photo(16, 20)[2:14, 3:17])
    assert np.array_equal(pixels(made.hr, 8), photo(64, 80, 1)[8:56, 12:68])
    assert made.mask.nonzero().tolist() == [[0, 0, 2, 2], [0, 0, 2, 3]]


@pytest.mark.parametrize("smoothing", [None, Smoothing("median", 0.1, 4)])
def test_gray_is_shown_as_upscale_writes_it(tmp_path, photo, tiny, smoothing):
    Image.fromarray(photo(20, 24)).convert("L").save(tmp_path / "gray.png")
    net, picture = load(tiny, device="cpu", precision="fp32"), images.read(tmp_path / "gray.png")
    wanted, _ = upscale_picture(picture, net, smoothing, Target(), make_plan(net, smoothing))
    shown = Shown("tiny", net, smoothing)(from_picture(picture))
    assert (shown[..., :1] == shown).all()
    np.testing.assert_array_equal(shown, np.floor(wanted.rgb.astype(np.float64) * 255 + 0.5))


def test_the_centre_of_what_is_large_with_a_note(picture, photo):
    made = here(picture(20, 40), limit=16)
    assert made.box == (12, 2, 16, 16) and "only the centre, 16x16 of 40x20" in made.notes[0]
    asked = here(picture(20, 40), crop=16)
    assert asked.box == made.box and not asked.notes and here(picture(20, 40), crop=30).box == (5, 0, 30, 20)
    assert here(picture(20, 40), limit=None).size == (20, 40) and not here(picture(20, 40), limit=None).notes


def test_the_input_from_the_truth(picture, photo):
    made = here(None, picture(66, 83))
    whole = Image.fromarray(photo(66, 83)[:64, :80])
    assert np.array_equal(pixels(made.x, 8), np.asarray(whole.resize((20, 16), Image.Resampling.BICUBIC)))
    assert made.hr.shape == (1, 3, 64, 80) and "cut to 80x64" in made.notes[0]


def test_what_is_left_out_is_noted(picture):
    alpha = np.full((16, 20), 0.5, np.float32)
    notes = " ".join(here(picture(alpha=alpha, gray=True, rgb=picture().rgb * 1.003 - 0.001)).notes)
    assert "transparency is ignored" in notes and "gray is treated as RGB" in notes and "became sRGB in 8 bits" in notes
    made = here(picture(rgb=picture().rgb * 1.3 - 0.1)).x
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    torch.testing.assert_close(made * 255, (made * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (10, 0, 14, 14)}, "does not lie inside the picture of 20x16"),
        ({"crop": (0, 0, 11, 16)}, "too few: the output needs 48"),
        ({"mask": (10, 0, 14, 14)}, "the mask 10,0,14,14 does not lie inside"),
    ],
)
def test_sizes_that_do_not_fit(picture, options, message):
    with pytest.raises(RobustSRError, match=message):
        here(picture(), **options)


def test_wrong_truths_masks_and_no_picture(picture):
    with pytest.raises(RobustSRError, match="--hr has 20x16 pixels, the output 80x64: it must be 4 times"):
        here(picture(), picture())
    with pytest.raises(RobustSRError, match="the mask has 20x12 pixels, the picture 20x16"):
        here(picture(), mask=picture(12, 20))
    with pytest.raises(RobustSRError, match="give a picture, or --hr"):
        here(None)
