"""ONNX files as upscalers, run by onnxruntime; those that robustsr exported say what they are, smoothing included."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .catalogue import Entry, catalogue
from .engine import is_out_of_memory
from .files import sha256
from .onnx_facts import Facts
from .resample import grown
from .tiling import EFFECTIVE_CONTEXT, FEATHER, aligned
from .types import RobustSRError, refuse_others

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, eq=False)
class OnnxNetwork:
    """An ONNX model as an upscaler, run by onnxruntime on ``provider``. Not differentiable.

    ``facts``: what it says of itself, if robustsr exported it. ``seed``: of the noise, if it smooths by itself.
    """

    session: Any
    scale: int
    name: str
    digest: str
    device: torch.device
    provider: str
    fixed_size: tuple[int, int] | None = None
    fixed_batch: int | None = None
    dtype: Any = np.float32
    precision: str = "fp32"
    entry: Entry | None = None
    facts: Facts | None = None
    multiple: int = 1  # sizes it takes: multiples of this, at least min_size; others are padded by reflection
    min_size: int = 1
    seed: int = 0
    engine: str = "onnxruntime"
    square: ClassVar[bool] = False
    before: ClassVar[None] = None  # no denoiser goes before it
    as_loaded: ClassVar[bool] = True  # nobody changes weights in a session

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        refuse_others(x)
        if x.requires_grad and torch.is_grad_enabled():
            raise RobustSRError(f"{self.name} is an ONNX model, which gives no gradients: take a checkpoint")
        h, w = x.shape[-2:]
        high, wide = self.fixed_size or (-(-max(n, self.min_size) // self.multiple) * self.multiple for n in (h, w))
        if not len(x):
            return x.new_empty(0, 3, h * self.scale, w * self.scale)
        if (high, wide) != (h, w):
            x = grown(x, high - h, wide - w)
        noise = _noise(self.seed, len(x), origin) if self.smooths else {}
        n = self.fixed_batch or len(x)  # ours have no fixed one
        full = torch.cat([x, x[-1:].expand(-len(x) % n, -1, -1, -1)]) if len(x) % n else x
        batches = full.detach().cpu().numpy().astype(self.dtype)
        try:
            made = [_run(self.session, batches[i : i + n], noise) for i in range(0, len(batches), n)]
        except Exception as error:  # as in _session
            if is_out_of_memory(error):
                raise
            raise RobustSRError(f"{self.name} does not run on {wide}x{high} pixels: {error}") from None
        sr = np.concatenate(made)
        if sr.shape[-2:] != (high * self.scale, wide * self.scale):
            raise RobustSRError(f"{self.name} makes {sr.shape[-1]}x{sr.shape[-2]} pixels of {wide}x{high}")
        return torch.from_numpy(sr[: len(x)]).to(x.device, torch.float32)[..., : h * self.scale, : w * self.scale]

    @property
    def smooths(self) -> bool:
        """Whether the graph adds noise and reduces by itself."""
        return bool(self.facts and self.facts.reduce)

    def with_precision(self, precision: str) -> OnnxNetwork:
        """The model itself: its number format is part of the file."""
        return self

    @property
    def exact(self) -> bool:
        """Whether ``context`` is the radius; only its facts can tell."""
        return self.facts is not None and self.facts.exact

    @property
    def context(self) -> int:
        """What its facts say, else effective: a network that only takes small pictures has to do with less."""
        if self.facts is not None:
            return self.facts.context
        return min(EFFECTIVE_CONTEXT, min(self.fixed_size) // 5 if self.fixed_size else EFFECTIVE_CONTEXT)

    @property
    def feather(self) -> int:
        """LR pixels over which its tiles fade into each other; even, and two of them fit beside the contexts."""
        if self.exact:
            return 0
        room = (min(self.fixed_size) - 2 * self.context) // 4 if self.fixed_size else FEATHER
        return min(FEATHER, room) // 2 * 2

    @property
    def align(self) -> int:
        """Its tiles should begin at multiples of so many LR pixels; of fewer where it takes one size that is small."""
        if self.exact or not self.fixed_size:
            return 1 if self.exact else aligned(self.multiple)
        room = min(self.fixed_size) - 2 * self.context - self.feather
        return next((a for a in (32, 16, 8, 4, 2) if room // a * a >= max(1, 2 * self.feather)), 1)


def load_onnx(path: Path, name: str, entry: Entry | None, device: torch.device) -> OnnxNetwork:
    """RobustSRError: it cannot be read, is no super-resolution model, or its provider does not work here."""
    session = _session(path, device)
    facts = Facts.read(session.get_modelmeta().custom_metadata_map)
    noise = _noise(0, 1, None) if facts and facts.reduce else {}
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    colours = len(shape) == 4 and (shape[1] == 3 or not (isinstance(shape[1], int) or shape[3] == 3))
    if len(inputs) != 1 + len(noise) or not colours:
        takes = ", ".join(f"{given.name} {given.shape}" for given in inputs) or "nothing"
        raise RobustSRError(f"{path} takes {takes}, not one input of shape (N, 3, h, w)")
    dtype = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
    batch, _, *sides = (n if isinstance(n, int) else None for n in shape)
    largest = 0.0  # of what it last made of a middle gray

    def enlarges(h: int, w: int, n: int = batch or 1) -> int:
        try:
            sr = _run(session, np.full((n, 3, h, w), 0.5, dtype), noise)
        except Exception as error:  # as in _session; memory that is short, too
            raise RobustSRError(
                f"{path} fails on a picture of {w}x{h}, on which it was tried: {str(error).strip()}"
            ) from None
        if not isinstance(sr, np.ndarray):
            raise RobustSRError(f"{path} gives no picture, but a {type(sr).__name__}")
        scale: int = sr.shape[-1] // w if sr.ndim == 4 else 0
        if scale < 1 or sr.shape != (n, 3, h * scale, w * scale):
            raise RobustSRError(f"{path} maps {(n, 3, h, w)} to {sr.shape}: not a super-resolution model")
        nonlocal largest
        largest = np.abs(sr).max()
        return scale

    if any(sides):
        fixed = sides[0] or 64, sides[1] or 64
        if min(fixed) < 16:
            raise RobustSRError(f"{path} takes pictures of {fixed[1]}x{fixed[0]} only: too small to be tiled")
        scale, multiple, least = enlarges(*fixed), 1, 1
    elif facts is not None:
        fixed, multiple, least = None, 1, facts.least
        scale = enlarges(max(16, least), max(16, least))
    else:
        scale, multiple, least = _sizes(enlarges)
        fixed = None if multiple else (least, least)
    if largest > 16:  # what is not a number, each picture is told
        raise RobustSRError(f"{path} gives up to {largest:.4g} for gray of 0.5: it must give [0, 1]")
    if batch is None and facts is None:
        try:
            enlarges(least, least, n=2)
        except RobustSRError:  # a number that is fixed inside; of one size they come one by one anyway
            batch = 1
    if facts is not None and entry is None:  # its smoothing defaults are those of the model it was made from
        entry = next((e for e in catalogue().values() if e.sha256 == facts.sha256), None)
    precision = "fp16" if dtype == np.float16 or (facts and facts.precision == "fp16") else "fp32"
    return OnnxNetwork(
        session,
        scale,
        name,
        _digest(path),
        device,
        PROVIDERS[device.type],
        fixed,
        batch,
        dtype,
        precision,
        entry,
        facts,
        multiple or 1,
        least,
    )


def _session(path: Path, device: torch.device) -> Any:  # noqa: ANN401 - onnxruntime is not typed
    import onnxruntime

    if device.type not in PROVIDERS:
        raise RobustSRError(f"ONNX models run on cpu or cuda, not on {device}")
    wanted = PROVIDERS[device.type]
    if wanted not in onnxruntime.get_available_providers():
        raise RobustSRError(f"this onnxruntime has no {wanted}: pip install onnxruntime-gpu, or use --device cpu")
    # HEURISTIC: otherwise every new shape is timed, and what is fastest may differ from run to run.
    cuda = {"device_id": device.index or 0, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    options = cuda if device.type == "cuda" else {}
    onnxruntime.set_default_logger_severity(4)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()  # a worker's share of its machine
    _stay_inside(path)
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=[(wanted, options)], enable_fallback=0)
    except Exception as error:  # onnxruntime raises its own kinds, unrelated to each other
        raise RobustSRError(f"{path} cannot be read as an ONNX model: {error}") from None
    if session.get_providers()[0] != wanted:
        raise RobustSRError(
            f"onnxruntime fell back to {session.get_providers()[0]}: {wanted} does not work here: use --device cpu"
        )
    return session


def _sizes(enlarges: Callable[[int, int], int]) -> tuple[int, int, int]:
    """The scale of a model that says nothing of sizes; what its sides are multiples of, 0 if it takes one size only;
    and that side, or about how many pixels it takes at least. Found out by trying.

    ``enlarges``: raises RobustSRError where one fails. RobustSRError: all do.
    """
    for multiple in (*range(1, 25), 28, 32, 36, 40, 48, 56, 64, 96, 128):
        n = -(-64 // multiple)
        low, high = multiple * n, multiple * (n + 1)  # which have no larger divisor in common
        with contextlib.suppress(RobustSRError):
            if (scale := enlarges(low, high)) != enlarges(high, low):
                continue
            for side in (multiple << k for k in range(n.bit_length())):
                with contextlib.suppress(RobustSRError):
                    if enlarges(side, side) == scale:
                        return scale, multiple, side
            return scale, multiple, low
    failed: list[RobustSRError] = []
    for side in (64, 48, 96, 128, 192, 256, 512):
        try:
            return enlarges(side, side), 0, side
        except RobustSRError as error:
            failed.append(error)
    raise RobustSRError(f"{failed[0]}; nor on others, up to {side}x{side}")


def outside(path: Path) -> list[str]:
    """The files besides ``path`` in which an ONNX model keeps weights, by their names from its folder."""
    import onnx

    found = set[str]()

    def look(message: Any) -> None:  # noqa: ANN401 - protobuf's messages: tensors are in nodes and subgraphs, too
        if isinstance(message, onnx.TensorProto):
            found.update(pair.value for pair in message.external_data if pair.key == "location")
            return
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                for part in value if isinstance(value, Iterable) else [value]:
                    look(part)

    look(onnx.load(path, load_external_data=False))
    return sorted(found)


def _stay_inside(path: Path) -> None:
    """RobustSRError: the model keeps weights outside of its folder, and so would read any file that the user may.

    Where the file is a link, they may lie beside what it leads to, as in caches of model hubs.
    """
    try:
        folders = path.parent.resolve(), path.resolve().parent
        found = [(name, (path.parent / name).resolve()) for name in outside(path)]
    except Exception as error:  # protobuf's, of what is no ONNX file; a name that is none
        raise RobustSRError(f"{path} cannot be read as an ONNX model: {error}") from None
    for name, place in found:
        if not any(place.is_relative_to(folder) for folder in folders):
            raise RobustSRError(f"{path} keeps weights outside of its folder, in {name}: put them beside it")


def _digest(path: Path) -> str:
    """The sha256 of the file; where it keeps weights in files of their own, of the digests of all."""
    digests = [sha256(path), *(sha256(path.parent / name) for name in outside(path))]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _run(session: Any, x: Any, others: dict[str, Any]) -> Any:  # noqa: ANN401 - onnxruntime is not typed
    return session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: x, **others})[0]


def _noise(seed: int, n: int, origin: Tensor | None) -> dict[str, Any]:
    """What a smoothed export takes besides n pictures."""
    places = np.zeros((n, 2), np.int64) if origin is None else origin.cpu().numpy()
    return {"seed": np.array(seed % 2**64, np.uint64).view(np.int64), "origin": places}
