"""Networks, smoothed or not, to ONNX, and what says that the copy is true: onnxruntime against torch on three sizes."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, nn

from . import onnx_smoothing
from .engine import PRECISIONS
from .models import Loaded, check_as_loaded, faithful
from .network import Network
from .noise import ALGORITHM
from .onnx_facts import Facts
from .probes import photograph_like
from .settings import AutoSmoothing, Smoothing
from .smoothing import Smoothed
from .types import RobustSRError, Upscaler

OPSETS = range(13, 21)  # the last that torch writes by tracing
SIZES = ((1, 48, 40), (2, 37, 33), (3, 33, 34))  # batch, height, width: larger where a network takes none so small
SEED = 2**40 + 5
RTOL = 1e-2
ATOL = {"fp32": 1e-3, "fp16": 1e-2}


@dataclass(frozen=True)
class Check:
    """How far ONNX is from torch at most, in [0, 1] units, for an input of (batch, height, width)."""

    size: tuple[int, int, int]
    difference: float


@dataclass(frozen=True)
class Exported:
    """An ONNX file's content, what it says of itself, and what its verification found."""

    content: bytes
    facts: Facts
    checks: tuple[Check, ...]


def export(
    network: Loaded, smoothing: Smoothing | None = None, *, precision: str = "fp32", opset: int = 20
) -> Exported:
    """A network, or its smoothed version in one graph, as ONNX with dynamic batch, height and width.

    ``input (N, 3, h, w)`` to ``output``, float32 in [0, 1], not clamped. Smoothed, it has two inputs more: ``seed``,
    int64 without dimensions, and ``origin (N, 2)``, int64, see `robustsr.types.Upscaler`; each colour has noise of its
    own, also in gray pictures. Memory: see `onnx_smoothing`. ``precision`` "fp16" is that of weights and arithmetic
    inside the network; onnxruntime's CPU widens it to float32, so it is torch that judges fp16 arithmetic, as in
    `models.load`. RobustSRError: this cannot be exported, or the copy is not true.
    """
    network = _exportable(network, smoothing, precision, opset)
    names = ("input", "output") if smoothing is None else ("noisy", "sr")  # inside, others than outside
    traced = _trace(network, precision, opset, names)
    if precision == "fp16" and not faithful(network.with_precision("fp16"), network):
        raise RobustSRError(f"{network.name} strays from float32 in fp16: export it in fp32")
    graph = traced.graph
    facts = Facts(
        network.name,
        network.scale,
        network.context,
        network.exact,
        network.digest,
        network.entry.licence if network.entry else "unknown",
        precision,
        _least(network),
    )
    if smoothing is not None:
        how = {k: v for k, v in vars(smoothing).items() if k != "seed"}
        graph = onnx_smoothing.smoothed(graph, network.scale, **how)
        facts = replace(facts, **how, noise=ALGORITHM)
    model = helper.make_model(
        graph, producer_name="robustsr", opset_imports=traced.opset_import, ir_version=traced.ir_version
    )
    helper.set_model_props(model, facts.write())
    content = model.SerializeToString()
    return Exported(content, facts, verify(content, network, smoothing, ATOL[precision]))


