import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import printed_rows as rows
from PIL import Image

from robustsr import metrics
from robustsr.catalogue import default_model
from robustsr.scene import from_pixels

TWO = ["--samples", "2", "--device", "cpu"]
FEW = ["--compare", "bicubic", *TWO]  # the models that ship are compared otherwise


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_picture_is_attacked_and_everything_is_written(go, bird):
    code, out, said = go("attack", bird, "--eps", "4/255", "--steps", 2, "--compare", "psnr", "-o", "out", *TWO)
    assert code == 0, said
    assert "tiny x4 on cpu: pgd:eps=4/255,steps=2, eps 4/255 (Linf), on base" in said
    assert (
        "bird.png, 20x16 pixels at 0,0; loss l1 against the clean output" in said and "-> out: adversarial.png" in said
    )
    models = ("bicubic", "psnr", "tiny", "tiny-median-of-2-sigma-0.03")
    outputs = [f"output-{m}-{w}.png" for m in models for w in ("attacked", "clean")]
    rest = ["adversarial.npy", "adversarial.png", "clean.png", "difference.png", "random-noise.png"]
    assert sorted(os.listdir("out")) == sorted([*rest, *outputs, "record.json", "sheet.png"])
    clean, adv, random = (pixels(f"out/{n}.png") for n in ("clean", "adversarial", "random-noise"))
    assert np.array_equal(clean, pixels(bird)) and np.abs(adv - clean).max() == np.abs(random - clean).max() == 4
    shown = rows(out)
    change = next(v for (_, label), v in shown.items() if label == "attacked")
    delta = (adv - clean) / 255
    norms = [4.0, 4 / 255, np.sqrt((delta**2).sum()), np.sqrt((delta**2).mean()), -10 * np.log10((delta**2).mean())]
    assert change == pytest.approx(norms, abs=0.006)
    for model in ("tiny", "psnr", "bicubic"):
        a, b = (from_pixels(pixels(f"out/output-{model}-{w}.png").astype(np.uint8)) for w in ("attacked", "clean"))
        wanted = [float(f(a, b, crop=4, y=y)) for f in (metrics.psnr, metrics.ssim) for y in (False, True)]
        assert shown[model, "attacked"][:4] == pytest.approx(wanted, abs=0.0051) and shown[model, "attacked"][4] is None
        assert (model, "clean") not in shown  # which is what it is compared with
        assert shown[model, "random noise"][0] > 0
    assert "robustsr models pull squeezenet" in out and "5 MB" in out
    record = json.loads(Path("out/record.json").read_text())
    assert record["command"].startswith("robustsr attack bird.png --eps 4/255 --steps 2 ")
    assert record["threat"] == "pgd:eps=4/255,steps=2" and record["model"]["name"] == "tiny"


def test_cw_alone_runs_on_the_bundled_sample(go, tmp_path):
    code, out, said = go("attack", "--method", "cw", "--steps", 2, *TWO, model=False)
    assert code == 0, said
    default = default_model()
    assert f"{default} x4" in said and "landscape.png, 64x64" in said
    folder = Path("attacked/landscape-cw")
    assert (folder / "sheet.png").is_file() and "c 0.01" in said and "▁" in out
    assert rows(out)[default, "attacked"][0] < rows(out)[default, "random noise"][0]
    code, _, said = go("attack", "--method", "cw", *TWO, model=False)
    assert code == 1 and "is not empty: add --overwrite" in said
    before = (folder / "record.json").stat().st_mtime_ns
    again = ("--steps", 1, "--overwrite", "--compare", "bicubic")
    assert go("attack", "--method", "cw", *again, *TWO, model=False)[0] == 0
    assert (folder / "record.json").stat().st_mtime_ns > before and os.listdir("attacked") == ["landscape-cw"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--method", "cw", "--eps", "8/255"], 2, "cw has no ball, so no eps"),
        (["--method", "no"], 2, "no attack 'no'"),
        (["--eps", "x"], 2, "--eps must be a number like .05, 8/255 or 8px, got 'x'"),
        (["--eps", "8"], 2, "did you mean 8/255?"),
        (["--c", "1"], 2, "pgd has no use for c, only cw"),
        (["--method", "fgsm", "--steps", "3"], 2, "fgsm has no use for steps"),
        (["--on", "nothing"], 2, "attack on base, smoothed, worst"),
        (["--crop", "1,2"], 2, "is no rectangle"),
        (["--sigma", "auto"], 2, "follows each picture"),
        (["--sigma", "7"], 2, "sigma must be in [0, 1]"),
        (["--universal"], 2, "--universal needs a folder"),
        (["--crop", "9,9,20,20"], 1, "does not lie inside the picture of 20x16"),
        (["-o", "out.jpg"], 1, "JPEG undoes an attack"),
        (["-o", "bird.png"], 1, "bird.png is no folder"),
        (["--loss", "paper"], 1, "`robustsr models pull vgg19` gets them (548 MB"),
        (["--hr", "bird.png"], 1, "it must be 4 times the picture of 20x16"),
        (["--compare", "nothing"], 1, "no model 'nothing'"),
        (["--compare", "bicubic", "--target", "nowhere.png"], 1, "cannot read nowhere.png"),
    ],
)
def test_mistakes_write_nothing(go, bird, arguments, code, message):
    got, _, said = go("attack", bird, *arguments, "--device", "cpu")
    assert got == code and message in said
    assert sorted(os.listdir()) == ["bird.png", "hr.png"]


