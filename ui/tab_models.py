"""The tab Models: layout, and what connects it to the handlers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from robustsr import catalogue

from . import shelf
from .desk import Desk
from .parts import PRIVATE, PROGRESS, QUIET, readable, said


def models(desk: Desk, page: gr.Blocks, lists: list[gr.Dropdown], choices: Callable[[], list[Any]]) -> None:
    with gr.Row():
        with gr.Column(scale=7, min_width=320):
            table = gr.Dataframe(
                shelf.rows(),
                headers=list(shelf.HEAD),
                interactive=False,
                wrap=True,
                label="Models",
                elem_id="model-table",
                column_widths=[130, 64, 96, 395],
                max_height=520,
            )
        with gr.Column(scale=5, min_width=320):
            chosen = gr.Dropdown([row[0] for row in shelf.rows()], value=catalogue.default_model(), label="Details of")
            details = gr.Markdown(shelf.details(catalogue.default_model()), elem_id="model-details")
            pull = gr.Button("Download it", visible=False)
            own = gr.File(label="A checkpoint of your own", file_types=list(catalogue.ENDINGS), height=150)
            said_ = gr.Markdown(elem_classes="quiet")

    def show(name: str) -> tuple[str, Any]:
        entry = catalogue.catalogue().get(name)
        missing = bool(entry and entry.url and name not in catalogue.installed())
        with readable(desk):
            text = shelf.details(name) if entry or name in catalogue.installed() else ""
        return text, gr.update(visible=missing)

    def fetch(name: str, progress: gr.Progress = PROGRESS) -> tuple[str, Any, Any]:
        with readable(desk):
            return shelf.pull(name, said(progress)), gr.update(value=shelf.rows()), gr.update(visible=False)

    def add(path: str | None) -> tuple[Any, Any, Any]:
        if path is None:
            return gr.update(), gr.update(), gr.update()
        with readable(desk):
            text = shelf.add(Path(path))
        return text, gr.update(value=shelf.rows()), gr.update(choices=[row[0] for row in shelf.rows()])

    def picked(event: gr.SelectData) -> str:
        return str(event.row_value[0])

    chosen.change(show, chosen, [details, pull], **PRIVATE)
    table.select(picked, None, chosen, **QUIET)

    def known() -> tuple[Any, Any]:
        return gr.update(value=shelf.rows()), gr.update(choices=[row[0] for row in shelf.rows()])

    page.load(known, None, [table, chosen], **QUIET)
    pulled = pull.click(fetch, chosen, [said_, table, pull], show_progress_on=[said_], **PRIVATE)
    added = own.upload(add, own, [said_, table, chosen], show_progress_on=[said_], **PRIVATE)
    for done in (pulled, added):
        done.then(choices, None, lists, **QUIET)