def _least(network: Network) -> int:
    """The smallest side it takes in ONNX, where reflection needs more pixels than it adds."""
    return max(network.min_size, network.multiple // 2 + 1)


def _exportable(network: Loaded, smoothing: Smoothing | None, precision: str, opset: int) -> Network:
    """The network in float32. RobustSRError: it, or what is asked of it, cannot become an ONNX file."""
    if not isinstance(network, Network):
        raise RobustSRError(f"{network.name} is an ONNX model already: export takes a checkpoint")
    check_as_loaded(network)
    if isinstance(smoothing, AutoSmoothing):
        raise RobustSRError("--sigma auto follows each picture, an exported file cannot: give numbers")
    if smoothing is not None and smoothing.sigma == 0:
        raise RobustSRError("--sigma 0 is no smoothing: leave out --smooth")
    if precision not in ATOL:
        raise RobustSRError(f"--precision of an export is {' or '.join(ATOL)}, got {precision!r}")
    least = onnx_smoothing.LEAST_OPSET if smoothing is not None else OPSETS.start
    if not least <= opset < OPSETS.stop:
        raise RobustSRError(f"--opset must be {least} to {OPSETS.stop - 1} here, got {opset}")
    return network.with_precision("fp32")


class _Whole(nn.Module):
    """What is exported of a network: also the padding to the sizes it takes, and the number format inside."""

    def __init__(self, network: Network, precision: str) -> None:
        super().__init__()
        self.network, self.dtype = network, PRECISIONS[precision]
        self.module = copy.deepcopy(network.net).cpu().to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        (h, w), scale, multiple = x.shape[-2:], self.network.scale, self.network.multiple
        if multiple > 1:
            x = F.pad(x, (0, -w % multiple, 0, -h % multiple), "reflect")
        sr = self.network.call(self.module, x.to(self.dtype)).float()
        return sr[..., : h * scale, : w * scale] if multiple > 1 else sr


def _trace(network: Network, precision: str, opset: int, names: tuple[str, str]) -> onnx.ModelProto:
    """The network in ONNX, its input and output named. RobustSRError: torch cannot write it."""
    file, (first, last) = io.BytesIO(), names
    axes = {first: {0: "batch", 2: "height", 3: "width"}, last: {0: "batch", 2: "output_height", 3: "output_width"}}
    with _explained(f"torch cannot write {network.name} as ONNX {opset}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace makes constant: verification sees it
        torch.onnx.export(
            _Whole(network, precision).eval(),
            (photograph_like()[..., :64, :64],),
            cast(Any, file),  # said to be a path, which it must be for dynamo only
            dynamo=False,
            opset_version=opset,
            input_names=[first],
            output_names=[last],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


def verify(content: bytes, network: Network, smoothing: Smoothing | None, atol: float) -> tuple[Check, ...]:
    """Compares an ONNX file's content, run by onnxruntime on the CPU, with torch in float32 on three sizes.

    RobustSRError: a value differs by more than ``atol`` and 1% of it, or onnxruntime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    original: Upscaler = network
    if smoothing is not None:
        original = Smoothed(network, **vars(replace(smoothing, seed=SEED)))
    checks = []
    with _explained(f"onnxruntime cannot read {network.name} as ONNX"):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    picture, least = photograph_like(128).to(network.device), _least(network)
    for n, *sides in SIZES:
        h, w = (max(side, least) for side in sides)
        x = torch.cat([picture[..., 8 * i : 8 * i + h, :w] for i in range(n)])
        origin = torch.arange(2 * n, device=network.device).view(n, 2) * 100
        feeds = {"input": x.cpu().numpy()}
        if smoothing is not None:
            feeds |= {"seed": np.array(SEED), "origin": origin.cpu().numpy()}
        with torch.inference_mode():
            want = original(x, origin=origin).cpu().numpy()
        with _explained(f"onnxruntime cannot run {network.name} on a picture of {w}x{h}"):
            (got,) = session.run(["output"], feeds)
        if got.shape != want.shape:
            raise RobustSRError(f"{network.name} gives {got.shape} in onnxruntime, {want.shape} in torch: not exported")
        checks.append(Check((n, h, w), float(np.abs(got - want).max())))
        if not np.allclose(got, want, RTOL, atol):
            raise RobustSRError(
                f"{network.name} in onnxruntime is off torch by {checks[-1].difference:.2g} on a picture of {w}x{h} "
                f"({atol:.2g} and 1% are allowed): not exported"
            )
    return tuple(checks)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Says in a line what failed: torch and onnxruntime raise many kinds, unrelated to each other."""
    try:
        yield
    except Exception as error:
        raise RobustSRError(f"{what}: {(str(error) or type(error).__name__).splitlines()[0]}") from error
