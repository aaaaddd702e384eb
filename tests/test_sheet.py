import numpy as np
import pytest
from PIL import Image

from robustsr.report import Panel
from robustsr.sheet import MARGIN, amplified, contact_sheet


def test_gray_is_no_change_and_the_factor_clips_nothing():
    delta = np.zeros((4, 5, 3), np.float32)
    made, factor = amplified(delta)
    assert factor == 1 and (made == 128).all()
    delta[1, 2, 0], delta[3, 3, 1] = 8 / 255, -8 / 255
    made, factor = amplified(delta)
    assert factor == 15 and made[1, 2, 0] == 128 + 120 and made[3, 3, 1] == 128 - 120 and (made == 128).sum() == 58
    assert amplified(np.ones((1, 1, 3), np.float32))[1] == 1


def test_a_given_factor_clips():
    made, factor = amplified(np.array([[[0.25, -0.5, 0.0]]], np.float32), 10)
    assert factor == 10 and made.tolist() == [[[255, 0, 128]]]


def panel(h, w, label="a", caption=""):
    rng = np.random.default_rng(h)
    return Panel(label, rng.integers(0, 200, (h, w, 3), dtype=np.uint8), caption)


def test_pixels_are_whole_squares():
    small, large = panel(10, 12), panel(40, 48)
    sheet = np.asarray(contact_sheet([("row", [small, large])]))
    top = next(y for y in range(len(sheet)) if (sheet[y, MARGIN : MARGIN + 9] == small.picture[0, 0]).all())
    zoom = 400 // 48  # of the larger; the smaller four times as much
    first = sheet[top : top + 10 * 4 * zoom, MARGIN : MARGIN + 12 * 4 * zoom]
    assert (first == small.picture.repeat(4 * zoom, 0).repeat(4 * zoom, 1)).all()
    left = MARGIN + 48 * zoom + 10
    second = sheet[top : top + 40 * zoom, left : left + 48 * zoom]
    assert (second == large.picture.repeat(zoom, 0).repeat(zoom, 1)).all()
    assert (sheet[:, :MARGIN] == 255).all() and (sheet[:, -MARGIN:] == 255).all()


@pytest.mark.parametrize("length", [1, 300])
def test_long_words_stay_in_their_cells(length):
    rows = [("x" * length, [panel(8, 8, "y" * length, "z" * length), panel(8, 8)])]
    sheet = np.asarray(contact_sheet(rows, title="t" * length, notes=["n" * length]))
    edge = MARGIN - 2  # letters may lean over their places
    assert (sheet[:, -edge:] == 255).all() and (sheet[:, :edge] == 255).all() and (sheet[-edge:] == 255).all()


def test_nothing_covers_a_picture():
    rows = [("one", [panel(20, 30, "a", "words " * 30), panel(20, 30)]), ("two", [panel(7, 9)])]
    plain = [("one", [panel(20, 30), panel(20, 30)]), ("two", [panel(7, 9)])]
    for made in (rows, plain):
        sheet = contact_sheet(made)
        found = np.asarray(sheet)
        picture = np.asarray(made[1][1][0].picture).repeat(37, 0).repeat(37, 1)  # 20 * (400 // 30) // 7
        h, w = picture.shape[:2]
        tops = [y for y in range(len(found) - h + 1) if (found[y, MARGIN : MARGIN + w] == picture[0]).all()]
        assert any((found[y : y + h, MARGIN : MARGIN + w] == picture).all() for y in tops)


def test_an_empty_sheet_and_large_or_gray_panels():
    assert contact_sheet([]).size[0] >= 200
    big = contact_sheet([("", [Panel("", Image.new("L", (900, 30)))])])
    assert big.mode == "RGB" and big.width == 900 + 2 * MARGIN
