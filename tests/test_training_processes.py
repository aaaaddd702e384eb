"""Two real processes: the losses of one, one voice, one writer, and a stop that all of them make together."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import tiny_run
import torch
from robustsr_training.loop import train

STEPS = 60
MORE = [f"optimiser.steps={STEPS}", f"validation.every={STEPS}", "precision=fp32", "data.batch=4"]
MORE += ["inputs.sigmas=[0.05]", 'inputs.attack="pgd-l2:eps=.5,steps=1"']
MORE += ["inputs.attack_share=0.75"]  # three of the four patches: both of the first process, one of the other


def start(folder, *arguments):
    words = [w for setting in [*tiny_run.settings(folder), *MORE] for w in ("--set", setting)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    return subprocess.Popen(
        [*launcher, "robustsr", "train", "psnr", "--device", "cpu", *words, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


def rows(folder):
    path = folder / "runs" / "psnr" / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.skipif(sys.platform != "linux" or not torch.distributed.is_available(), reason="reads /proc, uses gloo")
def test_two_processes_train_as_one_and_stop_and_end_together(tmp_path, photo, home):
    folder = tiny_run.pictures(tmp_path, photo)
    alone = []
    for at in train(tiny_run.recipe(folder, *MORE), folder / "alone"):
        alone += [at] if at.step and at.step % 4 == 0 else []
        if len(alone) == 8:
            break

    crew = start(folder)
    deadline = time.monotonic() + 120
    while len(rows(folder)) < 8 and time.monotonic() < deadline and crew.poll() is None:
        time.sleep(0.02)
    workers = [p for p in psutil.Process(crew.pid).children() if "RANK" in p.environ()]
    next(p for p in workers if p.environ()["RANK"] == "1").send_signal(2)  # Ctrl-C, to the one that does not speak
    said = crew.communicate(timeout=120)[0]
    assert len(workers) == 2 and said.count("4 pictures") == said.count("stopped: `--resume` continues from") == 1, said
    assert "Traceback" not in said.partition("stopped: ")[0] and (folder / "runs/psnr/psnr.safetensors").exists()

    at_stop = rows(folder)
    for one, both in zip(alone, at_stop, strict=False):
        assert one.step == both["step"]
        assert both["losses"]["l1"] == pytest.approx(one.losses["l1"], abs=1e-5)
    assert len(at_stop) >= 8 and at_stop[-1]["step"] < STEPS

    said = (crew := start(folder, "--resume")).communicate(timeout=120)[0]
    steps = [row["step"] for row in rows(folder)]
    assert crew.returncode == 0, said
    assert steps == sorted(set(steps)) and steps[-1] == STEPS and rows(folder)[-1]["measured"]["val clean"]["psnr"] > 5
    assert said.count("use it: ") == 1 and said.count(f"{STEPS}/{STEPS}") == 1, said
    assert len(list((folder / "runs/psnr/tensorboard").glob("events*"))) <= 2  # one for each run
