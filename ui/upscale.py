"""One picture: what it is, how long it will take, and its result beside what it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from robustsr import batch, console, images
from robustsr.jobs import Job, plan_jobs
from robustsr.pipeline import upscale_picture
from robustsr.plan import make_plan
from robustsr.render import escaped
from robustsr.types import RobustSRError

from . import view
from .desk import Desk, Say, Token
from .options import Options, argument

BICUBIC, PLAIN = "bicubic", "the same model, not smoothed"


@dataclass(frozen=True)
class Looked:
    """A picture before it is upscaled: a preview's path, and what it is in words."""

    preview: str
    about: str


@dataclass(frozen=True)
class Upscaled:
    """A result: the file, views of it and of what it is compared with, as large, and what to say of it."""

    path: Path
    before: view.View
    after: view.View
    label: str  # of ``before``
    about: str
    command: str
    folder: Path

    def slider(self) -> tuple[str, str]:
        """Previews of both, as files."""
        first, second = self.before.preview(), self.after.preview()
        return view.saved(first.resize(second.size), self.folder), view.saved(second, self.folder)

    def loupe(self) -> view.Loupe:
        return view.Loupe([(self.label, self.before), ("upscaled", self.after)], self.folder)


def look(desk: Desk, path: Path) -> Looked:
    """Shows a picture that was uploaded. RobustSRError: it is none, or too large."""
    info = images.inspect(path, max_pixels=desk.max_pixels)
    picture = images.read(path, max_pixels=desk.max_pixels)
    traits = [f"{info.width} x {info.height} pixels", info.format.upper(), f"{info.bits} bits"]
    traits += ["gray"] * info.gray + ["transparent"] * info.alpha
    kept = [name.upper() for name in ("exif", "xmp", "iptc") if getattr(picture.meta, name, None)]
    kept += ["colour profile"] * bool(picture.meta.icc)
    words = ", ".join(traits) + (f"; carries {', '.join(kept)}" if kept else "")
    return Looked(
        view.saved(view.bounded(view.flat(picture)), desk.folder()),
        "\n\n".join([f"**{escaped(path.name)}**: {words}", *map(escaped, picture.notes)]),
    )


def forecast(desk: Desk, paths: list[Path], options: Options) -> str:
    """How large and how long, in the words of the command line, or why not."""
    if not paths:
        return ""
    task = options.task(desk)
    jobs = [_job(path, options, path.parent) for path in paths]
    rows = batch.estimate(jobs, task, overwrite=True)
    speed = desk.speed(task.network)
    lines = ["Another job is at work: how long this one takes can be said when it has ended."]
    if speed is not None:
        lines = list(console.forecast(rows, task.network, task.smoothing, speed)) if any(r.size for r in rows) else []
    return "\n\n".join([*lines, *(row.error for row in rows if row.error)])


def upscale(desk: Desk, who: str, path: Path, options: Options, against: str, say: Say) -> Upscaled:
    """Upscales one file and stores what it is compared with.

    Cancelled: within one tile of `Desk.cancel`. RobustSRError: why it failed.
    """
    with desk.job(who, say, path) as token:
        say(None, f"loading {options.model}")
        task, folder = options.task(desk), desk.folder()
        job = _job(path, options, folder)
        plain = against == PLAIN and task.smoothing is not None
        started = time.perf_counter()
        on_window = watched(token, say, f"upscaling {path.name}")
        result = next(iter(batch.run([job], task, overwrite=True, on_window=lambda _, d, t: on_window(d, t))))
        if result.status == "failed":
            if result.trace:
                raise RuntimeError(f"{result.error}\n{result.trace}")
            raise RobustSRError(result.error)
        took = time.perf_counter() - started
        say(None, "preparing the comparison")
        made = Path(str(job.target))
        after = view.read(made, folder, desk.max_pixels)
        before: view.View = view.Enlarged(view.read(path, folder, desk.max_pixels), after.size)
        if plain:
            source = images.read(path, max_pixels=desk.max_pixels)
            once = make_plan(task.network, None, task.requested["tile"], task.requested["tile_pad"])
            tick = watched(token, say, "upscaling without smoothing, to compare")
            large, _ = upscale_picture(source, task.network, None, task.target, once, tick)
            before = view.store(large, folder)
    desk.settle(who, folder)
    how = "not smoothed"
    if task.smoothing:
        sigma = "auto" if options.sigma == "auto" else f"{task.smoothing.sigma:g}"
        draws = "as many draws as it needs" if options.samples == "auto" else f"{task.smoothing.samples} draws"
        how = f"{task.smoothing.reduce} of {draws}, sigma {sigma}"
    width, height = after.size
    about = [
        f"{escaped(path.name)}: **{width} x {height} pixels** in {console.duration(took)} on {task.network.device} "
        f"({task.network.precision}): {task.network.name}, {how}",
        *map(escaped, result.notes),
    ]
    return Upscaled(
        made,
        before,
        after,
        task.network.name if plain else BICUBIC,
        "\n\n".join(about),
        options.command(argument(path.name), device=desk.device),
        folder,
    )


def watched(token: Token, say: Say, what: str) -> Callable[[int, int], None]:
    """A hook for the core's tiles and draws: says how far it is and how long it will take, and stops when asked to."""
    start = time.perf_counter()

    def tick(done: int, total: int) -> None:
        token.check()
        if not done:  # it finds out how many draws the picture needs
            say(None, what)
            return
        left = (time.perf_counter() - start) / done * (total - done)
        say(done / total, f"{what}: step {done}/{total}, about {console.duration(left)} left")

    return tick


def _job(path: Path, options: Options, folder: Path) -> Job:
    """The job of one picture whose result goes into ``folder``."""
    (job,), _ = plan_jobs([str(path)], str(folder), format=options.ending, suffix=options.named)
    return replace(job, root=folder)
