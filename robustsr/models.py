"""Weights to upscalers: checkpoints, ONNX files, bicubic; and a denoiser before an upscaler."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from os import PathLike

import torch
from torch import nn

from . import checkpoints, copies, kernels, winograd
from .architectures import Denoised, sizes_of_both
from .catalogue import BICUBIC, default_model, find
from .engine import auto_precision, check_precision, full_float32, memory_format, resolve_device
from .files import sha256
from .network import Network
from .onnx_facts import Facts
from .onnx_network import OnnxNetwork, load_onnx
from .probes import photograph_like, receptive_radius
from .resample import Bicubic
from .types import RobustSRError

Loaded = Network | OnnxNetwork


def check_as_loaded(network: Loaded) -> None:
    """RobustSRError: the weights are no longer those of the file that is to be named."""
    if not network.as_loaded:
        raise RobustSRError(f"the weights of {network.name} were changed: save them, and take what is loaded of that")


def noise_inside(network: Loaded) -> Facts | None:
    """How a model smooths by itself, as a smoothed export does; None: it does not."""
    return network.facts if isinstance(network, OnnxNetwork) and network.smooths else None


def seeded(network: Loaded, seed: int) -> Loaded:
    """The same model with another seed of the noise that it makes itself, if it does."""
    return replace(network, seed=seed) if isinstance(network, OnnxNetwork) else network


def load(
    name_or_path: str | PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    denoise: str | PathLike[str] | None = None,
) -> Loaded:
    """Loads a model by catalogue name or by path (``.pth``, ``.safetensors``, ``.ckpt``, ``.onnx``), else the default.

    Checkpoints are read without running code in them. "bicubic" (x4) and "bicubic-x2", -x3 and -x8 are the baseline
    that needs none. ``precision`` "auto" is the device's fast format if the network stays within 4/255 of float32
    everywhere and within 1/255 on 99% of values, else float32. ``denoise``: a denoiser, named likewise, that runs
    before it (see `denoised`).
    """
    with torch.inference_mode(False):  # gradients are asked for here, and of what is loaded
        network = _load(default_model() if name_or_path is None else name_or_path, str(device), precision)
        if denoise is None:
            return network
        both = denoised(_load(denoise, str(device), precision), network)
    exact = both.with_precision("fp32")
    if precision != "auto" or both is exact or faithful(both, exact):
        return both
    copies.forget(both.net)
    return exact


def denoised(denoiser: Loaded, network: Loaded) -> Network:
    """f(D(x)) as one network, what denoised smoothing smooths (Salman et al. 2020): D ``denoiser``, f ``network``.

    Runs in the number format of both, float32 where they differ. RobustSRError: D is not of scale 1, is known to be no
    denoiser, or one is ONNX.
    """
    if denoiser.scale != 1:
        raise RobustSRError(f"{denoiser.name} is x{denoiser.scale}: a denoiser is a model of scale 1")
    if isinstance(denoiser, Network) and denoiser.entry and denoiser.entry.use != "denoise":
        raise RobustSRError(f"{denoiser.name} is no denoiser: it is to {denoiser.entry.use}")
    if not isinstance(denoiser, Network) or not isinstance(network, Network):
        onnx = network.name if isinstance(denoiser, Network) else denoiser.name
        raise RobustSRError(f"{onnx} is an ONNX model: a denoiser is a checkpoint, and goes before one")
    least, multiple, square = sizes_of_both(*((n.min_size, n.multiple, n.square) for n in (denoiser, network)))
    entry, licences = network.entry, [n.entry.licence if n.entry else "unknown" for n in (network, denoiser)]
    both = Network(
        Denoised(denoiser.net, network.net, denoiser.call, network.call),
        nn.Module.__call__,
        network.scale,
        denoiser.context + network.context,
        denoiser.exact and network.exact,
        f"{network.name} after {denoiser.name}",
        hashlib.sha256(f"{network.digest} after {denoiser.digest}".encode()).hexdigest(),
        network.device,
        entry=entry
        and replace(entry, calibration=[], licence="; ".join(dict.fromkeys(licences))),  # calibrated was f alone
        multiple=multiple,
        min_size=least,
        square=square,
        before=(denoiser.name, denoiser.digest),
    )
    copies.own(both.net)
    if denoiser.winograd or network.winograd:
        both = quickened(both)
        copies.forget(denoiser.net)
        copies.forget(network.net)
    return both.with_precision(network.precision if network.precision == denoiser.precision else "fp32")


def _load(name_or_path: str | PathLike[str], device: str, precision: str) -> Loaded:
    if not isinstance(name_or_path, str | PathLike):
        raise RobustSRError(f"a model is loaded by its name or path, got {type(name_or_path).__name__}")
    name_or_path = os.fspath(name_or_path)
    check_precision(precision)
    where = resolve_device(device)
    if name_or_path in BICUBIC:
        return _bicubic(name_or_path, BICUBIC[name_or_path], where)
    path, entry = find(name_or_path)
    given = path.name if name_or_path.lower().endswith(".onnx") else path.stem  # a.onnx may be a's copy
    name = entry.name if entry else given
    if path.suffix.lower() == ".onnx":
        try:
            return load_onnx(path, name, entry, where)
        except RobustSRError:  # perhaps only torch has the GPU
            if device != "auto" or where.type == "cpu":
                raise
            return load_onnx(path, name, entry, torch.device("cpu"))
    full_float32()
    descriptor = checkpoints.read(path)
    module = descriptor.model.eval().requires_grad_(False).float()
    module = module.to(memory_format=memory_format(where))
    if descriptor.input_channels != 3 or descriptor.output_channels != 3:
        raise RobustSRError(
            f"{path} maps {descriptor.input_channels} to {descriptor.output_channels} channels: RGB models are needed"
        )
    requirements = descriptor.size_requirements
    call = descriptor._call_fn  # what the descriptor's own call does, which forbids gradients and clamps
    context, exact = receptive_radius(
        module, call, requirements.multiple_of, known=entry is not None
    )  # on the CPU, whose zeros are zeros
    module = module.to(where)
    network = Network(
        module,
        call,
        descriptor.scale,
        context,
        exact,
        name,
        entry.sha256 if entry else sha256(path),
        where,
        "fp32",
        entry,
        requirements.multiple_of,
        max(requirements.minimum, 1),
        requirements.square,
    )
    copies.own(module)
    if where.type == "cpu":
        network = quickened(network)
    if precision == "auto":
        fast = network.with_precision(auto_precision(where, winograd=network.winograd))
        supported = {"bf16": descriptor.supports_bfloat16, "fp16": descriptor.supports_half, "fp32": True}
        if fast is network or (supported[fast.precision] and faithful(fast, network)):
            return fast
        copies.forget(module)
        return network
    return network.with_precision(precision)


def _bicubic(name: str, scale: int, device: torch.device) -> Network:
    network = Network(Bicubic(scale), nn.Module.__call__, scale, 2, True, name, name, device)
    copies.own(network.net)
    return network


def quickened(network: Network) -> Network:
    """The network with fast convolutions where it has them and they change its output by 1e-5 at most; else itself."""
    if not (winograd.suits(network.net) and kernels.available()):
        return network
    try:
        fast, x = replace(network, winograd=True), photograph_like(32)
        with torch.inference_mode():
            exact = network(x)
            close = (fast(x) - exact).abs().max() <= 1e-5 * exact.abs().max().clamp(min=1)
    except Exception:  # an architecture that looks into its layers, which are others now
        return network
    if not close:
        copies.forget(network.net)
    return fast if close else network


def kept_slow(network: Loaded) -> bool:
    """Whether a network runs in float32 by torch's convolutions only because nothing compiles the fast ones."""
    if not isinstance(network, Network) or kernels.available():
        return False
    slow = (network.device.type, network.engine, network.precision) == ("cpu", "eager", "fp32")
    return slow and winograd.suits(network.net)


def faithful(fast: Network, exact: Network) -> bool:
    """Whether a fast format is good enough, judged on one picture: 99% of values within 1/255, all within 4/255."""
    x = photograph_like().to(fast.device)
    with torch.inference_mode():
        difference = (fast(x).clamp(0, 1) - exact(x).clamp(0, 1)).abs()
    return bool((difference <= 4 / 255).all() and (difference <= 1 / 255).float().mean() >= 0.99)
