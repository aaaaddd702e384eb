import json

import numpy as np
import pytest
import torch
from fakes import FEW, here
from PIL import Image

from robustsr import images, threats
from robustsr.attack import run
from robustsr.attack_files import reread, slug, write
from robustsr.files import sha256, staged
from robustsr.scene import Shown, pixels


def test_files_hold_what_was_measured(network, picture, tmp_path):
    one = here(picture(), picture(64, 80, seed=1))
    with staged(tmp_path / "out") as part:
        result = run(one, network, threats.parse("pgd:steps=2"), smoothing=FEW, file=reread(part, 8))
        write(result, part, {"command": "x"})
        assert not (tmp_path / "out").exists()
    out = tmp_path / "out"
    smooth = "tiny-median-of-4-sigma-0.03"
    outputs = [f"output-{model}-{what}.png" for model in ("tiny", smooth) for what in ("attacked", "clean")]
    rest = ["adversarial.npy", "adversarial.png", "clean.png", "difference.png", "random-noise.png"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*rest, *outputs, "record.json", "sheet.png"])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".robustsr")] == []
    clean, adv = (np.asarray(Image.open(out / f"{n}.png")).astype(int) for n in ("clean", "adversarial"))
    assert np.abs(adv - clean).max() == 8
    exact = np.load(out / "adversarial.npy")
    assert exact.shape == (16, 20, 3) and exact.dtype == np.float32
    assert np.abs(exact * 255 - clean).max() <= 8 + 1e-3 and np.abs(exact * 255 - adv).max() < 1 + 1e-3
    record = json.loads((out / "record.json").read_text())
    assert record["sha256"] == {n: sha256(out / n) for n in ("adversarial.npy", "adversarial.png", "clean.png")}
    assert set(record["weights"].values()) == {network.digest} and set(record["weights"]) == set(result.labels)
    delta = (adv - clean) / 255
    assert record["attempts"][0]["l2"] == pytest.approx(np.sqrt((delta**2).sum()), rel=1e-6)
    assert record["attempts"][0]["l2_rel"] == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-6)
    truth = pixels(one.hr, 8).astype(float)
    for row in record["outputs"]:
        if row["input"] == "random":
            continue
        what = "attacked" if row["input"] == "base" else row["input"]
        sr = np.asarray(Image.open(out / f"output-{slug(row['model'])}-{what}.png")).astype(float)
        error = (((sr - truth) / 255)[4:-4, 4:-4] ** 2).mean()
        assert row["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-4)
    again = Shown("tiny", network)(torch.from_numpy(adv.transpose(2, 0, 1)[None] / np.float32(255)).float())
    assert np.array_equal(again, np.asarray(Image.open(out / "output-tiny-attacked.png")))


def test_sixteen_bits_stay_sixteen(network, picture, tmp_path):
    rgb = np.round(picture().rgb * 65535 * 0.7 + 77) / 65535
    one = here(picture(rgb=rgb.astype(np.float32), bits=16))
    with staged(tmp_path / "out") as part:
        result = run(one, network, threats.parse("pgd-l2:steps=2,eps=.3"), file=reread(part, 16))
        write(result, part, {})
    assert images.inspect(tmp_path / "out" / "adversarial.png", max_pixels=10**6).bits == 16
    adv, clean = (images.read(tmp_path / "out" / f"{n}.png", max_pixels=10**6).rgb for n in ("adversarial", "clean"))
    assert 0.29 < np.linalg.norm((adv - clean).astype(float)) <= 0.3 * (1 + 1e-5)
    assert 0.29 < result.noise.sizes["l2"] <= 0.3
    assert (np.round(adv * 65535) % 257 != 0).any()
