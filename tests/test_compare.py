from fakes import here

from robustsr import models
from robustsr.compare import compare, rows, table
from robustsr.ruler import Ruler
from robustsr.scene import Shown


def test_models_of_different_scales_are_shown_at_one_size(network, picture):
    one = here(picture(24, 24), picture(96, 96, seed=1))
    shown = [Shown("tiny", network), Shown("half", models.load("bicubic-x2", device="cpu"))]
    found = compare(one, shown, Ruler.best())
    assert [f.sr.shape for f in found] == [(96, 96, 3)] * 2 and all(f.seconds > 0 for f in found)
    assert found[1].label(4) == "half (x2, resized by bicubic)"
    made = table(one, found, Ruler.best())
    assert [c.name for c in made.columns] == ["s", "PSNR", "PSNR Y", "SSIM", "SSIM Y", "LPIPS"]
    panels = rows(one, found)[0][1]
    assert [p.label for p in panels] == ["input", "ground truth", "tiny", "half (x2, resized by bicubic)"]
