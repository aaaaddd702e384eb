"""Weights files to networks, in the terms of spandrel: the architectures it knows, and those of robustsr alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import Call, Denoised, parts, sizes_of_both, unet_like
from .torchvision_schema import import_torchvision
from .types import RobustSRError

OVERWRITING = {"PLKSR"}  # spandrel's architectures that write over what their own gradients need, out of training
LONGEST = 500  # characters of what a file says of itself, which may hold a picture


def read(path: Path) -> Any:  # noqa: ANN401 - spandrel is not typed
    """The network in a ``.pth``, ``.ckpt`` or ``.safetensors`` file; no code in it is run.

    RobustSRError: it is damaged, holds more than weights, or no architecture that maps one picture to one.
    """
    import_torchvision()
    import pickle

    import spandrel
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's own words advise to trust it
        more = f"holds more than weights ({asked[1]})" if asked else "is damaged, or holds more than weights"
        raise RobustSRError(f"{path} was refused, and nothing in it was run: it {more}") from None
    except Exception as error:  # readers of damaged files raise whatever comes
        words = str(error) if " " in str(error) else "it is damaged, or something else"  # not a mere number
        raise RobustSRError(f"{path} cannot be read as a checkpoint: {words}") from error
    try:
        descriptor = described(spandrel.canonicalize_state_dict(weights))
    except (spandrel.UnsupportedModelError, AttributeError, TypeError):  # the last two: not a state dict at all
        raise RobustSRError(f"{path} holds no architecture that spandrel {spandrel.__version__} knows") from None
    except (KeyError, RuntimeError, ValueError) as error:  # the right names with the wrong shapes
        raise RobustSRError(f"{path} does not fit the architecture its names tell of: {error}") from None
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise RobustSRError(f"{path} is not a model that maps one picture to one picture")
    return descriptor


def origin(path: Path) -> str:
    """What a ``.safetensors`` file says of itself, as the recipe and steps of a run: one printable line, cut short."""
    from safetensors import safe_open

    if path.suffix.lower() != ".safetensors":
        return ""
    with safe_open(path, "pt") as file:
        said = ", ".join(f"{key} {value}" for key, value in sorted((file.metadata() or {}).items()))
    line = "".join(c if c.isprintable() else " " for c in said)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def described(weights: dict[str, Tensor]) -> Any:  # noqa: ANN401 - spandrel is not typed
    """The network that a state dict is of, with its weights, in the terms of spandrel.

    spandrel's errors: it is of no architecture that is known, or does not fit the one that its names tell of.
    """
    descriptor = _described(weights)
    if descriptor._call_fn.__module__ == type(descriptor).__module__:  # spandrel's own, for most
        overwriting = descriptor.architecture and descriptor.architecture.id in OVERWRITING
        descriptor._call_fn = kept if overwriting else nn.Module.__call__
    elif descriptor._call_fn is not nn.Module.__call__:
        descriptor._call_fn = Called(descriptor._call_fn, descriptor.model)
    return descriptor


def kept(module: nn.Module, x: Tensor) -> Tensor:
    """The output, with all that gradients need of the way there kept as it was then."""
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        out: Tensor = module(x)
    return out


class Called:
    """How an architecture is called that has a function of its own for that: pickled by its weights, which find it."""

    def __init__(self, function: Call, model: nn.Module) -> None:
        self._function, self._model = function, model

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        return self._function(module, x)

    def __deepcopy__(self, memo: dict[int, Any]) -> Called:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _call_of, (self._model,)


def _call_of(model: nn.Module) -> Any:  # noqa: ANN401
    return described(dict(model.state_dict()))._call_fn


def _described(weights: dict[str, Tensor]) -> Any:  # noqa: ANN401
    import_torchvision()
    import spandrel

    if both := parts(weights):
        first, second = (described(part) for part in both)
        if first.scale != 1:
            raise ValueError(f"the denoiser is x{first.scale}")
        each = ((s.minimum, s.multiple_of, s.square) for s in (first.size_requirements, second.size_requirements))
        together = spandrel.SizeRequirements(*sizes_of_both(*each))
        net: nn.Module = Denoised(first.model, second.model, first._call_fn, second._call_fn)
        formats = (first.supports_half and second.supports_half, first.supports_bfloat16 and second.supports_bfloat16)
        return spandrel.ImageModelDescriptor(
            net,
            net.state_dict(),
            None,
            "SR",
            [],
            *formats,
            second.scale,
            first.input_channels,
            second.output_channels,
            together,
        )
    if unet := unet_like(weights):
        sizes = spandrel.SizeRequirements(multiple_of=unet.multiple)
        return spandrel.ImageModelDescriptor(unet, weights, None, "Restoration", [], True, True, 1, 3, 3, sizes)
    return spandrel.ModelLoader("cpu").load_from_state_dict(weights)
