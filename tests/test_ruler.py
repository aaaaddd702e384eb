from fakes import here

from robustsr import threats
from robustsr.attack import run
from robustsr.attack_report import tables


def test_lpips_is_measured_where_it_can_be(shared, network, picture, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(shared / "weights"))
    result = run(here(picture(), picture(64, 80, seed=1)), network, threats.parse("fgsm"))
    assert result.outcome("tiny", "base").measures["lpips"] > 0
    assert "LPIPS: squeeze" in " ".join(tables(result)[1].notes)
