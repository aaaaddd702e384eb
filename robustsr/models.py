"""Weights to upscalers: checkpoints of any architecture spandrel knows, the thesis' U-Net, and ONNX files."""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import architectures, kernels, winograd
from .catalogue import Entry, find, sha256
from .engine import PRECISIONS, auto_precision, check_precision, full_float32, resolve_device
from .onnx_facts import Facts
from .onnx_network import OnnxNetwork, load_onnx
from .resample import Bicubic, grown
from .tiling import EFFECTIVE_CONTEXT, FEATHER
from .torchvision_schema import import_torchvision
from .types import RobustSRError

BICUBIC = {"bicubic": 4, "bicubic-x2": 2, "bicubic-x3": 3}
LARGEST_EXACT = 48  # LR pixels: a larger receptive radius costs more than it gives


@dataclass(frozen=True)
class Network:
    """A loaded network as an upscaler. ``module`` holds float32 weights; it runs in ``precision`` on ``device``.

    ``winograd``: whether float32 runs by fast convolutions (see winograd.py) instead of torch's own.
    """

    module: nn.Module
    call: architectures.Call  # how its architecture is called
    scale: int
    context: int
    exact: bool
    name: str
    digest: str  # SHA-256 of the weights file
    device: torch.device
    precision: str = "fp32"
    entry: Entry | None = None
    multiple: int = 1  # sizes it takes: multiples of this, at least min_size; others are padded by reflection
    min_size: int = 1
    square: bool = False
    denoiser: Network | None = None  # runs before it, see `denoised`
    winograd: bool = False
    _runner: nn.Module = field(init=False, repr=False)

    def __post_init__(self) -> None:
        runner = self.module
        if self.precision != "fp32":
            runner = copy.deepcopy(self.module).to(PRECISIONS[self.precision])
        elif self.winograd:
            runner = winograd.accelerated(self.module) or runner
        object.__setattr__(self, "_runner", runner)

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        if self.denoiser is not None:
            x = self.denoiser(x)
        h, w = x.shape[-2:]
        high, wide = (max(-(-n // self.multiple) * self.multiple, self.min_size) for n in (h, w))
        if self.square:
            high = wide = max(high, wide)
        if (high, wide) != (h, w):
            x = grown(x, high - h, wide - w)
        x = x.to(self.device, PRECISIONS[self.precision], memory_format=torch.channels_last)
        sr = self.call(self._runner, x).float()
        return sr[..., : h * self.scale, : w * self.scale]

    def with_precision(self, precision: str) -> Network:
        """The same weights run in another number format."""
        if precision == self.precision:
            return self
        return replace(self, precision=precision, denoiser=self.denoiser and self.denoiser.with_precision(precision))

    @property
    def engine(self) -> str:
        """What carries it out: "eager" torch, or "winograd"."""
        return "winograd" if self.winograd and self.precision == "fp32" else "eager"

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The only input size it takes; None: any."""
        return None

    @property
    def feather(self) -> int:
        """LR pixels over which its tiles should fade into each other."""
        return 0 if self.exact else FEATHER


Loaded = Network | OnnxNetwork


def noise_inside(network: Loaded) -> Facts | None:
    """How a model smooths by itself, as a smoothed export does; None: it does not."""
    return network.facts if isinstance(network, OnnxNetwork) and network.smooths else None


def seeded(network: Loaded, seed: int) -> Loaded:
    """The same model with another seed of the noise that it makes itself, if it does."""
    return replace(network, seed=seed) if isinstance(network, OnnxNetwork) else network


def load(
    name_or_path: str | Path, *, device: str = "auto", precision: str = "auto", denoise: str | Path | None = None
) -> Loaded:
    """Loads a model by catalogue name or by path (``.pth``, ``.safetensors``, ``.ckpt``, ``.onnx``).

    Checkpoints are read without running code in them. "bicubic" (x4), "bicubic-x2" and "bicubic-x3" are the baseline
    that needs none. ``precision`` "auto" is the device's fast format if the
    network stays within 4/255 of float32 everywhere and within 1/255 on 99% of values, else float32. ``denoise``: a
    denoiser, named likewise, that runs before it (see `denoised`).
    """
    network = _load(name_or_path, device, precision)
    if denoise is None:
        return network
    both = denoised(_load(denoise, device, precision), network)
    exact = both.with_precision("fp32")
    return both if precision != "auto" or both is exact or faithful(both, exact) else exact


def denoised(denoiser: Loaded, network: Loaded) -> Network:
    """f(D(x)) as one network, what denoised smoothing smooths (Salman et al. 2020): D ``denoiser``, f ``network``.

    Runs in the number format of both, float32 where they differ. RobustSRError: D is not of scale 1, or one is ONNX.
    """
    if denoiser.scale != 1:
        raise RobustSRError(f"--denoise {denoiser.name} is x{denoiser.scale}: a denoiser is a model of scale 1")
    if not isinstance(denoiser, Network) or not isinstance(network, Network):
        onnx = network.name if isinstance(denoiser, Network) else denoiser.name
        raise RobustSRError(f"{onnx} is an ONNX model: --denoise takes a checkpoint, and goes before one")
    first = denoised(denoiser, network.denoiser) if network.denoiser else denoiser
    precision = network.precision if network.precision == denoiser.precision else "fp32"
    return replace(
        network.with_precision(precision),
        denoiser=first.with_precision(precision),
        context=denoiser.context + network.context,
        exact=denoiser.exact and network.exact,
        name=f"{network.name} after {denoiser.name}",
        digest=hashlib.sha256(f"{network.digest} after {denoiser.digest}".encode()).hexdigest(),
        entry=network.entry and replace(network.entry, calibration=[]),  # which is that of f alone
    )


def _load(name_or_path: str | Path, device: str, precision: str) -> Loaded:
    check_precision(precision)
    where = resolve_device(device)
    if str(name_or_path) in BICUBIC:
        return _bicubic(str(name_or_path), BICUBIC[str(name_or_path)], where)
    path, entry = find(name_or_path)
    name = entry.name if entry else path.stem
    if path.suffix.lower() == ".onnx":
        return load_onnx(path, name, entry, where)
    full_float32()
    descriptor = _descriptor(path)
    module = descriptor.model.eval().requires_grad_(False).float()
    module = module.to(where, memory_format=torch.channels_last)
    if descriptor.input_channels != 3 or descriptor.output_channels != 3:
        raise RobustSRError(
            f"{path} maps {descriptor.input_channels} to {descriptor.output_channels} channels: RGB models are needed"
        )
    requirements = descriptor.size_requirements
    call = descriptor._call_fn  # what the descriptor's own call does, which forbids gradients and clamps
    context, exact = receptive_radius(module, call, requirements.multiple_of)
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
    if where.type == "cpu":
        network = quickened(network)
    if precision == "auto":
        fast = network.with_precision(auto_precision(where, winograd=network.winograd))
        supported = {"bf16": descriptor.supports_bfloat16, "fp16": descriptor.supports_half, "fp32": True}
        return fast if supported[fast.precision] and faithful(fast, network) else network
    return network.with_precision(precision)


def _bicubic(name: str, scale: int, device: torch.device) -> Network:
    def call(module: nn.Module, x: Tensor) -> Tensor:
        sr: Tensor = module(x)
        return sr

    return Network(Bicubic(scale), call, scale, 2, True, name, name, device)


def _descriptor(path: Path) -> Any:  # noqa: ANN401 - spandrel is not typed
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
        reason = str(error).split("\n\t")[0].split("Please file")[0]
        raise RobustSRError(
            f"{path} was refused, nothing in it was run: damaged, or a pickle with more than weights in it. {reason}"
        ) from None
    except Exception as error:  # readers of damaged files raise whatever comes
        raise RobustSRError(f"{path} cannot be read as a checkpoint: {error or type(error).__name__}") from error
    try:
        descriptor = described(spandrel.canonicalize_state_dict(weights))
    except (spandrel.UnsupportedModelError, AttributeError, TypeError):  # the last two: not a state dict at all
        raise RobustSRError(f"{path} holds no architecture that spandrel {spandrel.__version__} knows") from None
    except (KeyError, RuntimeError, ValueError) as error:  # the right names with the wrong shapes
        raise RobustSRError(f"{path} does not fit the architecture its names tell of: {error}") from None
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise RobustSRError(f"{path} is not a model that maps one picture to one picture")
    return descriptor


def described(weights: dict[str, Tensor]) -> Any:  # noqa: ANN401 - spandrel is not typed
    """The network that a state dict is of, with its weights, in the terms of spandrel.

    spandrel's errors: it is of no architecture that is known, or does not fit the one that its names tell of.
    """
    import_torchvision()
    import spandrel

    if both := architectures.parts(weights):
        first, second = (described(part) for part in both)
        if first.scale != 1:
            raise ValueError(f"the denoiser is x{first.scale}")
        sizes = [d.size_requirements for d in (first, second)]
        together = spandrel.SizeRequirements(
            max(s.minimum for s in sizes), math.lcm(*(s.multiple_of for s in sizes)), any(s.square for s in sizes)
        )
        net: nn.Module = architectures.Denoised(first.model, second.model, first._call_fn, second._call_fn)
        formats = (first.supports_half and second.supports_half, first.supports_bfloat16 and second.supports_bfloat16)
        return spandrel.ImageModelDescriptor(
            net, weights, None, "SR", [], *formats, second.scale, first.input_channels, second.output_channels, together
        )
    if unet := architectures.unet_like(weights):
        sizes = spandrel.SizeRequirements(multiple_of=unet.multiple)
        return spandrel.ImageModelDescriptor(unet, weights, None, "Restoration", [], True, True, 1, 3, 3, sizes)
    return spandrel.ModelLoader("cpu").load_from_state_dict(weights)


def receptive_radius(module: nn.Module, call: architectures.Call, multiple: int = 1) -> tuple[int, bool]:
    """How far, in LR pixels, an output pixel depends on the input, and whether that is exact.

    The radii of all stride-1 convolutions added up bound it; where the sum is small and the gradient of a
    centre pixel vanishes beyond it, it is exact. Otherwise an effective radius is returned.
    """
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    radius = sum((max(m.kernel_size) - 1) // 2 * max(m.dilation) for m in convs)
    plain = all(isinstance(m, nn.Conv2d) and max(m.stride) == 1 for m in convs)
    if not convs or not plain or multiple > 1 or radius > LARGEST_EXACT:
        return EFFECTIVE_CONTEXT, False
    size = 2 * (radius + 8) + 1
    weight = convs[0].weight
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(weight.device)
    x.requires_grad_(True)
    with torch.enable_grad():
        sr = call(module, x)
    s = sr.shape[-1] // size
    centre = sr[..., (size // 2) * s : (size // 2 + 1) * s, (size // 2) * s : (size // 2 + 1) * s]
    (gradient,) = torch.autograd.grad(centre.square().sum(), x)
    gradient[..., 8:-8, 8:-8] = 0
    return (EFFECTIVE_CONTEXT, False) if gradient.any() else (radius, True)


def quickened(network: Network) -> Network:
    """The network with fast convolutions where it has them and they change its output by 1e-5 at most; else itself."""
    try:
        if winograd.accelerated(network.module) is None:
            return network
        fast, x = replace(network, winograd=True), photograph_like(32)
        with torch.inference_mode():
            exact = network(x)
            close = (fast(x) - exact).abs().max() <= 1e-5 * exact.abs().max().clamp(min=1)
    except Exception:  # an architecture that looks into its layers, which are others now
        return network
    return fast if close else network


def kept_slow(network: Loaded) -> bool:
    """Whether a network runs in float32 by torch's convolutions only because nothing compiles the fast ones."""
    if not isinstance(network, Network) or kernels.available():
        return False
    slow = (network.device.type, network.engine, network.precision) == ("cpu", "eager", "fp32")
    return slow and winograd.suits(network.module)


def faithful(fast: Network, exact: Network) -> bool:
    """Whether a fast format is good enough, judged on one picture: 99% of values within 1/255, all within 4/255."""
    x = photograph_like().to(fast.device)
    with torch.inference_mode():
        difference = (fast(x).clamp(0, 1) - exact(x).clamp(0, 1)).abs()
    return bool((difference <= 4 / 255).all() and (difference <= 1 / 255).float().mean() >= 0.99)


def photograph_like(size: int = 96) -> Tensor:
    """A picture ``(1, 3, size, size)`` with the falling spectrum of photographs, and two regions with an edge between.

    Measured: it and real photographs accept and reject the same models.
    """
    frequency = (torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()).sqrt()
    noise = torch.randn(4, size, size, generator=torch.Generator().manual_seed(0))
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(noise) * frequency.clamp(min=1 / size) ** -1.5)
    field /= field.std((1, 2), keepdim=True)
    return (0.5 + 0.15 * field[:3] + 0.2 * (4 * field[3]).tanh()).clamp(0, 1)[None]
