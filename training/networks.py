"""Networks as they are trained: built, initialised, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustsr.architectures import Denoised, UNet
from robustsr.checkpoints import described
from robustsr.files import atomic
from robustsr.models import load
from robustsr.network import Network
from robustsr.torchvision_schema import import_torchvision
from robustsr.types import RobustSRError

from .recipe import Generator

import_torchvision()
from spandrel import UnsupportedModelError  # noqa: E402
from spandrel.architectures.Compact import Compact  # noqa: E402
from spandrel.architectures.ESRGAN import ESRGAN  # noqa: E402


def own_scale(config: Generator) -> int:
    """Output pixels per input pixel of the network itself: the U-Net takes what was enlarged before."""
    return 1 if config.architecture == "unet" else config.scale


def build(config: Generator, seed: int) -> nn.Module:
    """The generator, float32, channels-last: from ``config.init``, whatever architecture that has, or fresh.

    Fresh ones are a function of ``seed``. Compact and U-Net: Kaiming-normal for PReLU's slope of .25, zero biases, the
    last convolution times .1; PyTorch's own lets the gradient vanish through 16 PReLU layers (1e-8 at the first).
    RRDB: see `_rrdb`.
    """
    if config.fixed_norm and not config.init:
        raise RobustSRError("generator.fixed_norm keeps the statistics of generator.init, which is empty: name it")
    if config.denoise:
        denoiser, upscaler = _start(config.denoise, 1, "denoise"), build(replace(config, denoise=""), seed)
        if isinstance(upscaler, Denoised):
            raise RobustSRError(
                f"generator.init {config.init!r} has a denoiser of its own, generator.denoise {config.denoise!r} would "
                'be a second one: set it to ""'
            )
        return Denoised(_trained(denoiser.module), upscaler, denoiser.call, nn.Module.__call__)
    if config.init:
        start = _start(config.init, own_scale(config), "init")
        if not _called_plainly(start):
            raise RobustSRError(
                f"generator.init {config.init!r} is of an architecture that is called in a way of its own, which "
                "training does not know: name another"
            )
        return _trained(start.module)
    if config.architecture == "compact":
        net: nn.Module = Compact(num_feat=config.features, num_conv=config.convs, upscale=config.scale)
    elif config.architecture == "unet":
        net = UNet()
    else:
        return _rrdb(config, seed)
    generator = torch.Generator().manual_seed(seed)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    with torch.no_grad():
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, a=0.25, generator=generator)
            assert conv.bias is not None
            conv.bias.zero_()
        convs[-1].weight.mul_(0.1)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _rrdb(config: Generator, seed: int) -> nn.Module:
    """ESRGAN's network with its authors' initialisation: PyTorch's, but in dense blocks Kaiming-normal times .1.

    Biases there are zero (ESRGAN, section 3.1, and BasicSR's RRDBNet).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = ESRGAN(num_filters=config.features, num_blocks=config.blocks, scale=config.scale)
        for name, conv in net.named_modules():
            if "RDB" in name and isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.kaiming_normal_(conv.weight)
                with torch.no_grad():
                    conv.weight.mul_(0.1)
                    conv.bias.zero_()
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _start(name: str, scale: int, key: str) -> Network:
    start = load(name, device="cpu", precision="fp32")
    if not isinstance(start, Network) or not any(True for _ in start.module.parameters()):
        raise RobustSRError(f"generator.{key} {name!r} has no weights that train: name a checkpoint")
    if start.scale != scale:
        raise RobustSRError(f"generator.{key} {name!r} is x{start.scale}, the recipe's is x{scale}")
    return start


def _called_plainly(network: Network) -> bool:
    """Whether its module alone maps a picture to what the network does; those with a noise level to tell do not."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            return torch.equal(network.module(x), network.call(network.module, x))
    except Exception:  # channels or arguments are missing, or there are several results
        return False


def _trained(net: nn.Module) -> nn.Module:
    return net.requires_grad_(True).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def rebuilt(weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that a state dict is of, to train on: that of a run, without the ``generator.init`` it began with.

    ValueError, RuntimeError, KeyError: it is of none that is known, or its shapes do not fit.
    """
    try:
        return _trained(described(dict(weights)).model)
    except UnsupportedModelError:
        raise ValueError("no architecture has such weights") from None


def export(net: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the weights as safetensors, floats as float16 and counts as they are: the same bytes each time."""
    state = {k: v.detach().half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    tensors = {k: v.contiguous() for k, v in state.items()}
    with atomic(path, make_folder=True) as part:
        part.write_bytes(_sorted(save(tensors, metadata)))


def _sorted(data: bytes) -> bytes:
    """A safetensors file whose header, whose order is left to chance, is in that of the names."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
