"""Search path, checksums and downloads, against a real HTTP server on this machine."""

import contextlib
import hashlib
import http.server
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from robustsr import catalogue
from robustsr.catalogue import Entry
from robustsr.files import sha256
from robustsr.types import RobustSRError

BODY = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """/whole honours Range, /plain does not, /cut closes half-way, /gone is 404, /odd no HTTP, /endless endless."""

    ranges: list[str] = []

    def do_GET(self):  # noqa: N802
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        if self.path == "/gone":
            return self.send_error(404)
        if self.path == "/odd":
            return self.wfile.write(b"what?\r\n\r\n")
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for _ in range(1000):
                    self.wfile.write(BODY)
            return None
        if self.path == "/login" and not (self.ranges.count(asked) > 1):
            self.send_response(200)
            self.send_header("Content-Length", "11")
            self.end_headers()
            return self.wfile.write(b"<html>login")
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.path != "/plain" else 0
        if start >= len(BODY):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(BODY[start : len(BODY) // 2 if self.path == "/cut" else None])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


def entry(url, sha256=DIGEST):
    return Entry("m", "a model", "Compact", 4, "m.pth", sha256, len(BODY), "CC0", url=url)


def test_pull_downloads_checks_and_reports_progress(home, server):
    seen = []
    path = catalogue.pull(entry(f"{server}/whole"), lambda done, total: seen.append((done, total)))
    assert path == home / "models" / "m.pth" and path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY)) and len(seen) > 1
    assert [p.name for p in path.parent.iterdir()] == ["m.pth"]


def test_pull_twice_asks_the_server_once(home, server):
    catalogue.pull(entry(f"{server}/whole"))
    Handler.ranges.clear()
    catalogue.pull(entry(f"{server}/whole"))
    assert Handler.ranges == []


def test_what_lies_in_a_further_folder_is_not_pulled_and_a_strangers_file_there_is_named(
    home, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tmp_path))
    (tmp_path / "m.pth").write_bytes(BODY)
    Handler.ranges.clear()
    assert catalogue.pull(entry(f"{server}/whole")) == tmp_path / "m.pth" and Handler.ranges == []
    (tmp_path / "m.pth").write_bytes(b"other weights")
    with pytest.raises(RobustSRError, match="m.pth is another file of that name, and comes first: rename it to get m"):
        catalogue.pull(entry(f"{server}/whole"))
    assert Handler.ranges == [] and not (home / "models").exists()


@pytest.mark.parametrize("path", ["whole", "plain"])
def test_an_interrupted_download_continues_or_starts_over(home, server, path):
    with pytest.raises(RobustSRError, match=rf"{len(BODY) // 2} .*; what was fetched is kept, run it again"):
        catalogue.pull(entry(f"{server}/cut"))
    part = home / "models" / "m.pth.part"
    assert part.stat().st_size == len(BODY) // 2 and not part.with_suffix("").exists()
    Handler.ranges.clear()
    assert catalogue.pull(entry(f"{server}/{path}")).read_bytes() == BODY
    assert Handler.ranges == [f"bytes={len(BODY) // 2}-"]
    assert not part.exists()


def test_a_page_in_place_of_the_file_is_not_kept(home, server):
    Handler.ranges.clear()
    with pytest.raises(RobustSRError, match=r"sends 11 bytes, expected .*login page"):
        catalogue.pull(entry(f"{server}/login"))
    assert catalogue.pull(entry(f"{server}/login")).read_bytes() == BODY


def test_a_wrong_beginning_is_fetched_anew(home, server):
    (home / "models").mkdir(parents=True)
    (home / "models" / "m.pth.part").write_bytes(b"<html>login")
    assert catalogue.pull(entry(f"{server}/whole")).read_bytes() == BODY


def test_a_complete_part_is_only_checked(home, server):
    (home / "models").mkdir(parents=True)
    (home / "models" / "m.pth.part").write_bytes(BODY)
    assert catalogue.pull(entry(f"{server}/whole")).read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing(home, server):
    with pytest.raises(RobustSRError, match=f"SHA-256 is {DIGEST}, expected 0000"):
        catalogue.pull(entry(f"{server}/whole", "0" * 64))
    assert list((home / "models").iterdir()) == []


def test_a_missing_file_and_a_missing_server_say_so(home, server):
    with pytest.raises(RobustSRError, match="the server answered 404"):
        catalogue.pull(entry(f"{server}/gone"))
    with pytest.raises(RobustSRError, match=f"cannot fetch .*refused.*belongs at {home / 'models'}"):
        catalogue.pull(entry("http://127.0.0.1:9/x"))


