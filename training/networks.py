"""Networks as they are trained: built, initialised, read and written."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from robustsr.files import atomic
from robustsr.torchvision_schema import import_torchvision
from robustsr.types import RobustSRError

from .recipe import Generator

import_torchvision()
from spandrel.architectures.Compact import Compact  # noqa: E402


def build(config: Generator, seed: int) -> nn.Module:
    """The generator, float32, channels-last: from ``config.init`` or freshly initialised from ``seed``.

    Fresh: Kaiming-normal for PReLU's slope of .25, zero biases, the last convolution scaled by .1. PyTorch's own
    initialisation lets the gradient vanish through 16 PReLU layers (1e-8 at the first).
    """
    net = Compact(num_feat=config.features, num_conv=config.convs, upscale=config.scale)
    if config.init:
        from robustsr.models import Network, load

        start = load(config.init, device="cpu", precision="fp32")
        if not isinstance(start, Network):
            raise RobustSRError(f"generator.init {config.init!r} is an ONNX model: training starts from a checkpoint")
        net.load_state_dict(start.module.state_dict())
    else:
        generator = torch.Generator().manual_seed(seed)
        convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        with torch.no_grad():
            for conv in convs:
                nn.init.kaiming_normal_(conv.weight, a=0.25, generator=generator)
                assert conv.bias is not None
                conv.bias.zero_()
            convs[-1].weight.mul_(0.1)
    return net.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def export(net: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the weights as float16 safetensors."""
    tensors = {k: v.detach().half().contiguous() for k, v in net.state_dict().items()}
    with atomic(path, make_folder=True) as part:
        part.write_bytes(save(tensors, metadata))
