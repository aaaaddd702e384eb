"""Batches on a real Ray cluster of this machine, with two workers."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import psutil
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

from robustsr import batch, cli, cli_upscale, images, spread
from robustsr.batch import Output, Task
from robustsr.cluster import HERE, connected
from robustsr.files import part_of
from robustsr.jobs import plan_jobs
from robustsr.models import load
from robustsr.plan import make_plan
from robustsr.remote import Url
from robustsr.settings import Smoothing, Target
from robustsr.types import RobustSRError

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'robustsr[ray]'")
SCRIPT = str(Path(sys.executable).with_name("robustsr"))
SLOW = Smoothing("median", 0.03, 500)  # a second or more: a worker is killed in the middle of a picture


@pytest.fixture(scope="module")
def cluster():
    with connected(HERE, processors=2) as ray:
        yield ray


@pytest.fixture
def folder(tmp_path, photo):
    """Seven pictures of 16 bits, and one that is none."""
    path = tmp_path / "in"
    path.mkdir()
    for i in range(7):
        tifffile.imwrite(path / f"{i}.tif", photo(90 + i, 100, seed=i).astype(np.uint16) * 257, photometric="rgb")
    (path / "bad.tif").write_bytes(b"nothing")
    return path


def task_of(tiny, smoothing=None):
    net = load(tiny, device="cpu", precision="fp32")
    requested = {"precision": "fp32", "tile": None, "tile_pad": None}
    task = Task(net, smoothing, Target(), Output(), make_plan(net, smoothing), requested)
    return task, spread.Recipe.of(task, str(tiny), None, "cpu")


def at_work():
    """Our workers that have a file in work now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if process.cmdline()[:1] == ["ray::MapWorker(MapBatches(Worker)).submit"]:
                found.append(process)
    return found


def statuses(results):
    return Counter(result.status for result in results)


@needs_ray
def test_two_workers_one_of_them_killed_go_on_and_give_what_one_process_gives(cluster, folder, tiny):
    task, recipe = task_of(tiny, SLOW)
    out, alone = folder.with_name("out"), folder.with_name("alone")
    jobs, _ = plan_jobs([folder.as_uri()], out.as_uri())  # through fsspec, by the workers
    assert all(isinstance(place, Url) for job in jobs for place in (job.source, job.target))
    assert statuses(batch.run(jobs[:2], task)) == {"done": 2}
    results, killed = [], []
    for result in spread.run(jobs, task, recipe, workers=2):
        results.append(result)
        if result.status == "done" and not killed:
            while len(busy := at_work()) < 2:
                time.sleep(0.05)
            time.sleep(0.1)
            busy[0].kill()
            killed.append(busy[0].pid)
    assert killed and statuses(results) == {"skipped": 2, "done": 5, "failed": 1}
    (error,) = (r.error for r in results if r.error)
    assert error.startswith(f"cannot read {folder.as_uri()}/bad.tif: it is not a picture")
    assert [r.notes for r in results if r.notes] == [("done again, for the worker that had it died",)]
    assert sorted(p.name for p in out.iterdir()) == [".robustsr.jsonl", *(f"{i}.tif" for i in range(7))]

    (folder / "bad.tif").unlink()
    here, _ = plan_jobs([str(folder)], str(alone))
    assert statuses(batch.run(here, task)) == {"done": 7}
    for i in range(7):
        ours, theirs = (images.read(p / f"{i}.tif", max_pixels=10**8) for p in (out, alone))
        assert ours.bits == 16 and np.abs(ours.rgb - theirs.rgb).max() < 1e-4
    jobs = [job for job in jobs if job.source.name != "bad.tif"]
    here, _ = plan_jobs([str(folder)], str(out))
    for again in (spread.run(jobs, task, recipe), spread.run(here, task, recipe), batch.run(here, task)):
        assert statuses(again) == {"skipped": 7}