def test_the_worst_of_all_attacks_on_a_smoothed_model(go, bird):
    flags = ["--on", "worst", "--steps", 2, "--eot-iter", 2, "--hr", "hr.png", "--compare", "bicubic"]
    code, out, said = go("attack", bird, *flags, "-o", "out", *TWO)
    assert code == 0 and "no --smooth: the model is attacked with the smoothing of its catalogue entry" in said
    assert "against --hr" in said and "The truth (--hr)" in out
    record = json.loads(Path("out/record.json").read_text())
    names = [a["name"] for a in record["attempts"]]
    assert (
        names == ["base", "eot", "mean", "losses", "seed", "random"] and out.count(f"{record['worst']}, the worst") == 2
    )
    others = {f"adversarial-{n}.png" for n in names[:5] if n != record["worst"]}
    assert others | {"adversarial.png"} <= set(os.listdir("out"))
    assert {o["model"] for o in record["outputs"]} == {"tiny", "tiny, median of 2, sigma 0.03", "bicubic"}
    assert go("attack", bird, "--on", "smoothed", "--smooth", "mean", "--sigma", "0", "-o", "o")[0] == 2


def test_an_attack_is_transferred(go, bird):
    code, out, _ = go("attack", bird, "--method", "fgsm", "--compare", "psnr", "-o", "out", *TWO)
    assert code == 0 and {s for s, _ in rows(out)} >= {"tiny", "psnr", "bicubic"}
    assert Path("out/output-psnr-attacked.png").is_file()


def test_a_mask_leaves_the_rest_of_the_file_as_it_was(go, bird):
    for mask, name in (("4,3,6,5", "four"), ("mask.png", "file")):
        allowed = np.zeros((16, 20), bool)
        allowed[3:8, 4:10] = True
        Image.fromarray(allowed.astype(np.uint8) * 255).save("mask.png")
        assert go("attack", bird, "--mask", mask, "--steps", 2, "-o", name, *FEW)[0] == 0
        for made in ("adversarial", "random-noise"):
            changed = (pixels(f"{name}/{made}.png") != pixels(bird)).any(-1)
            assert changed[allowed].mean() > 0.9 and not changed[~allowed].any()
    code, _, said = go("attack", bird, "--mask", "0,0,2,2", "--crop", "4,2,14,14", "-o", "n", *TWO)
    assert code == 1 and "leaves nothing to change" in said


