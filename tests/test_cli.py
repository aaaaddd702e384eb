"""The command line, through typer's runner and, where signals and exit codes matter, through the installed script."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fakes import needs_compiler
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from robustsr import cli, cli_attack, console, engine, kernels, progress
from robustsr.batch import Forecast
from robustsr.catalogue import package_weights
from robustsr.jobs import Job
from robustsr.models import load
from robustsr.progress import Bar
from robustsr.settings import Smoothing
from robustsr.threats import NAMES
from robustsr.types import RobustSRError
from robustsr.version import __version__

CAPABILITIES = ("bounding-set", "inh-caps")
SCRIPT = str(Path(sys.executable).with_name("robustsr"))


@pytest.fixture
def pictures(tmp_path, photo, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("ROBUSTSR_") and n != "ROBUSTSR_HOME"]:
        monkeypatch.delenv(name)
    Path("in").mkdir()
    for i, name in enumerate(["a.png", "b.jpg", "c.webp"]):
        Image.fromarray(photo(20 + i, 24, seed=i)).save(f"in/{name}")
    return tmp_path


def go(*args):
    """(exit code, stdout, stderr); a RobustSRError is what `main` makes of it."""
    result = CliRunner().invoke(cli.app, [str(a) for a in args])
    if isinstance(result.exception, RobustSRError):
        return result.exception.code, result.stdout, f"error: {result.exception}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_upscale_as_typed(pictures, tiny):
    code, out, err = go("upscale", "in/", "-m", tiny, "--smooth", "median", "--sigma", "0.03", "--device", "cpu", "-v")
    assert code == 0 and out == ""
    assert sorted(os.listdir("in_upscaled")) == [".robustsr.jsonl", "a.png", "b.jpg", "c.webp"]
    first, *_, last = err.splitlines()
    assert first.startswith("3 pictures, 0.0 megapixels out, about ")
    assert first.endswith("tiny x4 on cpu (bf16), median of 20, sigma 0.03") or first.endswith(
        "tiny x4 on cpu (fp32), median of 20, sigma 0.03"
    )
    assert "3 upscaled in" in err and "imports" in last and "network" in last
    code, _, err = go("upscale", "in", "-m", tiny, "--smooth", "median", "--sigma", "0.03", "--device", "cpu")
    assert code == 0 and "nothing to do: 3 of 3 are there already" in err and "3 were there already" in err


def test_inputs_may_be_named_as_other_upscalers_want_it(pictures, tiny):
    Path("one.png").write_bytes(Path("in/a.png").read_bytes())
    code, out, _ = go("upscale", "-i", "in", "-o", "out", "one.png", "-i", "in/a.png", "-m", tiny, "--dry-run")
    assert code == 0 and "one.png" in out and out.count("in/a.png") == 1


def test_names_are_shown_as_they_are(pictures, tiny):
    for name in ("a [red]b.png", "x[", "あ.png"):
        Path("in", name).mkdir() if name == "x[" else os.link("in/a.png", Path("in", name))
    os.link("in/a.png", "in/x[/b].png")
    code, out, _ = go("upscale", "in", "-r", "-o", "out", "-m", tiny, "--dry-run")
    assert code == 0 and "a [red]b.png" in out and "x[/b].png" in out
    command = [SCRIPT, "upscale", "in", "-r", "-o", "out", "-m", str(tiny), "--dry-run"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"\\u3042.png" in done.stdout, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="permissions are others there")
def test_what_may_not_be_read_is_said_and_stops_nothing(pictures, tiny):
    """As somebody whom permissions bind: root, too, without its capabilities."""
    plain = [] if os.geteuid() else ["setpriv", *(f"--{kind}=-dac_override,-dac_read_search" for kind in CAPABILITIES)]
    if plain and not shutil.which("setpriv"):
        pytest.skip("root may read everything, and there is no setpriv")

    def run(*args):
        done = subprocess.run(
            [*plain, SCRIPT, "upscale", *args, "-m", str(tiny)], capture_output=True, text=True, timeout=120
        )
        return done.returncode, " ".join(done.stderr.split())

    for name, mode in (("no", 0), ("list", 0o444)):
        Path("in", name).mkdir()
        os.link("in/a.png", Path("in", name, "d.png"))
        Path("in", name).chmod(mode)
    code, err = run("in", "-r", "-o", "out")
    assert code == 0 and "3 upscaled" in err
    assert all(f"cannot look into in/{name}: Permission denied" in err for name in ("no", "list"))
    code, err = run("in/no", "-o", "out")
    assert code == 1 and err == "error: cannot look into in/no: Permission denied"
    Path("shut").mkdir(mode=0o555)
    code, err = run("in/a.png", "-o", "shut/new")
    assert code == 1 and err == f"error: nothing may be written into {Path('shut').absolute()}: give another -o"
    Path("shut").chmod(0o755)
    assert run("in/a.png", "-o", "shut/new")[0] == 0
    for path in (Path("shut/new"), Path("shut")):
        path.chmod(0o555)
    for more in ([], ["--dry-run"]):  # nothing is to be written
        assert run("in/a.png", "-o", "shut/new", *more)[0] == 0
    os.utime("in/b.jpg")  # to be looked at again
    Path("in/b.jpg").chmod(0)
    code, err = run("in", "-o", "out")
    assert code == 1 and "cannot read in/b.jpg: Permission denied" in err and "2 were there already, 1 failed" in err


def test_what_cannot_be_done_is_not_there_already(pictures, tiny):
    Path("bad").mkdir()
    Path("bad/a.png").write_bytes(b"nothing")
    code, _, err = go("upscale", "bad", "-m", tiny)
    assert code == 1 and "nothing can be done: 1 of 1 fails" in err


def test_configurations_of_other_encodings_are_read_or_refused(pictures, tiny):
    Path("bom.toml").write_bytes(b"\xef\xbb\xbfscale = 2\n")
    assert go("upscale", "in", "-o", "two", "-m", tiny, "--config", "bom.toml")[0] == 0
    with Image.open("two/a.png") as made, Image.open("in/a.png") as was:
        assert made.width == 2 * was.width
    Path("latin.toml").write_bytes("scale = 2  # à".encode("latin-1"))
    assert go("upscale", "in", "-o", "two", "-m", tiny, "--config", "latin.toml")[0] == 2


def test_json_has_a_line_per_file_and_a_summary(pictures, tiny):
    Path("in/bad.png").write_bytes(b"nothing")
    code, out, err = go("upscale", "in", "-o", "out", "-m", tiny, "--json")
    *lines, summary = map(json.loads, out.splitlines())
    assert code == 1 and summary["summary"] == {"done": 3, "skipped": 0, "failed": 1}
    assert {Path(line["input"]).name: line["status"] for line in lines} == {
        "a.png": "done",
        "b.jpg": "done",
        "bad.png": "failed",
        "c.webp": "done",
    }
    assert lines[0]["output_size"] == [96, 80] and lines[0]["output"] == "out/a.png"
    assert "failed: cannot read in/bad.png" in err


def test_failures_are_said_once_more_at_the_end_where_they_are_lost_among_notes(pictures, tiny, photo):
    for i in range(21):
        clear = Image.fromarray(photo(8, 8, seed=i))
        clear.putalpha(99)
        clear.save(f"in/{i}.png")
    Path("in/z.png").write_bytes(b"nothing")
    code, _, err = go("upscale", "in", "-m", tiny, "--device", "cpu")
    lines = err.splitlines()
    assert code == 1 and err.count("it is not a picture") == 1
    assert lines[-1].startswith("24 upscaled in") and "1 failed -> in_upscaled" in lines[-1]
    code, _, err = go("upscale", "in", "-o", "flat", "-f", "jpg", "-m", tiny, "--device", "cpu")
    assert code == 1 and any(line.startswith("in/z.png  it is not a picture") for line in err.splitlines())


def test_a_log_gets_a_line_of_progress_now_and_then(pictures, tiny, photo, monkeypatch):
    assert "left" not in go("upscale", "in", "-m", tiny, "-o", "quick")[2]
    monkeypatch.setattr(progress, "PULSE", 0.0)
    monkeypatch.setattr(progress, "INSTANT", 0.0)
    code, out, said = go("upscale", "in", "-m", tiny, "-o", "slow", "--json")
    assert code == 0 and [json.loads(line) for line in out.splitlines()]
    assert re.search(r"^\d+% done, about .* left: [12]/3 pictures$", said, re.MULTILINE)
    for name in os.listdir("in"):
        Image.fromarray(photo(64, 64)).save(f"in/{name}")
    code, _, said = go("evaluate", "in", "-m", tiny, "--crop", "16", "--lpips", "off", "--perturb", "noise:sigma=.1")
    assert re.search(r"^\d+% done, about .* left: in  a.png  .* noise$", said, re.MULTILINE), said


def test_what_an_earlier_run_has_done_does_not_make_the_rest_look_fast(monkeypatch, capsys):
    now = iter([0.0, 0.01, 60.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
    pulse = progress.Pulse()
    pulse(0.9, "known")
    pulse(0.91, "pictures")
    assert capsys.readouterr().err == "91% done, about 9 min left: pictures\n"


def test_the_bar_says_how_much_of_a_picture_is_done():
    with Progress(disable=True) as progress:
        bar = Bar(progress, {"a": 1.0, "b": 1.0})
        bar.window("a", "a.png", 3, 20)
        assert progress.tasks[0].fields["now"].endswith("a.png  15%") and progress.tasks[0].completed == 0.15
        bar.window("b", "b.png", 1, 1)
        bar.picture("b")  # which counts once
        assert progress.tasks[0].completed == 1
        bar.window("a", "a\x1b]0;title\x07\n.png", 20, 20)
        assert progress.tasks[0].fields["now"].endswith("100%") and progress.tasks[0].completed == 2
        assert progress.tasks[0].fields["now"].isprintable()


@pytest.mark.skipif(os.name == "nt", reason="no such names")
def test_names_of_files_are_nothing_that_a_terminal_obeys(pictures, tiny):
    table = console.table("name")
    table.add_row("\x1b[2Jx")
    with console.out.capture() as shown:
        console.out.print(table, "\x1b[2Jy")
    assert "x" in shown.get() and "y" in shown.get() and "\x1b[2J" not in shown.get()
    evil = "in/\x1b]0;title\x07\x1b[2J\nfailed: all is lost\u202e.png"
    Path(evil).write_bytes(b"no picture")
    for more in ((), ("--dry-run",)):
        code, out, err = go("upscale", "in", "-m", tiny, *more)
        text = (out + err).replace("\n", "")
        assert "all is lost" in text and text.isprintable()
        assert not any(line.startswith("failed: all is lost") for line in (out + err).splitlines())


def test_dry_run_writes_nothing(pictures, tiny):
    code, out, err = go("upscale", "in", "-m", tiny, "--dry-run", "--scale", "2")
    assert code == 0 and "in_upscaled/a.png" in out and "48x40" in out and "3 pictures" in err
    code, out, _ = go("upscale", "in", "-m", tiny, "--dry-run", "--json")
    assert [json.loads(line)["output_size"] for line in out.splitlines()] == [[96, 80], [96, 84], [96, 88]]
    code, out, _ = go("upscale", "in", "-m", tiny, "--dry-run", "--max-pixels", "7700")
    assert code == 1 and re.search(r"^in/b\.jpg +\S+ +failed *$", out, re.MULTILINE)
    assert "failed: in/b.jpg: 24x21 enlarged 4 times has 8,064 pixels" in out and "failed: in/a.png" not in out
    assert os.listdir() == ["in"] or sorted(os.listdir()) == ["home", "in"]


def test_a_quality_that_no_result_has_is_said(pictures, tiny, monkeypatch):
    words = ("upscale", "in/a.png", "-m", tiny, "--dry-run")
    assert "--quality is for JPEG, WEBP, AVIF, which no result is" in go(*words, "-q", 80)[2]
    assert "--quality" not in go(*words, "-q", 80, "-f", "webp")[2]
    monkeypatch.setenv("ROBUSTSR_QUALITY", "80")  # of all one's runs
    assert "--quality" not in go(*words)[2]


def test_the_command_line_comes_before_variables_before_the_file(pictures, tiny, monkeypatch):
    Path("c.toml").write_text(
        f'model = "{tiny}"\nsmooth = "mean"\nsamples = 2\nsigma = 0.01\nout = "out"\nfp32 = true\n'
    )

    def line(*args):
        return go("upscale", "in/a.png", "--config", "c.toml", "--dry-run", *args)[2].splitlines()[0].split("), ")[1]

    assert line() == "mean of 2, sigma 0.01"
    monkeypatch.setenv("ROBUSTSR_SAMPLES", "4")
    assert line() == "mean of 4, sigma 0.01"
    assert line("--samples", "6", "--smooth", "median") == "median of 6, sigma 0.01"
    assert "not smoothed" in go("upscale", "in/a.png", "--config", "c.toml", "--dry-run", "--smooth", "off")[2]
    monkeypatch.setenv("ROBUSTSR_WIDTH", "50")
    assert "48x40" in go("upscale", "in/a.png", "--config", "c.toml", "--dry-run", "--scale", "2")[1]
    Path("c.toml").write_text(f'model = "{tiny}"\nheight = 300\nprecision = "bf16"\nsmooth = "wild"')
    code, _, err = go("upscale", "in/a.png", "--config", "c.toml")
    assert code == 2 and "(from the file of --config)" in " ".join(err.replace("│", " ").split())
    Path("c.toml").write_text(f'model = "{tiny}"\nheight = 300\nprecision = "bf16"')
    code, out, err = go("upscale", "in/a.png", "--config", "c.toml", "--dry-run", "--fp32")
    assert code == 0 and "50x42" in out and "(fp32)" in err
    monkeypatch.setenv("ROBUSTSR_FP32", "1")
    assert go("upscale", "in/a.png", "--config", "c.toml", "--dry-run", "--precision", "bf16")[0] == 0
    Path("c.toml").write_text("smoth = 3")
    code, _, err = go("upscale", "in", "--config", "c.toml")
    assert code == 2 and "unknown smoth" in err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["upscale"], 2, "name pictures or folders"),
        (["upscale", "in", "--smoth", "x"], 2, "No such option: --smoth (Possible options: --smooth)"),
        (["upscale", "in", "--sigma", ".1"], 2, "only matters with --smooth"),
        (["upscale", "in", "--fp32", "--precision", "bf16"], 2, "contradicts"),
        (["upscale", "in", "--scale", "2", "--width", "5"], 2, "not several"),
        (["upscale", "in", "--smooth", "median", "--sigma", "3", "-m", "nope"], 2, "must be in [0, 1] (pixel values"),
        (["upscale", "in", "--tile", "3"], 2, "is too small"),
        (["upscale", "in", "--tile-pad=-3"], 2, "greater than"),
        (["upscale", "in", "--scale", "nan"], 2, "--scale must be positive"),
        (["upscale", "in", "--smooth", "medain"], 2, "Invalid value for '--smooth': 'medain' is not one of"),
        (["models", "add", "in/a.png"], 1, "give the path of a .safetensors"),
        (["models", "add", str(package_weights() / "psnr.safetensors")], 1, "is psnr, which is here already"),
        (["models", "add", "TINY", "--name", "x-features"], 1, "'x-features' means something else"),
        (["models", "add", "TINY", "--name", "bicubic"], 1, "'bicubic' means something else"),
        (["upscale", "nope"], 1, "no file or folder 'nope'"),
        (["upscale", "in", "-f", "psd"], 2, "cannot write 'psd'"),
        (["upscale", "in/a.png", "-o", "b.psd"], 2, "cannot write 'b.psd'"),
        (["upscale", "in", "-o", "in/a.png/b"], 1, "in/a.png is a file, and results need a folder"),
        (["upscale", "in", "--device", "cuda:9"], 1, "no device 'cuda:9'"),
        (["upscale", "in", "-m", "nope"], 1, "no model 'nope'"),
        (["models", "pull", "nope"], 1, "can be pulled: esrgan"),
        (["models", "info", "nope"], 1, "no model 'nope'"),
        (["train", "nope"], 1, "no recipe 'nope'"),
        (["in"], 2, "'in' is no command: `robustsr upscale in` upscales it"),
        (["upscale", "in", "--config", "nope.toml"], 2, "cannot read nope.toml: No such file"),
    ],
)
def test_mistakes_are_answered(pictures, tiny, args, code, message):
    extra = ["-m", tiny] if args[0] == "upscale" and "-m" not in args and len(args) > 1 else []
    got = go(*(tiny if arg == "TINY" else arg for arg in args), *extra)
    assert got[0] == code and message in got[2].replace("\n│", "").replace("│", ""), got
    assert sorted(os.listdir()) in (["in"], ["home", "in"])


def test_what_is_wrong_with_a_variable_is_said_with_its_name(pictures, tiny, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_SMOOTH", "medium")
    code, _, err = go("upscale", "in", "-m", tiny)
    assert code == 2 and "ROBUSTSR_SMOOTH" in err
    monkeypatch.delenv("ROBUSTSR_SMOOTH")
    for name in ("SIGMA", "SAMPLES", "TOLERANCE"):  # though nothing is smoothed
        with monkeypatch.context() as patch:
            patch.setenv(f"ROBUSTSR_{name}", "abc")
            code, _, err = go("upscale", "in", "-m", tiny)
            assert code == 2 and f"ROBUSTSR_{name}" in err and f"'--{name.lower()}': must be" in err


def test_a_variable_that_does_nothing_is_said(pictures, tiny, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_SIGMA", "0.1")
    note = "note: without --smooth nothing is smoothed: sigma, which is set, does nothing"
    for more, said in (([], True), (["--smooth", "off"], False), (["--smooth", "median"], False)):
        assert (note in go("upscale", "in", "-m", tiny, "--dry-run", *more)[2]) == said


def test_a_variable_that_may_be_misspelt_is_said(pictures, tiny, monkeypatch):
    for name in ("SIGAM", "WEIGHT", "REQUIRE_SHARED", "DATA", "PORT", "VERSION", "INPUT"):
        monkeypatch.setenv(f"ROBUSTSR_{name}", "0.1")
    code, _, err = go("upscale", "in", "-m", tiny, "--dry-run")
    assert code == 0 and [line for line in err.splitlines() if line.startswith("note: ")] == [
        "note: ROBUSTSR_SIGAM is unknown: did you mean ROBUSTSR_SIGMA?",
        "note: ROBUSTSR_WEIGHT is unknown: did you mean ROBUSTSR_WEIGHTS?",
    ]


def test_paragraphs_of_the_help_run_to_the_edge(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert "The budgets are small: far below an Linf attack" in go("certify", "--help")[1]


def test_a_network_that_enlarges_nothing_says_so(pictures):
    code, out, err = go("upscale", "in/a.png", "-o", "out", "-m", "unet-x2")
    assert code == 0 and "note: unet-x2 enlarges nothing" in err
    assert Image.open("out/a.png").size == Image.open("in/a.png").size


def test_a_long_job_says_what_would_be_cheaper(pictures, tiny):
    network, job = load(tiny, device="cpu"), Job(Path("in/a.png"), Path("out/a.png"), Path("out"))
    one = [Forecast(job, size=(100, 100), cost=60)]
    said = [list(console.forecast(one, network, Smoothing("median", 0.03, n), 1.0))[-1] for n in (4, 8)]
    assert said[0] == "cheaper: without --smooth about 15 s"
    assert said[1] == "cheaper: --samples 4 about 30 s, without --smooth about 7.5 s"


def test_a_forecast_counts_what_each_picture_costs_besides_its_network(tiny):
    network, job = load(tiny, device="cpu"), Job(Path("in/a.png"), Path("out/a.png"), Path("out"))
    rows = [Forecast(job, size=(100, 100), cost=0.01)] * 2000
    assert f"about {console.duration(20 + 2000 * console.EACH)}: tiny" in next(
        console.forecast(rows, network, None, 1.0)
    )


def test_results_smaller_than_their_inputs_are_announced(pictures, tiny):
    assert "note" not in go("upscale", "in", "-m", tiny, "--dry-run", "--scale", "1")[2]
    said = go("upscale", "in", "-m", tiny, "--dry-run", "--scale", ".5")[2]
    assert "note: 3 pictures become smaller than before: enlarged by tiny, then shrunk" in said


def test_what_was_measured_of_a_model_has_its_units(tmp_path):
    code, out, _ = go("models", "info", "psnr")
    assert code == 0 and re.search(r"\n +PGD 10/255: \d\d\.\d\d dB, LPIPS 0\.\d{3} *\n", out)
    assert re.search(r"\ncalibration +sigma 0 for noise of 0.005", out)
    assert out.index("\ntrained ") > max(out.index(f"\n{key} ") for key in ("calibration", "path", "loads as"))


def test_what_is_known_of_models_and_devices_can_be_read_by_programs(pictures, tiny):
    shutil.copy(tiny, "mine.safetensors")
    rows = {row["name"]: row for row in map(json.loads, go("models", "list", "--json")[1].splitlines())}
    assert rows["psnr"]["scale"] == 4 and rows["psnr"]["where"] == "bundled" and rows["vgg19"]["scale"] is None
    known = json.loads(go("models", "info", "psnr", "--json")[1])
    assert known["quality"]["set5_y_psnr"] > 31 and known["size"] == Path(known["path"]).stat().st_size
    own = json.loads(go("models", "info", "mine.safetensors", "--json")[1])
    assert own["path"] == "mine.safetensors" and own["loads_as"].startswith("x4, receptive radius 3")
    assert json.loads(go("models", "info", "bicubic-x3", "--json")[1])["scale"] == 3
    assert json.loads(go("models", "info", "alexnet", "--json")[1])["kept_as"] is None
    first = json.loads(go("devices", "--json")[1].splitlines()[0])
    assert first["device"] in ("cpu", "cuda:0", "mps") and first["precision"]


def test_models_can_be_added_listed_inspected_and_verified(pictures, tiny):
    assert go("models", "add", tiny, "--name", "mine")[0] == 0
    assert "mine" in go("models", "list")[1]
    code, out, _ = go("models", "info", "mine")
    assert code == 0 and "receptive radius 3" in out
    assert go("upscale", "in/a.png", "-m", "mine")[0] == 0 and Path("in/a_upscaled.png").exists()
    assert go("models", "verify")[0] == 0
    (pictures / "home/models/RealESRGAN_x4plus.pth").write_bytes(b"cut off")
    code, out, _ = go("models", "verify")
    assert code == 1 and "DAMAGED" in out


def test_the_baseline_is_a_model_as_any_other(pictures):
    assert go("upscale", "in/a.png", "-o", "b.png", "-m", "bicubic")[0] == 0
    with Image.open("in/a.png") as small, Image.open("b.png") as large:
        want = np.asarray(small.convert("RGB").resize(large.size, Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(np.asarray(large.convert("RGB")) - want).max() <= 2  # Pillow's has levels in between, too
    assert re.search(r"^bicubic +x4 +built in", go("models", "list")[1], re.MULTILINE)
    assert "Pillow's bicubic" in go("models", "info", "bicubic")[1]


def test_a_folder_of_weights_that_cannot_be_looked_into_is_none(pictures, tiny, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", f"{'n' * 300}:in/a.png")
    assert go("upscale", "in/a.png", "-o", "b.png", "-m", "psnr")[0] == 0
    said = go("upscale", "in/a.png", "-o", "b.png", "-m", "nope")[2]
    assert f"no folder to be read, though ROBUSTSR_WEIGHTS names it: {'n' * 300}, in/a.png" in "".join(
        said.splitlines()
    )


def test_a_model_in_several_files_is_not_kept_in_part(pictures, tiny):
    assert go("export", tiny, "-o", "one.onnx")[0] == 0
    settings = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(onnx.load("one.onnx"), "two.onnx", **settings)
    code, _, said = go("models", "add", "two.onnx", "--name", "both")
    assert code == 1 and "keeps weights in w.bin: what is added is one file" in said
    assert go("models", "add", "one.onnx", "--name", "both")[0] == 0


def test_a_strangers_file_under_a_known_name_is_what_it_is_everywhere(pictures, tiny, monkeypatch):
    shutil.copy(tiny, "realesr-general-wdn-x4v3.safetensors")
    Path("realesr-general-x4v3.pth").write_bytes(b"other weights")
    Path("gone.pth").symlink_to("nowhere")
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", ".")
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.split() for line in go("models", "list")[1].splitlines()]
    assert ["realesr-general-x4v3", "installed", "realesr-general-x4v3.pth"] in lines
    assert not [line for line in lines if line[:1] == ["gone"]]
    assert ["realesr-general-wdn-x4v3", "installed"] in [line[:2] for line in lines]  # in one piece
    code, out, _ = go("models", "verify")
    assert code == 0 and re.search(r"^realesr-general-x4v3 +not the catalogue's +", out, re.MULTILINE)
    code, _, err = go("models", "pull", "realesr-general-x4v3")
    assert code == 1 and "is another file of that name" in err


def test_networks_behind_losses_are_known_and_models_may_have_their_names(pictures, tiny):
    said = go("models", "info", "alexnet")[1]
    assert "244,408,911 bytes" in said and "`robustsr models pull` gets it" in said
    assert go("models", "add", tiny, "--name", "alexnet")[0] == 0
    assert "loads as" in go("models", "info", "alexnet")[1]


def test_what_was_added_can_be_removed_and_nothing_else(pictures, tiny, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tiny.parent))
    assert go("models", "add", tiny, "--name", "mine")[0] == 0
    for name, why in [
        ("psnr", "it comes with robustsr"),
        (tiny.stem, "is a file of yours"),
        ("absent", "is installed"),
    ]:
        code, _, err = go("models", "remove", "mine", name)
        assert code == 1 and why in err
    shutil.copy(tiny, tiny.with_name("mine.safetensors"))  # which answers to that name, too
    code, out, err = go("models", "remove", "mine")
    assert code == 0 and "mine.safetensors deleted" in out and "mine is now" in err and tiny.exists()
    tiny.with_name("mine.safetensors").unlink()
    assert "no model 'mine'" in go("models", "info", "mine")[2]


def test_what_a_file_says_of_itself_is_one_line_of_its_own(pictures, tiny):
    said = {"recipe": "psnr [bold]", "sha256": "0\x1b[31m", "thumbnail": "x" * 1000}
    save_file(load_file(tiny), "run.safetensors", said)
    code, out, _ = go("models", "info", "run.safetensors")
    shown = "".join(out.split())
    assert code == 0 and "saysofitselfrecipepsnr[bold],sha2560[31m,thumbnailxx" in shown and "\x1b" not in out
    assert shown.endswith("...") and shown.count("x") < 500


@needs_compiler
def test_devices_names_the_processor_and_the_compiler(pictures, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(engine, "unused_gpu", lambda: None)
    code, out, err = go("devices")
    assert code == 0 and "cpu" in out and f", kernels compiled by {kernels.compiler()}" in out and not err
    threads = torch.get_num_threads()
    assert (", 1 thread," if threads == 1 else f", {threads} threads,") in out
    monkeypatch.setattr(kernels, "available", lambda: False)
    code, out, err = go("devices")
    assert code == 0 and "compiled" not in out and "no C compiler (gcc, or ROBUSTSR_CC) works here" in err


def test_train_resumes_from_the_command_line(pictures, photo):
    Path("hr").mkdir()
    Image.fromarray(photo(80, 80)).save("hr/a.png")
    sets = ["data.hr=hr", "data.batch=1", "data.patch=8", "generator.features=4", "generator.convs=1"]
    sets += ["optimiser.steps=3", "compile=false"]
    options = [o for s in sets for o in ("--set", s)]
    code, _, err = go("train", "psnr", *options, "--device", "cpu")
    assert code == 0 and "3/3" in err and Path("runs/psnr/psnr.safetensors").exists()
    assert go("train", "psnr", *options)[2].endswith("another -o starts afresh")
    assert go("train", "psnr", *options, "--resume", "--device", "cpu")[0] == 0


def test_a_place_that_cannot_be_looked_at_is_a_line():
    done = subprocess.run([SCRIPT, "evaluate", "n" * 300], capture_output=True, text=True)
    said = (f"error: {'n' * 300}: File name too long\n", f"error: no folder {'n' * 300}\n")  # so Python 3.14's pathlib
    assert done.returncode == 1 and done.stderr in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            [SCRIPT, "evaluate", "--list"], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write standard output: the disk is full\n")


def test_the_installed_script_answers_without_torch():
    done = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"robustsr {__version__}"
    done = subprocess.run([SCRIPT, "upscale", "/no/such"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (1, "error: no file or folder '/no/such'")


def many(photo, n=7):
    Path("many").mkdir()
    for i in range(n):
        Image.fromarray(photo(100, 100, seed=i)).save(f"many/{i:02}.png")


def start(tiny):
    """A batch that takes seconds, started and waited for until its second file is there."""
    process = subprocess.Popen([SCRIPT, *command(tiny)], stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if Path("out/01.png").exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    return process


def command(tiny, out="out"):
    return ["upscale", "many", "-o", out, "-m", str(tiny), "--smooth", "median", "--samples", "20", "--device", "cpu"]


def contents(folder):
    return {p.name: p.read_bytes() for p in Path(folder).glob("*.png")}


@pytest.mark.parametrize(
    ("kill", "code", "word"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "interrupted: the same command goes on"),
        (signal.SIGINT, 130, "interrupted: the same command goes on"),
    ],
)
def test_a_killed_batch_resumes_to_the_same_bytes(pictures, photo, tiny, kill, code, word):
    many(photo)
    process = start(tiny)
    process.send_signal(kill)
    _, err = process.communicate(timeout=180)
    assert process.returncode == code and word in err and "Traceback" not in err
    if kill != signal.SIGKILL:
        assert not list(Path("out").glob(".*.part"))
        done, left = re.search(r"(\d+) upscaled in .*, (\d+) to go -> out\n", err).groups()
        assert int(done) + int(left) == 7 and int(left) >= 1
    before = contents("out")
    assert 2 <= len(before) < 7
    for path in Path("out").glob("*.png"):
        Image.open(path).load()
    assert subprocess.run([SCRIPT, *command(tiny)]).returncode == 0
    assert subprocess.run([SCRIPT, *command(tiny, "whole")]).returncode == 0
    assert contents("out") == contents("whole")
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))


@pytest.mark.parametrize("words", [["certify"], ["compare", "in/a.png"], ["evaluate", "in"], ["upscale", "in"]])
def test_ctrl_c_while_torch_is_loaded_has_a_word(pictures, words):
    Path("torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    ended = subprocess.run(
        [sys.executable, "-m", "robustsr", *words],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


def test_each_picture_can_have_as_many_copies_as_it_needs(pictures, tiny):
    flags = ["-m", tiny, "--smooth", "median", "--sigma", "0.1", "--samples", "auto", "--tolerance", "1/255"]
    code, _, err = go("upscale", "in", "-o", "out", *flags)
    assert code == 0 and "at most" in err and "median of up to 64, sigma 0.1" in err
    assert err.count("/255 off") == 3 and "sigma 0.1, " in err
    assert "nothing to do" in go("upscale", "in", "-o", "out", *flags)[2]
    assert go("upscale", "in", "-m", tiny, "--smooth", "median", "--tolerance", "0.1")[0] == 2
    assert go("upscale", "in", "-m", tiny, "--smooth", "median", "--samples", "4.5")[0] == 2
    for text in ("many", "inf", "8px"):
        assert "whole number or auto" in go("upscale", "in", "-m", tiny, "--smooth", "median", "--samples", text)[2]
    Path("settings.toml").write_text('samples = "auto"\ntolerance = "0.5"\n')
    typed = ["--config", "settings.toml", "--samples", "2", "-o", "typed"]
    assert go("upscale", "in", "-m", tiny, "--smooth", "median", *typed)[0] == 0
    assert "--tolerance only matters" in go("upscale", "in", "-m", tiny, "--tolerance", "0.1")[2]


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("upscale -m certsr-", ["certsr-photo", "certsr-mrs"]),
        ("attack --method pgd", ["pgd", "pgd-l2"]),
        ("models info uneti", []),
        ("evaluate -m bicubic-", ["bicubic-x2", "bicubic-x3", "bicubic-x8"]),
        ("train adv-", ["adv-bim", "adv-cw", "adv-fgsm", "adv-l2", "adv-pgd"]),
    ],
)
def test_names_are_completed_and_torch_is_not_waited_for(home, typed, names):
    words = ["robustsr", *typed.split()]
    asked = {"_ROBUSTSR_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv[:1] = ['robustsr']\nimport robustsr.cli\ntry: robustsr.cli.app(prog_name='robustsr')\n"
    code += "finally: sys.exit(9 if 'torch' in sys.modules else 0)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(names)


def test_every_method_is_completed():
    assert set(cli_attack._methods("")) == set(NAMES)


@pytest.mark.parametrize(
    "command", ["certify bird.png", "attack bird.png", "compare bird.png", "evaluate in", "tune in"]
)
def test_where_results_cannot_go_is_said_before_the_work(go, photo, command):
    Path("in").mkdir()
    for name in ("bird.png", "in/a.png"):
        Image.fromarray(photo(96, 96)).save(name)
    Path("file").write_text("no folder")
    name, picture = command.split()
    code, out, said = go(name, picture, "-o", "file/x.png" if name == "compare" else "file")
    assert code == 1 and "file is a file, and results need a folder" in said and not out
