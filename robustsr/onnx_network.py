"""ONNX files as upscalers, run by onnxruntime; those that robustsr exported say what they are, smoothing included."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .catalogue import Entry, catalogue
from .files import sha256
from .onnx_facts import Facts
from .resample import grown
from .tiling import ALIGNED, EFFECTIVE_CONTEXT, FEATHER
from .types import RobustSRError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
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
    seed: int = 0
    engine: str = "onnxruntime"

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        h, w = x.shape[-2:]
        least = self.facts.least if self.facts else 1
        high, wide = self.fixed_size or (max(h, least), max(w, least))
        if (high, wide) != (h, w):
            x = grown(x, high - h, wide - w)
        noise = _noise(self.seed, len(x), origin) if self.smooths else {}
        n = self.fixed_batch or len(x)  # ours have no fixed one
        full = torch.cat([x, x[-1:].expand(-len(x) % n, -1, -1, -1)]) if len(x) % n else x
        batches = full.detach().cpu().numpy().astype(self.dtype)
        sr = np.concatenate([_run(self.session, batches[i : i + n], noise) for i in range(0, len(batches), n)])
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
            return 1 if self.exact else ALIGNED
        room = min(self.fixed_size) - 2 * self.context - self.feather
        return next((a for a in (32, 16, 8, 4, 2) if room // a * a >= max(1, 2 * self.feather)), 1)


def load_onnx(path: Path, name: str, entry: Entry | None, device: torch.device) -> OnnxNetwork:
    """RobustSRError: it cannot be read, is no super-resolution model, or its provider does not work here."""
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
        session = onnxruntime.InferenceSession(str(path), settings, providers=[(wanted, options)])
    except Exception as error:  # onnxruntime raises its own kinds, unrelated to each other
        raise RobustSRError(f"{path} cannot be read as an ONNX model: {error}") from None
    if session.get_providers()[0] != wanted:
        raise RobustSRError(
            f"onnxruntime fell back to {session.get_providers()[0]}: {wanted} does not work here: use --device cpu"
        )
    facts = Facts.read(session.get_modelmeta().custom_metadata_map)
    noise = _noise(0, 1, None) if facts and facts.reduce else {}
    shape = session.get_inputs()[0].shape
    if len(session.get_inputs()) != 1 + len(noise) or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise RobustSRError(f"{path} takes {shape}, not one input of shape (N, 3, h, w)")
    fixed = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    batch = shape[0] if isinstance(shape[0], int) else None
    side = max(16, facts.least) if facts else 64
    h, w = fixed or (side, side)
    if min(h, w) < 16:
        raise RobustSRError(f"{path} takes pictures of {w}x{h} only: too small to be tiled")
    try:
        sr = _run(session, np.full((batch or 1, 3, h, w), 0.5, dtype), noise)
    except Exception as error:  # as above
        raise RobustSRError(f"{path} does not run on a picture of {w}x{h}: {error}") from None
    if sr.ndim != 4 or sr.shape[1] != 3 or sr.shape[2] % h or sr.shape[2] // h != sr.shape[3] // w:
        raise RobustSRError(f"{path} maps (1, 3, {h}, {w}) to {sr.shape}: not a super-resolution model")
    if facts is not None and entry is None:  # its smoothing defaults are those of the model it was made from
        entry = next((e for e in catalogue().values() if e.sha256 == facts.sha256), None)
    scale = sr.shape[2] // h
    precision = "fp16" if dtype == np.float16 or (facts and facts.precision == "fp16") else "fp32"
    return OnnxNetwork(
        session, scale, name, _digest(path), device, wanted, fixed, batch, dtype, precision, entry, facts
    )


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
