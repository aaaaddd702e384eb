"""Batches from file to file: resume, failures, order, memory."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from fakes import Plain
from PIL import Image

from robustsr import batch, images
from robustsr.batch import Output, Task, estimate, run
from robustsr.console import forecast
from robustsr.jobs import Job, plan_jobs
from robustsr.manifest import locked
from robustsr.models import load
from robustsr.plan import make_plan
from robustsr.settings import Smoothing, Target
from robustsr.types import Cancelled, RobustSRError

SMOOTHING = Smoothing("median", 0.03, 4)


@pytest.fixture(scope="module")
def net(tiny):
    return load(tiny, device="cpu", precision="fp32")


@pytest.fixture
def folder(tmp_path, photo):
    """Three good pictures, a broken one and an empty one."""
    path = tmp_path / "in"
    path.mkdir()
    for i, name in enumerate(["a.png", "c.jpg", "e.webp"]):
        Image.fromarray(photo(20 + i, 24, seed=i)).save(path / name)
    buffer = io.BytesIO()
    Image.fromarray(photo(20, 20)).save(buffer, "png")
    (path / "b.png").write_bytes(buffer.getvalue()[:200])
    (path / "d.jpg").write_bytes(b"")
    return path


def task(net, smoothing=None, target=Target(), output=Output(), plan=None):  # noqa: B008 - they are frozen
    return Task(net, smoothing, target, output, plan or make_plan(net, smoothing))


def go(folder, net, *, smoothing=SMOOTHING, target=None, output=None, out=None, **options):
    jobs, _ = plan_jobs([str(folder)], str(out or folder.with_name("out")))
    return list(run(jobs, task(net, smoothing, target or Target(), output or Output()), **options))


def test_a_bad_file_does_not_stop_the_others_and_results_come_in_order(folder, net):
    results = go(folder, net)
    assert [r.job.source.name for r in results] == ["a.png", "b.png", "c.jpg", "d.jpg", "e.webp"]
    assert [r.status for r in results] == ["done", "failed", "done", "failed", "done"]
    assert "b.png" in results[1].error and "d.jpg" in results[3].error
    out = folder.with_name("out")
    assert sorted(os.listdir(out)) == [".robustsr.jsonl", "a.png", "c.jpg", "e.webp"]
    with Image.open(out / "a.png") as made:
        assert made.size == (96, 80) == results[0].output_size


def test_a_second_run_does_nothing_and_a_changed_input_or_setting_is_redone(folder, net):
    go(folder, net)
    again = go(folder, net)
    assert Counter(r.status for r in again) == {"skipped": 3, "failed": 2}
    out = folder.with_name("out")
    shutil.copy(folder / "e.webp", folder / "tmp.webp")
    os.replace(folder / "tmp.webp", folder / "e.webp")  # same bytes, new time: still the same input
    Image.open(folder / "a.png").rotate(180).save(folder / "a.png")
    (out / "c.jpg").write_bytes((out / "c.jpg").read_bytes()[:-200])
    assert {r.job.source.name: r.status for r in go(folder, net)} == {
        "a.png": "done",
        "b.png": "failed",
        "c.jpg": "done",
        "d.jpg": "failed",
        "e.webp": "skipped",
    }
    assert Counter(r.status for r in go(folder, net, target=Target(scale=4))) == {"skipped": 3, "failed": 2}
    assert Counter(r.status for r in go(folder, net, smoothing=None))["done"] == 3
    assert Counter(r.status for r in go(folder, net, smoothing=None, overwrite=True))["done"] == 3


def test_what_was_made_with_another_algorithm_of_noise_is_redone(folder, net, monkeypatch):
    go(folder, net)
    monkeypatch.setattr(batch, "ALGORITHM", "philox/2")
    assert Counter(r.status for r in go(folder, net)) == {"done": 3, "failed": 2}


def test_an_input_that_changed_while_it_was_read_is_redone(folder, net, photo, monkeypatch):
    def overtaken(path, **options):
        made = read(path, **options)
        Image.fromarray(photo(20, 24, seed=9)).save(path)
        return made

    read = images.read
    with monkeypatch.context() as patch:
        patch.setattr(images, "read", overtaken)
        go(folder, net)
    assert Counter(r.status for r in go(folder, net)) == {"done": 3, "failed": 2}
    assert Counter(r.status for r in go(folder, net)) == {"skipped": 3, "failed": 2}


def test_stopping_keeps_whole_files_only_and_a_resumed_run_gives_the_same_bytes(folder, net):
    want = folder.with_name("want")
    go(folder, net, out=want)

    def stop(job, done, total):
        if job.source.name == "c.jpg":
            raise Cancelled

    with pytest.raises(Cancelled):
        go(folder, net, on_window=stop)
    out = folder.with_name("out")
    assert sorted(os.listdir(out)) == [".robustsr.jsonl", "a.png"]
    assert Counter(r.status for r in go(folder, net)) == {"skipped": 1, "done": 2, "failed": 2}
    for name in ("a.png", "c.jpg", "e.webp"):
        assert (out / name).read_bytes() == (want / name).read_bytes()


def test_what_was_being_written_when_the_run_was_stopped_counts(tmp_path, photo, monkeypatch):
    begun, write = threading.Event(), batch._write

    def slow(*arguments):
        begun.wait(20)
        return write(*arguments)

    def stop(job, done, total):
        if job.source.name == "b.png":
            begun.set()
            raise Cancelled

    for name in ("a.png", "b.png"):
        Image.fromarray(photo()).save(tmp_path / name)
    monkeypatch.setattr(batch, "_write", slow)
    jobs, _ = plan_jobs([str(tmp_path)], str(tmp_path / "out"))
    seen = []
    with pytest.raises(Cancelled):
        seen.extend(run(jobs, task(Plain()), on_window=stop))
    assert [(r.job.source.name, r.status) for r in seen] == [("a.png", "done")]


def test_an_earlier_result_that_is_no_longer_whole_is_called_that(folder, net):
    go(folder, net)
    out = folder.with_name("out")
    (out / "c.jpg").write_bytes((out / "c.jpg").read_bytes()[:-200])
    jobs, _ = plan_jobs([str(folder)], str(out))

    def said(smoothing, **options):
        rows = estimate(jobs, task(net, smoothing), **options)
        return [line for line in forecast(rows, net, smoothing, None) if line.startswith("note: ")]

    assert said(SMOOTHING) == ["note: 1 earlier result, damaged or of a run that was interrupted, will be made again"]
    others = "note: 2 earlier results, made with other settings or of another input, will be replaced"
    others += " (another -o keeps them)"
    assert said(None) == [others, *said(SMOOTHING)] and said(None, overwrite=True) == []
    record = out / ".robustsr.jsonl"  # as a run leaves it that was interrupted after the file, before the word of it
    record.write_text("".join(line for line in record.open() if not ("a.png" in line and '"done"' in line)))
    assert said(SMOOTHING) == ["note: 2 earlier results, damaged or of a run that was interrupted, will be made again"]


def test_a_file_that_robustsr_did_not_make_is_never_replaced(folder, net, photo):
    out = folder.with_name("out")
    out.mkdir()
    (out / "a.png").write_bytes(b"a stranger's")
    results = {r.job.source.name: r for r in go(folder, net)}
    assert results["a.png"].status == "failed" and "--overwrite replaces it" in results["a.png"].error
    assert (out / "a.png").read_bytes() == b"a stranger's" and results["e.webp"].status == "done"
    other = folder.with_name("next year")  # the camera began to count anew
    other.mkdir()
    Image.fromarray(photo(seed=9)).save(other / "e.webp")
    before = (out / "e.webp").read_bytes()
    assert [r.status for r in go(other, net, out=out)] == ["failed"] and (out / "e.webp").read_bytes() == before
    assert [r.status for r in go(other, net, out=out, overwrite=True)] == ["done"]


def test_a_result_that_was_edited_is_not_replaced(folder, net):
    go(folder, net)
    out = folder.with_name("out")
    Image.open(out / "a.png").rotate(90).save(out / "a.png")
    edited = (out / "a.png").read_bytes()
    for again in (go(folder, net), go(folder, net, smoothing=None)):
        (failed,) = (r for r in again if r.job.source.name == "a.png")
        assert failed.status == "failed" and "no longer as robustsr made it: --overwrite" in failed.error
    assert (out / "a.png").read_bytes() == edited
    assert go(folder, net, overwrite=True)[0].status == "done"


def test_a_kill_between_a_second_result_and_its_record_is_healed(folder, net):
    go(folder, net)
    manifest = folder.with_name("out") / ".robustsr.jsonl"
    before = manifest.read_text().count("\n")
    assert Counter(r.status for r in go(folder, net, smoothing=None))["done"] == 3
    lines = manifest.read_text().splitlines(True)
    manifest.write_text("".join(lines[:before] + [line for line in lines[before:] if '"event": "done"' not in line]))
    assert Counter(r.status for r in go(folder, net, smoothing=None)) == {"done": 3, "failed": 2}


def test_a_kill_just_after_the_result_appeared_is_healed(folder, net):
    go(folder, net)
    manifest = folder.with_name("out") / ".robustsr.jsonl"
    lines = [line for line in manifest.read_text().splitlines(True) if '"event": "done"' not in line]
    manifest.write_text("".join(lines))  # as it was before the records were written
    assert Counter(r.status for r in go(folder, net)) == {"done": 3, "failed": 2}


def test_two_runs_in_one_folder_are_refused(folder, net):
    link = folder.with_name("link")
    with locked(folder.with_name("out")):
        with pytest.raises(RobustSRError, match="another robustsr is at work in"):
            go(folder, net)
        link.symlink_to(folder.with_name("out"))
        with pytest.raises(RobustSRError, match="another robustsr is at work in"):
            go(folder, net, out=link)
    assert go(folder, net)[0].status == "done"


def test_a_bug_in_one_picture_does_not_stop_the_others(folder):
    class Buggy(Plain):
        def __call__(self, x, *, origin=None):
            if x.shape[-2] == 21:
                raise RuntimeError("shapes differ")
            return super().__call__(x)

    results = {r.job.source.name: r for r in go(folder, Buggy(), smoothing=None)}
    assert results["c.jpg"].status == "failed" and results["c.jpg"].error.endswith("RuntimeError: shapes differ")
    assert "Traceback" in results["c.jpg"].trace and results["e.webp"].status == "done"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_no_text_are_handled(tmp_path, net, photo):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.png", "a\u2028b.png".encode(), "照片.png".encode()):
        Image.fromarray(photo()).save(folder / os.fsdecode(name))
    assert {r.status for r in go(folder, net)} == {"done"}
    assert {r.status for r in go(folder, net)} == {"skipped"}


def test_what_must_fail_fails_before_the_network_runs(folder):
    class Untouchable(Plain):
        def __call__(self, x, *, origin=None):
            raise AssertionError("the network ran")

    for output, message in (
        (Output(format="jpg", lossless=True), "never without loss"),
        (Output(background="nonsense"), "is no colour"),
    ):
        jobs, _ = plan_jobs([str(folder / "a.png")], str(folder.with_name("o")), format=output.format)
        (result,) = run(jobs, task(Untouchable(scale=1), output=output))
        assert message in result.error
    jobs, _ = plan_jobs([str(folder / "a.png")], str(folder.with_name("o")), format="webp")
    (result,) = run(jobs, task(Untouchable(scale=1), target=Target(width=17_000)))
    assert "WEBP holds at most 16,383 a side" in result.error


def test_a_folder_that_cannot_be_written_is_an_error_not_a_traceback(folder, net, tmp_path):
    (tmp_path / "file").touch()
    jobs = [Job(folder / "a.png", tmp_path / "file" / "a.png", tmp_path / "file")]
    with pytest.raises(RobustSRError, match="cannot read .*Not a directory"):
        list(run(jobs, task(net)))


def plans(folder):
    """Those that the output folder remembers, as they came."""
    events = [json.loads(line) for line in (folder.with_name("out") / ".robustsr.jsonl").read_text().splitlines()]
    return [event["plan"] for event in events if event["event"] == "plan"]


@pytest.mark.parametrize("change", [{}, {"engine": "other"}, {"precision": "fp16"}, {"device": "cuda:7"}], ids=str)
def test_the_plan_of_the_folder_is_used_again_unless_it_is_another_engines(folder, net, change):
    jobs, _ = plan_jobs([str(folder / "a.png")], str(folder.with_name("out")))
    first, own = make_plan(net, SMOOTHING, tile=64), make_plan(net, SMOOTHING)
    list(run(jobs, task(net, SMOOTHING, plan=replace(first, **change))))
    list(run(jobs, task(net, SMOOTHING), overwrite=True))
    assert [plan["tile"] for plan in plans(folder)] == [64, own.tile][: 1 + bool(change)]


@pytest.mark.parametrize("change", [{"tile": "64"}, {"tile": 10**6}, {"batch": -1}, {"context": None}], ids=str)
def test_a_plan_that_makes_no_sense_is_passed_over(folder, net, change):
    jobs, _ = plan_jobs([str(folder / "a.png")], str(folder.with_name("out")))
    list(run(jobs, task(net)))
    path = folder.with_name("out") / ".robustsr.jsonl"
    (event,) = (json.loads(line) for line in path.read_text().splitlines() if '"plan"' in line)
    event["plan"] |= change
    path.write_text(path.read_text() + json.dumps(event) + "\n")
    assert [result.status for result in run(jobs, task(net), overwrite=True)] == ["done"]
    assert plans(folder)[-1] == asdict(make_plan(net, None))


def test_a_smaller_tile_is_remembered_and_a_higher_precision_is_not(folder, photo):
    Image.fromarray(photo(100, 100)).save(folder / "a.png")
    results = go(folder, Plain(memory=5000, broken=("bf16",)), smoothing=None)
    assert Counter(r.status for r in results) == {"done": 3, "failed": 2}
    first, then = plans(folder)
    assert then["tile"] < first["tile"] and then["precision"] == first["precision"] == "bf16"


def test_a_picture_over_the_limit_fails_before_it_is_decoded(folder, net):
    results = go(folder, net, output=Output(max_pixels=7700))
    assert [r.status for r in results] == ["done", "failed", "failed", "failed", "failed"]
    assert (
        "24x21 enlarged 4 times has 8,064 pixels, over the limit of 7,700: take a model of x2 (realesrgan-x2plus), "
        "or set --max-pixels to 8064 if" in results[2].error
    )
    for limit, target in ((7700, Target(scale=3)), (2000, Target())):  # with x2 as many after two passes; too many
        results = go(folder, net, output=Output(max_pixels=limit), target=target, overwrite=True)
        assert f"over the limit of {limit:,}: set --max-pixels to 8064 if" in results[2].error
    results = go(folder, net, output=Output(max_pixels=200_000), target=Target(scale=100), overwrite=True)
    assert "enlarged 256 times has 33,030,144 pixels, over the limit of 200,000: --scale 16 is pos" in results[2].error


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_ends_the_run_and_leaves_no_part(folder, net, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(out)]).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(RobustSRError, match="the disk that holds .* is full"):
            go(folder, net)
        assert all(not name.endswith(".part") for name in os.listdir(out))
    finally:
        subprocess.run(["umount", str(out)])


def test_memory_stays_flat_over_many_pictures(tmp_path, photo, tiny):
    """120 pictures in a process of its own: the peak of the last 60 is the peak of the first 60."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(120):
        Image.fromarray(photo(48, 48, seed=i)).save(folder / f"{i:03}.png")
    code = """
import sys
from robustsr.batch import Output, Task, run
from robustsr.jobs import plan_jobs
from robustsr.models import load
from robustsr.plan import make_plan
from robustsr.settings import Target
net = load(sys.argv[2], device="cpu", precision="fp32")
jobs, _ = plan_jobs([sys.argv[1]], None)
now = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
curve = [now() for _ in run(jobs, Task(net, None, Target(), Output(), make_plan(net, None)))]
print(max(curve[20:60]), max(curve[80:]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(tiny)], capture_output=True, text=True)
    early, late = map(float, done.stdout.split())
    assert late < early + 5, done.stdout  # megabytes


def test_estimates_come_from_headers(folder, net):
    jobs, _ = plan_jobs([str(folder)], None)
    rows = estimate(jobs, task(net, SMOOTHING))
    assert [(r.job.source.name, r.size, r.cost) for r in rows if not r.error] == [
        ("a.png", (96, 80), 24 * 20 * 4),
        ("b.png", (80, 80), 20 * 20 * 4),
        ("c.jpg", (96, 84), 24 * 21 * 4),
        ("e.webp", (96, 88), 24 * 22 * 4),
    ]
    assert [r.job.source.name for r in rows if r.error] == ["d.jpg"]  # b.png has a whole header


def test_metadata_and_depth_travel(tmp_path, net):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", 6
    Image.new("RGB", (12, 8), "red").save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300))
    job = Job(tmp_path / "a.jpg", tmp_path / "o" / "a.jpg", tmp_path / "o")
    (result,) = run([job], task(net))
    with Image.open(job.target) as made:
        assert made.size == (32, 48) == result.output_size
        assert (made.getexif()[0x010F], made.getexif()[0x0112]) == ("camera", 1)
        assert made.info["dpi"] == (300, 300)
    wide = np.full((6, 6), 40_000, np.uint16)
    Image.fromarray(wide).save(tmp_path / "b.png")
    job = Job(tmp_path / "b.png", tmp_path / "o" / "b.png", tmp_path / "o")
    list(run([job], task(net)))
    with Image.open(job.target) as made:
        assert made.mode.startswith("I;16") and made.size == (24, 24)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_real_photographs_pass_through_an_identity_unchanged(shared, tmp_path, ending):
    """All 29: every visible pixel, the depth, the channels and the metadata, through tiles and the whole pipeline."""
    identity = Plain(scale=1, context=0)
    jobs, _ = plan_jobs([str(shared / "data/photos")], str(tmp_path / "o"), recursive=True, format=ending)
    results = list(run(jobs, task(identity, plan=make_plan(identity, None, tile=100))))
    assert len(results) == 29 and {r.status for r in results} == {"done"}, [r.error for r in results if r.error]
    for result in results:
        before, after = (images.read(p, max_pixels=10**8) for p in (result.job.source, result.job.target))
        visible = 1 if before.alpha is None else (before.alpha > 0)[..., None]
        there_and_back = 0 if before.meta.icc is None else 1e-3  # a colour profile: in float, then 16 bits again
        assert np.abs((before.rgb - after.rgb) * visible).max() <= there_and_back
        assert np.array_equal(before.alpha, after.alpha) if before.alpha is not None else after.alpha is None
        assert (before.bits, before.gray, before.meta.icc) == (after.bits, after.gray, after.meta.icc)
        assert (before.meta.exif is None) == (after.meta.exif is None)
