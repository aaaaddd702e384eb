"""Resizing equals Pillow's, and its wrappers are upscalers."""

import numpy as np
import pytest
import torch
from PIL import Image

from robustsr.models import load
from robustsr.resample import OnResized, resize
from robustsr.types import RobustSRError


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(52, 68), (9, 30), (13, 17), (4, 5)])
def test_resize_is_pillows(kernel, size):
    x = np.random.default_rng(0).random((13, 17), np.float32)
    want = Image.fromarray(x).resize(size[::-1], getattr(Image.Resampling, kernel.upper()))
    found = resize(torch.from_numpy(x)[None, None], *size, kernel)[0, 0]
    np.testing.assert_allclose(found.numpy(), np.asarray(want), atol=2e-6)


def test_gradients_flow_also_after_inference():
    x = torch.rand(1, 3, 11, 7)
    with torch.inference_mode():
        resize(x.clone(), 19, 23)
    x.requires_grad_(True)
    resize(x, 19, 23).sum().backward()
    assert bool(x.grad.isfinite().all()) and float(x.grad.abs().sum()) > 0


def test_bicubic_is_a_model_with_gradients():
    net = load("bicubic", device="cpu")
    x = torch.rand(1, 3, 6, 7, requires_grad=True)
    sr = net(x)
    torch.testing.assert_close(sr, resize(x, 24, 28))
    assert torch.autograd.grad(sr.sum(), x)[0].isfinite().all()
    assert (net.name, net.scale, net.context, net.exact, net.precision) == ("bicubic", 4, 2, True, "fp32")
    assert load("bicubic-x2", device="cpu")(x).shape[-1] == 14


def test_a_network_on_resized_pictures_keeps_their_size(nearest):
    up = OnResized(nearest, 2)
    x = torch.rand(1, 3, 12, 16)
    assert up(x).shape == x.shape and up.scale == 1 and not up.exact
    torch.testing.assert_close(up(torch.full_like(x, 0.3)), torch.full_like(x, 0.3))
    same = OnResized(nearest, 4)
    torch.testing.assert_close(same(x), nearest(resize(x, 3, 4, "bilinear")))
    with pytest.raises(RobustSRError, match="13x12 cannot be divided by 2"):
        up(torch.rand(1, 3, 12, 13))
