"""A folder of pictures made small enough to carry to another machine: ``python -m robustsr_training.pack``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from robustsr.files import staged
from robustsr.pairs import pictures_in, read_rgb
from robustsr.types import RobustSRError

QUALITY = 95
LONGEST = 16383  # pixels a side that WebP can hold
SMALLEST = 0.1  # share of a side: central crops below that are of no use


@dataclass(frozen=True)
class Packed:
    """What became of a folder: ``files`` pictures of ``size`` bytes, ``skipped`` says why others were left out.

    ``how``: "lossless" | "quality 95" | "central crops of 80%, quality 95", which means of each side.
    """

    files: int
    size: int
    how: str
    skipped: list[str]


def pack(folder: str | Path, out: str | Path, mib: float) -> Packed:
    """Re-encodes the pictures under ``folder`` as WebP into ``out``, in its tree, below ``mib`` MiB in all.

    Lossless where that fits, else with quality 95 (which halves the resolution of colour), else central crops of that
    quality, the same share of every picture; a function of the pixels alone. For HR folders: the crops of a pair would
    not fit each other.
    RobustSRError: ``out`` is there already, no picture can be read, or crops would be smaller than a tenth.
    """
    root, target, budget = Path(folder), Path(out), int(mib * 2**20)
    if target.exists():
        raise RobustSRError(f"{target} is there already: name a new folder")
    names, share, lossless = _names(pictures_in(root, recursive=True), root), 1.0, True
    with staged(target) as part:
        while True:
            done = _written(names, part, budget, share, lossless)
            if done.size < budget:
                return done
            for path in part.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            share = share if lossless else share * min(0.95, 0.98 * (budget / done.size) ** 0.5)
            lossless = False
            if share < SMALLEST:
                raise RobustSRError(f"{len(names)} pictures do not fit into {mib:g} MiB: take fewer, or more room")


def _names(files: list[Path], root: Path) -> dict[Path, Path]:
    """What each file is called in the pack: its stem stays, for pictures are known by it."""
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for path in files:
        name = path.relative_to(root).with_suffix(".webp")
        names[path] = name if name not in taken else name.with_name(f"{path.name}.webp")
        taken.add(names[path])
    return names


def _written(names: dict[Path, Path], out: Path, budget: int, share: float, lossless: bool) -> Packed:
    """Writes until the budget is used up; the size is then what all would have had, by those that were written."""
    how = "lossless" if lossless else f"quality {QUALITY}"
    how = how if share == 1 else f"central crops of {share:.0%}, {how}"
    files = size = 0
    skipped: list[str] = []
    for number, (path, found) in enumerate(_encoded(list(names), share, lossless), 1):
        if isinstance(found, str):
            skipped.append(found)
            continue
        files, size = files + 1, size + len(found)
        if size >= budget:
            return Packed(files, size * len(names) // number, how, skipped)
        target = out / names[path]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(found)
    if not files:
        raise RobustSRError(f"no usable picture: {skipped[0]}")
    return Packed(files, size, how, skipped)


def _encoded(files: list[Path], share: float, lossless: bool) -> Iterator[tuple[Path, bytes | str]]:
    """Each file with its WebP, or with the reason why there is none."""

    def one(path: Path) -> bytes | str:
        try:
            picture = read_rgb(path)
        except RobustSRError as error:
            return str(error)
        w, h = (min(LONGEST, max(1, round(n * share))) for n in picture.size)
        left, top = (picture.width - w) // 2, (picture.height - h) // 2
        made = BytesIO()
        cut = picture.crop((left, top, left + w, top + h))
        cut.save(made, "WEBP", lossless=lossless, quality=75 if lossless else QUALITY, method=4)
        return made.getvalue()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), 32):  # not all at once in memory
            some = files[start : start + 32]
            yield from zip(some, pool.map(one, some), strict=True)


def main(arguments: list[str] | None = None) -> None:
    """``python -m robustsr_training.pack FOLDER OUT --size 58``."""
    parser = argparse.ArgumentParser(prog="python -m robustsr_training.pack", description=__doc__)
    parser.add_argument("folder", help="HR pictures, any depth")
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--size", type=float, default=58, metavar="MIB", help="stay below so many MiB (58)")
    given = parser.parse_args(arguments)
    try:
        done = pack(given.folder, given.out, given.size)
    except RobustSRError as error:
        sys.exit(f"error: {error}")
    for line in [*done.skipped, f"{done.files} pictures, {done.size / 2**20:.1f} MiB, {done.how}: {given.out}"]:
        sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
