"""What the tabs share: the form of options, errors people can read, progress, and files."""

from __future__ import annotations

import functools
import html
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from robustsr import catalogue
from robustsr.images import FORMATS
from robustsr.render import escaped
from robustsr.types import Cancelled, RobustSRError

from . import shelf
from .desk import Desk, Say
from .options import FIELDS, LIKE_INPUT, MODELS_OWN, NONE, SIZES, Options
from .view import Loupe

WAITING = 16  # jobs that hold a thread while they wait for their turn; the others wait before
PICTURES = [f".{ending}" for ending in FORMATS]
# On a phone what a button does is seen far below it.
IN_SIGHT = """() => {
    const made = [...document.querySelectorAll(".beside")].find(part => part.offsetParent);
    if (made && made.getBoundingClientRect().top > innerHeight * 0.7) made.scrollIntoView({behavior: "smooth"});
}"""
JS = (Path(__file__).parent / "loupe.js").read_text("utf-8")
FLAGS = {  # of the command line, as the form calls them; others by their names
    "--max-pixels": "the limit of pixels (--max-pixels of robustsr ui)",
    "--hr": "the ground truth",
    "--crop": "the crop",
    "--tile-pad": "the tile's context",
    "--tile": "the tile",
    "--tolerance": "the tolerance",
    "--smooth": "smoothing",
    "--denoise": "the denoiser",
    "--suffix": "the end of names",
    "--field": "the field",
    "--scale": "the factor",
    "--on": "attack",
    "--ship": "those of the picture",
}
PROGRESS = gr.Progress()
PRIVATE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
QUIET: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


@contextmanager
def readable(desk: Desk) -> Iterator[None]:
    """A user's mistake is shown in its own words, a bug with where to look. `work` answers Cancelled."""
    try:
        yield
    except RobustSRError as error:
        raise gr.Error(html.escape(plain(desk, str(error)), quote=False), print_exception=False) from None
    except (gr.Error, Cancelled):
        raise
    except Exception as error:
        traceback.print_exc()
        what = f"This is a bug in robustsr: {type(error).__name__}"
        hint = "The server's terminal has the details; please report them."
        raise gr.Error(f"{what}. {hint}", print_exception=False) from None


def plain(desk: Desk, text: str) -> str:
    """A message without the server's folders, and in the form's words for the command line's flags."""
    text = re.sub(re.escape(str(desk.root)) + r"[\\/](?:[^\\/\s:,]+[\\/])*", "", text)
    text = re.sub(r"(?<![^\s(])--[a-z][a-z-]*", lambda flag: FLAGS.get(flag[0], flag[0][2:].replace("-", " ")), text)
    text = re.sub(r"\btake -m (?=\w)", "take the model ", text)
    text = re.sub(r"`robustsr models pull [^`]+`", "the tab Models", text)
    first = text.partition(" ")[0]
    return text if first in catalogue.catalogue() or not first.isalpha() else text[:1].upper() + text[1:]


def literally(desk: Desk, text: str) -> str:
    """`plain`, as Markdown that shows names of files letter by letter."""
    return "\n\n".join(map(escaped, plain(desk, text).split("\n\n")))


def said(progress: gr.Progress) -> Say:
    """Progress as the core's handlers tell it."""
    return lambda done, text: progress(done or 0.0, desc=text)  # without a number no words are shown


def who(request: gr.Request | None, job: str = "") -> str:
    """The browser tab, or the client, that asks, and for which of its jobs; without: for all."""
    return f"{(request.session_hash if request else None) or 'nobody'}/{job}"


def one(file: str | None) -> Path | None:
    return Path(file) if file else None


def denoisers() -> list[str]:
    """What the denoiser's list offers."""
    return [NONE, *(name for _, name in shelf.usable("denoise"))]


def model_list(label: str = "Model") -> gr.Dropdown:
    return gr.Dropdown(shelf.usable(), value=catalogue.default_model(), label=label)


def loupe(desk: Desk, label: str) -> tuple[gr.HTML, gr.State]:
    """Pictures at 1:1, side by side, and what is kept of them (a `view.Loupe`), so that another place can be shown."""
    page, kept = gr.HTML(label=label, js_on_load=JS), gr.State()

    def elsewhere(panes: Loupe | None, event: gr.EventData) -> str:
        with readable(desk):
            return panes.show(float(event._data["x"]), float(event._data["y"])) if panes else ""

    page.click(elsewhere, kept, page, **QUIET)
    return page, kept


def optional(label: str, empty: str) -> gr.Textbox:
    """A number that may be left out, and what it is then."""
    return gr.Textbox("", label=label, placeholder=empty, min_width=130)


def command_line(but: str = "") -> gr.Textbox:
    """Where the command line that does the same is shown."""
    return gr.Textbox(
        label=f"The same in a terminal{but}", interactive=False, buttons=["copy"], lines=1, elem_classes="command"
    )


