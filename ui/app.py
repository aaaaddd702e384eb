"""The page: its tabs and their layout. What they do is in the handlers' modules; nothing here touches a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from robustsr import catalogue
from robustsr.smoothing import Reduce
from robustsr.types import RobustSRError
from robustsr.version import __version__

from . import parts, scenes, shelf
from . import upscale as single
from .batches import HEAD, Batches
from .desk import Desk
from .options import FIELDS
from .parts import QUIET, model_list, one, optional, options, readable, said, who

PRIVATE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
LOOKING: dict[str, Any] = {**PRIVATE, "concurrency_limit": 2, "concurrency_id": "look"}  # decodes whole pictures
PROGRESS = gr.Progress()
WIDTHS: list[str | int] = ["26%", "12%", "16%", "11%", "35%"]  # of a batch's columns
METHODS = ["pgd", "fgsm", "bim", "pgd-l2", "cw", "random"]


def build(desk: Desk, batches: Batches) -> gr.Blocks:
    """The page of a server. To be built after the environment says where Gradio keeps files."""
    with gr.Blocks(title="robustsr", analytics_enabled=False, delete_cache=(600, int(desk.keep))) as page:
        gr.Markdown("# robustsr\nUpscale pictures with models that stay stable, attack them, and prove what holds.")
        job = gr.BrowserState("", storage_key="robustsr-batch")  # not inside a tab: those are made when first looked at
        with gr.Tab("Upscale", id="upscale"):
            lists = [_upscale(desk)]
        with gr.Tab("Batch", id="batch"):
            lists.append(_batch(desk, batches, page, job))
        with gr.Tab("Compare", id="compare"):
            compared = _compare(desk)
        with gr.Tab("Attack", id="attack"):
            lists.append(_attack(desk))
        with gr.Tab("Certify", id="certify"):
            lists.append(_certify(desk))

        def choices() -> list[Any]:
            """Which models there are may change while the page is open, and before it is loaded again."""
            return [gr.update(choices=shelf.usable())] * len(lists) + [gr.update(choices=shelf.defences())]

        with gr.Tab("Models", id="models"):
            _models(desk, page, [*lists, compared], choices)
        page.load(choices, None, [*lists, compared], **QUIET)

        def left(request: gr.Request) -> None:
            """Nobody waits for the job of a page that was closed; batches go on."""
            desk.cancel(who(request))

        page.unload(left)
        gr.Markdown(
            f"robustsr {__version__}. Pictures stay on this machine and are deleted when it stops.",
            elem_classes="quiet",
        )
    page.queue(default_concurrency_limit=None, max_size=100)
    return page


def samples() -> list[str]:
    """The bundled pictures."""
    return [str(path) for path in sorted(catalogue.package_samples().iterdir())]


def _upscale(desk: Desk) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            file = gr.File(label="Picture", file_types=parts.PICTURES, elem_id="upscale-file", height=150)
            gr.Examples(
                [[s] for s in samples()], file, label="Or try one", cache_examples=False, api_visibility="private"
            )
            preview = gr.Image(label="Input", interactive=False, height=200, visible=False, buttons=[])
            about_input = gr.Markdown(elem_classes="quiet")
            form = parts.form()
            against = gr.Radio([single.BICUBIC, single.PLAIN], value=single.BICUBIC, label="Compare with")
            estimate = gr.Markdown(elem_classes="quiet", elem_id="estimate")
            with gr.Row():
                run = gr.Button("Upscale", variant="primary", elem_id="upscale-run")
                stop = gr.Button("Cancel", variant="stop", interactive=False, elem_id="upscale-stop")
        with gr.Column(scale=7, min_width=320):
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
            command = gr.Textbox(
                label="The same in a terminal", interactive=False, buttons=["copy"], lines=1, elem_classes="command"
            )
            loupe, kept = parts.loupe(desk, "1:1")

    def look(path: str | None) -> tuple[Any, ...]:
        nothing = None, "", gr.DownloadButton("Download", value=None, interactive=False), "", "", None
        if path is None:
            return gr.update(visible=False, value=None), "", *nothing
        with readable(desk):
            found = single.look(desk, Path(path))
        return gr.update(visible=True, value=found.preview), found.about, *nothing

    def forecast(path: str | None, *values: Any) -> str:
        if path is None:
            return ""
        with readable(desk):
            try:
                return parts.plain(desk, single.forecast(desk, [Path(path)], options(values)))
            except RobustSRError as error:
                return parts.plain(desk, str(error))

    def upscale(*values: Any, request: gr.Request, progress: gr.Progress = PROGRESS) -> tuple[Any, ...]:
        path, against, *rest = values
        if path is None:
            raise gr.Error("Choose a picture first.", title="No picture", print_exception=False)
        with readable(desk):
            made = single.upscale(desk, who(request, "upscale"), Path(path), options(rest), against, said(progress))
            ready = gr.DownloadButton(value=str(made.path), label=f"Download {made.path.name}", interactive=True)
            panes = made.loupe()
            return made.slider(), made.about, ready, made.command, panes.show(), panes

    fields, results = [*form.values()], [slider, result, download, command, loupe, kept]
    file.change(look, file, [preview, about_input, *results], show_progress_on=[about_input], **LOOKING)
    gr.on(
        [file.change, *(form[name].change for name in FIELDS if name != "suffix")],
        forecast,
        [file, *fields],
        estimate,
        trigger_mode="always_last",
        show_progress="hidden",
        **LOOKING,
    )
    parts.work(
        desk,
        run,
        stop,
        parts.named(upscale, ["picture", "against", *FIELDS]),
        [file, against, *fields],
        results,
        api_name="upscale",
        shown_on=[slider],
    )
    return form["model"]


def _batch(desk: Desk, batches: Batches, page: gr.Blocks, name: gr.BrowserState) -> gr.Dropdown:
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
        with gr.Column(scale=7, min_width=320):
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
            command = gr.Textbox(
                label="The same in a terminal", interactive=False, buttons=["copy"], lines=1, elem_classes="command"
            )
    timer = gr.Timer(1, active=False)

    def where(job: str) -> tuple[Any, ...]:
        found = batches.find(job)
        if found is None:
            words = "This batch is no longer kept." if job else gr.update()
            return (
                words,
                gr.update(),
                gr.update(),
                gr.update(),
                gr.Timer(active=False),
                gr.update(interactive=True),
                gr.update(interactive=False),
            )
        ready = gr.DownloadButton(value=str(found.zip) if found.zip else None, interactive=found.zip is not None)
        active = found.active
        buttons = gr.update(interactive=not active), gr.update(interactive=active)
        return found.words(), found.table(), ready, found.command, gr.Timer(active=active), *buttons

    def start(paths: list[str] | None, *values: Any) -> str:
        if not paths:
            raise gr.Error("Choose pictures or a zip archive first.", title="No pictures", print_exception=False)
        with readable(desk):
            return batches.start([Path(p) for p in paths], options(values))

    def idle(yes: bool) -> Any:
        return gr.update(interactive=yes)

    def cancel(job: str) -> None:
        if found := batches.find(job):
            found.token.cancel()

    outputs = [words, table, download, command, timer, run, stop]
    started = run.click(lambda: idle(False), None, run, **QUIET).then(start, [files, *form.values()], name, **PRIVATE)
    started.success(where, name, outputs, **QUIET)
    started.failure(lambda: idle(True), None, run, **QUIET)
    stop.click(cancel, name, None, **QUIET)
    timer.tick(where, name, outputs, **QUIET)
    page.load(where, name, outputs, **QUIET)
    return form["model"]


def _place() -> tuple[gr.File, gr.File, gr.Textbox]:
    """A picture, the truth, and a crop."""
    file = gr.File(label="Picture (empty: a bundled sample)", file_types=parts.PICTURES, height=150)
    with gr.Accordion("Ground truth and place", open=False):
        hr = gr.File(label="Ground truth (optional): the picture at full size", file_types=parts.PICTURES, height=150)
        crop = gr.Textbox("", label="Crop", placeholder="x,y,width,height", info="Input pixels; empty: the centre")
    return file, hr, crop


def _buttons(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        run = gr.Button(label, variant="primary", elem_id=f"{name}-run")
        stop = gr.Button("Cancel", variant="stop", interactive=False, elem_id=f"{name}-stop")
    return run, stop


def _compare(desk: Desk) -> gr.Dropdown:
    default = catalogue.default_model()
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            file, hr, crop = _place()
            choices = gr.Dropdown(
                shelf.defences(),
                value=["bicubic", default, f"{default} + median"],
                multiselect=True,
                max_choices=4,
                label="Models and defences",
                info="Up to four",
            )
            sigma = gr.Textbox("", label="Sigma of the smoothed ones", placeholder="the model's, a number, or auto")
            run, stop = _buttons("Compare", "compare")
        with gr.Column(scale=8, min_width=320):
            loupe, kept = parts.loupe(desk, "Side by side")
            table = gr.Dataframe(interactive=False, wrap=True, label="Measured", elem_id="compare-table")
            notes = gr.Markdown(elem_classes="quiet")

    def compare(
        picture: str | None,
        truth: str | None,
        models: list[str],
        sigma: str,
        crop: str,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        with readable(desk):
            made = scenes.side_by_side(
                desk, who(request, "compare"), one(picture), one(truth), models, sigma, crop, said(progress)
            )
        return made.loupe.show(), made.loupe, gr.Dataframe(value=made.rows, headers=made.head), made.notes

    inputs = [file, hr, choices, sigma, crop]
    parts.work(desk, run, stop, compare, inputs, [loupe, kept, table, notes], api_name="compare", shown_on=[loupe])
    return choices


def _attack(desk: Desk) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            file, hr, crop = _place()
            model = model_list("Attacked model")
            with gr.Row():
                method = gr.Dropdown(METHODS, value="pgd", label="Method", min_width=110)
                eps = gr.Textbox("8/255", label="Budget (eps), not of cw", min_width=130)
                steps = optional("Steps", "10, of cw 6")
            on = gr.Radio(
                ["base", "smoothed", "worst"],
                value="base",
                label="Attack",
                info="The network, the smoothed model (adaptively), or both in every way",
            )
            with gr.Accordion("Smoothing and loss", open=False):
                with gr.Row():
                    smooth = gr.Radio(["median", "mean"], value="median", label="Smoothed by", min_width=140)
                    sigma = optional("Sigma", "the model's")
                    number = optional("Samples", "the model's")
                loss = gr.Dropdown(["l1", "mse", "paper", "perceptual"], value="l1", label="Loss")
            run, stop = _buttons("Attack", "attack")
        with gr.Column(scale=8, min_width=320):
            gallery = gr.Gallery(
                label="Input", columns=3, height=260, object_fit="contain", interactive=False, elem_id="attack-gallery"
            )
            about = gr.Markdown()
            loupe, kept = parts.loupe(desk, "Outputs")
            outputs = gr.Dataframe(
                interactive=False, wrap=True, label="Outputs", max_height=420, elem_id="attack-table"
            )
            change = gr.Dataframe(interactive=False, wrap=True, label="Change of the input")
            curve = gr.LinePlot(x="step", y="loss", color="attack", title="Loss, step by step", height=220)
            files = gr.Files(label="Downloads", interactive=False)

    def attack(
        picture: str | None,
        truth: str | None,
        model: str,
        method: str,
        eps: str,
        steps: str,
        on: str,
        smooth: Reduce,
        sigma: str,
        samples: str,
        loss: str,
        crop: str,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        import pandas

        with readable(desk):
            threat = scenes.threat_of(method, eps, steps, loss)
            made = scenes.attacked(
                desk,
                who(request, "attack"),
                one(picture),
                one(truth),
                model,
                threat,
                on,
                smooth,
                sigma,
                samples,
                crop,
                said(progress),
            )
        return (
            made.gallery,
            made.about,
            made.loupe.show(),
            made.loupe,
            _frame(made.outputs),
            _frame(made.change),
            pandas.DataFrame(made.curve, columns=["attack", "step", "loss"]),
            made.files,
        )

    inputs = [file, hr, model, method, eps, steps, on, smooth, sigma, number, loss, crop]
    shown = [gallery, about, loupe, kept, outputs, change, curve, files]
    parts.work(desk, run, stop, attack, inputs, shown, api_name="attack", shown_on=[gallery])
    return model


def _frame(table: tuple[Sequence[str], Sequence[Sequence[str]]]) -> gr.Dataframe:
    head, rows = table
    return gr.Dataframe(value=[list(row) for row in rows], headers=list(head))


def _certify(desk: Desk) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            file, hr, crop = _place()
            model = model_list()
            with gr.Row():
                smooth = gr.Radio(["median", "mean"], value="median", label="Smoothing", min_width=140)
                sigma = gr.Textbox("0.06", label="Sigma", min_width=90)
                eps = gr.Textbox("", label="eps (L2)", placeholder="sigma", min_width=90)
            with gr.Row():
                n = gr.Number(
                    1000, label="Draws for the bounds (n)", precision=0, minimum=2, maximum=100_000, min_width=110
                )
                ship = gr.Number(
                    101, label="Draws of the picture", precision=0, minimum=1, maximum=10_000, min_width=110
                )
                alpha = gr.Number(0.05, label="May fail (alpha)", minimum=1e-9, maximum=0.5, min_width=110)
            scope = gr.Radio(
                ["all values at once", "each value"], value="all values at once", label="The claim is about"
            )
            run, stop = _buttons("Certify", "certify")
        with gr.Column(scale=8, min_width=320):
            gallery = gr.Gallery(
                label="Picture and bounds", columns=4, height=240, object_fit="contain", interactive=False
            )
            claim = gr.Markdown("Small perturbations only, in L2: the certificate says how small.", elem_id="claim")
            files = gr.Files(label="Downloads", interactive=False)

    def certify(
        picture: str | None,
        truth: str | None,
        model: str,
        smooth: Reduce,
        sigma: str,
        eps: str,
        n: float | None,
        ship: float | None,
        alpha: float | None,
        scope: str,
        crop: str,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        with readable(desk):
            asked = scenes.claim_of(smooth, sigma, eps, n, ship, alpha, scope)
            made = scenes.certify(
                desk, who(request, "certify"), one(picture), one(truth), model, asked, crop, said(progress)
            )
        return made.gallery, made.claim, made.files

    inputs = [file, hr, model, smooth, sigma, eps, n, ship, alpha, scope, crop]
    parts.work(desk, run, stop, certify, inputs, [gallery, claim, files], api_name="certify", shown_on=[gallery])
    return model


def _models(desk: Desk, page: gr.Blocks, lists: list[gr.Dropdown], choices: Callable[[], list[Any]]) -> None:
    with gr.Row():
        with gr.Column(scale=7, min_width=320):
            table = gr.Dataframe(
                shelf.rows(),
                headers=list(shelf.HEAD),
                interactive=False,
                wrap=True,
                label="Models",
                column_widths=["26%", "9%", "24%", "41%"],
                max_height=520,
            )
        with gr.Column(scale=5, min_width=320):
            chosen = gr.Dropdown([row[0] for row in shelf.rows()], value=catalogue.default_model(), label="Details of")
            details = gr.Markdown(shelf.details(catalogue.default_model()), elem_id="model-details")
            pull = gr.Button("Download it", interactive=False)
            own = gr.File(label="A checkpoint of your own", file_types=shelf.ENDINGS, height=150)
            said_ = gr.Markdown(elem_classes="quiet")

    def show(name: str) -> tuple[str, Any]:
        entry = catalogue.catalogue().get(name)
        missing = bool(entry and entry.url and name not in catalogue.installed())
        with readable(desk):
            text = shelf.details(name) if entry or name in catalogue.installed() else ""
        return text, gr.update(interactive=missing)

    def fetch(name: str, progress: gr.Progress = PROGRESS) -> tuple[str, Any]:
        with readable(desk):
            return shelf.pull(name, said(progress)), gr.update(value=shelf.rows())

    def add(path: str | None) -> tuple[Any, Any, Any]:
        if path is None:
            return gr.update(), gr.update(), gr.update()
        with readable(desk):
            text = shelf.add(desk, Path(path))
        return text, gr.update(value=shelf.rows()), gr.update(choices=[row[0] for row in shelf.rows()])

    def picked(event: gr.SelectData) -> str:
        return str(event.row_value[0])

    chosen.change(show, chosen, [details, pull], **PRIVATE)
    table.select(picked, None, chosen, **QUIET)

    def known() -> tuple[Any, Any]:
        return gr.update(value=shelf.rows()), gr.update(choices=[row[0] for row in shelf.rows()])

    page.load(known, None, [table, chosen], **QUIET)
    pulled = pull.click(fetch, chosen, [said_, table], show_progress_on=[said_], **PRIVATE)
    added = own.upload(add, own, [said_, table, chosen], show_progress_on=[said_], **PRIVATE)
    for done in (pulled, added):
        done.then(choices, None, lists, **QUIET)
