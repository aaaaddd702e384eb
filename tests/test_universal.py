import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import FEW, here

from robustsr import images, threats
from robustsr.attack_files import reread, write_universal
from robustsr.attack_report import universal_table
from robustsr.types import RobustSRError
from robustsr.universal import universal


def test_one_perturbation_for_all(network, picture, tmp_path):
    scenes = [replace(here(picture(seed=i)), name=str(i)) for i in range(5)]
    made = universal(scenes, network, threats.parse("pgd:steps=4"), smoothing=FEW, file=reread(tmp_path, 8))
    assert made.delta.shape == (1, 3, 16, 20) and float(made.delta.abs().max()) <= 8 / 255 + 1e-7
    for row in made.rows:
        one, found, baseline, outcomes = row.scene, row.attempt, row.noise, row.outcomes
        adv = images.read(tmp_path / f"{one.name}.png", max_pixels=10**6).rgb
        assert np.array_equal(adv, found.adv[0].permute(1, 2, 0).numpy())
        torch.testing.assert_close(found.adv, (one.x + made.delta).clamp(0, 1), atol=1.01 / 255, rtol=0)
        assert found.sizes["levels"] == pytest.approx(8) == baseline.sizes["levels"]
        assert [o.input for o in outcomes] == ["random", "universal"] * 3
    write_universal(made, tmp_path, {})
    table = universal_table(made)
    assert [row.label for row in table.rows] == ["0", "1", "2", "3", "4", "mean"] and len(table.columns) == 6
    record = json.loads((tmp_path / "record.json").read_text())
    values = [p["outputs"][1]["psnr"] for p in record["pictures"]]
    assert table.rows[-1].cells[1].value == pytest.approx(np.mean(values))
    assert np.array_equal(np.load(tmp_path / "universal.npy"), made.delta[0].permute(1, 2, 0).numpy())


def test_one_through_fresh_draws_does_more_than_noise_and_has_its_limits(network, picture):
    scenes = [here(picture(12, 12))]
    attack = threats.parse("pgd-l2:steps=10,eot_iter=2,loss=mse")
    made = universal(scenes, network, attack, smoothing=FEW, adaptive=True)
    assert float(torch.linalg.vector_norm(made.delta)) <= 0.5 + 1e-6
    psnr = {(o.label, o.input): o.measures["psnr"] for o in made.rows[0].outcomes}
    for label in ("tiny", "tiny, median of 4, sigma 0.03", "bicubic"):
        assert psnr[label, "universal"] < psnr[label, "random"] - 0.2
    with pytest.raises(RobustSRError, match="a universal attack is --method pgd"):
        universal(scenes, network, threats.parse("cw"))