def form() -> dict[str, Any]:
    """The components of `Options` by the names of its fields, laid out."""
    made: dict[str, Any] = {}
    made["model"] = model_list()
    about = gr.Markdown(shelf.line(catalogue.default_model()), elem_classes="quiet")
    made["smooth"] = gr.Radio(["off", "median", "mean"], value="median", label="Smoothing")
    with gr.Row():
        made["sigma"] = gr.Dropdown(
            [MODELS_OWN, "auto", "0.01", "0.03", "0.06", "0.1"],
            value=MODELS_OWN,
            allow_custom_value=True,
            label="Sigma, 0 to 1",
            min_width=150,
        )
        made["samples"] = optional("Samples, or auto", MODELS_OWN)
    with gr.Row():
        made["size"] = gr.Dropdown(list(SIZES), value=MODELS_OWN, label="Size", min_width=150)
        made["format"] = gr.Dropdown(
            [LIKE_INPUT, "png", "jpg", "webp", "tif", "avif"], value=LIKE_INPUT, label="Format", min_width=150
        )
    with gr.Row():
        made["first"] = gr.Textbox("", label="Factor", min_width=150, visible=False)
        made["second"] = gr.Textbox("", label="Height, pixels", min_width=150, visible=False)
    with gr.Accordion("More", open=False):
        with gr.Row():
            made["quality"] = optional("Quality, 1 to 100", "high")
            made["background"] = gr.Textbox("white", label="Under transparency", min_width=130)
        with gr.Row():
            made["lossless"] = gr.Checkbox(False, label="WebP without loss", min_width=130)
            made["strip_metadata"] = gr.Checkbox(False, label="Drop metadata", min_width=130)
        with gr.Row():
            made["suffix"] = optional("Names end in", "the factor: _x4")
            made["denoise"] = gr.Dropdown(denoisers(), value=NONE, label="Denoiser first", min_width=130)
        with gr.Row():
            made["draws"] = gr.Dropdown(
                [MODELS_OWN, "antithetic", "independent"], value=MODELS_OWN, label="Draws", min_width=130
            )
            made["seed"] = gr.Textbox("0", label="Seed", min_width=130)
        with gr.Row():
            made["tolerance"] = optional("Tolerance of samples auto", "1/255")
            made["device"] = gr.Dropdown(_devices(), value="auto", label="Device", min_width=130)
            made["precision"] = gr.Dropdown(
                ["auto", "fp32", "bf16", "fp16"], value="auto", label="Precision", min_width=130
            )
        with gr.Row():
            made["tile"] = optional("Tile, input pixels", MODELS_OWN)
            made["tile_pad"] = optional("Its context, input pixels", MODELS_OWN)

    def numbers(size: str) -> tuple[Any, Any]:
        names = SIZES[size]
        label = {"scale": "Factor"}.get(names[0], f"{names[0].replace('_', ' ').capitalize()}, pixels") if names else ""
        return gr.update(visible=bool(names), label=label), gr.update(visible=len(names) == 2)

    def strength(smooth: str) -> tuple[Any, Any, Any]:
        return (gr.update(interactive=smooth != "off"),) * 3

    made["size"].change(numbers, made["size"], [made["first"], made["second"]], **QUIET)
    made["smooth"].change(strength, made["smooth"], [made[n] for n in ("sigma", "samples", "tolerance")], **QUIET)
    made["model"].change(shelf.line, made["model"], about, **QUIET)
    return {name: made[name] for name in FIELDS}


def _devices() -> list[str]:
    from robustsr.engine import devices

    return ["auto", *(d.name for d in devices())]


def options(values: Sequence[Any]) -> Options:
    """What a form holds, from the values of its components in order."""
    tidy: Any = (value.strip() if isinstance(value, str) else value for value in values)
    return Options(**dict(zip(FIELDS, tidy, strict=True)))


def named(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """A function of ``*values`` with the names of its parameters, which clients of the API see.

    What the function takes after ``values`` (a request, a progress) stays.
    """
    rest = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints = inspect.get_annotations(function, eval_str=True)
    kinds = {p.name: hints.get(p.name, p.annotation) for p in rest}

    def call(*values: Any) -> Any:  # noqa: ANN401
        count = len(names)
        return function(*values[:count], **dict(zip(kinds, values[count:], strict=False)))

    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    shown = [inspect.Parameter(name, either) for name in names]
    shown += [inspect.Parameter(p.name, either, default=p.default, annotation=kinds[p.name]) for p in rest]
    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = kinds
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return call


def work(
    desk: Desk,
    run: gr.Button,
    stop: gr.Button,
    function: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    api_name: str,
    shown_on: Sequence[Any],
) -> Any:  # noqa: ANN401
    """A button that starts a job and one that cancels it. All jobs of the server wait in the desk's line.

    Returns Gradio's event of the job, to which more can be chained.
    """

    @functools.wraps(function)
    def job(*values: Any) -> Any:  # noqa: ANN401
        try:
            return function(*values)
        except Cancelled:  # what was asked for is no error
            gr.Info("Cancelled.", title="Cancelled", duration=5)
            return [gr.skip()] * len(outputs)

    # Clients of the API may leave out what has a default, here and in the form.
    shown = [
        p.replace(default=None) if p.default is p.empty else p for p in inspect.signature(function).parameters.values()
    ]
    job.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]

    def ready(yes: bool) -> list[Any]:
        return [gr.update(interactive=yes), gr.update(interactive=not yes)]

    def begin(request: gr.Request) -> list[Any]:
        desk.begin(who(request, api_name))
        return ready(False)

    run.click(None, None, None, js=IN_SIGHT)
    buttons = [run, stop]
    started = run.click(begin, None, buttons, **QUIET)
    done = started.then(
        job,
        list(inputs),
        list(outputs),
        api_name=api_name,
        concurrency_id="work",
        concurrency_limit=WAITING,
        show_progress_on=list(shown_on),
    )
    for ended in (done.success, done.failure):  # .then() comes after a success only
        ended(lambda: ready(True), None, buttons, **QUIET)

    def cancel(request: gr.Request) -> None:
        desk.cancel(who(request, api_name))

    stop.click(cancel, None, None, **QUIET)
    return done
