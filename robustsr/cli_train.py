"""`robustsr train`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, progress
from .cli_common import Option, Terminated, bring_torch, code_of, first_process, interruptible
from .types import RobustSRError

if TYPE_CHECKING:
    from robustsr_training.log import Progress
    from robustsr_training.recipe import Recipe

EVERY = 50  # steps between two lines where there is no terminal


def _recipes(begun: str) -> list[str]:
    from robustsr_training.tables import shipped

    return [name for name in shipped() if name.startswith(begun)]


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe's name, or a .toml file.", autocompletion=_recipes)
    ] = None,
    out: Annotated[Path | None, Option("-o", "--out", help="Folder of the run. Default: runs/NAME.")] = None,
    set_: Annotated[list[str] | None, Option("--set", help="Override: section.key=value, as often as needed.")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue the run in that folder.")] = False,
    device: Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    estimate: Annotated[
        bool, Option("--estimate", help="Only say how long it takes here and how much memory, from a few steps.")
    ] = False,
    list_: Annotated[bool, Option("--list", help="List the shipped recipes.")] = False,
    show: Annotated[bool, Option("--show", help="Only print the recipe: every key that --set takes.")] = False,
) -> None:
    """Train a model by a recipe: `robustsr train psnr --set data.hr=my_photos/`.

    Ctrl-C writes a checkpoint, from which --resume continues, and the weights so far; pressed again, or before the
    first step, it ends at once.

    Pictures are decoded once, into ROBUSTSR_HOME/training (on Linux ~/.cache/robustsr/training where that is not set),
    which may be deleted when nothing trains.

    On four GPUs: `torchrun --standalone --nproc-per-node 4 -m robustsr train psnr ...`, with the same options (or
    `accelerate launch --multi_gpu`). The processes share data.batch.
    """
    from robustsr_training.recipe import Recipe
    from robustsr_training.tables import shipped, written

    if recipe is None or list_:
        table = console.table("recipe", "")
        for name, text in shipped().items():
            table.add_row(name, text)
        console.out.print(table)
        return
    if show:
        console.out.print(written(Recipe.load(recipe, set_ or [], pictures="FOLDER")), markup=False, soft_wrap=True)
        return
    chosen = Recipe.load(recipe, set_ or [])
    bring_torch()
    from .engine import resolve_device
    from .remote import check_folder

    where = str(resolve_device(device))
    if estimate:
        _estimate(chosen, where)
        return
    folder = out or Path("runs") / chosen.name
    check_folder(folder)
    with (
        _stopping() as stop,
        interruptible(f"what lies in {folder} stays; --resume goes on from its checkpoint, if any"),
    ):
        last = _run(chosen, folder, resume, where, stop)
    if last is None:  # another process than the first
        return
    if last < chosen.optimiser.steps:
        weights = folder / f"{chosen.name}.safetensors"
        console.say(f"stopped: `--resume` continues from {folder / 'checkpoint.pt'}; the weights so far: {weights}")
        raise typer.Exit(code_of(stop.came))
    _closing(chosen, folder)


def _estimate(chosen: Recipe, device: str) -> None:
    from robustsr_training.estimate import estimate

    found = estimate(chosen, device, say=console.say)
    if first_process():
        memory = f", {found.memory / 2**30:.1f} GB of memory" if found.memory else ""
        console.out.print(
            f"{chosen.name} on {found.device}: {_pace(1 / found.seconds)}, "
            f"{console.duration(found.total)} for {found.steps} steps{memory}; validation not counted",
            soft_wrap=True,
        )


class _Stop:
    """Whether Ctrl-C or SIGTERM, ``came``, has come, asked after each step. Before one, or again, it is raised."""

    def __init__(self) -> None:
        self.came: KeyboardInterrupt | None = None
        self._asked = False

    def __call__(self) -> bool:
        self._asked = True
        return self.came is not None

    def heard(self, number: int, _frame: object) -> None:
        """Handles a signal."""
        interrupt = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if self.came or not self._asked:
            raise interrupt
        self.came = interrupt


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM go to a `_Stop`; the run decides when to stop."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(chosen: Recipe, folder: Path, resume: bool, device: str, stop: Callable[[], bool]) -> int | None:
    """Trains and shows it; the last step. None: this process is not the one that reports."""
    from robustsr_training.loop import train

    live = console.err.is_terminal and first_process()
    shown = last = None
    with progress.steps_bar(chosen.optimiser.steps, shown=first_process()) as update:
        for at in train(
            chosen,
            folder,
            resume=resume,
            device=device,
            stop=stop,
            every=EVERY,
            pulse=1 if live else 1e9,
            say=console.say,
        ):
            last = at.step
            if at.message:
                for line in at.message.splitlines():
                    console.say(line)
                continue
            update(at.step, _line(at).partition("  ")[2])
            due = not live and (shown is None or at.step >= shown + EVERY)
            if due or at.measured or at.step == at.steps:
                shown = at.step
                console.say(_line(at))
            for place, row in at.measured.items():
                console.say(f"  {place}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    return last


def _line(at: Progress) -> str:
    parts = "  ".join(f"{name} {value:.4f}" for name, value in at.losses.items())
    pace = f"  {_pace(at.rate)}  {console.duration(at.seconds_left)} left" if at.rate else ""
    return f"{at.step}/{at.steps}  {parts}{pace}"


def _pace(rate: float) -> str:
    return f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def _closing(chosen: Recipe, folder: Path) -> None:
    """Where everything lies, and what to do with it."""
    weights = folder / f"{chosen.name}.safetensors"
    if not weights.is_file():
        raise RobustSRError(f"the run is done, yet there is no {weights}: --resume makes it from the checkpoint")
    console.say(f"weights: {weights}")
    for name, path in (("samples", folder / "samples"), ("log", folder / "log.jsonl")):
        if path.exists():
            console.say(f"{name}: {path}")
    if (folder / "tensorboard").is_dir():
        console.say(f"curves: tensorboard --logdir {folder / 'tensorboard'}")
    console.say(f"use it: robustsr upscale photo.jpg {'--denoise' if chosen.denoiser.objective else '-m'} {weights}")
