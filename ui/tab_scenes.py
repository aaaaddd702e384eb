"""The tabs Compare, Attack and Certify: layout, and what connects it to the handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from robustsr import catalogue
from robustsr.smoothing import Reduce

from . import certificates, parts, scenes, shelf
from .desk import Desk
from .parts import PROGRESS, model_list, one, optional, readable, said, who

METHODS = ["pgd", "fgsm", "bim", "pgd-l2", "cw", "random"]


def compare(desk: Desk) -> gr.Dropdown:
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
        with gr.Column(scale=8, min_width=320, elem_classes="beside"):
            loupe, kept = parts.loupe(desk, "Side by side")
            table = gr.Dataframe(interactive=False, wrap=True, label="Measured", elem_id="compare-table", visible=False)
            notes = gr.Markdown(elem_classes="quiet")

    def work(
        picture: str | None,
        truth: str | None,
        models: list[str],
        sigma: str,
        crop: str,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """Up to four models or defences on one crop: panes, a table and notes."""
        with readable(desk):
            made = scenes.side_by_side(
                desk, who(request, "compare"), one(picture), one(truth), models, sigma, crop, said(progress)
            )
        return made.loupe.show(), made.loupe, _frame((made.head, made.rows)), parts.literally(desk, made.notes)

    inputs = [file, hr, choices, sigma, crop]
    parts.work(desk, run, stop, work, inputs, [loupe, kept, table, notes], api_name="compare", shown_on=[loupe])
    return choices


def attack(desk: Desk) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            file, hr, crop = _place()
            model = model_list("Attacked model")
            with gr.Row():
                method = gr.Dropdown(METHODS, value="pgd", label="Method", min_width=110)
                eps = optional("Budget (eps)", "8/255, L2 0.5")
                steps = optional("Steps", "10, cw 6")
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
        with gr.Column(scale=8, min_width=320, elem_classes="beside"):
            gallery = _gallery("Input", 3, "attack")
            about = gr.Markdown()
            loupe, kept = parts.loupe(desk, "Outputs")
            outputs = gr.Dataframe(
                interactive=False, wrap=True, label="Outputs", max_height=420, elem_id="attack-table", visible=False
            )
            change = gr.Dataframe(interactive=False, wrap=True, label="Change of the input", visible=False)
            curve = gr.LinePlot(x="step", y="loss", color="attack", title="Loss, step by step", height=220)
            files = gr.Files(label="Downloads", interactive=False, elem_classes="downloads")
            command = parts.command_line()

    def work(
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
        """Attacks a crop: pictures, words, panes, tables of outputs and of the change, the loss, files, a command."""
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
            parts.literally(desk, made.about),
            made.loupe.show(),
            made.loupe,
            _frame(made.outputs),
            _frame(made.change),
            pandas.DataFrame(made.curve, columns=["attack", "step", "loss"]),
            made.files,
            made.command,
        )

    inputs = [file, hr, model, method, eps, steps, on, smooth, sigma, number, loss, crop]
    shown = [gallery, about, loupe, kept, outputs, change, curve, files, command]
    parts.work(desk, run, stop, work, inputs, shown, api_name="attack", shown_on=[gallery])
    return model


def certify(desk: Desk) -> gr.Dropdown:
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            file, hr, crop = _place()
            model = model_list()
            with gr.Row():
                smooth = gr.Radio(["median", "mean"], value="median", label="Smoothing", min_width=140)
                sigma = gr.Textbox("0.06", label="Sigma", min_width=90)
                eps = gr.Textbox("", label="eps (L2)", placeholder="sigma", min_width=90)
            with gr.Row():
                n = gr.Textbox("1000", label="Samples for the bounds", min_width=110)
                ship = gr.Textbox("101", label="Samples of the picture", min_width=110)
                alpha = gr.Textbox("0.05", label="May fail (alpha)", min_width=110)
            scope = gr.Radio(
                ["all values at once", "each value"], value="all values at once", label="The claim is about"
            )
            run, stop = _buttons("Certify", "certify")
        with gr.Column(scale=8, min_width=320, elem_classes="beside"):
            gallery = _gallery("Picture and bounds", 4, "certify")
            claim = gr.Markdown("Small perturbations only, in L2: the certificate says how small.", elem_id="claim")
            files = gr.Files(label="Downloads", interactive=False, elem_classes="downloads")
            command = parts.command_line(", with fresh noise")

    def work(
        picture: str | None,
        truth: str | None,
        model: str,
        smooth: Reduce,
        sigma: str,
        eps: str,
        n: str,
        ship: str,
        alpha: str,
        scope: str,
        crop: str,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> tuple[Any, ...]:
        """Certifies a crop: pictures, the claim in words, files, a command."""
        with readable(desk):
            asked = certificates.claim_of(smooth, sigma, eps, n, ship, alpha, scope)
            made = certificates.certify(
                desk, who(request, "certify"), one(picture), one(truth), model, asked, crop, said(progress)
            )
        return made.gallery, parts.plain(desk, made.claim), made.files, made.command

    inputs = [file, hr, model, smooth, sigma, eps, n, ship, alpha, scope, crop]
    parts.work(desk, run, stop, work, inputs, [gallery, claim, files, command], api_name="certify", shown_on=[gallery])
    return model


def _place() -> tuple[gr.File, gr.File, gr.Textbox]:
    """A picture, the truth, and a crop."""
    file = gr.File(label="Picture (empty: a bundled sample)", file_types=parts.PICTURES, height=150)
    with gr.Accordion("Ground truth and place", open=False):
        hr = gr.File(label="Ground truth (optional): the picture at full size", file_types=parts.PICTURES, height=150)
        crop = gr.Textbox(
            "", label="Crop", placeholder="x,y,width,height or side", info="Input pixels; empty: the centre"
        )
    return file, hr, crop


def _buttons(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        run = gr.Button(label, variant="primary", elem_id=f"{name}-run")
        stop = gr.Button("Cancel", variant="stop", interactive=False, elem_id=f"{name}-stop")
    return run, stop


def _gallery(label: str, columns: int, name: str) -> gr.Gallery:
    """Without Gradio's button that shares pictures with the world."""
    return gr.Gallery(
        label=label,
        columns=columns,
        object_fit="contain",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_id=f"{name}-gallery",
    )


def _frame(table: tuple[Sequence[str], Sequence[Sequence[str]]]) -> gr.Dataframe:
    """A table's contents; before there are any it is hidden."""
    head, rows = table
    others = max(84, 600 // (len(head) - 1))  # pixels: on a phone it scrolls, and long names are broken, not figures
    widths: list[str | int] = [200, *[others] * (len(head) - 1)]
    return gr.Dataframe(value=[list(row) for row in rows], headers=list(head), column_widths=widths, visible=True)
