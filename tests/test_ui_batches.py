import time
import zipfile

import pytest
from PIL import Image
from robustsr_ui.batches import Batches, collected
from robustsr_ui.desk import Desk, Token
from robustsr_ui.options import Options
from test_ui_options import parsed

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
    name = "one"
    batches.start(name, sorted(files.iterdir()), Options(str(tiny), samples="4", sigma="0.05"))
    job = finished(batches, name)
    rows = {row[0]: row[1:] for row in job.table()}
    assert job.state == "done" and "2 of 3 upscaled, 1 failed" in job.words()
    assert rows["a.png"][:2] == ["done", "80 x 64"] and rows["b.jpg"][:2] == ["done", "48 x 48"]
    assert rows["broken.png"][0] == "failed" and rows["broken.png"][3].startswith("cannot read broken.png")
    assert str(tmp_path) not in job.words() + str(rows)
    with zipfile.ZipFile(job.zip) as archive:
        assert sorted(archive.namelist()) == ["a_upscaled.png", "b_upscaled.jpg"]
    assert parsed(job.command)["recursive"] and parsed(job.command)["suffix"] == "_upscaled"
    batches._desk.keep = -1
    batches._desk.sweep()  # of other things that are as old
    assert names(job.folder) == ["upscaled.zip"]
    assert batches.find("guessed") is None and batches.find(None) is None


def test_a_batch_can_be_cancelled_while_it_waits(home, tiny, tmp_path, files, photo):
    Image.fromarray(photo(64, 64, seed=5)).save(files / "c.png")
    batches = Batches(Desk(tmp_path / "desk", device="cpu"))
    with batches._desk.line.turn(Token(), lambda done, text: None):
        name = "one"
        batches.start(name, [files / "a.png", files / "c.png"], Options(str(tiny)))
        time.sleep(0.1)
        assert batches.find(name).state == "waiting" and "1 job before this one" in batches.find(name).words()
        with pytest.raises(RobustSRError, match="a batch of this browser is at work"):
            batches.start(name, [files / "a.png"], Options(str(tiny)))
        batches._beginning.add("two")  # as while its pictures are unpacked
        for other, why in (("two", "is at work"), ("", "not yet ready")):
            with pytest.raises(RobustSRError, match=why):
                batches.start(other, [files / "a.png"], Options(str(tiny)))
        batches.find(name).token.cancel()
        job = finished(batches, name)
    assert job.state == "cancelled" and job.zip is None and {row[1] for row in job.table()} == {"cancelled"}


def zipped(path, entries, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_archives_stay_inside_their_folder(tmp_path, files):
    data = (files / "a.png").read_bytes()
    entries = {"../../out.png": data, "/etc/x.png": data, "a/b.png": data, "c:\\d.png": data, "notes.txt": "x"}
    notes = collected([zipped(tmp_path / "z.zip", entries), files / "a.png"], tmp_path / "in", 1 << 20)
    assert names(tmp_path / "in") == ["a.png", "a/b.png", "d.png", "etc/x.png", "out.png"]
    assert notes == ["1 file of other kinds in the archive left out"]


def test_pictures_of_one_name_in_several_folders_keep_them(home, tiny, tmp_path, files):
    data = (files / "a.png").read_bytes()
    path = zipped(tmp_path / "card.zip", {"100/IMG_1.png": data, "101/IMG_1.png": data})
    batches = Batches(Desk(tmp_path / "desk", device="cpu"))
    batches.start("one", [path, files / "a.png", files / "a.png"], Options(str(tiny), smooth="off"))
    job = finished(batches, "one")
    assert [row[:2] for row in job.table() if row[1] != "done"] == []
    with zipfile.ZipFile(job.zip) as archive:
        assert sorted(archive.namelist()) == [
            "100/IMG_1_upscaled.png",
            "101/IMG_1_upscaled.png",
            "a_2_upscaled.png",
            "a_upscaled.png",
        ]


def test_uploads_that_are_deleted_meanwhile_are_not_missed(home, tiny, tmp_path, files):
    batches = Batches(Desk(tmp_path / "desk", device="cpu"))
    with batches._desk.line.turn(Token(), lambda done, text: None):
        name = "one"
        batches.start(name, [files / "a.png"], Options(str(tiny), smooth="off"))
        (files / "a.png").unlink()
    assert finished(batches, name).table()[0][1] == "done"


def test_a_name_cannot_lead_out_of_the_folder(home, tiny, tmp_path, files):
    batches = Batches(Desk(tmp_path / "desk", device="cpu"))
    with pytest.raises(RobustSRError, match="cannot be a part of a name"):
        batches.start("one", [files / "a.png"], Options(str(tiny), suffix="/../../x"))
    assert batches.find("one") is None


@pytest.mark.parametrize("kind", ["large", "broken", "damaged", "empty", "misnamed", "unnamed"])
def test_archives_that_cannot_be_used(tmp_path, kind):
    path = tmp_path / "z.zip"
    if kind == "broken":
        path.write_bytes(b"PK\x03\x04 and no more")
    else:
        zipped(path, {"readme.txt": "x"} if kind == "empty" else {"a.png": b"\0" * 5000}, zipfile.ZIP_DEFLATED)
    if kind == "damaged":
        data = bytearray(path.read_bytes())
        data[40:46] = b"\xff" * 6
        path.write_bytes(data)
    if kind in ("misnamed", "unnamed"):
        data = bytearray(zipped(path, {"a": "x", "\xfc.png": "x"}).read_bytes())
        if kind == "misnamed":
            data = data.replace("\xfc".encode(), b"\xff\xfe")
        else:
            length = data.index(b"PK\x01\x02") + 28  # of the name of the first entry, then of what comes behind it
            data[length : length + 4] = bytes([0, 0, 1, 0])
        path.write_bytes(data)
    text = {"large": "unpacks to more", "empty": "there are no pictures"}.get(kind, "z.zip cannot be unpacked")
    with pytest.raises(RobustSRError, match=text):
        collected([path], tmp_path / "in", 1000 if kind == "large" else 10**6)


def test_names_that_not_every_system_takes_are_changed_and_not_lost(tmp_path, files):
    data, long = (files / "a.png").read_bytes(), "\xfc" * 200
    entries = {"2026-01-01 12:30:05.png": data, "a:b/c.png": data, f"{long}.png": data, f"d.{long}/e.png": data}
    archives = [zipped(tmp_path / name, entries) for name in ("y.zip", "z.zip")]
    assert collected(archives, tmp_path / "in", 1 << 20) == []
    found = names(tmp_path / "in")
    assert {"2026-01-01 12_30_05.png", "2026-01-01 12_30_05_2.png", "a_b/c.png", "a_b/c_2.png"} < set(found)
    assert len(found) == 8 and all(len(part.encode()) <= 255 for name in found for part in name.split("/"))
    assert all(name.endswith(".png") for name in found)


def test_an_archive_as_deep_as_no_system_takes_says_so_without_our_folders(tmp_path):
    path = zipped(tmp_path / "z.zip", {"/".join(["x" * 200] * 25) + "/a.png": "x"})
    with pytest.raises(RobustSRError, match="^z.zip cannot be unpacked: File name too long$"):
        collected([path], tmp_path / "in", 1 << 20)
