"""C code for processors (kernels.c), compiled on the machine it runs on, once, and kept in ROBUSTSR_HOME. Linux only.

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
import sys
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


def compiler() -> str | None:
    """The command that compiles them: ROBUSTSR_CC, gcc or cc. None: there is none, or this is not Linux."""
    found = os.environ.get("ROBUSTSR_CC") or next(filter(shutil.which, ("gcc", "cc")), None)
    return found if sys.platform == "linux" else None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None = None) -> Tensor:
    """3x3 convolution of ``x (N, cin, h, w)``, zero padding, to ``(N, cout, h, w)``, channels last, float32.

    ``weight (cout / PANEL, 36, cin, PANEL)``: see `winograd.transformed`. ``slope (cout,)``: of a PReLU behind it.
    """
    n, cin, h, w = x.shape
    cout = len(bias)
    panels = weight.shape == (cout // PANEL, 36, cin, PANEL) and cin % PANEL == cout % PANEL == 0
    if not panels or (slope is not None and len(slope) != cout):
        raise ValueError(f"weights {tuple(weight.shape)} are not for {cin} to {cout} channels")
    x, bias = x.contiguous(memory_format=torch.channels_last), bias.contiguous()
    slope = None if slope is None else slope.contiguous()
    y = torch.empty((n, cout, h, w), dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    places = [None if t is None else _address(t) for t in (x, y, weight, bias, slope)]
    _run("conv3x3", *places, n, h, w, cin, cout)
    return y


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of `convolve` with respect to its transformed weights: ``(36, cin, cout)``, float32.

    From its input ``x (N, cin, h, w)`` and the ``gradient (N, cout, h, w)`` of its output; in the order of G w G^T.
    """
    n, cin, h, w = x.shape
    cout = gradient.shape[1]
    if gradient.shape != (n, cout, h, w) or cin % PANEL or cout % PANEL:
        raise ValueError(f"a gradient {tuple(gradient.shape)} is not of an input {tuple(x.shape)}")
    x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
    workers = max(1, min(torch.get_num_threads(), n * (h // 4) * (w // 4) // 24))  # each has sums of its own
    parts = torch.zeros(workers, 36, cin, cout, dtype=torch.float32, device="cpu")
    _run("conv3x3_weights", *map(_address, (x, gradient, parts)), n, h, w, cin, cout, threads=workers)
    return parts.sum(0)


def prelu_gradient(z: Tensor, gradient: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The backward pass of a PReLU: the gradients of its input ``z (N, channels, h, w)`` and ``slope (channels,)``.

    From the ``gradient`` of its output; all float32.

    ``channels``: a multiple of PANEL.
    """
    channels = z.shape[1]
    if gradient.shape != z.shape or slope.shape != (channels,) or channels % PANEL:
        raise ValueError(f"a gradient {tuple(gradient.shape)} and slopes {tuple(slope.shape)} are not of {z.shape}")
    z, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (z, gradient))
    slope = slope.contiguous()
    dz, workers = torch.empty_like(z), torch.get_num_threads()
    parts = torch.zeros(workers, channels, dtype=torch.float32, device="cpu")
    _run(
        "prelu_back", *map(_address, (z, gradient, slope, dz, parts)), z.numel() // channels, channels, threads=workers
    )
    return dz, parts.sum(0)


def median(values: Sequence[Tensor], comparators: Comparators, middle: Sequence[int]) -> Tensor:
    """What `smoothing.median` gives for flat float32 tensors."""
    values = [v.contiguous() for v in values]  # a flat one may have gaps
    out = torch.empty(len(values[0]), dtype=torch.float32, device="cpu")
    network = (ctypes.c_int * (4 * len(comparators)))(*(int(c) for row in comparators for c in row))
    pointers = (ctypes.c_void_p * len(values))(*(_address(v) for v in values))
    counts = (len(values), len(out), network, len(comparators), middle[0], middle[-1])
    _run("median", pointers, _address(out), *counts)
    return out


def philox(seed: int, blocks: range, channels: int, h: int, w: int, origin: Tensor) -> Tensor:
    """The upper 24 bits of the words of `noise.philox`, as floats: ``(4 * len(blocks), N, channels, h, w)``.

    ``origin (N, 2)``, int64: rows and columns in [0, 2^32 - h or w].
    """
    out = torch.empty(4 * len(blocks), len(origin), channels, h, w, dtype=torch.float32, device="cpu")
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    origin = origin.contiguous()
    places = (_address(out), _address(origin, torch.int64))
    _run("philox", *places, len(origin), channels, h, w, blocks.start, len(blocks), *key)
    return out


def count(draws: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Adds ``draws (n, size)``, float32, clamped to [0, 1], to ``sums (size,)``, float64, and one to
    ``counts (size, 256)``, int16 or int32, for the level of each."""
    n, size = draws.shape
    wide = counts.dtype == torch.int32
    if counts.shape != (size, 256) or sums.shape != (size,) or not counts.is_contiguous() or not sums.is_contiguous():
        raise ValueError(f"counts {tuple(counts.shape)} are not for {size} values")
    draws = draws.contiguous()
    places = (_address(sums, torch.float64), _address(counts, torch.int32 if wide else torch.int16))
    _run("count", _address(draws), n, size, *places, int(wide))


def _run(name: str, *arguments: Any, threads: int | None = None) -> None:  # noqa: ANN401 - what C takes
    if getattr(_library(), name)(*arguments, threads or torch.get_num_threads()):
        raise MemoryError(f"out of memory in {name}")


def _address(tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
    if tensor.dtype != dtype or tensor.device.type != "cpu":
        raise TypeError(f"C code takes {dtype} on the processor, not {tensor.dtype} on {tensor.device}")
    return tensor.data_ptr()


@functools.cache
def _library() -> Any:  # noqa: ANN401 - ctypes is not typed
    """The compiled kernels.c; None: there is no compiler, or it fails."""
    if (words := compiler()) is None:
        return None
    native = "-march=native" if platform.machine() in ("x86_64", "i686") else "-mcpu=native"
    command = [*words.split(), "-O3", native, "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
    source = resources.files(__package__).joinpath("kernels.c").read_bytes()
    try:
        processor = [platform.platform(), platform.libc_ver(), sorted(torch.cpu.get_capabilities().items())]
        name = hashlib.sha256(repr([source, command, processor]).encode()).hexdigest()[:16]
        path = home() / "compiled" / f"kernels-{name}.so"
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                _compile(command, source, Path(folder)).replace(path)
        if _only_ours(path.parent) and _only_ours(path):  # it will be run
            return _declared(path)
    except subprocess.SubprocessError:  # it would fail elsewhere, too
        return None
    except (OSError, RuntimeError):  # no home, not writable, made for another system
        pass
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _declared(_compile(command, source, Path(folder)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(command: list[str], source: bytes, folder: Path) -> Path:
    code, made = folder / "kernels.c", folder / "kernels.so"
    code.write_bytes(source)
    subprocess.run([*command, "-o", str(made), str(code)], check=True, capture_output=True, timeout=120)
    made.chmod(0o700)  # whatever the umask: see _only_ours
    return made


def _only_ours(path: Path) -> bool:
    """Whether nobody else can have put it there."""
    state = path.stat()
    return state.st_uid == os.getuid() and not state.st_mode & 0o022


def _declared(path: Path) -> Any:  # noqa: ANN401
    library = ctypes.CDLL(str(path))
    address, number, small, word = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_uint32
    library.conv3x3.argtypes = (*[address] * 5, *[number] * 5, small)
    library.conv3x3_weights.argtypes = (*[address] * 3, *[number] * 5, small)
    library.prelu_back.argtypes = (*[address] * 5, *[number] * 2, small)
    library.median.argtypes = (address, address, number, number, address, number, small, small, small)
    library.philox.argtypes = (address, address, *[number] * 6, word, word, small)
    library.count.argtypes = (address, number, number, address, address, small, small)
    return library
