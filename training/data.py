"""Training pictures: a folder decoded once into one file of pixels, and batches that are a function of (seed, step)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustsr.catalogue import home
from robustsr.degradation import LIGHT, Degradation, compressed, degrade
from robustsr.files import staged
from robustsr.pairs import Say, by_name, pictures_in, read_rgb
from robustsr.types import RobustSRError

from .recipe import Data

VERSION = 2  # of the cache
KERNELS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Pixels = NDArray[np.uint8]  # (h, w, 3)
JPEG = (25, 95)  # qualities of data.jpeg
Batch = tuple[Tensor, Tensor, Tensor]  # LR, HR, and which patches are degraded heavily


def downscale(hr: Image.Image, scale: int, kernel: str = "bicubic") -> Image.Image:
    """Pillow's antialiased bicubic (a = -0.5) or bilinear, 8-bit in and out; bicubic is close to MATLAB's imresize."""
    return hr.resize((hr.width // scale, hr.height // scale), KERNELS[kernel])


@dataclass(frozen=True)
class Pairs:
    """Decoded pictures, LR beside HR, in one memory-mapped file; ``skipped`` says why others were left out."""

    file: Path  # uint8
    table: list[dict[str, Any]]  # per picture: name, at, lr (h, w), hr (H, W), hash of its pixels
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return np.memmap(self.file, np.uint8, "r")

    def __getstate__(self) -> dict[str, Any]:
        """For processes that prepare batches: each maps the file itself."""
        return {k: v for k, v in vars(self).items() if k != "_pixels"}

    @property
    def digest(self) -> str:
        """What there is to learn from, wherever it lies: names under the folder, sizes and pixels."""
        rows = [[row[k] for k in ("name", "lr", "hr", "hash")] for row in self.table]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels]:
        """LR ``(h, w, 3)`` and HR ``(s*h, s*w, 3)``; nothing is read from the disk before it is used."""
        row = self.table[index]
        (h, w), (tall, wide) = row["lr"], row["hr"]
        middle, end = row["at"] + h * w * 3, row["at"] + (h * w + tall * wide) * 3
        return self._pixels[row["at"] : middle].reshape(h, w, 3), self._pixels[middle:end].reshape(tall, wide, 3)


def load_pairs(data: Data, scale: int, *, resized: bool = False, say: Say = lambda text: None) -> Pairs:
    """Every picture under ``data.hr`` that is large enough for a patch, from the cache or decoded into it.

    The cache lies in ``ROBUSTSR_HOME``/training (on Linux ~/.cache/robustsr/training where that is not set), belongs to
    the files' places, sizes and dates, and may be deleted when nothing trains: it is made anew. ``resized``: the input
    is as large as HR, made of each patch (the thesis), so that no LR is kept. ``say`` is told before it takes long
    and of pictures that are left out.
    RobustSRError: no usable picture, an HR picture without its LR, or two of one name.
    """
    files = _files(data, say)
    marks = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for pair in files for p in pair if p for s in [p.stat()]]
    settings = [VERSION, scale, data.downscale, resized, data.sizes, marks]
    folder = home() / "training" / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    if not (folder / "table.json").exists():
        say(f"decoding {len(files)} pictures")
        _decode(files, data, scale, resized, folder)
    found = json.loads((folder / "table.json").read_text("utf-8"))
    least, table, skipped = data.patch * (1 if resized else scale), [], found["skipped"]
    for row in found["table"]:
        if min(row["hr"]) >= least:
            table.append(row)
        else:
            size = f"{row['hr'][1]}x{row['hr'][0]}"
            skipped.append(f"{row['name']}: {size} is smaller than a patch of {least} (data.patch), so it is left out")
    if not table:
        raise RobustSRError(f"no usable picture under {data.hr!r}: {skipped[-1]}")
    return Pairs(folder / "pixels.bin", table, skipped)


def _files(data: Data, say: Say) -> list[tuple[Path, Path | None]]:
    if not data.lr:
        pair = [Path(data.hr) / name for name in ("HR", "LR")]
        if all(folder.is_dir() for folder in pair):
            raise RobustSRError(f"{data.hr} holds HR and LR: --set data.hr={pair[0]} --set data.lr={pair[1]}")
        return [(path, None) for path in pictures_in(Path(data.hr), recursive=True, say=say)]
    hr, lr = (by_name(pictures_in(Path(place), recursive=True), Path(place)) for place in (data.hr, data.lr))
    if missing := [name for name in hr if name not in lr]:
        few = ", ".join(str(hr[name].relative_to(data.hr)) for name in missing[:3])
        raise RobustSRError(f"{data.lr} has no picture for {few} of {data.hr}: folders and names must agree")
    return [(path, lr[name]) for name, path in hr.items()]


def _decode(files: list[tuple[Path, Path | None]], data: Data, scale: int, resized: bool, folder: Path) -> None:
    def one(picture: tuple[Path, Path | None, float]) -> tuple[str, Pixels, Pixels] | str:
        """Its name, LR and HR, at one of `Data.sizes`, or why there are none."""
        path, lr_path, size = picture
        try:
            hr, lr = read_rgb(path), read_rgb(lr_path) if lr_path else None
        except RobustSRError as error:
            return str(error)
        if size != 1:
            hr = hr.resize((round(hr.width * size), round(hr.height * size)), Image.Resampling.BICUBIC)
        step = 1 if resized else scale
        if min(hr.size) < step:
            return f"{path}: {hr.width}x{hr.height} is smaller than a pixel of LR"
        hr = hr.crop((0, 0, hr.width // step * step, hr.height // step * step))
        if lr is None:
            small = np.zeros((0, 0, 3), np.uint8) if resized else np.asarray(downscale(hr, scale, data.downscale))
        elif lr.size != (hr.width // scale, hr.height // scale):
            return f"{lr_path}: {lr.width}x{lr.height} is not a {scale}th of {path}, {hr.width}x{hr.height}"
        else:
            small = np.asarray(lr)
        return path.relative_to(data.hr).as_posix() + f", {size:g} of its size" * (size != 1), small, np.asarray(hr)

    todo = [(*pair, size) for pair in files for size in data.sizes]
    table, skipped, at = [], [], 0
    with staged(folder) as part, ThreadPoolExecutor(os.cpu_count()) as pool, open(part / "pixels.bin", "wb") as out:
        for start in range(0, len(todo), 32):  # not all at once in memory
            for found in pool.map(one, todo[start : start + 32]):
                if isinstance(found, str):
                    skipped += [found] * (found not in skipped)  # a broken picture is broken at all sizes
                    continue
                name, lr, hr = found
                both = lr.tobytes() + hr.tobytes()
                row = {"name": name, "at": at, "lr": lr.shape[:2], "hr": hr.shape[:2]}
                table.append(row | {"hash": hashlib.sha256(both).hexdigest()[:16]})
                at += out.write(both)
        if not table:
            raise RobustSRError(f"no usable picture under {data.hr!r}: {skipped[0]}")
        (part / "table.json").write_text(json.dumps({"table": table, "skipped": skipped}), "utf-8")


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """Number t is the batch of step t, a function of (seed, t) alone, so a resumed run sees what it would have seen.

    uint8 LR ``(N, 3, p, p)`` and HR ``(N, 3, s*p, s*p)``, and bool ``(N,)``: degraded by more than `LIGHT`. Pictures
    are drawn in proportion to their area, and each patch is one of the eight flips and rotations. ``resized``: LR is HR
    shrunk ``scale`` times and enlarged again. ``restored``: in the place of HR stands LR as it was before its damage.
    """

    pairs: Pairs
    data: Data
    scale: int
    seed: int
    resized: bool = False
    restored: bool = False

    @cached_property
    def _chances(self) -> NDArray[np.float64]:
        areas = np.array([row["hr"][0] * row["hr"][1] for row in self.pairs.table], dtype=np.float64)
        chances: NDArray[np.float64] = areas / areas.sum()
        return chances

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        chosen = rng.choice(len(self._chances), size=self.data.batch, p=self._chances)
        lrs, hrs, heavy = zip(*(self._patch(int(i), rng) for i in chosen), strict=True)
        return _stack(lrs), _stack(hrs), torch.tensor(heavy)

    def _patch(self, index: int, rng: np.random.Generator) -> tuple[Pixels, Pixels, bool]:
        (lr, hr), heavy = self.pairs[index], False
        p, s = self.data.patch, 1 if self.resized else self.scale
        y, x = (int(rng.integers(n // s - p + 1)) for n in hr.shape[:2])
        hr = hr[y * s : (y + p) * s, x * s : (x + p) * s]
        clean = lr[y : y + p, x : x + p]
        worse = bool(self.data.degraded) and rng.random() < self.data.degraded
        if worse:
            unit = torch.from_numpy(hr.copy()).permute(2, 0, 1) / 255
            heavy = rng.random() >= self.data.light
            small = degrade(unit, s, int(rng.integers(1 << 62)), Degradation() if heavy else LIGHT)
            lr = (small.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        elif self.resized:
            picture = Image.fromarray(hr)
            shrunk = downscale(picture, self.scale, self.data.downscale)
            lr = np.asarray(shrunk.resize(picture.size, KERNELS[self.data.downscale]))
        else:
            lr = clean
        if self.data.jpeg and not worse and rng.random() < self.data.jpeg:
            saved = compressed(lr.transpose(2, 0, 1) / np.float32(255), "JPEG", round(rng.uniform(*JPEG)))
            lr = (saved.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        turn, flip = int(rng.integers(4)), bool(rng.integers(2))
        lr, hr = np.rot90(lr, turn), np.rot90(clean if self.restored else hr, turn)
        return (lr[:, ::-1], hr[:, ::-1], heavy) if flip else (lr, hr, heavy)

    def stream(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps ``start`` to ``stop``, prepared ahead by ``data.workers`` processes."""
        steps, workers = range(start, stop), self.data.workers
        return iter(DataLoader(self, None, sampler=steps, num_workers=workers, worker_init_fn=_leave_signals))


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches workers too: it is for the process that trains to say when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stack(patches: tuple[Pixels, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2)))
