from dataclasses import replace

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


def test_the_verdict_has_the_attacked_model_and_all_in_order(network, picture):
    soft = replace(network, name="soft")
    result = run(here(picture(16, 20)), network, threats.parse("pgd:eps=8/255,steps=2"), others=[smoothed(soft, FEW)])
    reached = {label: result.outcome(label, "base").measures["psnr"] for label in result.labels}
    first, second = verdict(result).splitlines()
    noise = result.outcome(network.name, "random").measures["psnr"]
    assert first == (
        f"{network.name}, PSNR to its clean output: "
        f"random noise as large {noise:.1f} dB, attacked {reached[network.name]:.1f} dB."
    )
    order = sorted(reached, key=reached.get, reverse=True)
    assert len(order) > 1 and second == f"Attacked, best first: {'; '.join(f'{m} {reached[m]:.1f}' for m in order)}."
