from fakes import here

from robustsr import threats
from robustsr.attack import run
from robustsr.attack_report import contact, detail


def test_the_detail_is_where_the_output_changed(network, picture):
    one = here(picture(150, 200), mask=(150, 20, 10, 10))
    result = run(one, network, threats.parse("fgsm"))
    x, y, w, h = detail(result)
    assert (w, h) == (100, 100) and x <= 150 and x + w >= 160 and y <= 20 and y + h >= 30
    assert contact(result).mode == "RGB"
