"""Which models there are and where their files lie: the TOML catalogue, the search path, checksums, downloads.

Search path: the package's own weights, the read-only folders of ``ROBUSTSR_WEIGHTS`` (separated like PATH), the
cache ``ROBUSTSR_HOME``/models. Nothing is downloaded except by ``pull``.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path

import platformdirs

from .downloads import download
from .files import atomic, sha256
from .types import RobustSRError, meant

MEASURED = {  # what inputs of ``quality`` are called
    "fgsm": "FGSM 10/255",
    "pgd": "PGD 10/255",
    "l2": "L2 attack, eps_rel .05",
    "noise_03": "noise .03",
    "noise_1": "noise .1",
    "jpeg_60": "JPEG 60 (larger crops)",
    "jpeg_30": "JPEG 30 (larger crops)",
    "set5_y": "Set5 (Y)",
    "set14_y": "Set14 (Y)",
}
BICUBIC = {"bicubic": 4, "bicubic-x2": 2, "bicubic-x3": 3, "bicubic-x8": 8}  # the baseline, without a file
SAMPLE = "landscape.png"  # of `package_samples`: stands in where no picture is named
BACKBONE = "-features"  # in the name of a file that holds what a loss needs, and no model
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
    use: str = "upscale"  # | denoise: before another model | restore: what was shrunk and enlarged again, for studies
    trained: str = ""
    url: str = ""  # empty: ships with the package
    sigma: float = 0.03
    samples: int = 20
    draws: str = "antithetic"
    quality: dict[str, float] = field(default_factory=dict)
    calibration: list[list[float]] = field(default_factory=list)  # noise estimates and best sigmas, see calibration.py


def measured(quality: dict[str, float]) -> dict[str, str]:
    """An entry's ``quality`` in words: of each input, PSNR and what else was measured."""
    found: dict[str, list[str]] = {}
    for key, value in quality.items():
        what, _, measure = key.rpartition("_")
        text = f"{value:.2f} dB" if measure == "psnr" else f"{measure.upper()} {value:.3f}"
        found.setdefault(MEASURED.get(what, what), []).append(text)
    return {what: ", ".join(texts) for what, texts in found.items()}


def home() -> Path:
    """Where downloads and added models go: ``ROBUSTSR_HOME``, else the platform's cache folder."""
    return Path(os.environ.get("ROBUSTSR_HOME") or platformdirs.user_cache_dir("robustsr")).expanduser()


def package_weights() -> Path:
    """The folder of weights that ship with the package."""
    return Path(str(resources.files("robustsr_assets"))) / "weights"


def package_samples() -> Path:
    """The folder of pictures that ship with the package."""
    return Path(str(resources.files("robustsr_assets"))) / "samples"


def search_path() -> list[Path]:
    """The folders that are searched for weights, in this order; some may not exist."""
    return [package_weights(), *_further(), home() / "models"]


def _further() -> list[Path]:
    named = os.environ.get("ROBUSTSR_WEIGHTS", "").split(os.pathsep)
    return [Path(p).expanduser() for p in named if p]


def lost() -> str:
    """A hint for where something is not found: folders of ``ROBUSTSR_WEIGHTS`` that cannot be read; usually empty."""
    further = [folder for folder in _further() if not (os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK))]
    names = ", ".join(map(str, further))
    return f" (no folder to be read, though ROBUSTSR_WEIGHTS names it: {names})" if names else ""


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
        with suppress(OSError):  # it is not there, or not for us
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in ENDINGS and BACKBONE not in path.stem and path.is_file():
                    found.setdefault(by_file.get(path.name, path.stem), path)
    return found


def shipped() -> list[str]:
    """The upscalers that come with the package, in the catalogue's order."""
    here = installed()
    return [name for name, entry in catalogue().items() if name in here and not entry.url and entry.use == "upscale"]


def listed() -> dict[str, str]:
    """Every model, those of the catalogue first: "bundled", "installed" or "can be pulled"."""
    here, known = installed(), catalogue()
    return {
        name: "bundled" if name in known and not known[name].url else "installed" if name in here else "can be pulled"
        for name in dict.fromkeys([*known, *here])
    }


