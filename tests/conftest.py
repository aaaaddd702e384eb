"""Small true upscalers and pictures that the tests share, and the folder of real data where it is present."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

# Read when torch and rich are imported. Processes that test beside each other (pytest -n 2) take a core each.
os.environ.pop("COLUMNS", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
# A background job of a shell ignores Ctrl-C, and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
import torch
from fakes import Plain
from PIL import Image
from torch import nn

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and weights; under CI it must be there."""
    if not SHARED.is_dir():
        assert os.environ.get("ROBUSTSR_REQUIRE_SHARED") != "1", f"{SHARED} is missing"
        pytest.skip("the folder of real photographs and weights, ../shared, is not here")
    return SHARED


class Convs:
    """Three random 3x3 convolutions with kinks between, then pixel shuffle, in float64: radius 3."""

    context, exact = 3, True

    def __init__(self, scale: int = 2, dtype: torch.dtype = torch.float64) -> None:
        self.scale = scale
        torch.manual_seed(0)
        self.module = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        ).to(dtype)
        self.module.requires_grad_(False)

    def __call__(self, x, *, origin=None):
        return self.module(x)


@pytest.fixture
def two_threads():
    """Two threads in torch and C code, whatever the processors and the other processes that test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def nearest() -> Plain:
    return Plain(context=0)


@pytest.fixture
def convs() -> Convs:
    return Convs()


@pytest.fixture
def photo():
    """A function that makes a smooth colourful picture with some texture, (h, w, 3) uint8."""

    def make(h: int = 24, w: int = 32, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(
            (w, h), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse).astype(int) + rng.integers(-6, 7, (h, w, 3))
        return noisy.clip(0, 255).astype(np.uint8)

    return make


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty model cache, and no extra weights folders."""
    monkeypatch.setenv("ROBUSTSR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ROBUSTSR_WEIGHTS", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A real checkpoint of a real architecture, small enough to run at once: Compact, 4 features, 1 conv, x4."""
    from safetensors.torch import save_file

    from robustsr.torchvision_schema import import_torchvision

    import_torchvision()
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    net = Compact(num_feat=4, num_conv=1, upscale=4)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory) -> Path:
    """As small a network of scale 1 that changes its input a little."""
    from safetensors.torch import save_file

    from robustsr.torchvision_schema import import_torchvision

    import_torchvision()
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(1)
    net = Compact(num_feat=4, num_conv=0, upscale=1)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.5)
    path = tmp_path_factory.mktemp("weights") / "cleaner.safetensors"
    save_file(net.state_dict(), path)
    return path


@pytest.fixture
def network(home, tiny):
    """The tiny network, loaded."""
    from robustsr.models import load

    return load(tiny, device="cpu", precision="fp32")


@pytest.fixture
def picture(photo):
    """A function that makes such a photo as a decoded picture."""
    from robustsr.images import Metadata, Picture

    def make(h: int = 16, w: int = 20, seed: int = 0, **changes: object) -> Picture:
        rgb = photo(h, w, seed).astype(np.float32) / np.float32(255)
        return replace(Picture(rgb, None, False, 8, Metadata(), "png"), **changes)

    return make


@pytest.fixture
def go(home, tiny, tmp_path, monkeypatch):
    """Runs a command of `robustsr` with the tiny model; returns exit code, standard output, and what was said."""
    from typer.testing import CliRunner

    from robustsr.cli import app
    from robustsr.types import RobustSRError

    monkeypatch.chdir(tmp_path)

    def call(*arguments, model=True):
        words = [*map(str, arguments), *(["-m", str(tiny)] if model else [])]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
        if isinstance(result.exception, RobustSRError):
            return result.exception.code, result.stdout, str(result.exception)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, re.sub(r"[\s│]+", " ", result.stderr)

    return call


@pytest.fixture
def bird(tmp_path, photo):
    """A small picture in the folder of the test, and hr.png, a truth of its size."""
    Image.fromarray(photo(16, 20)).save(tmp_path / "bird.png")
    Image.fromarray(photo(64, 80, seed=3)).save(tmp_path / "hr.png")
    return Path("bird.png")
