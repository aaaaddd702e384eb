"""Places at URLs, through fsspec's local and memory filesystems, and batches between them."""

import errno
import json
from collections import Counter
from pathlib import Path

import fsspec
import pytest
from PIL import Image
from typer.testing import CliRunner

from robustsr import cli
from robustsr.batch import Output, Task, estimate, run
from robustsr.files import part_of
from robustsr.jobs import plan_jobs
from robustsr.manifest import Manifest, digest
from robustsr.models import load
from robustsr.plan import make_plan
from robustsr.remote import Url, below, check_folder, delivered, fetched, looked_up, place, state, sweep
from robustsr.settings import Smoothing, Target
from robustsr.types import Cancelled, RobustSRError


@pytest.fixture(autouse=True)
def store():
    """fsspec's memory filesystem, empty."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    return fs


@pytest.fixture(params=["memory", "file"])
def base(request, tmp_path):
    """The URL of a folder, on each filesystem."""
    return "memory://store" if request.param == "memory" else tmp_path.as_uri()


@pytest.fixture
def put(photo):
    """Puts small pictures, or bytes, at URLs."""

    def make(*urls, seed=0, content=None):
        for number, url in enumerate(urls):
            with delivered(place(url)) as path:
                if content is None:
                    Image.fromarray(photo(12, 14, seed=seed + number)).save(path)
                else:
                    path.write_bytes(content)

    return make


def content(url):
    with fetched(place(url)) as path:
        return path.read_bytes()


def there(url):
    return sorted(below(file, place(url)) for tree in place(url).tree(deep=True).values() for file in tree)


def names(jobs):
    return {str(job.source): str(job.target) for job in jobs}


@pytest.mark.parametrize(
    ("text", "name", "parent", "beside"),
    [
        ("s3://bucket/a/b.tar.gz", "b.tar.gz", "s3://bucket/a", "s3://bucket/a/z"),
        ("s3://bucket/", "bucket", "s3://", "s3://z"),
        ("memory://a.png", "a.png", "memory://", "memory://z"),
        ("memory:///a.png", "a.png", "memory:///", "memory:///z"),
        ("file:///a/b/", "b", "file:///a", "file:///a/z"),
    ],
)
def test_a_url_has_the_face_of_a_path(text, name, parent, beside):
    url = place(text)
    assert (url.name, str(url.parent), str(url.with_name("z"))) == (name, parent, beside)
    assert (url.stem, url.suffix) == (Path(name).stem, Path(name).suffix)
    assert url / "." == url and (url / "x").parent == url and below(url / "x" / "y", url) == "x/y"
    assert below(url, url) == "." and below(Path("a/b/c"), Path("a")) == "b/c"


def test_words_without_a_scheme_are_paths_and_what_cannot_be_reached_is_said(tmp_path):
    assert place("a/b") == Path("a/b") and place("file:///").resolve() == Path("/")
    assert place("memory://a").resolve() == place("memory:///a/").resolve()
    assert place(tmp_path.as_uri()).resolve() == tmp_path.resolve()
    with pytest.raises(RobustSRError, match="chained URLs are not taken"):
        place("zip://a.png::file://a.zip")
    with pytest.raises(RobustSRError, match="cannot use nowhere://a: Protocol not known: nowhere"):
        place("nowhere://a").exists()
    with pytest.raises(RobustSRError, match="cannot read memory://a.png: no such file, folder or bucket"):
        content("memory://a.png")


def test_files_travel_whole_or_not_at_all(base, put, monkeypatch):
    put(f"{base}/new/a.png", content=b"before")
    url = place(f"{base}/new/a.png")
    assert url.is_file() and url.parent.is_dir() and not url.is_dir() and not (url.parent / "b").exists()
    assert content(str(url)) == b"before" and state(url).size == 6 and state(url).version
    with pytest.raises(RobustSRError, match=f"cannot write {url}: stop"), delivered(url) as path:
        path.write_bytes(b"half")
        raise RobustSRError(f"cannot write {path}: stop")
    with pytest.raises(RobustSRError, match=f"cannot read {url}: stop"), fetched(url) as path:
        raise RobustSRError(f"cannot read {path}: stop")

    def full(source, target, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(url.fs, "put_file", full)
        with pytest.raises(RobustSRError, match=f"cannot write {url}: No space left") as raised:
            put(str(url), content=b"after")
    assert raised.value.__cause__.errno == errno.ENOSPC  # which ends a batch
    assert there(base) == ["new/a.png"] and content(str(url)) == b"before"
    put(str(url), content=b"after")
    assert there(base) == ["new/a.png"] and content(str(url)) == b"after"


def test_a_folder_for_results_is_one_or_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "new" / "deep", Path("."), Path("new"), Url("memory://a/b")):
        check_folder(folder)
    for folder in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(RobustSRError, match=f"^{tmp_path / 'file'} is a file, and results need a folder"):
            check_folder(folder)


@pytest.mark.parametrize("kind", [Path, Url])
def test_what_killed_processes_left_half_written_is_swept_up(tmp_path, put, kind):
    base = tmp_path if kind is Path else Url(tmp_path.as_uri())
    left = [tmp_path / part_of(name) for name in ("a.png", "c.png")]
    for path in (*left, tmp_path / part_of("d.png"), tmp_path / "mine.part"):
        path.write_bytes(b"half")
    others = ("memory://a.png", f"memory://{part_of('a.png')}")  # an object store has no half files of ours
    put(*others, content=b"-")
    unreachable = (base / "mine.part" / "x.png", base / "no" / "a.png", Url("memory://a.png"))
    sweep([*unreachable, *(base / name for name in ("a.png", "b.png", "c.png"))])
    assert {p.name for p in tmp_path.iterdir()} == {part_of("d.png"), "mine.part"}
    assert len(there("memory://")) == 2


def test_folders_are_planned_as_local_ones_are(base, put):
    pictures = [f"{base}/in/{name}" for name in ("b.JPG", "a.png", "x/y/c.webp", ".hidden/d.png", ".e.png")]
    put(*pictures)
    put(f"{base}/in/notes.txt", f"{base}/in/x/raw.dng", content=b"-")
    jobs, warnings = plan_jobs([f"{base}/in/"], None)
    assert names(jobs) == {f"{base}/in/{n}": f"{base}/in_upscaled/{n}" for n in ("a.png", "b.JPG")}
    assert warnings == [f"{base}/in: 1 file of other kinds left alone (1 .txt)"]
    jobs, _ = plan_jobs([f"{base}/in"], f"{base}/in/out", recursive=True, format="webp")
    assert sorted(str(job.target) for job in jobs) == [f"{base}/in/out/{n}.webp" for n in ("a", "b", "x/y/c")]
    assert {job.root for job in jobs} == {Url(f"{base}/in/out")}
    put(str(jobs[0].target))
    assert len(plan_jobs([f"{base}/in"], f"{base}/in/out", recursive=True)[0]) == 3  # without the output folder's
    assert len(plan_jobs([f"{base}/in"], base, recursive=True)[0]) == 4  # which is an input of other runs
    manifest = Manifest.read(Url(f"{base}/in"))
    manifest.begin(Url(f"{base}/in/a.png"), Url(f"{base}/in/out/a.webp"))
    manifest.flush()
    jobs, warnings = plan_jobs([f"{base}/in"], f"{base}/elsewhere", recursive=True)
    assert len(jobs) == 3 and f"1 earlier result left out (first: {base}/in/out/a.webp)" in warnings


def test_files_patterns_and_clashes(base, put, tmp_path):
    put(f"{base}/a.png", f"{base}/a.jpg", f"{base}/b.png")
    (job,) = plan_jobs([f"{base}/a.png"], None)[0]
    assert str(job.target) == f"{base}/a_x4.png" and job.root == place(base)
    (job,) = plan_jobs([f"{base}/a.png"], str(tmp_path / "o" / "z.png"))[0]  # to a path
    assert job.target == tmp_path / "o" / "z.png"
    assert len(plan_jobs([f"{base}/*.png"], f"{base}/o")[0]) == 2
    jobs, warnings = plan_jobs([f"{base}/a.*"], f"{base}/o", format="webp")
    assert sorted(job.target.name for job in jobs) == ["a_jpg.webp", "a_png.webp"] and "share a name" in warnings[0]
    for inputs, out, message in (
        ([f"{base}/nope"], None, "no file or folder"),
        ([f"{base}/*.gif"], None, "no file or folder"),
        ([f"{base}/a.png", f"{base}/b.png"], f"{base}/z.png", "names one file"),
        ([f"{base}/a.png"], f"{base}/a.png", "is the input itself"),
    ):
        with pytest.raises(RobustSRError, match=message):
            plan_jobs(inputs, out)


def test_one_place_under_two_names_is_not_overwritten(tmp_path, photo):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    with pytest.raises(RobustSRError, match="is the input itself"):
        plan_jobs([str(tmp_path / "a.png")], (tmp_path / "a.png").as_uri())
    with pytest.raises(RobustSRError, match="would overwrite an input"):
        plan_jobs([str(tmp_path)], tmp_path.as_uri(), suffix="")


@pytest.fixture(scope="module")
def net(tiny):
    return load(tiny, device="cpu", precision="fp32")


def go(net, base, *, smoothing=None, **options):
    jobs, _ = plan_jobs([f"{base}/in"], f"{base}/out")
    task = Task(net, smoothing, Target(), Output(), make_plan(net, smoothing))
    return {result.job.source.name: result for result in run(jobs, task, **options)}


def statuses(results):
    return Counter(result.status for result in results.values())


def test_a_batch_from_url_to_url_is_like_a_local_one(base, put, net):
    put(*(f"{base}/in/{i}.png" for i in range(7)))
    put(f"{base}/in/bad.png", content=b"nothing")
    made = go(net, base)
    assert statuses(made) == {"done": 7, "failed": 1} and made["0.png"].output_size == (56, 48)
    assert made["bad.png"].error.startswith(f"cannot read {base}/in/bad.png: it is not a picture")
    assert there(f"{base}/out") == [".robustsr.jsonl", *(f"{i}.png" for i in range(7))]
    assert statuses(go(net, base)) == {"skipped": 7, "failed": 1}
    put(f"{base}/in/0.png", seed=50)  # another picture
    put(f"{base}/in/1.png", content=content(f"{base}/in/1.png"))  # the same, touched
    put(f"{base}/out/2.png", content=content(f"{base}/out/2.png")[:-99])  # cut off
    again = go(net, base)
    assert {name for name, result in again.items() if result.status == "done"} == {"0.png", "2.png"}
    assert statuses(go(net, base, smoothing=Smoothing("median", 0.03, 2)))["done"] == 7
    put(f"{base}/in/7.png", f"{base}/out/7.png")
    stranger = content(f"{base}/out/7.png")
    assert "--overwrite replaces it" in go(net, base)["7.png"].error and content(f"{base}/out/7.png") == stranger
    assert go(net, base, overwrite=True)["7.png"].status == "done" and content(f"{base}/out/7.png") != stranger


def test_a_batch_that_is_stopped_or_killed_goes_on(base, put, net):
    put(*(f"{base}/in/{i}.png" for i in range(4)))

    def stop(job, done, total):
        if job.source.name == "2.png":
            raise Cancelled

    with pytest.raises(Cancelled):
        go(net, base, on_window=stop)
    assert there(f"{base}/out") == [".robustsr.jsonl", "0.png", "1.png"]
    assert statuses(go(net, base)) == {"skipped": 2, "done": 2}
    record = f"{base}/out/.robustsr.jsonl"
    begun = [line for line in content(record).splitlines(keepends=True) if b'"begin"' in line]
    put(record, content=b"".join(begun) + b'{"event": "do')  # as a kill leaves it: the rest was not written yet
    assert len(begun) == 4 and statuses(go(net, base)) == {"done": 4}


def test_a_record_at_a_url_is_written_before_the_first_result_and_then_seldom(put, store, net, monkeypatch):
    put(*(f"memory://store/in/{i}.png" for i in range(5)))
    order, kind = [], type(store)
    usual = kind.put_file

    def noted(fs, path, target, **options):
        order.append(Path(target).name)
        usual(fs, path, target, **options)

    monkeypatch.setattr(kind, "put_file", noted)
    go(net, "memory://store")
    assert order == [".robustsr.jsonl", *(f"{i}.png" for i in range(5)), ".robustsr.jsonl"]
    order.clear()
    assert statuses(go(net, "memory://store")) == {"skipped": 5} and order == []


def test_many_places_are_looked_up_by_folder(put, store, monkeypatch):
    urls = [f"memory://a/{i}.png" for i in range(9)] + ["memory://b/0.png", "memory://b/1.png"]
    put(*urls[::2])
    asked = []
    monkeypatch.setattr(store, "info", lambda path: asked.append(path) or {"type": "file", "size": 1})
    found = looked_up([*map(place, urls), Path("local.png")])
    assert [str(url) for url in found] == [*urls, "local.png"]
    assert [url.is_file() for url in found[:9]] == [True, False] * 4 + [True] and asked == []
    assert found[9].is_file() and asked == ["/b/0.png"]


def test_estimates_leave_inputs_at_urls_unread(base, put, net):
    put(f"{base}/in/a.png")
    jobs, _ = plan_jobs([f"{base}/in"], f"{base}/out")
    task = Task(net, None, Target(), Output(), make_plan(net, None))
    (row,) = estimate(jobs, task)
    assert row.size is None and row.cost == len(content(f"{base}/in/a.png")) and not row.replaces and not row.error
    list(run(jobs, task))
    assert estimate(jobs, task)[0].done and digest(task.settings()) in Manifest.read(Url(f"{base}/out")).plans


def test_the_command_takes_urls(base, put, tiny, tmp_path, home):
    put(f"{base}/in/a.png", f"{base}/in/b.png")
    command = ["upscale", f"{base}/in", "-o", f"{base}/out", "-m", str(tiny), "--device", "cpu", "--fp32"]
    runner = CliRunner(env={"COLUMNS": "300"})
    planned = runner.invoke(cli.app, [*command, "--dry-run"])
    assert planned.exit_code == 0 and f"{base}/out/a.png  ?" in planned.stdout
    note = "note: memory:// ends with this process, and the results there with it\n" * base.startswith("memory:")
    assert planned.stderr == f"{note}2 pictures: tiny x4 on cpu (fp32), not smoothed\n"
    assert not place(f"{base}/out").exists()
    first, second, summary = map(json.loads, runner.invoke(cli.app, [*command, "--json"]).stdout.splitlines())
    assert (first["input"], first["output"]) == (f"{base}/in/a.png", f"{base}/out/a.png")
    assert second["output_size"] == [56, 48] and summary["summary"]["done"] == 2


def test_web_servers_are_only_read_from():
    message = "cannot write http://127.0.0.1:9/a.png: .* give another -o"
    with pytest.raises(RobustSRError, match=message), delivered(place("http://127.0.0.1:9/a.png")) as path:
        path.touch()
