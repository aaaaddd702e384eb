import re
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from robustsr_ui import view


@pytest.fixture
def stored(tmp_path, photo):
    return view.keep(photo(1200, 1500), tmp_path)


def test_previews_are_bounded_and_keep_their_shape(stored, tmp_path):
    assert stored.preview().size == (1400, 1120)
    small = view.keep(np.zeros((3, 5, 3), np.uint8), tmp_path)
    assert small.preview().size == (5, 3)
    assert view.Enlarged(small, (5000, 3000)).preview().size == (1400, 840)


def test_regions_lie_inside_whatever_is_asked():
    for at in (0, 0.5, 1, -3, 7):
        left, top, right, bottom = view.region_at((3000, 500), at, at)
        assert 0 <= left < right <= 3000 and (top, bottom) == (0, 500) and right - left == view.REGION
    assert view.region_at((40, 30), 0.9, 0.1) == (0, 0, 40, 30)


def test_a_part_enlarged_is_the_part_of_the_whole_enlarged(tmp_path, photo):
    small = view.keep(photo(60, 80), tmp_path)
    large = view.Enlarged(small, (320, 240))
    whole, box = np.asarray(large.region((0, 0, 320, 240))).astype(int), (100, 60, 180, 140)
    part = np.asarray(large.region(box)).astype(int)
    assert np.abs(part - whole[60:140, 100:180])[8:-8, 8:-8].max() <= 1


def test_transparency_is_laid_on_white(picture):
    alpha = np.zeros((16, 20), np.float32)
    alpha[:8] = 1
    made = picture(alpha=alpha)
    flat = view.flat(made)
    assert (flat[8:] == 255).all()
    assert (flat[:8] == np.floor(made.rgb[:8] * 255 + 0.5)).all()


def test_the_loupe_shows_every_view_at_the_same_place(stored, tmp_path):
    labels = ["before <1>", "after"]
    html = view.Loupe([(label, stored) for label in labels], tmp_path).show(x=1, y=1)
    assert "before &lt;1&gt;" in html and html.count('class="pane"') == 2 and 'class="overview"' in html
    sources = [unquote(s) for s in re.findall(r'class="pane".*?src="gradio_api/file=([^"]+)"', html)]
    first, second = (np.asarray(Image.open(path)) for path in sources)
    assert (first == second).all() and first.shape == (view.REGION, view.REGION, 3)
    assert (first == np.load(stored.path)[-view.REGION :, -view.REGION :]).all()
    small = view.keep(np.zeros((9, 9, 3), np.uint8), tmp_path)
    assert 'class="overview"' not in view.Loupe([("a", small)], tmp_path).show()
