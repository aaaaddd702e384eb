"""The tabs Upscale and Batch: layout, and what connects it to the handlers."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from robustsr import catalogue
from robustsr.types import RobustSRError

from . import parts
from . import upscale as single
from .batches import HEAD, Batches
from .desk import Desk
from .options import FIELDS
from .parts import PRIVATE, PROGRESS, QUIET, options, readable, said, who

LOOKING: dict[str, Any] = {**PRIVATE, "concurrency_limit": 2, "concurrency_id": "look"}  # decodes whole pictures
# Of a batch's columns: on a phone the table scrolls.
WIDTHS: list[str | int] = [150, 92, 104, 84, 226]


def upscale(desk: Desk) -> tuple[gr.Dropdown, gr.Dropdown]:
    """The lists of models and of denoisers."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            file = gr.File(label="Picture", file_types=parts.PICTURES, elem_id="upscale-file", height=150)
            gr.Examples(
                [[s] for s in samples()], file, label="Or try one", cache_examples=False, api_visibility="private"
            )
            preview = gr.Image(label="Input", interactive=False, height=200, visible=False, buttons=[])
            about_input = gr.Markdown(elem_classes="quiet")
            estimate = gr.Markdown(elem_classes="quiet", elem_id="estimate")
            with gr.Row():  # before the form, so that it is in sight
                run = gr.Button("Upscale", variant="primary", elem_id="upscale-run")
                stop = gr.Button("Cancel", variant="stop", interactive=False, elem_id="upscale-stop")
            gr.Markdown(
                "Old, grainy or compressed? Take the model `certsr-photo`, and 0.06 for sigma.", elem_classes="quiet"
            )
            form = parts.form()
            against = gr.Radio([single.BICUBIC, single.PLAIN], value=single.BICUBIC, label="Compare with")
        with gr.Column(scale=7, min_width=320, elem_classes="beside"):
            slider = gr.ImageSlider(
                label="Before and after",
                interactive=False,
                height=460,
                max_height=460,
                buttons=["fullscreen"],
                elem_id="slider",
            )
            result = gr.Markdown(elem_id="upscale-about")
            download = gr.DownloadButton("Download", interactive=False, variant="primary", elem_id="upscale-download")
            command = parts.command_line()
            loupe, kept = parts.loupe(desk, "1:1")

    def look(path: str | None) -> tuple[Any, ...]:
        nothing = None, "", gr.DownloadButton("Download", value=None, interactive=False), "", "", None
        if path is None:
            return gr.update(visible=False, value=None), "", *nothing
        with readable(desk):
            try:
                found = single.look(desk, Path(path))
            except RobustSRError as error:  # which stays where the picture would be
                return gr.update(visible=False, value=None), f"**{parts.literally(desk, str(error))}**", *nothing
        return gr.update(visible=True, value=found.preview), found.about, *nothing

    def forecast(path: str | None, *values: Any) -> str:
        if path is None:
            return ""
        with readable(desk):
            try:
                return parts.literally(desk, single.forecast(desk, [Path(path)], options(values)))
            except RobustSRError as error:
                return parts.literally(desk, str(error))

    def work(*values: Any, request: gr.Request, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        """Upscales a picture: before and after, words, the file (value), a command, panes."""
        path, against, *rest = values
        if path is None:
            raise gr.Error("Choose a picture first.", print_exception=False)
        with readable(desk):
            made = single.upscale(desk, who(request, "upscale"), Path(path), options(rest), against, said(progress))
            ready = gr.DownloadButton(value=str(made.path), label=f"Download {made.path.name}", interactive=True)
            panes = made.loupe()
            return made.slider(), made.about, ready, made.command, panes.show(), panes

    def removed(request: gr.Request) -> None:
        """Nobody waits for what becomes of a picture that was taken away."""
        desk.cancel(who(request, "upscale"))

    fields, results = [*form.values()], [slider, result, download, command, loupe, kept]
    file.clear(removed, None, None, **QUIET)
    file.change(look, file, [preview, about_input, *results], show_progress_on=[about_input], **LOOKING)
    gr.on(
        [file.change, *(form[name].change for name in FIELDS)],
        forecast,
        [file, *fields],
        estimate,
        trigger_mode="always_last",
        show_progress="hidden",
        **LOOKING,
    )
    done = parts.work(
        desk,
        run,
        stop,
        parts.named(work, ["picture", "against", *FIELDS]),
        [file, against, *fields],
        results,
        api_name="upscale",
        shown_on=[slider],
    )
    for ended in (done.success, done.failure):  # until then it may say only that a job is at work
        ended(forecast, [file, *fields], estimate, show_progress="hidden", **LOOKING)
    return form["model"], form["denoise"]


def batch(desk: Desk, batches: Batches, page: gr.Blocks, name: gr.BrowserState) -> tuple[gr.Dropdown, gr.Dropdown]:
    """The lists of models and of denoisers."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            files = gr.File(
                label="Pictures, or a zip archive of them",
                file_count="multiple",
                file_types=[*parts.PICTURES, ".zip"],
                elem_id="batch-files",
                height=180,
            )
            form = parts.form()
            with gr.Row():
                run = gr.Button("Upscale all", variant="primary", elem_id="batch-run")
                stop = gr.Button("Cancel", variant="stop", interactive=False, elem_id="batch-stop")
        with gr.Column(scale=7, min_width=320, elem_classes="beside"):
            words = gr.Markdown("Nothing has been started.", elem_id="batch-about")
            table = gr.Dataframe(
                headers=list(HEAD),
                interactive=False,
                wrap=True,
                max_height=460,
                label="Files",
                elem_id="batch-table",
                column_widths=WIDTHS,
            )
            download = gr.DownloadButton("Download all", interactive=False, variant="primary", elem_id="batch-download")
            command = parts.command_line()
    timer = gr.Timer(1, active=False)

    def where(job: str) -> tuple[Any, ...]:
        found = batches.find(job)
        if found is None:
            still = (gr.skip(),) * 4
            return *still, gr.Timer(active=False), gr.update(interactive=True), gr.update(interactive=False)
        ready = gr.DownloadButton(value=str(found.zip) if found.zip else None, interactive=found.zip is not None)
        active = found.active
        buttons = gr.update(interactive=not active), gr.update(interactive=active)
        words, rows = (
            found.words(lambda text: parts.literally(desk, text)),
            [[*row, notes and parts.plain(desk, notes)] for *row, notes in found.table()],
        )
        return words, rows, ready, found.command, gr.Timer(active=active), *buttons

    def start(job: str, paths: list[str] | None, *values: Any) -> None:
        if not paths:
            raise gr.Error("Choose pictures or a zip archive first.", print_exception=False)
        with readable(desk):
            batches.start(job, [Path(p) for p in paths], options(values))

    def idle(yes: bool) -> Any:
        return gr.update(interactive=yes)

    def cancel(job: str) -> None:
        if found := batches.find(job):
            found.token.cancel()

    outputs = [words, table, download, command, timer, run, stop]
    inputs = [name, files, *form.values()]
    run.click(None, None, None, js=parts.IN_SIGHT)
    started = run.click(lambda: idle(False), None, run, **QUIET).then(start, inputs, None, **PRIVATE)
    for ended in (started.success, started.failure):  # which may be of another window of the same browser
        ended(where, name, outputs, **QUIET)
    stop.click(cancel, name, None, **QUIET)
    timer.tick(where, name, outputs, **QUIET)
    known = page.load(lambda job: job or secrets.token_urlsafe(16), name, name, **QUIET)
    known.then(where, name, outputs, **QUIET)
    return form["model"], form["denoise"]


def samples() -> list[str]:
    """The bundled pictures."""
    return [str(path) for path in sorted(catalogue.package_samples().iterdir())]
