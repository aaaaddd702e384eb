"""The models: which there are, what is known of them, downloads, and checkpoints of people's own."""

from __future__ import annotations

from pathlib import Path

from robustsr import catalogue
from robustsr.catalogue import BICUBIC
from robustsr.models import load
from robustsr.types import RobustSRError

from .desk import Say

HEAD = ("model", "scale", "where", "what it is")


def usable(use: str = "upscale") -> list[tuple[str, str]]:
    """(what a list shows, name) of the models that can be used now: those for one use, and people's own."""
    known, here, made = catalogue.catalogue(), catalogue.installed(), []
    for name in [*(n for n in known if n in here), *(n for n in here if n not in known)]:
        entry = catalogue.entry_of(name)
        if entry is None or entry.use == use:
            made.append((f"{name}: {entry.description}" if entry else name, name))
    return made


def line(name: str) -> str:
    """What a model is, in a line; its figures are in its `details`."""
    entry = catalogue.entry_of(name)
    return f"{entry.description}." if entry else "Your own."


def defences() -> list[str]:
    """What can be compared: bicubic, and each model, alone and smoothed."""
    names = [name for _, name in usable()]
    return [*BICUBIC, *(f"{name}{how}" for name in names for how in ("", " + median", " + mean"))]


def rows() -> list[list[str]]:
    """Every model, usable or to be pulled."""
    made = []
    for name, where in catalogue.listed().items():
        entry = catalogue.entry_of(name)
        made.append([name, f"x{entry.scale}" if entry else "", where, entry.description if entry else "your own"])
    return made


def details(name: str) -> str:
    """Everything known of a model, as Markdown, its measured figures among it."""
    entry = catalogue.entry_of(name)
    if entry is None:
        network = load(name, device="cpu", precision="fp32")
        reach = "receptive radius" if network.exact else "effective context"
        return f"### {name}\n\nYour own: x{network.scale}, {reach} {network.context} pixels, sha256 `{network.digest}`"
    lines = [f"### {name}", entry.description, ""]
    facts = {
        "architecture": f"{entry.architecture}, x{entry.scale}, {entry.size / 2**20:.1f} MB",
        "smoothing": f"sigma {entry.sigma:g}, {entry.samples} {entry.draws} draws" if entry.use == "upscale" else "",
        "licence": entry.licence,
        "sha256": f"`{entry.sha256}`",
        "from": entry.url,
    }
    lines += [f"- **{key}**: {value}" for key, value in facts.items() if value]
    if entry.quality:
        lines += ["", "| measured | PSNR, SSIM: higher is better; LPIPS: lower |", "|---|---|"]
        lines += [f"| {what} | {values} |" for what, values in catalogue.measured(entry.quality).items()]
    if entry.trained:
        lines += ["", f"<details><summary>How it was trained</summary>\n\n{entry.trained}\n\n</details>"]
    return "\n".join(lines)


def pull(name: str, say: Say) -> str:
    """Downloads a model of the catalogue. RobustSRError: it is none, or the server does not answer."""
    entry = catalogue.catalogue().get(name)
    if entry is None or not entry.url:
        raise RobustSRError(
            f"{name} is here already" if entry or name in catalogue.installed() else f"no model {name!r}"
        )

    def progress(done: int, total: int) -> None:
        say(done / (total or entry.size), f"{name}: {done >> 20} of {(total or entry.size) >> 20} MB")

    catalogue.pull(entry, progress)
    return f"{name} can be used now."


def add(path: Path) -> str:
    """Keeps an uploaded checkpoint among the models. RobustSRError: it holds code, is damaged, or the name is taken."""
    if path.suffix.lower() not in catalogue.ENDINGS:
        raise RobustSRError(f"{path.name}: give a {', '.join(catalogue.ENDINGS)} file")
    network = load(path, device="cpu", precision="fp32")
    name, _ = catalogue.add(path)
    return f"{name}: x{network.scale}, can be used now."
