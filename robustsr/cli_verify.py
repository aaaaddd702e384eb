"""The option ``--verify`` of `robustsr certify`: a certificate computed anew; and what both say as they go."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import console, progress
from .cli_common import bring_torch, found, interruptible, load
from .types import RobustSRError

if TYPE_CHECKING:
    from torch import Tensor

    from .images import Picture
    from .models import Loaded
    from .record import Verdict


@contextmanager
def bar() -> Iterator[Callable[[int, int], None]]:
    """A bar over draws on a terminal; a line each minute elsewhere."""
    with progress.work_bar() as update:
        yield lambda done, total: update(done, total, f"draw {done}/{total}")


def forecast(x: Tensor, network: Loaded, draws: int) -> None:
    """Says how long it will take here, context of windows left out."""
    from .plan import pixels_per_second

    seconds = x.shape[-2] * x.shape[-1] * draws / pixels_per_second(network)
    console.say(
        f"{x.shape[-1]}x{x.shape[-2]} pixels, {draws} draws, about {console.duration(seconds)}: "
        f"{network.name} x{network.scale} on {network.device} (fp32)"
    )


def verify(
    path: Path,
    picture: Path | None,
    model: str | None,
    denoise: str | None,
    hr: Path | None,
    device: str,
    json: bool,
) -> None:
    """Recomputes a certificate; exit code 1 if anything does not hold."""
    bring_torch()
    from . import certificate_files as work
    from .record import verify as check
    from .scene import box

    try:
        record = jsonlib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RobustSRError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # no text, or no JSON
        raise RobustSRError(f"{path} is damaged: {error}") from None
    if not isinstance(record, dict) or "format" not in record:
        raise RobustSRError(f"{path} is not a certificate")
    try:
        named, (trained, first) = str(record["input"]["name"]), _names(record["model"])
        crop = box(str(record["input"]["crop"])) if record["input"]["crop"] is not None else None
        names = {key: Path(record["files"][key]).name for key in work.ENDINGS}
    except (KeyError, TypeError, RobustSRError) as error:
        raise RobustSRError(f"{path} is damaged: {error}") from None
    source = picture
    if source is None and named != f"sample:{work.SAMPLE}":
        near = [folder / Path(named).name for folder in (path.parent, path.parent.parent, Path.cwd())]
        source = next((p for p in near if p.is_file()), None)
        if source is None:
            raise RobustSRError(f"{named} is not near the certificate: give the picture after it")
    x, _, _ = work.read_input(source, crop)
    denoise = denoise or first
    try:
        known = found(model or trained)
    except RobustSRError:
        if model:
            raise
        raise RobustSRError(f"the certificate's model {trained!r} is not installed: give -m and its file") from None
    network = load(known, device, denoise=denoise and found(denoise))
    stored = {key: _levels(path.parent / name) for key, name in names.items()}
    forecast(x, network, sum(int(record[key]) for key in ("n", "shipped") if isinstance(record.get(key), int)))
    with interruptible("nothing was decided"), bar() as tick:
        reference = work.read_truth(hr, crop, network.scale, x) if hr else None
        verdict = check(record, x, network, stored, reference, tick)
    _verdict(verdict, record, path, json)


def _names(model: dict[str, Any]) -> tuple[str, str | None]:
    """What a record calls its model, and the denoiser before it if there is one."""
    if "denoiser" not in model:
        return str(model["name"]), None
    denoiser = str(model["denoiser"]["name"])
    return str(model["name"]).removesuffix(f" after {denoiser}"), denoiser


def _levels(path: Path) -> Tensor:
    """The 8-bit levels ``(3, h, w)`` of a picture that was written here."""
    import torch

    from . import images
    from .bounds import to_levels

    picture: Picture = images.read(path)
    return to_levels(torch.from_numpy(picture.rgb.transpose(2, 0, 1).copy()))


def _verdict(verdict: Verdict, record: dict[str, Any], path: Path, json: bool) -> None:
    if json:
        console.emit({"certificate": str(path), "holds": not verdict.problems, **vars(verdict)})
    for note in verdict.notes:
        console.say(f"note: {note}", "yellow")
    for problem in verdict.problems:
        console.say(f"failed: {problem}", "red")
    if verdict.problems:
        console.say(f"{path} does NOT hold", "bold red")
        raise typer.Exit(1)
    same = f"{verdict.moved:.2%} of the values moved by a level, within tolerance" if verdict.moved else "identical"
    but = f", except {' and '.join(verdict.unchecked)}, which only --hr can check" if verdict.unchecked else ""
    console.say(f"{path} holds{but}: recomputed, {same}", "yellow" if but else "green")
    if not json:
        for line in record["claim"]:
            console.out.print(f"\n{line}", markup=False, soft_wrap=True)
