"""ESRGAN's VGG-128 discriminator."""

from __future__ import annotations

from torch import Tensor, nn

SMALLEST = 32  # pixels a side


class VGGDiscriminator(nn.Module):
    """``(N, 3, H, W)`` to logits ``(N, 1)``: five halvings (3x3, then 4x4 of stride 2, batch norm, leaky ReLU .2).

    Made for 128x128 (4x4 features at the end); other sizes, at least 32, are averaged to 4x4 there.
    """

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, features, 3, 1, 1), nn.LeakyReLU(0.2)]
        ins = features
        for step in range(5):
            outs = features * min(2**step, 8)
            if step:
                parts += [nn.Conv2d(ins, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs), nn.LeakyReLU(0.2)]
            parts += [nn.Conv2d(outs, outs, 4, 2, 1, bias=False), nn.BatchNorm2d(outs), nn.LeakyReLU(0.2)]
            ins = outs
        self.features = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(ins * 16, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits
