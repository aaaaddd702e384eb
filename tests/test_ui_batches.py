import time
import zipfile

import pytest
from PIL import Image
from robustsr_ui.batches import Batches, unpacked
from robustsr_ui.desk import Desk
from robustsr_ui.options import Options

from robustsr.types import RobustSRError


def finished(batches, name, seconds=60):
    end = time.time() + seconds
    while batches.find(name).active:
        assert time.time() < end
        time.sleep(0.05)
    return batches.find(name)


@pytest.fixture
def files(tmp_path, photo):
    folder = tmp_path / "uploads"
    folder.mkdir()
    Image.fromarray(photo(16, 20)).save(folder / "a.png")
    Image.fromarray(photo(12, 12, seed=1)).save(folder / "b.jpg")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_bad_file_stops_nothing_and_says_why(home, tiny, tmp_path, files):
    batches = Batches(Desk(tmp_path / "desk", device="cpu"))
    name = batches.start(sorted(files.iterdir()), Options(str(tiny), samples="4", sigma="0.05"))
    job = finished(batches, name)
    rows = {row[0]: row[1:] for row in job.table()}
    assert job.state == "done" and "2 of 3 upscaled, 1 failed" in job.words()
    assert rows["a.png"][:2] == ["done", "80 x 64"] and rows["b.jpg"][:2] == ["done", "48 x 48"]
    assert rows["broken.png"][0] == "failed" and rows["broken.png"][3].startswith("cannot read broken.png")
    assert str(tmp_path) not in job.words() + str(rows)
    with zipfile.ZipFile(job.zip) as archive:
        assert sorted(archive.namelist()) == ["a_upscaled.png", "b_upscaled.jpg"]
    assert batches.find("guessed") is None and batches.find(None) is None


def test_cancelled_batches_keep_what_is_done(home, tiny, tmp_path, files, photo):
    Image.fromarray(photo(64, 64, seed=5)).save(files / "c.png")
    batches = Batches(Desk(tmp_path / "desk", device="cpu"))
    with batches._desk.line.turn(batches._desk.token("other"), lambda done, text: None):
        name = batches.start([files / "a.png", files / "c.png"], Options(str(tiny)))
        time.sleep(0.1)
        assert batches.find(name).state == "waiting" and "1 job before this one" in batches.find(name).words()
        batches.find(name).token.cancel()
        job = finished(batches, name)
    assert job.state == "cancelled" and job.zip is None and {row[1] for row in job.table()} == {"cancelled"}


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_archives_stay_inside_their_folder(tmp_path, files):
    data = (files / "a.png").read_bytes()
    path = zipped(
        tmp_path / "z.zip",
        {"../../out.png": data, "/etc/x.png": data, "a/b.png": data, "c:\\d.png": data, "notes.txt": "x"},
    )
    found, notes = unpacked([path], tmp_path / "in", 1 << 20)
    assert len(found) == 4 and all(p.resolve().is_relative_to((tmp_path / "in").resolve()) for p in found)
    assert notes == ["1 file of other kinds in the archive left out"]


@pytest.mark.parametrize("kind", ["large", "broken", "empty"])
def test_archives_that_cannot_be_used(tmp_path, kind):
    path = tmp_path / "z.zip"
    if kind == "broken":
        path.write_bytes(b"PK\x03\x04 and no more")
    else:
        zipped(path, {"a.png": b"\0" * 5000} if kind == "large" else {"readme.txt": "x"})
    text = {"large": "unpacks to more", "broken": "z.zip cannot be unpacked", "empty": "there are no pictures"}[kind]
    with pytest.raises(RobustSRError, match=text):
        unpacked([path], tmp_path / "in", 1000)
