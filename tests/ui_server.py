"""A real server of the browser interface, in a process of its own, as `robustsr ui` starts it."""

import os
import re
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def running(home, *options, device="cpu"):
    """Yields (address, process); interrupts it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["ui", "--no-browser", "--port", str(port), "--device", device, *options]
    environment = {**os.environ, "ROBUSTSR_HOME": str(home), "ROBUSTSR_WEIGHTS": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "robustsr", *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    said = ""
    try:
        for line in process.stderr:
            said += line
            if found := re.search(r"robustsr is at (\S+?)/? \(", said):
                break
        else:
            raise AssertionError(said)
        yield found[1], process
    finally:
        if process.poll() is None:
            process.send_signal(2)
        process.communicate(timeout=180)


def folders(process):
    """What the server keeps on disk."""
    return [p for p in Path(tempfile.gettempdir()).glob(f"robustsr-ui-{process.pid}-*") if p.is_dir()]
