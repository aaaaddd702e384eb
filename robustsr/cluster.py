"""A Ray cluster: of this machine alone, made for a run, or one that is there already."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .types import RobustSRError

HERE = "local"  # the address that stands for a cluster of this machine alone, made for this run
# Read when ray is imported. Ray prints what happens in a cluster to standard output, which belongs to --json.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*", "RAY_BACKEND_LOG_LEVEL": "fatal"}
_UNREACHABLE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # on every system: its processes listen on 127.0.0.1
_IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # a cluster that does not answer is given 41 s, not 14 min


@contextmanager
def connected(address: str, processors: int | None = None) -> Iterator[Any]:
    """Ray, connected to a cluster while the block lasts; one that is connected already stays so.

    ``processors``: of one on this machine; None: all. RobustSRError: Ray is not installed, or no cluster is there.
    """
    os.environ.update(_QUIET | (_UNREACHABLE if address == HERE else _IMPATIENT))
    try:
        import ray
        import ray.data
    except ImportError:
        raise RobustSRError("--ray needs Ray, which is not installed: pip install 'robustsr[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        yield ray
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():  # Ray itself would ask for 40 s
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RobustSRError(f"no Ray cluster at {address}: {reason}") from error
    try:
        made = {"include_dashboard": False, "num_cpus": processors} if address == HERE else {}
        with _silent():
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **made)
    except (OSError, RuntimeError, ValueError) as error:
        hint = "" if address == HERE else " (one with tokens needs RAY_AUTH_MODE=token here)"
        raise RobustSRError(f"no Ray cluster at {address}: {error}{hint}") from error
    try:
        yield ray
    finally:
        with suppress(ImportError):  # of what an interrupt has left half imported; Ray tries again when Python ends
            ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Standard error stays empty, even from below Python, where Ray says that it was told to be; SIGTERM stays ours."""
    kept, handler = os.dup(2), signal.getsignal(signal.SIGTERM)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        with suppress(ValueError, TypeError):  # in another thread; where it was not Python's
            signal.signal(signal.SIGTERM, handler)
