import os
import subprocess
import sys
from pathlib import Path

from fakes import printed_rows as rows
from PIL import Image

TWO = ["--samples", "2", "--device", "cpu"]


def test_models_and_defences_side_by_side(go, bird):
    flags = ["--smooth", "median", "--sigma", ".02", "--sigma", "15/255", "--hr", "hr.png", "--crop", "2,1,14,13"]
    code, out, said = go("compare", bird, *flags, "-m", "psnr", *TWO)
    assert code == 0, said
    assert sorted(os.listdir()) == ["bird.png", "compared", "hr.png"]
    assert sorted(os.listdir("compared")) == ["bird.html", "bird.png"]
    names = ["bicubic"]
    for name in ("psnr", "tiny"):
        names += [name, f"{name}, median of 2, sigma 0.02", f"{name}, median of 2, sigma 0.0588235"]
    shown = {label: values for (_, label), values in rows(out).items()}
    assert list(shown) == names and all(len(values) == 6 and values[5] is None for values in shown.values())
    page = Path("compared/bird.html").read_text()
    assert "ground truth" in page and "sigma 0.0588235" in page and "robustsr compare bird.png" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and Image.open("compared/bird.png").mode == "RGB"
    code, _, said = go("compare", bird, *TWO)
    assert code == 2 and "only matter with --smooth" in said
    code, _, said = go("compare", bird, "--device", "cpu")
    assert code == 1 and "compared/bird.png and compared/bird.html would be replaced" in said


def test_without_a_truth_there_are_times(go, bird):
    code, out, _ = go("compare", bird, "-o", "made/grid.png", "--device", "cpu")
    assert code == 0 and {"grid.png", "grid.html"} == set(os.listdir("made"))
    assert [label for label in ("bicubic", "tiny") if label in out] == ["bicubic", "tiny"] and "PSNR" not in out
    code, _, said = go("compare", bird, "-o", "grid.jpg")
    assert code == 2 and "the grid is a .png" in said
    assert go("compare", bird, "--smooth", "median", "--sigma", "auto", "--overwrite", *TWO)[0] == 2


def test_the_sample_is_compared_into_this_folder(go):
    assert go("compare", "--device", "cpu")[0] == 0
    assert sorted(os.listdir()) == ["compared"] and sorted(os.listdir("compared")) == [
        "landscape.html",
        "landscape.png",
    ]


def test_no_torch_before_it_is_needed():
    code = "import sys, robustsr.cli_compare; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
