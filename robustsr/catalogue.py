"""Which models there are and where their files lie: the TOML catalogue, the search path, checksums, downloads.

Search path: the package's own weights, the read-only folders of ``ROBUSTSR_WEIGHTS`` (separated like PATH), the
cache ``ROBUSTSR_HOME``/models. Nothing is downloaded except by ``pull``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path

import platformdirs

from .types import RobustSRError

ENDINGS = (".safetensors", ".pth", ".ckpt", ".onnx")


@dataclass(frozen=True)
class Entry:
    """What the catalogue says of one model; ``sigma``, ``samples`` and ``draws`` are its smoothing defaults."""

    name: str
    description: str
    architecture: str
    scale: int
    file: str
    sha256: str
    size: int  # bytes
    licence: str
    trained: str = ""
    url: str = ""  # empty: ships with the package
    sigma: float = 0.03
    samples: int = 20
    draws: str = "antithetic"
    quality: dict[str, float] = field(default_factory=dict)


def home() -> Path:
    """Where downloads and added models go: ``ROBUSTSR_HOME``, else the platform's cache folder."""
    return Path(os.environ.get("ROBUSTSR_HOME") or platformdirs.user_cache_dir("robustsr")).expanduser()


def package_weights() -> Path:
    """The folder of weights that ship with the package."""
    return Path(str(resources.files("robustsr_assets"))) / "weights"


def search_path() -> list[Path]:
    """The folders that are searched for weights, in this order; some may not exist."""
    extra = os.environ.get("ROBUSTSR_WEIGHTS", "")
    return [
        package_weights(),
        *(Path(p).expanduser() for p in extra.split(os.pathsep) if p),
        home() / "models",
    ]


@cache
def catalogue() -> dict[str, Entry]:
    """The shipped catalogue by model name."""
    table = tomllib.loads(resources.files("robustsr_assets").joinpath("catalogue.toml").read_text("utf-8"))
    known = {f.name for f in fields(Entry)}
    return {name: Entry(name, **{k: v for k, v in row.items() if k in known}) for name, row in table.items()}


def default_model() -> str:
    """The name of the model that is used where none is asked for: the catalogue's first."""
    return next(iter(catalogue()))


def installed() -> dict[str, Path]:
    """Every model that can be loaded by name now, by name; earlier folders of the search path win."""
    by_file = {entry.file: name for name, entry in catalogue().items()}
    found: dict[str, Path] = {}
    for folder in search_path():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix.lower() in ENDINGS and "-features" not in path.stem:  # those are loss backbones
                found.setdefault(by_file.get(path.name, path.stem), path)
    return found


def find(name_or_path: str | Path) -> tuple[Path, Entry | None]:
    """The weights file of a model named or given by path, and its catalogue entry if it has one."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix.lower() == ".pt":
        raise RobustSRError(
            f"{text}: .pt files are not loaded, they may hold code (TorchScript); "
            "convert it to .safetensors, or rename it to .pth if it is a plain state dict"
        )
    if path.suffix.lower() in ENDINGS:
        if not path.is_file():
            raise RobustSRError(f"no model file {text!r}")
        digest = sha256(path)
        return path, next((e for e in catalogue().values() if e.sha256 == digest), None)
    entry, here = catalogue().get(text), installed()
    if text not in here:
        if entry is not None:
            raise RobustSRError(
                f"{text} ({entry.size / 2**20:.0f} MB) is not on this machine: `robustsr models pull {text}` gets it"
            )
        raise RobustSRError(
            f"no model {text!r}; installed: {', '.join(here)}; "
            "or give the path of a .pth, .safetensors, .ckpt or .onnx file"
        )
    path = here[text]
    if entry is not None and sha256(path) != entry.sha256:
        if is_ours(path):
            raise RobustSRError(f"{path} is damaged (its checksum is not the catalogue's): delete it and get it anew")
        entry = None  # somebody's own file of that name
    return path, entry


def is_ours(path: Path) -> bool:
    """Whether a file lies where only robustsr puts files of these names, so that its checksum must fit."""
    return path.parent in (package_weights(), home() / "models")


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add(path: Path, name: str | None = None) -> Path:
    """Copies a weights file into the cache, so that it can be named; never over another."""
    name = name or path.stem
    if name in catalogue() or name in installed():
        raise RobustSRError(f"a model named {name!r} is there already: give another --name")
    target = home() / "models" / f"{name}{path.suffix.lower()}"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.copyfile(path, part)
    os.replace(part, target)
    return target


def pull(entry: Entry, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Downloads a catalogued model into the cache: to a ``.part`` file, resumed if there is one, then checked.

    ``progress(bytes so far, bytes in all)`` is called as it goes. A wrong checksum deletes the download.
    """
    target = home() / "models" / entry.file
    if not entry.url or (target.exists() and sha256(target) == entry.sha256):
        return package_weights() / entry.file if not entry.url else target
    download(entry.url, target, entry.sha256, progress)
    return target


def download(url: str, target: Path, digest: str, progress: Callable[[int, int], None]) -> None:
    """Fetches ``url`` to ``target`` by way of ``target.part``; raises and keeps no ``target`` unless SHA-256 fits."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if have and response.status != 206:  # the server starts over
                have = 0
            total = have + int(response.headers.get("Content-Length") or 0)
            with open(part, "ab" if have else "wb") as file:
                while block := response.read(1 << 18):
                    file.write(block)
                    have += len(block)
                    progress(have, total)
                file.flush()
                os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file or longer: only its checksum can tell
            error.close()
        else:
            raise RobustSRError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise RobustSRError(f"{url}: {reason}; what was fetched is kept, run it again to continue") from None
    else:
        if total and have < total:
            raise RobustSRError(f"{url}: the connection ended after {have} of {total} bytes; run it again to continue")
    found = sha256(part)
    if found != digest:
        part.unlink()
        raise RobustSRError(f"{url}: SHA-256 is {found}, expected {digest}; the download was deleted")
    os.replace(part, target)