def find(name_or_path: str | Path) -> tuple[Path, Entry | None]:
    """The weights file of a model named or given by path, and its catalogue entry if it has one."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix.lower() == ".pt":
        raise RobustSRError(
            f"{text}: .pt files are not loaded, they may hold code (TorchScript); "
            "convert it to .safetensors, or rename it to .pth if it is a plain state dict "
            "(the weights of `robustsr train` are beside its checkpoint.pt, as NAME.safetensors)"
        )
    if path.suffix.lower() in ENDINGS:
        if not path.is_file():
            raise RobustSRError(f"no model file {text!r}")
        digest = sha256(path)
        return path, next((e for e in catalogue().values() if e.sha256 == digest), None)
    entry, here = catalogue().get(text), installed()
    if text not in here:
        if entry is not None:
            gets = f"`robustsr models pull {text}` gets it"
            raise RobustSRError(f"{text} ({entry.size / 2**20:.0f} MB) is not on this machine: {gets}{lost()}")
        raise RobustSRError(
            f"no model {text!r} (`robustsr models list` shows all), nor a .pth, .safetensors, .ckpt or .onnx file; "
            + meant(text, here, "installed")
            + lost()
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


def entry_of(name: str) -> Entry | None:
    """What the catalogue says of the model of that name; None: nothing, or the file here is somebody's own.

    Told by the file's size, which is quick; `find` reads it.
    """
    entry, path = catalogue().get(name), installed().get(name)
    own = entry and path and not is_ours(path) and path.stat().st_size != entry.size
    return None if own else entry


def calibration_of(digest: str, entry: Entry | None) -> tuple[tuple[float, float], ...] | None:
    """What `robustsr tune` found for the weights of this SHA-256 on this machine, else what the catalogue says."""
    path = home() / "calibrations" / f"{digest}.json"
    try:
        pairs = json.loads(path.read_text("ascii")) if path.exists() else entry.calibration if entry else []
        return tuple((float(noise), float(sigma)) for noise, sigma in pairs) or None
    except (ValueError, TypeError) as error:
        raise RobustSRError(f"{path} cannot be read: {error}; delete it, and tune again") from None


def save_calibration(digest: str, calibration: tuple[tuple[float, float], ...]) -> Path:
    """Keeps a calibration for ``--sigma auto`` with these weights."""
    path = home() / "calibrations" / f"{digest}.json"
    with atomic(path, make_folder=True) as part:
        part.write_text(json.dumps(calibration), "ascii")
    return path


def _place(entry: Entry) -> tuple[Path, Path | None]:
    """Where a catalogued model would go, and where it is. RobustSRError: another file would be found before it."""
    target = home() / "models" / entry.file
    here = installed().get(entry.name, target)
    if here.exists() and sha256(here) == entry.sha256:
        return target, here
    if not is_ours(here):
        raise RobustSRError(f"{here} is another file of that name, and comes first: rename it to get {entry.name}")
    return target, None


def add(path: Path, name: str | None = None) -> tuple[str, Path]:
    """Copies a weights file into the cache, so that it can be named; never over another. Returns its name and place.

    RobustSRError: it is here already, another one of that name is, or it cannot have that name.
    """
    digest = sha256(path)
    if known := next((e for e in catalogue().values() if e.sha256 == digest), None):
        target, here = _place(known)
        if here:
            raise RobustSRError(f"{path} is {known.name}, which is here already")
        name = known.name
    else:
        name = name or path.stem
        ending = Path(name).suffix.lower()
        if Path(name).name != name or name.startswith(".") or ending in (*ENDINGS, ".pt"):
            raise RobustSRError(f"{name!r} cannot be a model's name: leave out folders and endings")
        if name in BICUBIC or BACKBONE in name:
            raise RobustSRError(f"{name!r} means something else: give another --name")
        target = home() / "models" / f"{name}{path.suffix.lower()}"
        if name in catalogue() or name in installed() or target.name in {e.file for e in catalogue().values()}:
            hint = f", or first `robustsr models remove {name}`" if target.exists() else ""
            raise RobustSRError(f"a model named {name!r} is there already: give another --name{hint}")
    with atomic(target, make_folder=True) as part:
        shutil.copyfile(path, part)
    return name, target


def pull(entry: Entry, progress: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Downloads a catalogued model into the cache: to a ``.part`` file, resumed if there is one, then checked.

    ``progress(bytes so far, bytes in all)`` is called as it goes. A wrong checksum deletes the download. Does nothing
    if the file is here; RobustSRError: another one of that name is, and would be found before it.
    """
    target, here = _place(entry)
    if here:
        return here
    if not entry.url:
        raise RobustSRError(f"{package_weights() / entry.file} is damaged or gone: install robustsr anew")
    download(entry.url, target, entry.sha256, entry.size, progress)
    return target
