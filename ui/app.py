"""The page: its tabs, one module each for those of a kind. What they do is in the handlers' modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from robustsr.version import __version__

from . import parts, shelf, tab_models, tab_pictures, tab_scenes
from .batches import Batches
from .desk import Desk
from .parts import QUIET, who


def build(desk: Desk, batches: Batches, *, alone: bool = True) -> gr.Blocks:
    """The page of a server, which is seen from its own machine ``alone``, or from others.

    To be built after the environment says where Gradio keeps files.
    """
    with gr.Blocks(title="robustsr", analytics_enabled=False, delete_cache=(600, int(desk.keep))) as page:
        gr.Markdown(
            "# robustsr\nUpscale pictures steadily under noise and small attacks; attack, measure and certify models."
        )
        # Not inside a tab: those are made when first looked at.
        job = gr.BrowserState("", storage_key="robustsr-browser")
        with gr.Tab("Upscale", id="upscale"):
            forms = [tab_pictures.upscale(desk)]
        with gr.Tab("Batch", id="batch"):
            forms.append(tab_pictures.batch(desk, batches, page, job))
        with gr.Tab("Compare", id="compare"):
            compared = tab_scenes.compare(desk)
        with gr.Tab("Attack", id="attack"):
            attacked = tab_scenes.attack(desk)
        with gr.Tab("Certify", id="certify"):
            certified = tab_scenes.certify(desk)
        upscalers, denoisers = zip(*forms, strict=True)
        kinds: list[tuple[Sequence[gr.Dropdown], Callable[[], Any]]] = [
            ([*upscalers, attacked, certified], shelf.usable),
            (denoisers, parts.denoisers),
            ([compared], shelf.defences),
        ]

        def choices() -> list[Any]:
            """Which models there are may change while the page is open, and before it is loaded again."""
            updates = []
            for lists, known in kinds:
                found = known()
                for each in lists:
                    each.choices = gr.Dropdown(found).choices  # for clients of the API, which load no page
                    updates.append(gr.update(choices=found))
            return updates

        every = [each for lists, _ in kinds for each in lists]
        with gr.Tab("Models", id="models"):
            tab_models.models(desk, page, every, choices)
        page.load(choices, None, every, **QUIET)

        def left(request: gr.Request) -> None:
            """Nobody waits for the job of a page that was closed; batches go on."""
            desk.cancel(who(request))

        page.unload(left)
        where = "stay on this machine" if alone else "go to the machine that serves this page, no further,"
        gr.Markdown(
            f"robustsr {__version__}. Pictures {where} and are deleted when it stops.",
            elem_classes="quiet",
        )
    page.queue(default_concurrency_limit=None, max_size=100)
    return page
