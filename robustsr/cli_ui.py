"""`robustsr ui`."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit

from . import console
from .cli_common import Option, bring_torch
from .types import RobustSRError

ANY = ("0.0.0.0", "::", "[::]")  # all of a machine's addresses


def ui(
    host: Annotated[
        str, Option("--host", help="Where to listen; another than this machine needs --auth.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, Option("--port", min=1, max=65535, help="Default: the first free from 7860 on.")
    ] = None,
    auth: Annotated[
        str | None, Option("--auth", help="USER:PASSWORD that visitors have to give; or set ROBUSTSR_UI_AUTH.")
    ] = None,
    share: Annotated[
        bool, Option("--share", help="Also a public link, by way of Gradio's servers; needs --auth.")
    ] = False,
    url: Annotated[
        str | None,
        Option("--url", help="The address of a reverse proxy before it: https://example.org/upscaler; needs --auth."),
    ] = None,
    max_upload: Annotated[int, Option("--max-upload", min=1, help="Largest upload, in megabytes.")] = 200,
    max_pixels: Annotated[
        int, Option("--max-pixels", min=1, help="Most pixels of a picture, and of a result.")
    ] = 200_000_000,
    device: Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    browser: Annotated[bool, Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """The browser interface: upscale, batches, comparisons, attacks, certificates.

    Listens on this machine only unless told otherwise. Pictures and results are deleted when it ends; models that are
    added in it stay.
    """
    text = auth or os.environ.get("ROBUSTSR_UI_AUTH", "")
    user, colon, password = text.partition(":")
    if text and not (user and colon and password):
        raise RobustSRError("--auth wants USER:PASSWORD")
    bring_torch()
    console.say("starting ...")
    from .engine import resolve_device

    resolve_device(device)
    from robustsr_ui.server import served, wait

    if share:
        console.say(
            "note: --share sends everything through Gradio's servers; whoever has the link can try passwords", "yellow"
        )
    given = (user, password) if text else None
    with served(
        host,
        port,
        auth=given,
        share=share,
        max_upload=max_upload << 20,
        max_pixels=max_pixels,
        device=device,
        open_browser=browser,
        url=url,
    ) as address:
        others = f", for others by this machine's name instead of {urlsplit(address).hostname}" * (host in ANY)
        console.say(f"robustsr is at {address}{others} (Ctrl-C ends it)", "green")
        wait()
    console.say("ended; its files are deleted")
