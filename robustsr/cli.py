"""The command line: parse, call, print, exit code. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import errno
import inspect
import re
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from . import console
from .cli_attack import attack
from .cli_certify import certify
from .cli_common import Command, Option, Spreadable, Terminated, bring_torch, code_of, first_process
from .cli_compare import compare
from .cli_corrupt import corrupt
from .cli_evaluate import evaluate, tune
from .cli_export import export
from .cli_models import app as models_app
from .cli_train import train
from .cli_ui import ui
from .cli_upscale import upscale
from .types import RobustSRError
from .version import __version__

# Of a place that cannot be used, by somebody who may name another.
PLACES = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EROFS}


class Commands(typer.core.TyperGroup):
    """The commands; a picture or folder in their place is answered with the command that takes it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - typer keeps its click to itself
        if args[0] not in self.commands and Path(args[0]).exists():
            ctx.fail(f"{args[0]!r} is no command: `robustsr upscale {shlex.quote(args[0])}` upscales it")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="robustsr",
    cls=Commands,
    help="Upscale pictures steadily under noise and small attacks; attack, measure and certify models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _help(command: Any) -> str:  # noqa: ANN401
    """Its docstring, a line for each paragraph: typer keeps line breaks, and terminals are as wide as they are."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")


settings = {"auto_envvar_prefix": "ROBUSTSR"}
app.command(cls=Spreadable, help=_help(upscale), context_settings=settings)(upscale)
for command in (compare, attack, corrupt, evaluate, tune, certify, train, export, ui):
    app.command(cls=Command, help=_help(command))(command)
app.add_typer(models_app, name="models")


def main() -> None:
    """The ``robustsr`` command: a mistake or a full disk is a line and its exit code, a bug a traceback.

    Ctrl-C is 130, and SIGTERM, which does the same, 143.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except RobustSRError as error:
        if first_process():
            console.say(f"error: {error}", "bold red")
        sys.exit(error.code)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and (error.filename is None or error.errno not in PLACES):
            raise
        if first_process():
            where = error.filename or "standard output"
            said = f"cannot write {where}: the disk is full" if full else f"{where}: {error.strerror}"
            console.say(f"error: {said}", "bold red")
        with suppress(OSError):
            sys.stdout.close()  # or Python tries once more at its end, and complains
        sys.exit(1)
    except SystemExit as end:
        cause = getattr(end.__context__, "__cause__", None)
        if isinstance(cause, KeyboardInterrupt):  # which typer made this of
            console.say("interrupted", "yellow")
            end.code = code_of(cause)
        raise


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: cleaning up is not to be interrupted
    raise Terminated


def _version(value: bool) -> None:
    if value:
        console.out.print(f"robustsr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def devices(json: Annotated[bool, typer.Option("--json", help="A JSON line per device.")] = False) -> None:
    """What torch can run on here, and which number format `--precision auto` takes."""
    bring_torch()
    from . import engine, kernels

    compiled = kernels.available()
    table = console.table("device", "", "memory", "auto precision")
    for d in engine.devices(winograd=compiled):
        what = d.description + f", kernels compiled by {kernels.compiler()}" * (compiled and d.name == "cpu")
        if json:
            console.emit({"device": d.name, "description": what, "memory": d.memory, "precision": d.precision})
        table.add_row(d.name, what, f"{d.memory / 2**30:.0f} GB" if d.memory else "shared", d.precision)
    if not json:
        console.out.print(table)
    if sys.platform == "linux" and not compiled:
        console.say("no C compiler (gcc, or ROBUSTSR_CC) works here: with one, processors are twice as fast", "yellow")
    if hint := engine.unused_gpu():
        console.say(hint, "yellow")
