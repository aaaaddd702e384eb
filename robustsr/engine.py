"""Where and in which precision networks run: devices, number formats, and what counts as out of memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import os
import platform
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .types import RobustSRError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """A device torch can use; ``precision`` is what ``auto`` means on it; ``memory`` in bytes, None if shared."""

    name: str
    description: str
    memory: int | None
    precision: str


def devices(*, winograd: bool = False) -> list[Device]:
    """The devices this torch can use, the one ``auto`` takes first. ``winograd``: see `auto_precision`."""
    found = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(_device(f"cuda:{i}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        found.append(_device("mps", "Apple GPU (Metal)", None))
    cpu = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return [*found, _device("cpu", f"{cpu}, {threads} thread{'s' * (threads != 1)}", None, winograd)]


def _device(name: str, description: str, memory: int | None, winograd: bool = False) -> Device:
    return Device(name, description, memory, auto_precision(torch.device(name), winograd=winograd))


def resolve_device(name: str) -> torch.device:
    """``auto`` (the first of ``devices()``), ``cpu``, ``cuda``, ``cuda:1``, ``mps``; an absent device is an error."""
    present = devices()
    if name == "auto":
        return torch.device(present[0].name)
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in [d.name for d in present]:
        listing = ", ".join(d.name for d in present)
        hint = unused_gpu() or "run `robustsr devices` to see what can be used"
        raise RobustSRError(f"no device {name!r} here (present: {listing}); {hint}")
    return torch.device(wanted)


def unused_gpu() -> str | None:
    """What to do about a GPU that this build of torch cannot use; None if there is none or it is used."""
    if torch.cuda.is_available():
        return None
    amd = glob.glob("/dev/kfd") or shutil.which("rocminfo")
    if not (amd or glob.glob("/dev/nvidia[0-9]*") or shutil.which("nvidia-smi")):
        return None
    vendor, index = ("AMD", "rocm7.2") if amd else ("NVIDIA", "cu130")
    if torch.version.cuda or torch.version.hip:
        return f"{vendor} GPU seen, but this build of torch ({torch.__version__}) cannot start it: check the driver"
    return (
        f"{vendor} GPU seen, CPU build of torch installed ({torch.__version__}): "
        f'pip install --force-reinstall "torch<2.14" torchvision --index-url https://download.pytorch.org/whl/{index}'
    )


def auto_precision(device: torch.device, *, winograd: bool = False) -> str:
    """The fastest number format that ``device`` computes in hardware and networks take well.

    ``winograd``: float32 is fast, too: faster than bfloat16 without matrix units.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return "bf16" if has.get("amx_bf16") or (has.get("avx512_bf16") and not winograd) else "fp32"
    return "fp32"


def memory_format(device: torch.device) -> torch.memory_format:
    """The order of pictures' and weights' values in which ``device`` convolves well.

    Metal's channels-last convolutions are wrong for slices in some releases of torch, and slow backwards.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def check_precision(name: str) -> str:
    """``name`` itself if it is ``auto`` or one of ``PRECISIONS``."""
    if name != "auto" and name not in PRECISIONS:
        raise RobustSRError(f"precision must be auto, {', '.join(PRECISIONS)}; got {name!r}")
    return name


def full_float32() -> None:
    """Makes float32 mean float32 for this process: no TF32 or bfloat16 in convolutions and matrix products.

    Whatever was set before, by torch's older switches or by its newer ones, which the older do not undo.
    """
    backends: Any = torch.backends  # of which torch's types leave out half
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = False  # else reading them may raise
    gpu = backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul
    for part in (*gpu, backends.mkldnn.conv, backends.mkldnn.matmul):
        part.fp32_precision = "ieee"


@contextlib.contextmanager
def buffers_kept() -> Iterator[None]:
    """Within, the memory of one layer's result is used again for the next one's, not fetched anew from the system.

    That is a tenth to a fifth of the time of a network on a processor. All of it is given back at the end; glibc, the
    only allocator that is asked, then keeps blocks up to 32 MB, and no longer adapts that limit by itself. It is left
    alone where MALLOC_... or GLIBC_TUNABLES variables set it. May be nested and used by several threads.
    """
    global _keeping
    libc = _glibc()
    try:
        with _lock:
            _keeping += 1
            if libc and _keeping == 1:
                libc.mallopt(_MMAP_MAX, 0)
                libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        yield
    finally:
        with _lock:
            _keeping -= 1
            if libc and _keeping == 0:
                libc.mallopt(_MMAP_MAX, 65536)  # the default, and as far as the others grow by themselves
                libc.mallopt(_MMAP_THRESHOLD, 32 << 20)
                libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
                libc.malloc_trim(0)


_lock, _keeping = threading.Lock(), 0
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h


@functools.cache
def _glibc() -> Any:  # noqa: ANN401 - ctypes is not typed
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return ctypes.CDLL(None) if sys.platform == "linux" and platform.libc_ver()[0] == "glibc" and not chosen else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: CUDA's, Metal's, the CPU allocator's, or Python's own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    ours = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    signs = (
        "out of memory",
        "allocate memory",
        "not enough memory",
        "status_alloc_failed",
        "find an engine to execute",
        "invalid buffer size",
    )
    return ours and any(sign in text for sign in signs)