def test_a_target_and_a_truth_alone(go, bird):
    flags = ["--hr", "hr.png", "--target", bird, "--steps", 2, "-o", "out", *FEW]
    code, out, said = go("attack", *flags)
    assert code == 0 and "made from the ground truth by bicubic" in said and "against the target" in said
    shown = rows(out)
    clean, noise, attacked = (shown["tiny", of][-1] for of in ("clean", "random noise", "attacked"))
    assert attacked > clean and "minus loss" in out
    told = f"clean {clean:.1f} dB, attacked {attacked:.1f} dB, with random noise as large {noise:.1f} dB."
    assert f"tiny, PSNR to the target: {told}" in out and "Others, given" not in out
    half = Image.open("hr.png").resize((20, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels("out/clean.png"), np.asarray(half))


def test_sixteen_bits_and_alpha(go, bird, photo):
    import imagecodecs

    deep = photo(16, 20).astype(np.uint16) * 200
    Path("deep.png").write_bytes(imagecodecs.png_encode(np.dstack([deep, np.full_like(deep[..., :1], 9999)])))
    code, _, said = go("attack", "deep.png", "--steps", 2, "-o", "out", *FEW)
    assert code == 0 and "transparency is ignored" in said
    adv = imagecodecs.png_decode(Path("out/adversarial.png").read_bytes())
    assert adv.dtype == np.uint16 and adv.shape == (16, 20, 3)
    assert np.abs(adv.astype(int) - deep).max() == 8 * 257


def test_a_smoothed_export_has_no_gradients_whatever_else_it_has(go, tiny, bird):
    assert go("export", tiny, "-o", "s.onnx", "--smooth", "median", model=False)[0] == 0
    assert (
        "s.onnx is an ONNX model, which has no gradients"
        in go("attack", bird, "-m", "s.onnx", "-o", "x", model=False)[2]
    )


def test_one_perturbation_for_a_folder(go, photo):
    Path("in").mkdir()
    for i, name in enumerate(("a.png", "b.jpg", "b.png")):
        Image.fromarray(photo(20 + i, 24, seed=i)).save(Path("in") / name)
    Path("in/notes.txt").write_text("no picture")
    code, out, said = go("attack", "in", "--universal", "--steps", 2, *TWO)
    assert code == 0 and "universal, 3 pictures, 20x20 of each" in said
    folder = Path("attacked/in-universal-pgd")
    assert sorted(os.listdir(folder)) == [
        *(f"adversarial-{n}.png" for n in ("a.png", "b.jpg", "b.png")),
        *("record.json", "universal.npy", "universal.png"),
    ]
    clean, adv = pixels("in/a.png")[:, 2:22], pixels(folder / "adversarial-a.png.png")
    assert np.abs(adv - clean).max() == 8 and np.load(folder / "universal.npy").shape == (20, 20, 3)
    shown = {label: values for (_, label), values in rows(out).items()}
    assert shown["mean"] == pytest.approx(np.mean([shown[n] for n in ("a.png", "b.jpg", "b.png")], 0), abs=0.011)
    assert "in is a folder" in go("attack", "in", "-o", "x", *TWO)[2]
    for side, words in ((18, "18x18 of each"), (99, "20x20 of each")):  # no larger than the smallest picture
        assert words in go("attack", "in", "--universal", "--crop", side, "-o", side, *TWO)[2]
    assert go("attack", "in", "--universal", "--method", "cw", "-o", "x", *TWO)[2].startswith("a universal attack is")
    for wrong in (["--on", "worst"], ["--on", "seed"], ["--on", "losses"], ["--compare", "psnr"], ["--whole"]):
        assert go("attack", "in", "--universal", *wrong, "-o", "x", *TWO)[0] == 2
    assert "less than one level" in go("attack", "in", "--universal", "--eps", ".4/255", "-o", "x", *TWO)[2]
    assert go("attack", "in", "--universal", "--mask", "0,0,2,2", "-o", "x", *TWO)[0] == 2 and not Path("x").exists()


def test_ctrl_c_leaves_nothing(go, bird, monkeypatch):
    import robustsr.attack_files

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(robustsr.attack_files, "write", stop)
    code, _, said = go("attack", bird, "--method", "fgsm", *FEW)
    assert code == 130 and "interrupted: nothing was written" in said
    assert sorted(os.listdir()) == ["bird.png", "hr.png"]


def test_no_torch_before_it_is_needed():
    code = "import sys, robustsr.cli_attack; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_verdict_ends_where_there_is_nothing_to_compare(go, photo):
    Image.fromarray(photo(64, 64)).save("large.png")
    said = go("attack", "large.png", "-m", "denoiser", "--sigma", 0, "--method", "fgsm", "-o", "x", model=False)[1]
    assert "PSNR to its clean output: attacked" in said and "Others" not in said
