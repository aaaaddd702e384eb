"""The server: where it listens, who may come in, what it keeps and when that goes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from robustsr.types import RobustSRError

from .desk import Desk

PREFIX = "robustsr-ui-"
SWEEP = 300.0  # seconds


@contextmanager
def served(
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    auth: tuple[str, str] | None = None,
    share: bool = False,
    max_upload: int = 200 << 20,
    max_pixels: int = 200_000_000,
    device: str = "auto",
    open_browser: bool = False,
    url: str | None = None,
) -> Iterator[str]:
    """Serves the page as long as the block runs, and yields its address; then everything it kept is deleted.

    ``port`` None: the first free one from 7860 on. ``url``: by which a proxy before it is called. RobustSRError:
    another host than this machine, a proxy or a public link, without ``auth``; a port that is taken.
    """
    from .guard import LOOPBACK

    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    local = host in LOOPBACK and not share
    seen = urlsplit(url or "")
    if url is not None and not (seen.scheme in ("http", "https") and seen.hostname):
        raise RobustSRError(f"--url is the address that visitors use, like https://example.org/upscaler, got {url!r}")
    if (url or not local) and auth is None:
        what = "a public link" if share else f"a proxy at {url}" if url else f"host {host}"
        raise RobustSRError(f"{what} opens this machine's pictures and processor to others: add --auth USER:PASSWORD")
    _check_host(host)
    root, lock = _root()
    os.environ |= {
        "GRADIO_TEMP_DIR": str(root),
        "GRADIO_EXAMPLES_CACHE": str(root / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    desk = Desk(root, max_pixels, max_upload, device=device)
    stop, page = threading.Event(), None
    try:
        import gradio as gr
        from starlette.middleware import Middleware

        from .app import build
        from .batches import Batches
        from .guard import Guard

        batches = Batches(desk)
        page = build(desk, batches, alone=local and not url)
        theme = gr.themes.Default(
            primary_hue="teal",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ).set(  # white on a darker teal, which eyes can read
            button_primary_background_fill="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover_dark="*primary_800",
            body_text_color_subdued="*neutral_600",
            block_info_text_color="*neutral_600",
            input_placeholder_color="*neutral_500",
            input_placeholder_color_dark="*neutral_400",
            link_text_color_dark="*primary_300",
        )
        hosts = (*LOOPBACK, *filter(None, [seen.hostname])) if local else None
        try:
            _, address, link = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=auth,
                root_path=url and url.rstrip("/"),
                inbrowser=open_browser,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=max_upload,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                theme=theme,
                css=(Path(__file__).parent / "style.css").read_text("utf-8"),
                app_kwargs={
                    "middleware": [Middleware(Guard, hosts=hosts, public=seen.netloc)],
                    "docs_url": None,
                    "redoc_url": None,
                },
            )
        except OSError as error:
            where = f"port {port}" if port else "any port from 7860 to 7959"
            raise RobustSRError(
                f"cannot listen on {host}, {where}: it is taken or not allowed, try another --port"
            ) from error
        threading.Thread(target=_sweep, args=(desk, stop), daemon=True).start()
        yield url or link or address
    finally:
        stop.set()
        if page is not None:
            batches.close()
            desk.close()
            page.close(verbose=False)
        shutil.rmtree(root, ignore_errors=True)
        _let_go(lock)


def _check_host(host: str) -> None:
    """Gradio would try a hundred ports."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listening:
            listening.bind(place)
    except OSError as error:
        raise RobustSRError(
            f"cannot listen on {host}: {error.strerror or error}: give an address of this machine"
        ) from error


def _sweep(desk: Desk, stop: threading.Event) -> None:
    while not stop.wait(SWEEP):
        desk.sweep()


def _root() -> tuple[Path, FileLock]:
    """A new folder for this process alone, and its lock; those that ended processes left behind go."""
    folder = Path(tempfile.gettempdir()).resolve()
    for path in folder.glob(f"{PREFIX}*.lock"):
        with suppress(OSError, Timeout):  # another user's, or of a process that runs
            lock = FileLock(path, timeout=0)
            lock.acquire()
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            _let_go(lock)
    root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=folder))
    lock = FileLock(f"{root}.lock", timeout=0)
    lock.acquire()
    return root, lock


def _let_go(lock: FileLock) -> None:
    """Gives a folder's lock back; its file goes, unless something of the folder could not be deleted."""
    lock.release()
    path = Path(lock.lock_file)
    if not path.with_suffix("").exists():
        with suppress(OSError):
            path.unlink()


def wait() -> None:
    """Until Ctrl-C, or a request to end; from then on neither disturbs this process, which is about to end."""
    ended = threading.Event()
    for name in ("SIGTERM", "SIGBREAK"):  # the second is Windows' alone
        if number := getattr(signal, name, None):
            signal.signal(number, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        pass
    finally:  # once is enough: another would leave pictures behind
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
