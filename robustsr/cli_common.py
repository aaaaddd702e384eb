"""What the commands share: usage errors, the command line as it was typed, models by name, progress, tables."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
import typer.core

from . import catalogue, console, progress
from .types import RobustSRError, number

if TYPE_CHECKING:
    from .models import Loaded
    from .report import Table

Option = partial(typer.Option, show_envvar=False)  # every option of `upscale` has a variable: said once
DENOISE = "A denoiser (name or path of a model of scale 1) that runs before the model, on each noisy copy."
OTHERS = {"HOME", "WEIGHTS", "CC", "UI_AUTH"}  # variables ROBUSTSR_... that are no options


class Command(typer.core.TyperCommand):
    """A command that answers an option it lacks with those that hold the word, else with the nearest spelling.

    A URL is no name of a file to it, and would otherwise be that of a new folder; but to `upscale`. To `ui` a password
    may look like one.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer keeps its click to itself
        urls = [w for w in args if re.match(r"(-[\w-]+=?)?[A-Za-z][\w+.-]+://", w)]
        if urls and self.name not in ("upscale", "ui"):
            raise typer.BadParameter(f"{urls[0]}: only pictures and -o of `robustsr upscale` may be at URLs")
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if word := getattr(error, "option_name", ""):
                known = [o for p in self.params for o in p.opts if o.startswith("--") and "_" not in o]
                held = [o for o in known if word.startswith("--") and len(word) > 4 and word[2:] in o]
                error.possibilities = held or get_close_matches(word, known, 1, 0.75)  # type: ignore[attr-defined]
            if text := getattr(error, "message", ""):
                error.message = text.removeprefix("Value error, ")  # type: ignore[attr-defined] # the validator's words
            raise


class Spreadable(Command):
    """A command whose --ray may stand alone: the word after it is its address only if it looks like one.

    What is wrong with a variable is said with its name, and one that may be misspelt is, too.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer keeps its click to itself
        for at, (word, following) in enumerate(pairwise([*args, ""])):
            if word == "--ray" and not re.fullmatch(r"auto|local|ray://.+|[\w.-]+:\d+|\[.+\]:\d+", following):
                args[at] = "--ray=local"
        known = {str(p.name).upper() for p in self.params if p.param_type_name == "option"} | OTHERS
        given = [] if ctx.resilient_parsing else [n[9:] for n in sorted(os.environ) if n.startswith("ROBUSTSR_")]
        for word in given:
            if word not in known and (near := get_close_matches(word, known, 1, 0.8)):
                console.say(f"note: ROBUSTSR_{word} is unknown: did you mean ROBUSTSR_{near[0]}?", "yellow")
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            name = error.param.name if error.param else None
            source = name and _source(ctx, name)
            if name and source == "ENVIRONMENT":
                error.message += f" (from the variable ROBUSTSR_{name.upper()})"
            elif source == "DEFAULT_MAP":
                error.message += " (from the file of --config)"
            raise


@contextmanager
def usage() -> Iterator[None]:
    """Flags that contradict each other are wrong usage, exit code 2."""
    try:
        yield
    except RobustSRError as error:
        raise typer.BadParameter(str(error)) from None


def typed(context: typer.Context) -> set[str]:
    """The names of the parameters that the command line itself gives."""
    return {p for p in context.params if _source(context, p) == "COMMANDLINE"}


def foremost(context: typer.Context, names: Iterable[str]) -> set[str]:
    """Those of some parameters that come from the strongest place: typed, else from variables, else from a file."""
    by_source: dict[str, set[str]] = {}
    for name in names:
        by_source.setdefault(_source(context, name), set()).add(name)
    return next((by_source[s] for s in ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP") if s in by_source), set())


def _source(context: typer.Context, name: str) -> str:
    return getattr(context.get_parameter_source(name), "name", "")


def number_of(text: str, flag: str, otherwise: str = "") -> float:
    """What an option says that takes a number: .05, 8/255 or 8px."""
    try:
        return number(text)
    except RobustSRError:
        raise typer.BadParameter(f"{flag} must be {otherwise}a number like .05, 8/255 or 8px, got {text!r}") from None


def deviation(text: str | float) -> float:
    """The value of an option that takes a sigma in [0, 1], for typer's ``parser``: .03, 8/255 or 8px."""
    return _unit(str(text), "it")


def sigma_of(text: str | None) -> float | Literal["auto"] | None:
    """What --sigma says where it may be auto."""
    return text if text is None or text == "auto" else _unit(text, "--sigma", "auto or ")  # type: ignore[return-value]


def _unit(text: str, flag: str, otherwise: str = "") -> float:
    """What an option says that takes a sigma in [0, 1]."""
    if not 0 <= (value := number_of(text, flag, otherwise)) <= 1:
        raise typer.BadParameter(f"{flag} must be in [0, 1] (pixel values are in [0, 1]), got {text}")
    return value


