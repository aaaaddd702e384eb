"""The command ``corrupt``: pictures as they come out of bad cameras, bad weather and bad compression."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console
from .catalogue import SAMPLE, package_samples
from .cli_common import bring_torch, interruptible, usage
from .types import MAX_PIXELS, RobustSRError

if TYPE_CHECKING:
    from .corruptions import Corruption
    from .images import Picture


def corrupt(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, folders, or patterns like '*.jpg'. Default: a bundled photograph."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("-k", "--kind", help="NAME or NAME:key=value,key=value, as often as needed; --list shows all."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of everything random; each picture's name is mixed in.")
    ] = 0,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for NAME_KIND.png.")] = Path("corrupted"),
    recursive: Annotated[bool, typer.Option("-r", "--recursive", help="Also the folders below.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")] = False,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse pictures that have more pixels.")
    ] = MAX_PIXELS,
    list_: Annotated[bool, typer.Option("--list", help="Show all kinds, and do nothing else.")] = False,
) -> None:
    """Make pictures worse, reproducibly: `robustsr corrupt photos/ -k jpeg:quality=20 -k fog:severity=3`."""
    bring_torch()
    from . import images, jobs
    from .corruptions import parse
    from .remote import delivered, local

    if list_:
        _table()
        return
    if not kind:
        raise typer.BadParameter("give at least one --kind; --list shows all")
    if out.suffix.lower().lstrip(".") in images.FORMATS:
        raise RobustSRError(f"{out} names one file, but there may be several results: give a folder")
    with usage():
        kinds = list(dict.fromkeys(parse(spec) for spec in kind))
    names = inputs or [str(package_samples() / SAMPLE)]
    suffixes = ["_" + re.sub(r"[^a-z0-9.]+", "-", k.spec) for k in kinds]
    plans = [jobs.plan_jobs(names, f"{out}/", recursive=recursive, suffix=s, format="png") for s in suffixes]
    for warning in plans[0][1]:
        console.say(f"note: {warning}", "yellow")
    made = zip(*(plan for plan, _ in plans), strict=True)
    todo = [(local(same[0].source), [local(job.target) for job in same]) for same in made]
    there = [target for _, targets in todo for target in targets if target.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise RobustSRError(f"{there[0]}{more} would be replaced: add --overwrite, or choose another -o")

    failed = 0
    with interruptible("what was written is whole"):
        for source, targets in todo:
            try:
                picture = images.read(source, max_pixels=max_pixels)
            except RobustSRError as error:
                console.say(f"failed: {error}", "red")
                failed += len(targets)
                continue
            for note in picture.notes:
                console.say(f"note: {source.name}: {note}", "yellow")
            for corruption, target in zip(kinds, targets, strict=True):
                try:
                    worse, decibel = corrupted(picture, corruption, seed_of(seed, source.name))
                    with delivered(target) as path:
                        notes = images.write(worse, path)
                except RobustSRError as error:
                    console.say(f"failed: {source}, {corruption.spec}: {error}", "red")
                    failed += 1
                    continue
                for note in notes:
                    console.say(f"note: {target.name}: {note}", "yellow")
                console.say(f"{decibel:6.2f} dB  {target}", to=console.out)
    if failed:
        raise typer.Exit(1)


def seed_of(seed: int, name: str) -> int:
    """The seed of a picture: one for each file name, whatever other pictures there are and in which order."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()[:8])


def corrupted(picture: Picture, corruption: Corruption, seed: int) -> tuple[Picture, float]:
    """The picture corrupted, as 8 bits hold it, with alpha and metadata as they were; its PSNR to the original, dB.

    RobustSRError: too small, or too large for a codec.
    """
    from dataclasses import replace

    import torch

    from .metrics import psnr

    clean = torch.from_numpy(picture.rgb).permute(2, 0, 1).clamp(0, 1)
    worse = (corruption(clean, seed) * 255).round() / 255
    gray = picture.gray and bool((worse == worse[:1]).all())
    decibel = float(psnr(worse[None], clean[None]))
    return replace(picture, rgb=worse.permute(1, 2, 0).numpy(), gray=gray, bits=8), decibel


def _table() -> None:
    from .corruptions import KINDS

    table = console.table("kind", "parameters and their defaults", "")
    for name, kind in KINDS.items():
        values = ", ".join(f"{key}={param.default}" for key, param in kind.params.items())
        table.add_row(name, values, kind.about)
    console.out.print(table)
