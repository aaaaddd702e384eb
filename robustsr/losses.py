"""Distances between an upscaled picture and a reference: what attacks maximise and training minimises.

A loss maps ``sr, hr (N, 3, H, W)`` in [0, 1] to ``(N,)``: a mean over each picture, larger is worse.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import backbones
from .torchvision_schema import import_torchvision
from .types import RobustSRError
from .winograd import accelerated

Loss = Callable[[Tensor, Tensor], Tensor]

NAMES = "l1, mse, perceptual and paper (or either:LAYER, :LAYER+LAYER), lpips, lpips-alex, lpips-vgg, lpips-squeeze"
PIXEL = 1e-2  # what L1 counts beside VGG19's features in paper, with ESRGAN
LPIPS_BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet"}
LAYERS = [  # of VGG19's features: conv1_1 is number 0, conv3_4 is 16, conv5_4 is 34
    name
    for block, count in enumerate((2, 2, 4, 4, 4), 1)
    for name in (*(n for i in range(count) for n in (f"conv{block}_{i + 1}", "relu")), "pool")
]


def l1(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (sr - hr).abs().mean(dim=(1, 2, 3))


def mse(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean squared difference, the thesis' loss."""
    return (sr - hr).square().mean(dim=(1, 2, 3))


def loss(name: str) -> Loss:
    """A loss by its name on the command line (see ``NAMES``). RobustSRError: no such name, or weights are missing."""
    kind, _, layer = name.partition(":")
    if kind in ("l1", "mse") and not layer:
        return l1 if kind == "l1" else mse
    if kind == "perceptual":
        return perceptual(layer or None)
    if kind == "paper":
        return paper(layer or None)
    if name == "lpips":  # the best that is here
        return lpips(best_lpips() or "squeeze")
    if kind.startswith("lpips-") and kind[6:] in LPIPS_BACKBONES and not layer:
        return lpips(kind[6:])
    raise RobustSRError(f"no loss {name!r}; there are: {NAMES}")


def resolved(name: str) -> str:
    """The loss that a name means on this machine: paper is paper:conv3_4 where VGG19's file ends there."""
    if name in ("paper", "perceptual"):
        return f"{name}:{deepest_layer()}"
    return f"lpips-{best_lpips()}" if name == "lpips" else name


def in_words(name: str) -> str:
    """A resolved loss for the reader of a table: what paper weighs."""
    return f"{name} ({PIXEL:g} L1 + VGG19 features)" if name.startswith("paper") else name


def backbone_of(name: str) -> str | None:
    """The backbone whose weights the loss of that name needs."""
    kind = name.partition(":")[0]
    if kind in ("paper", "perceptual"):
        return "vgg19"
    return LPIPS_BACKBONES.get(kind.removeprefix("lpips-")) if kind != "lpips" or best_lpips() else "squeezenet"


def paper(layer: str | None = None) -> Loss:
    """`PIXEL` times L1 plus `perceptual`: the attack loss of CertSR, section 3.1, with ESRGAN's weights."""
    features = perceptual(layer)

    def distance(sr: Tensor, hr: Tensor) -> Tensor:
        return PIXEL * l1(sr, hr) + features(sr, hr)

    return distance


def perceptual(layer: str | None = None) -> Loss:
    """Mean absolute difference of VGG19 features before activation (Johnson et al. 2016; ESRGAN, section 3.3).

    ``layer``: conv1_1 to conv5_4, or the mean of several, conv2_2+conv3_4; None is the deepest one that the weights
    file has (ESRGAN's conv5_4 where it is complete). In units of each layer's mean size on a fixed picture, for files
    differ in how they scale activations.
    """
    net, units = _vgg19(layer or deepest_layer())
    known: list[Tensor] = []  # the last hr and its features: an attack compares with the same one again and again

    def distance(sr: Tensor, hr: Tensor) -> Tensor:
        net.to(sr.device)
        slow = sr.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        features = net if slow else accelerated(net) or net
        if not known or known[0] is not hr:
            with torch.no_grad():
                known[:] = hr, *features(hr)
        parts = zip(features(sr), known[1:], units, strict=True)
        each = [(mine - true).abs().mean(dim=(1, 2, 3)) / unit for mine, true, unit in parts]
        return torch.stack(each).mean(0)

    return distance


def deepest_layer() -> str:
    """The deepest VGG19 convolution whose weights are on this machine. RobustSRError: none is."""
    here = backbones.load("vgg19")
    for i in reversed(range(len(LAYERS))):
        if f"features.{i}.weight" in here:
            return LAYERS[i]
    raise RobustSRError(f"{backbones.find('vgg19')} holds no VGG19 features: delete it and get it anew")