def command_line(context: typer.Context) -> str:
    """The command line as it was typed, for records."""
    words, given = ["robustsr", str(context.info_name)], typed(context)
    for parameter in context.command.params:
        if (name := parameter.name or "") not in given:
            continue
        value = context.params[name]
        ways = parameter.secondary_opts if value is False else parameter.opts  # --no-save, --save
        flag = max(ways, key=len) if parameter.param_type_name == "option" else ""
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [w for w in (flag, "" if isinstance(one, bool) else str(one)) if w]
    return shlex.join(words)


# --- models ---


def model_names(begun: str) -> list[str]:
    """What a model's name that is being typed can become."""
    known = dict.fromkeys([*catalogue.catalogue(), *catalogue.BICUBIC, *catalogue.installed()])
    return [name for name in known if name.startswith(begun)]


def found(model: str | None) -> str:
    """The name of a model that is here: a wrong one is answered before torch comes in. None: the default."""
    name = model or catalogue.default_model()
    if name not in catalogue.BICUBIC:
        catalogue.find(name)
    return name


def offer_weights(loss: str) -> None:
    """Asks, on a terminal, whether to download what a loss needs and this machine lacks; elsewhere `losses` refuses."""
    from . import backbones, losses

    needed = losses.backbone_of(loss)
    if needed is None or backbones.find(needed) is not None or not (sys.stdin.isatty() and console.err.is_terminal):
        return
    console.say(f"the {loss} loss: {backbones.how_to_get(needed)}")
    if typer.confirm("Download them now?", err=True):
        with progress.bytes_bar(needed) as update:
            backbones.pull(needed, update)


def load(name: str, device: str, precision: str = "fp32", denoise: str | None = None) -> Loaded:
    """The model, perhaps after a denoiser."""
    bring_torch()
    from .models import load

    return load(name, device=device, precision=precision, denoise=denoise)


def bring_torch() -> None:
    """Imports torch, before anything else does: seconds, which a terminal shows."""
    # oneDNN keeps its code for 1,024 layer shapes; a folder of pictures of all sizes would fill that, 0.2 MB each.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if limit := quota():  # torch would start a thread for each core of the machine, and most of them would wait
        os.environ.setdefault("OMP_NUM_THREADS", str(limit))
    with status() as tell:
        tell("loading torch")
        import torch  # noqa: F401


def quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How many processors a container may keep busy (Docker's --cpus, Kubernetes' limits); None: all that it sees."""
    try:
        if (file := root / "cpu.max").exists():
            time, period = map(int, file.read_text().split())  # of no limit: max
        else:
            time, period = (int((root / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    limit = math.ceil(time / period)
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return limit if 0 < limit < seen else None


def first_process() -> bool:
    """Whether this process is the one that speaks, where torchrun or accelerate started several."""
    return os.environ.get("RANK", "0") == "0"


# --- what people see ---


class Terminated(KeyboardInterrupt):
    """SIGTERM, as of a container that stops: an interrupt but for its exit code."""


def code_of(interrupt: BaseException | None) -> int:
    """The exit code after an interrupt: 128 and the number of the signal, as in shells."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


@contextmanager
def interruptible(outcome: str) -> Iterator[None]:
    """Ctrl-C says what came of it, and is exit code 130 (SIGTERM 143), whatever goes wrong in cleaning up after it.

    Ray may find its processes gone; a broken pipe, typer would end with code 1 and no word.
    """
    try:
        yield
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__context__
        if cause is None:
            raise
        console.say(f"interrupted: {outcome}", "yellow")
        raise typer.Exit(code_of(cause)) from None


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on terminals."""
    if not console.err.is_terminal:
        yield lambda text: None
        return
    with console.err.status("") as line:
        yield line.update


def show(table: Table) -> None:
    """Prints a table, in parts where it is wider than the console."""
    from .render import fit, to_rich

    for part in fit(table, console.out.width):
        console.out.print(to_rich(part, notes=False))
        console.out.print()
    for note in table.footnotes:
        console.out.print(note, style="dim", markup=False)
    console.out.print()


def curve(what: str, values: tuple[float, ...]) -> None:
    """A line of bars, from the clean input to the last step."""
    bars = "▁▂▃▄▅▆▇█" if console.out.encoding.lower().startswith("utf") else ".:-=+*#@"
    shown = [values[round(i * (len(values) - 1) / 59)] for i in range(60)] if len(values) > 60 else values
    low, high = min(shown), max(shown)
    line = "".join(bars[round((v - low) / ((high - low) or 1) * (len(bars) - 1))] for v in shown)
    text = f"{line}  {values[0]:.4g} to {max(values):.4g}  {what}"
    console.out.print(text, markup=False, soft_wrap=True)