@needs_ray
def test_a_run_that_is_left_sweeps_up_what_its_workers_had_half_written(cluster, folder, tiny):
    task, recipe = task_of(tiny, SLOW)
    out = folder.with_name("out")
    jobs, _ = plan_jobs([str(folder)], str(out))
    results = spread.run([job for job in jobs if job.source.name != "bad.tif"], task, recipe, workers=2)
    next(results)
    half = [out / part_of(f"{i}.tif") for i in (5, 6)]
    for path in half:  # as a worker leaves it that is killed between two writes
        path.write_bytes(b"half")
    results.close()
    assert not [path for path in half if path.exists()]


@needs_ray
def test_what_a_worker_cannot_do_ends_the_run(cluster, folder, tiny, monkeypatch):
    task, recipe = task_of(tiny)
    jobs, _ = plan_jobs([str(folder)], str(folder.with_name("out")))
    broken = replace(recipe, model=spread.Weights("mine.safetensors", {"mine.safetensors": b"nothing"}))
    with pytest.raises(RobustSRError, match="mine.safetensors cannot be read as a checkpoint"):
        list(spread.run(jobs, task, broken))
    with pytest.raises(RobustSRError, match="--workers 3 is too many: the Ray cluster has 2 processors"):
        list(spread.run(jobs, task, recipe, workers=3))
    elsewhere = type("Recipe", (spread.Recipe,), {"__module__": "elsewhere"})  # as where robustsr is not installed
    monkeypatch.setitem(sys.modules, "elsewhere", ModuleType("elsewhere"))
    monkeypatch.setattr("elsewhere.Recipe", elsewhere, raising=False)
    with pytest.raises(
        RobustSRError, match=r"the workers cannot go on \(each machine needs robustsr .*No module named"
    ):
        list(spread.run(jobs, task, elsewhere(**vars(recipe))))
    assert [p.name for p in folder.with_name("out").iterdir()] == [".robustsr.jsonl"]


