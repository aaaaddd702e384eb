"""`robustsr train` as typed: plain lines, the bar, estimates, the list, Ctrl-C."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_run
from rich.console import Console
from robustsr_training.estimate import Estimate, estimate
from robustsr_training.tables import shipped
from safetensors import safe_open

from robustsr import console, load
from robustsr.cli_common import code_of
from robustsr.cli_train import _stopping


@pytest.fixture
def folder(tmp_path, photo, home):
    return tiny_run.pictures(tmp_path, photo)


@pytest.fixture
def train(go, folder):
    """Runs ``robustsr train psnr`` small, in the folder of the test; exit code, stdout, stderr on one line."""

    def call(*arguments, sets=()):
        words = [w for setting in [*tiny_run.settings(folder), *sets] for w in ("--set", setting)]
        return go("train", "psnr", "--device", "cpu", *words, *arguments, model=False)

    return call


def test_a_run_says_where_everything_lies_and_its_weights_upscale(train, go):
    code, out, err = train()
    assert (code, out) == (0, "")
    assert re.search(
        r"4 pictures, in b?float\d+ 4/12 l1 0\.\d{4} [\d.]+ it/s [\d.]+ s left 6/12 .* val clean: psnr_y ", err
    )
    weights = Path("runs/psnr/psnr.safetensors")
    for text in (f"weights: {weights}", "samples: runs/psnr/samples", "log: runs/psnr/log.jsonl"):
        assert text in err
    assert "curves: tensorboard --logdir runs/psnr/tensorboard" in err
    command = err.partition("use it: robustsr ")[2].split()
    assert command == ["upscale", "photo.jpg", "-m", str(weights)]
    assert go("upscale", "hr/0.png", *command[2:], model=False)[0] == 0 and Path("hr/0_upscaled.png").exists()


def test_plain_lines_are_fifty_steps_apart(train):
    more = ["optimiser.steps=120", "checkpoint_every=1", "validation.every=120"]
    err = train(sets=more)[2]
    assert re.findall(r"(\d+)/120", err) == ["1", "51", "101", "120"]


def test_a_terminal_has_a_bar_with_losses_and_only_what_was_measured_above_it(train, monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(console, "err", terminal)
    from robustsr_training.step import Step

    real = Step.__call__
    monkeypatch.setattr(
        Step, "__call__", lambda self, *batch: (time.sleep(0.15), real(self, *batch))[1]
    )  # a frame is .1
    assert train()[0] == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"━.* 4/12 l1 0\.\d{4}  [\d.]+ it/s  [\d.]+ s left", text)
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip() and "━" not in line]
    assert [line[:5] for line in lines if "/12 " in line] == ["6/12 ", "12/12"]


def test_the_list_names_every_recipe_and_what_it_is(go):
    for arguments in ([], ["--list"]):
        code, out, _ = go("train", *arguments, model=False)
        assert code == 0 and all(name in out and text.split()[0] in out for name, text in shipped().items())
    assert all(text.endswith(".") for text in shipped().values())
    assert shipped()["psnr"].startswith("The PSNR-oriented base model")


def test_an_estimate_runs_real_steps_and_writes_nothing_into_the_run(train, folder, monkeypatch):
    code, out, _ = train("--estimate", sets=["optimiser.steps=36000"])
    assert code == 0
    assert re.fullmatch(
        r"psnr on cpu: [\d.]+ (it/s|s/it), [\d.]+ (s|min|h) for 36000 steps, [\d.]+ GB of memory; .*\n", out
    )
    assert not Path("runs").exists()

    calls = []
    from robustsr_training.step import Step

    real = Step.__call__
    monkeypatch.setattr(
        Step, "__call__", lambda self, *batch: (calls.append(1), time.sleep(0.05), real(self, *batch))[2]
    )
    found = estimate(tiny_run.recipe(folder))
    assert len(calls) == 4 and 0.05 < found.seconds < 1 and found.total == found.seconds * 12
    assert found.memory > 50e6 and Estimate(2.0, 10, "cpu", None).total == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_pictures_are_decoded_ends_at_once(train, folder, home, monkeypatch, number):
    """The first two pictures, one a thread, are being decoded; the last of the others never begin."""
    from robustsr_training import data

    names, read = [], data.read_rgb

    def slow(path):
        names.append(path.name)
        if len(names) == 1:
            os.kill(os.getpid(), number)
        time.sleep(0.5)
        return read(path)

    monkeypatch.setattr(data, "read_rgb", slow)
    monkeypatch.setattr(data.os, "cpu_count", lambda: 2)
    before = signal.getsignal(number)
    code, _, err = train()
    assert code == 128 + number and "decoding 6 pictures" in err and "interrupted: what lies in runs/psnr stays" in err
    assert len(names) < 6 and signal.getsignal(number) is before
    assert not Path("runs").exists() and not [p for p in home.rglob("*") if p.is_file()]


def test_a_second_ctrl_c_does_not_wait_for_a_step():
    with _stopping() as stop:
        with pytest.raises(KeyboardInterrupt):  # no step is done yet
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop() and code_of(stop.came) == 130
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and code_of(stop.came) == 143
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_with_a_checkpoint_that_resumes(train, folder):
    more = ["optimiser.steps=400", "checkpoint_every=1000", "validation.every=400", "data.workers=1"]
    words = [w for setting in [*tiny_run.settings(folder), *more] for w in ("--set", setting)]
    command = [sys.executable, "-m", "robustsr", "train", "psnr", "--device", "cpu", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([*command, "-o", "cut"], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    while "4/400" not in (line := run.stderr.readline()) and line:
        pass
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=180)[1]
    assert run.returncode == 130 and "stopped: `--resume` continues from cut/checkpoint.pt" in said, said
    assert "Traceback" not in said and "; the weights so far: cut/psnr.safetensors" in said
    assert load(folder / "cut/psnr.safetensors", device="cpu").scale == 4
    assert int(safe_open(folder / "cut/psnr.safetensors", "pt").metadata()["steps"]) < 400
    code, _, err = train("-o", "cut", "--resume", sets=more)
    assert code == 0 and "400/400" in err and " 4/400 " not in err
    assert safe_open(folder / "cut/psnr.safetensors", "pt").metadata()["steps"] == "400"