def test_a_server_that_talks_nonsense_or_without_end_is_given_up(home, server):
    with pytest.raises(RobustSRError, match="what"):
        catalogue.pull(entry(f"{server}/odd"))
    with pytest.raises(RobustSRError, match="the download was deleted"):
        catalogue.pull(entry(f"{server}/endless"))
    assert list((home / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["a/b", "../x", "v1.pth", ".hidden", "esrgan", "RealESRGAN_x4plus"])
def test_names_that_could_not_be_found_again_are_refused(home, tiny, tmp_path, name):
    path = tmp_path / "w.pth"
    path.write_bytes(tiny.read_bytes())
    with pytest.raises(RobustSRError, match="cannot be a model's name|is there already"):
        catalogue.add(path, name)
    assert not (home / "models").exists()


def test_every_entry_of_the_catalogue_is_whole():
    for name, row in catalogue.catalogue().items():
        assert row.name == name and len(row.sha256) == 64 and row.size > 0 and row.licence and row.description
        if not row.url:
            path = catalogue.package_weights() / row.file
            assert path.stat().st_size == row.size and sha256(path) == row.sha256
            assert row.trained and row.quality


def test_its_figures_are_those_of_the_readme():
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    table = readme.partition("**Under attack.**")[2]
    for name, row in catalogue.catalogue().items():
        if "pgd_psnr" not in row.quality:
            continue
        cells = re.search(rf"^\| {name} \| (.+) \|$", table, re.MULTILINE)[1].replace("*", "").split("|")
        said = dict(zip(("clean", "fgsm", "bim", "pgd", "cw"), cells, strict=True))
        for attack in ("clean", "fgsm", "pgd"):
            psnr, lpips = map(float, said[attack].split("/"))
            assert (row.quality[f"{attack}_psnr"], row.quality[f"{attack}_lpips"]) == (psnr, lpips), (name, attack)


def test_the_search_path(home, tmp_path, monkeypatch, tiny):
    extra = tmp_path / "extra"
    extra.mkdir()
    (extra / "mine.safetensors").write_bytes(tiny.read_bytes())
    (extra / "vgg19-features.safetensors").write_bytes(b"")
    assert "mine" not in catalogue.installed()
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(extra))
    assert catalogue.installed()["mine"] == extra / "mine.safetensors"
    assert not any("vgg19" in name for name in catalogue.installed())
    name, added = catalogue.add(tiny, "yours")
    assert name == "yours" and catalogue.find("yours") == (added, None)
    with pytest.raises(RobustSRError, match="'yours' is there already"):
        catalogue.add(tiny, "yours")


def test_a_damaged_model_of_ours_is_refused_and_a_strangers_file_of_that_name_is_not(home, tmp_path, monkeypatch):
    name = "realesr-general-x4v3"
    folder = tmp_path / "extra"
    folder.mkdir()
    (folder / f"{name}.pth").write_bytes(b"other weights")
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(folder))
    assert catalogue.find(name) == (folder / f"{name}.pth", None)
    monkeypatch.delenv("ROBUSTSR_WEIGHTS")
    (home / "models").mkdir(parents=True)
    (home / "models" / f"{name}.pth").write_bytes(b"rotten")
    with pytest.raises(RobustSRError, match="is damaged"):
        catalogue.find(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("esrgan", r"esrgan \(64 MB\) is not on this machine: `robustsr models pull esrgan` gets it"),
        ("no-such", r"no model 'no-such' .* file; installed: .*psnr"),
        ("certrs", r"no model 'certrs' .* file; did you mean 'certsr'\?"),
        ("no-such.pth", "no model file 'no-such.pth'"),
        ("script.pt", r"script.pt: .pt files are not loaded"),
    ],
)
def test_what_cannot_be_found_is_explained(home, name, message):
    with pytest.raises(RobustSRError, match=message):
        catalogue.find(name)


@pytest.mark.parametrize("name", ["esrgan", "no-such"])
def test_a_further_folder_that_is_none_is_named_where_a_model_is_not_found(home, tmp_path, monkeypatch, name):
    lost = tmp_path / "lost"
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", os.pathsep.join([str(tmp_path), str(lost)]))
    with pytest.raises(RobustSRError) as error:
        catalogue.find(name)
    assert str(error.value).endswith(f" (no folder to be read, though ROBUSTSR_WEIGHTS names it: {lost})")


def test_ones_own_file_of_a_catalogued_name_has_none_of_its_facts(home, tmp_path, monkeypatch, go, photo):
    """psnr, x4, under the name of a x2 model that can be pulled."""
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/realesrgan-x2plus.safetensors").write_bytes(catalogue.find("psnr")[0].read_bytes())
    assert catalogue.entry_of("realesrgan-x2plus") is None and catalogue.entry_of("psnr").scale == 4
    info = json.loads(go("models", "info", "realesrgan-x2plus", "--json", model=False)[1])
    assert info["loads_as"].startswith("x4") and "scale" not in info and "licence" not in info
    assert info["sha256"] == catalogue.catalogue()["psnr"].sha256
    Image.fromarray(photo(8, 8)).save("p.png")
    assert "p_x2" not in go("upscale", "p.png", "-m", "realesrgan-x2plus", "--dry-run", model=False)[1]


def test_what_is_added_is_told_by_the_name_it_can_be_found_by(home, tmp_path, monkeypatch):
    """A catalogued file has the catalogue's name, whatever its own."""
    entry = replace(catalogue.catalogue()["psnr"], name="other", file="Other_x4.safetensors", url="http://localhost/")
    monkeypatch.setattr(catalogue, "catalogue", lambda: {"other": entry})
    copy = tmp_path / "x.safetensors"
    copy.write_bytes((catalogue.package_weights() / "psnr.safetensors").read_bytes())
    name, path = catalogue.add(copy)
    assert name == "other" and catalogue.installed()["other"] == path and path.name == "Other_x4.safetensors"
