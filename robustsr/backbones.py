"""The classification networks behind perceptual losses: which files they are, where they lie, how they are fetched.

Only the convolutional features of torchvision's official files are kept, as safetensors; lpips itself never
downloads. A file may hold the first layers only: it serves the losses that need no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .catalogue import home, lost, search_path
from .downloads import download
from .files import atomic, sha256
from .types import RobustSRError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Backbone:
    """An official torchvision classifier: its file under ``url``, ``size`` bytes, and what uses its features."""

    name: str
    file: str
    sha256: str
    size: int
    used_by: str
    url: str = "https://download.pytorch.org/models/"
    licence: str = "BSD-3-Clause (torchvision), trained on ImageNet"

    @property
    def stem(self) -> str:
        """What files of its features are called: squeezenet1_1 for squeezenet1_1-b8a52dc0.pth."""
        return self.file.rsplit("-", 1)[0]


BACKBONES = {
    b.name: b
    for b in (
        Backbone(
            "squeezenet",
            "squeezenet1_1-b8a52dc0.pth",
            "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
            4958839,
            "LPIPS-squeeze",
        ),
        Backbone(
            "alexnet",
            "alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            244408911,
            "LPIPS-alex, the metric of most papers",
        ),
        Backbone(
            "vgg16",
            "vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            553433881,
            "LPIPS-vgg",
        ),
        Backbone(
            "vgg19",
            "vgg19-dcbb9e9d.pth",
            "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
            574673361,
            "the perceptual losses",
        ),
    )
}


def find(name: str) -> Path | None:
    """The file that holds a backbone's features, or None; complete files win over partial ones."""
    stem = BACKBONES[name].stem
    folders = [*search_path(), home() / "backbones"]
    found = [p for folder in folders if folder.is_dir() for p in sorted(folder.glob(f"{stem}-features*.safetensors"))]
    return min(found, key=partial, default=None)


def partial(path: Path) -> bool:
    """Whether a file of features says by its name that it ends early: vgg19-features-conv3_4.safetensors."""
    return not path.stem.endswith("-features")


def whole(name: str) -> Path | None:
    """The file that holds all of a backbone's features, or None."""
    path = find(name)
    return None if path is None or partial(path) else path


def how_to_get(name: str) -> str:
    """A sentence that says what is missing, how much it is and how to get it."""
    backbone = BACKBONES[name]
    size = f"{backbone.size / 2**20:.0f} MB"
    gets = f"`robustsr models pull {name}` gets them ({size}, once)"
    return f"the {name} weights are not on this machine: {gets}{lost()}"


def digest(name: str) -> str | None:
    """SHA-256 of the file that holds a backbone's features; None: it is not here."""
    path = find(name)
    return None if path is None else _digest(path)


_digest = cache(sha256)


def load(name: str) -> dict[str, Tensor]:
    """The features of a backbone by torchvision's names (``features.0.weight``, ...). RobustSRError: not here."""
    from safetensors.torch import load_file

    path = find(name)
    if path is None:
        raise RobustSRError(how_to_get(name))
    try:
        return load_file(path)
    except Exception as error:  # whatever damaged files make it raise
        raise RobustSRError(f"{path} cannot be read: {error}; delete it and get it anew") from error


def pull(name: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Downloads a backbone's official file, checks it, and keeps its convolutional features only.

    ``progress(bytes so far, bytes in all)`` is called as it goes. Does nothing if all features are here.
    """
    import torch
    from safetensors.torch import save_file

    backbone = BACKBONES[name]
    if (here := whole(name)) is not None:
        return here
    folder = home() / "backbones"
    official = folder / backbone.file
    if not official.exists():
        download(backbone.url + backbone.file, official, backbone.sha256, backbone.size, progress)
    weights = torch.load(official, map_location="cpu", weights_only=True)
    features = {k: v.contiguous() for k, v in weights.items() if k.startswith("features.")}
    target = folder / f"{backbone.stem}-features.safetensors"
    with atomic(target, make_folder=True) as part:
        save_file(features, part)
    official.unlink()
    return target