@needs_ray
def test_a_file_that_kills_its_workers_is_given_up(cluster, folder, tiny, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    _, recipe = task_of(tiny)
    jobs, _ = plan_jobs([str(folder)], str(folder.with_name("out")))
    tries = spread.Tries()
    counter = SimpleNamespace(begin=SimpleNamespace(remote=lambda n: cluster.put(tries.begin(n))))
    worker = spread.Worker(recipe, 1, jobs, {job.root: {} for job in jobs}, counter)
    made = [worker._made(0) for _ in range(3)]
    half = jobs[0].target.with_name(part_of(jobs[0].target.name))
    half.write_bytes(b"half")
    made.append(worker._made(0))
    assert not half.exists()
    assert [m[0].status for m in made] == ["done", "done", "done", "failed"]
    assert [len(m[0].notes) for m in made] == [0, 1, 1, 0] and "3 workers died at it" in made[3][0].error
    assert [e["event"] for e in made[0][1]] == ["plan", "begin", "done"] and made[3][1] == []

    def full(*args):
        raise RobustSRError("the disk is full")

    monkeypatch.setattr(spread, "carry_out", full)
    assert worker._made(1) == ("the disk is full", [])


def alive(process):
    """Whether it runs; one that has ended may still be listed until somebody asks for its exit code."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@needs_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_json_through_the_installed_script(tmp_path, photo, tiny, monkeypatch, home, number):
    monkeypatch.chdir(tmp_path)
    Path("many").mkdir()
    for i in range(9):
        Image.fromarray(photo(100, 100, seed=i)).save(f"many/{i}.png")
    command = [SCRIPT, "upscale", "many", "-o", "out", "-m", tiny, "--fp32", "--smooth", "median", "--device", "cpu"]
    command += ["--samples", "200"]  # that it is in the middle of them when it is interrupted
    spreading = [*command, "--json", "--ray", "--workers", "2"]
    process = subprocess.Popen(spreading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 128 + number and "Traceback" not in err, out + err
    assert err.splitlines()[0].endswith("megapixels out: tiny x4 on Ray, median of 200, sigma 0.03")
    assert err.splitlines()[1:3] == ["starting Ray", "2 workers of 1 processor"]
    assert "interrupted: the same command goes on" in err
    assert first["status"] == "done" and Path(first["output"]).exists() and first["input"].startswith("many/")
    *_, summary = map(json.loads, out.splitlines())
    assert not list(Path("out").glob(".*.part")) and not list(filter(alive, others))
    done = CliRunner().invoke(cli.app, [*map(str, command[1:]), "--json"])
    *_, resumed = map(json.loads, done.stdout.splitlines())
    kept = resumed["summary"]["skipped"] - summary["summary"]["done"]
    assert done.exit_code == 0 and summary["summary"]["done"] and kept in (0, 1)  # recorded as it came, not counted
    assert len(list(Path("out").glob("*.png"))) == 9


def test_crews():
    def crew(machines, *args, jobs=100):
        made = spread.crew(machines, jobs, *args)
        return made.count, made.cpus, made.gpus

    four, eight, gpus = {"CPU": 4.0}, {"CPU": 8.0, "memory": 1e9}, {"CPU": 16.0, "GPU": 2.0}
    assert crew([{"CPU": 2.0}], None) == (1, 2, 0)
    assert crew([eight, four, {}], None) == (3, 4, 0)
    assert crew([eight, four], 2) == (2, 4, 0) and crew([eight, four], 12) == (12, 1, 0)
    assert crew([gpus, eight], None) == (2, 8, 1) and crew([gpus, eight], None, "cpu") == (6, 4, 0)
    assert crew([gpus], 3) == (3, 5, 0.5) and crew([gpus], 1) == (1, 16, 1)
    assert crew([eight, four], jobs=2) == (2, 4, 0) and crew([eight], 8, jobs=1) == (1, 8, 0)
    assert str(spread.crew([gpus], 9, 4)) == "4 workers of 4 processors, 0.5 GPU"
    for arguments, message in ((([four], 5), "--workers 5 is too many"), (([four], 1, "cuda"), "has a GPU")):
        with pytest.raises(RobustSRError, match=message):
            crew(*arguments)


@needs_ray
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["in", "--workers", "2"], 2, "--workers only matters with --ray"),
        (["in", "--ray", "--device", "cuda:1"], 2, "say cuda, each worker gets a GPU of its own"),
        (["memory://in", "--ray"], 2, "memory:// is inside one process"),
        (["--ray", "nowhere/"], 1, "no file or folder 'nowhere/'"),
        (["--ray", "127.0.0.1:6379", "nowhere/"], 1, "no file or folder 'nowhere/'"),
    ],
)
def test_mistakes_are_answered(args, code, message):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["upscale", *args])
    said = str(result.exception) if isinstance(result.exception, RobustSRError) else result.stderr
    assert message in said and (result.exit_code, code) in ((2, 2), (1, 1)), result.stderr


@needs_ray
def test_a_cluster_that_is_not_there_is_said_at_once(tiny, photo, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    command = [SCRIPT, "upscale", tmp_path / "a.png", "-o", tmp_path / "x.png", "-m", tiny, "--ray", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)  # Ray itself would take 40 s
    assert done.returncode == 1 and done.stderr.endswith("no Ray cluster at 127.0.0.1:1: Connection refused\n")
    assert "asking for the Ray cluster at 127.0.0.1:1" in done.stderr


def test_without_ray_the_way_to_get_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(cli_upscale, "find_spec", lambda name: None)
    result = CliRunner().invoke(cli.app, ["upscale", str(tmp_path), "--ray"])
    assert isinstance(result.exception, RobustSRError) and "pip install 'robustsr[ray]'" in str(result.exception)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RobustSRError, match="pip install 'robustsr"), connected(HERE):
        pass
