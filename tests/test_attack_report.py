import math
from dataclasses import replace

import pytest
from fakes import FEW, here

from robustsr import threats
from robustsr.attack import run
from robustsr.attack_report import contact, detail, verdict
from robustsr.scene import smoothed


def test_the_detail_is_where_the_output_changed(network, picture):
    one = here(picture(150, 200), mask=(150, 20, 10, 10))
    result = run(one, network, threats.parse("fgsm"))
    x, y, w, h = detail(result)
    assert (w, h) == (100, 100) and x <= 150 and x + w >= 160 and y <= 20 and y + h >= 30
    assert contact(result).mode == "RGB"


@pytest.mark.parametrize("truth", [False, True])
def test_the_verdict_has_the_attacked_model_and_all_in_order(network, picture, truth):
    soft = replace(network, name="soft")
    one = here(picture(16, 20), picture(64, 80) if truth else None)
    others = [smoothed(soft, replace(FEW, sigma=sigma)) for sigma in (0.2, 0.03)]
    result = run(one, network, threats.parse("pgd:eps=8/255,steps=2"), others=others)

    def reached(label, name):
        return result.outcome(label, name).measures["psnr"]

    victim = [f"{reached(network.name, name):.1f} dB" for name in ("clean", "random", "base")]
    first, second = verdict(result).splitlines()
    told = f"attacked {victim[2]}, with random noise as large {victim[1]}."
    before = f"the truth: clean {victim[0]}, " if truth else "its clean output: "
    assert first == f"{network.name}, PSNR to {before}{told}"
    rest = sorted({*result.labels} - {network.name}, key=lambda label: -reached(label, "base"))
    others = "; ".join(f"{label} {reached(label, 'base'):.1f} dB" for label in rest)
    to = "the truth" if truth else "its clean output"
    assert len(rest) == 2 and second == f"Others, given the picture made against it, each to {to}: {others}."


def test_the_verdict_of_an_attack_that_changed_nothing(network, picture):
    result = run(here(picture(16, 20)), network, threats.parse("fgsm"))
    same = tuple(replace(o, measures={**o.measures, "psnr": math.inf}) for o in result.outcomes)
    first = verdict(replace(result, outcomes=same)).splitlines()[0]
    assert first.endswith(": attacked no change, with random noise as large no change.")
