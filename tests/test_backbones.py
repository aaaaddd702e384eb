"""Backbones: found where they lie, fetched from a real HTTP server, reduced to what is needed."""

import functools
import hashlib
import http.server
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from robustsr import backbones
from robustsr.cli_models import app
from robustsr.types import RobustSRError


@pytest.fixture
def served(home, tmp_path, monkeypatch):
    """The squeezenet entry, pointed at a local server that has a small file of its layout."""
    folder = tmp_path / "served"
    folder.mkdir()
    file = folder / backbones.BACKBONES["squeezenet"].file
    torch.save({"features.0.weight": torch.ones(2, 3), "classifier.1.weight": torch.ones(1000)}, file)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = replace(
            backbones.BACKBONES["squeezenet"],
            url=f"http://127.0.0.1:{server.server_address[1]}/",
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            size=file.stat().st_size,
        )
        monkeypatch.setitem(backbones.BACKBONES, "squeezenet", made)
        yield made
        server.shutdown()


def test_pull_keeps_the_features_only_and_once(home, served):
    seen = []
    path = backbones.pull("squeezenet", lambda done, total: seen.append((done, total)))
    assert path == home / "backbones" / "squeezenet1_1-features.safetensors"
    assert list(load_file(path)) == ["features.0.weight"] and list(path.parent.iterdir()) == [path]
    assert seen[-1] == (served.size, served.size)
    assert backbones.pull("squeezenet", lambda *_: pytest.fail("fetched again")) == path
    assert torch.equal(backbones.load("squeezenet")["features.0.weight"], torch.ones(2, 3))


def test_a_wrong_checksum_leaves_nothing(home, served, monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "squeezenet", replace(served, sha256="0" * 64))
    with pytest.raises(RobustSRError, match="SHA-256 is .*, expected 0000"):
        backbones.pull("squeezenet")
    assert not list((home / "backbones").iterdir())


def test_the_command_says_the_size_before_it_fetches(home, served):
    done = CliRunner().invoke(app, ["pull", "squeezenet"])
    path = home / "backbones" / "squeezenet1_1-features.safetensors"
    assert done.exit_code == 0 and path.exists() and done.stderr.startswith("squeezenet: 0 MB\n")
    again = CliRunner().invoke(app, ["pull", "squeezenet"])
    assert again.exit_code == 0 and again.stderr == "" and again.stdout == f"squeezenet: {path}\n"
    verified = CliRunner().invoke(app, ["verify"], env={"COLUMNS": "300"}).stdout.splitlines()
    assert verified[-1].split() == ["squeezenet", "no", "checksum", str(path)]
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"}).output
    row = next(line for line in listed.splitlines() if line.startswith("squeezenet"))
    assert "installed" in row and "LPIPS-squeeze" in row
    assert "can be pulled" in next(line for line in listed.splitlines() if line.startswith("vgg19"))


def test_what_is_missing_is_explained(home):
    assert backbones.find("alexnet") is None
    with pytest.raises(RobustSRError, match=r"`robustsr models pull alexnet` gets them \(233 MB, once\)"):
        backbones.load("alexnet")


def test_complete_files_win_over_partial_ones_and_damage_is_named(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSR_WEIGHTS", str(tmp_path))
    part, whole = tmp_path / "vgg19-features-conv3_4.safetensors", home / "backbones" / "vgg19-features.safetensors"
    save_file({"features.0.bias": torch.zeros(1)}, part)
    assert backbones.find("vgg19") == part and backbones.partial(part) and backbones.whole("vgg19") is None
    whole.parent.mkdir(parents=True)
    whole.write_bytes(b"rotten")
    assert backbones.find("vgg19") == backbones.whole("vgg19") == whole
    with pytest.raises(RobustSRError, match="vgg19-features.safetensors cannot be read"):
        backbones.load("vgg19")


def test_every_backbone_names_an_official_file():
    for name, b in backbones.BACKBONES.items():
        assert b.name == name and len(b.sha256) == 64 and b.sha256.startswith(b.file[:-4].rsplit("-", 1)[1])
        assert b.url == "https://download.pytorch.org/models/"
