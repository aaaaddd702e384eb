import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustsr import export as work

README = Path(__file__).resolve().parents[1] / "README.md"
SMOOTH = ["--smooth", "median", "--sigma", "0.05", "--samples", "3", "--draws", "independent"]


@pytest.fixture
def run(go):
    """Runs a command without `-m`."""
    return partial(go, model=False)


@pytest.fixture
def exported(run, tiny, tmp_path):
    code, out, words = run("export", tiny, "-o", "tiny.onnx", *SMOOTH)
    assert code == 0, words
    return out, words


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_it_writes_the_file_and_prints_what_its_check_found(exported, run):
    out, words = exported
    assert re.search(r"tiny x4, median of 3, sigma 0.05, fp32, opset 20 -> tiny.onnx \(0.0 MB\)", words)
    rows = re.findall(r"^(\d) +(\d+)x(\d+) +(\S+) +(\S+) *$", out, re.M)
    assert [(int(n), int(h), int(w)) for n, w, h, *_ in rows] == list(work.SIZES)
    for *_, difference, levels in rows:
        assert float(difference) < 1e-5 and float(levels) == pytest.approx(float(difference) * 255, rel=0.1)
    code, out, _ = run("models", "info", "tiny.onnx")
    assert code == 0 and "x4, receptive radius 3" in out and "median of 3 independent draws, sigma 0.05" in out


def test_upscale_runs_it_as_it_runs_the_smoothed_model(exported, run, go, tiny, bird):
    assert go("upscale", bird, *SMOOTH, "--fp32", "--seed", "3", "-o", "want.png")[0] == 0
    code, _, words = run(
        "upscale", bird, "-m", "tiny.onnx", "--tile", "40", "--seed", "3", "-o", "got.png", "--device", "cpu"
    )
    assert code == 0 and "tiny.onnx x4 on cpu (fp32), median of 3, sigma 0.05" in words
    assert np.abs(pixels("got.png") - pixels("want.png")).max() <= 1
    code, out, _ = run("upscale", bird, "-m", "tiny.onnx", "--tile", "40", "--seed", "4", "-o", "got.png", "--json")
    assert code == 0 and json.loads(out.splitlines()[0])["status"] == "done"  # another seed is another setting
    assert np.abs(pixels("got.png") - pixels("want.png")).max() > 1


def test_the_least_size_is_said_where_there_is_one(run):
    code, _, words = run("export", "unet-x2", "-o", "unet.onnx")
    assert code == 0 and "unet-x2 x1, fp32, opset 20, for sides of 17 pixels or more -> unet.onnx" in words


def test_a_denoiser_goes_into_the_file(run, go, tiny, denoiser, bird):
    code, _, words = run("export", tiny, "-o", "both.onnx", "--denoise", denoiser)
    assert code == 0 and "tiny after cleaner x4, fp32, opset 20 -> both.onnx" in words
    assert go("upscale", bird, "--denoise", denoiser, "--fp32", "-o", "want.png")[0] == 0
    assert run("upscale", bird, "-m", "both.onnx", "-o", "got.png")[0] == 0
    assert np.abs(pixels("got.png") - pixels("want.png")).max() <= 1


def test_smoothing_twice_is_refused(exported, run, bird):
    for arguments in (["upscale", bird, "-m", "tiny.onnx"], ["export", "tiny.onnx", "-o", "twice.onnx"]):
        code, _, words = run(*arguments, "--smooth", "median")
        assert code == 2 and "tiny.onnx smooths already (median of 3, sigma 0.05): leave out --smooth" in words
    assert sorted(p.name for p in Path().iterdir()) == ["bird.png", "hr.png", "tiny.onnx"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "there.onnx"], 1, "there.onnx is there already: add --overwrite, or choose another -o"),
        (["-o", "net.pth"], 2, "-o must name an .onnx file, got net.pth"),
        (["-o", "net.onnx", "--sigma", "0.1"], 2, "--sigma, --samples and --draws only matter with --smooth"),
        (["-o", "net.onnx", "--smooth", "mean", "--sigma", "2"], 2, "it must be in [0, 1]"),
        (["-o", "net.onnx", "--smooth", "mean", "--opset", "17"], 1, "--opset must be 18 to 20 here, got 17"),
    ],
)
def test_what_is_refused_writes_nothing(run, tiny, arguments, code, words):
    Path("there.onnx").write_bytes(b"mine")
    got, _, said = run("export", tiny, *arguments)
    assert (got, words in said) == (code, True), said
    assert [p.name for p in Path().iterdir()] == ["there.onnx"] and Path("there.onnx").read_bytes() == b"mine"


def test_a_copy_over_tolerance_is_not_written(run, tiny, monkeypatch):
    monkeypatch.setitem(work.ATOL, "fp32", -1.0)
    code, _, words = run("export", tiny, "-o", "net.onnx")
    assert code == 1 and "tiny in onnxruntime is off torch by" in words and words.endswith("not exported")
    assert list(Path().iterdir()) == []


def test_a_seed_matters_only_to_what_smooths(run, tiny, bird):
    assert run("export", tiny, "-o", "tiny.onnx")[0] == 0
    code, _, words = run("upscale", bird, "-m", "tiny.onnx", "--seed", "3")
    assert code == 2 and "--seed only matters with --smooth median or --smooth mean" in words


def test_help_imports_neither_torch_nor_onnx():
    code = """
import sys
from typer.testing import CliRunner
from robustsr.cli import app
assert CliRunner().invoke(app, ["export", "--help"]).exit_code == 0
print({"torch", "onnx", "onnxruntime"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_the_ten_lines_of_the_readme_deploy_it(run, tiny, photo, tmp_path):
    (program,) = re.findall(r"```python\n(import numpy[^`]*onnxruntime[^`]*)```", README.read_text("utf-8"))
    assert len([line for line in program.splitlines() if line]) <= 10 and "robustsr" not in program
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo(20, 24)).save("photos/landscape.png")
    assert run("export", tiny, "-o", "certsr.onnx", *SMOOTH)[0] == 0
    assert run("upscale", "photos/landscape.png", "-m", "certsr.onnx", "-o", "want.png")[0] == 0
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    assert np.abs(pixels("large.png") - pixels("want.png")).max() <= 1