class _Features(nn.ModuleList):
    """Stacks of layers, one behind the other: the output of each."""

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stack in self:
            x = stack(x)
            found.append(x)
        return found


@cache
def _vgg19(names: str) -> tuple[_Features, list[float]]:
    """VGG19 as deep as the layers ``names`` (with +), RGB in [0, 1] to features; their mean sizes on `_reference`."""
    for layer in names.split("+"):
        if not layer.startswith("conv") or layer not in LAYERS:
            shown = ", ".join(n for n in LAYERS if n[0] == "c")
            raise RobustSRError(f"VGG19 has no layer {layer!r}; there are {shown}")
    wanted = sorted({LAYERS.index(layer) for layer in names.split("+")})
    weights, depth = backbones.load("vgg19"), wanted[-1] + 1
    if f"features.{depth - 1}.weight" not in weights:
        path, layer = backbones.find("vgg19"), LAYERS[depth - 1]
        raise RobustSRError(f"{path} ends at {deepest_layer()}, {layer} is missing: `robustsr models pull vgg19`")
    stacks: list[list[nn.Module]] = [[_Normalise()]]
    channels = 3
    for i, kind in enumerate(LAYERS[:depth]):
        if kind[0] == "c":
            weight, bias = weights[f"features.{i}.weight"], weights[f"features.{i}.bias"]
            conv = nn.Conv2d(channels, len(weight), 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": bias})
            stacks[-1].append(conv)
            channels = len(weight)
        else:
            stacks[-1].append(nn.ReLU() if kind == "relu" else nn.MaxPool2d(2))
        if i in wanted[:-1]:
            stacks.append([])
    net = _Features(nn.Sequential(*stack) for stack in stacks).eval().requires_grad_(False)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        units = [float(x.abs().mean()) for x in net(_reference())]
    return net, units


class _Normalise(nn.Module):
    """RGB in [0, 1] to ImageNet's mean 0 and standard deviation 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (x.contiguous(memory_format=torch.channels_last) - mean) / std


def _reference(size: int = 64) -> Tensor:
    """A fixed picture ``(1, 3, size, size)``: waves of growing frequency."""
    t = torch.linspace(0, 1, size)
    waves = [torch.sin(6 * (k + 1) * (t[:, None] * (k + 1) + t * (3 - k)) ** 2) for k in range(3)]
    return 0.5 + 0.4 * torch.stack(waves)[None]


def lpips(net: str = "alex") -> Loss:
    """Learned perceptual image patch similarity (Zhang et al. 2018), version 0.1: alex, vgg or squeeze.

    The lpips package with weights from this machine only. RobustSRError: they are not here.
    """
    if net not in LPIPS_BACKBONES:
        raise RobustSRError(f"LPIPS runs on {', '.join(LPIPS_BACKBONES)}, got {net!r}")
    module = _lpips(net)

    def distance(sr: Tensor, hr: Tensor) -> Tensor:
        value: Tensor = module.to(sr.device)(sr.float(), hr.float(), normalize=True)
        return value.view(-1)

    return distance


def best_lpips() -> str | None:
    """Which LPIPS can be measured on this machine: alex if it can, else squeeze or vgg; None: none."""
    files = {net: backbones.find(LPIPS_BACKBONES[net]) for net in ("alex", "squeeze", "vgg")}
    return next((net for net, path in files.items() if path is not None and not backbones.partial(path)), None)


@cache
def _lpips(net: str) -> Any:  # noqa: ANN401 - lpips is not typed
    features = backbones.load(LPIPS_BACKBONES[net])
    import_torchvision()
    import lpips as package

    with warnings.catch_warnings(), torch.device("meta"):  # nothing is initialised that is replaced below
        warnings.simplefilter("ignore")
        module = package.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    linear = Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    state = dict(torch.load(linear, map_location="cpu", weights_only=True))
    for name in module.state_dict():
        if name.startswith("net."):  # net.slice2.4.squeeze.weight is features.4.squeeze.weight
            source = "features." + name.split(".", 2)[2]
            if source not in features:
                path = backbones.find(LPIPS_BACKBONES[net])
                raise RobustSRError(f"{path} lacks {source}: `robustsr models pull {LPIPS_BACKBONES[net]}`")
            state[name] = features[source]
    module.scaling_layer = package.ScalingLayer()
    module.load_state_dict(state, strict=False, assign=True)
    return module.eval().requires_grad_(False)
