"""C code for processors (kernels.c), compiled on the machine it runs on, once, and kept in ROBUSTSR_HOME.

Where there is no C compiler, callers do the same with torch, only slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .catalogue import home

Comparators = Sequence[tuple[int, int, bool, bool]]
PANEL = 16  # `convolve` takes channel counts that are multiples of it


def available() -> bool:
    """Whether the functions below can be called."""
    return _library() is not None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None = None) -> Tensor:
    """3x3 convolution of ``x (N, cin, h, w)``, zero padding, to ``(N, cout, h, w)``, channels last, float32.

    ``weight (cout / PANEL, 36, cin, PANEL)``: see `winograd.transformed`. ``slope (cout,)``: of a PReLU behind it.
    """
    n, cin, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty((n, len(bias), h, w), memory_format=torch.channels_last)
    places = [None if t is None else t.data_ptr() for t in (x, y, weight, bias, slope)]
    _run("conv3x3", x, *places, n, h, w, cin, len(bias))
    return y


def median(values: Sequence[Tensor], comparators: Comparators, middle: Sequence[int]) -> Tensor:
    """What `smoothing.median` gives for contiguous float32 tensors."""
    out = torch.empty_like(values[0])
    pointers = (ctypes.c_void_p * len(values))(*(v.data_ptr() for v in values))
    network = torch.tensor([[int(c) for c in row] for row in comparators], dtype=torch.int32)
    places = (pointers, out.data_ptr(), len(values), out.numel(), network.data_ptr(), len(network))
    _run("median", values[0], *places, middle[0], middle[-1])
    return out


def _run(name: str, like: Tensor, *arguments: Any) -> None:  # noqa: ANN401 - what C takes
    if like.dtype != torch.float32 or like.device.type != "cpu":
        raise TypeError(f"{name} takes float32 on the processor, not {like.dtype} on {like.device}")
    if getattr(_library(), name)(*arguments, torch.get_num_threads()):
        raise MemoryError(f"out of memory in {name}")


@functools.cache
def _library() -> Any:  # noqa: ANN401 - ctypes is not typed
    """The compiled kernels.c; None: there is no compiler, or it fails."""
    source = resources.files(__package__).joinpath("kernels.c").read_bytes()
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None or os.name != "posix":
        return None
    native = "-march=native" if platform.machine() in ("x86_64", "i686") else "-mcpu=native"
    flags = ["-O3", native, "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
    processor = [platform.machine(), platform.processor(), sorted(torch.cpu.get_capabilities().items())]
    name = hashlib.sha256(repr([source, compiler, flags, processor]).encode()).hexdigest()[:16]
    path = home() / "compiled" / f"kernels-{name}.so"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                code, made = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
                code.write_bytes(source)
                command = [*compiler.split(), *flags, "-o", str(made), str(code)]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                made.replace(path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    address, number, small = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.conv3x3.argtypes = (*[address] * 5, *[number] * 5, small)
    library.median.argtypes = (address, address, number, number, address, number, small, small, small)
    return library
