"""Fast convolutions and the C median against torch, also in float64, under gradients, and where nothing compiles."""

import copy
import ctypes
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import needs_compiler
from torch import nn

from robustsr import copies, kernels, winograd
from robustsr.models import load, quickened
from robustsr.probes import photograph_like
from robustsr.smoothing import median, selection_network
from robustsr.winograd import Conv3x3, FastConvolutions, accelerated


@needs_compiler
def test_it_compiles():
    assert kernels.available()


@needs_compiler
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 9), (37, 53)])
@pytest.mark.parametrize("channels", [(16, 32), (64, 48), (96, 16)])
def test_convolution_and_its_gradient_are_those_of_float64(channels, size):
    torch.manual_seed(0)
    cin, cout = channels
    conv = nn.Conv2d(cin, cout, 3, padding=1, bias=cin != 96)
    slope = torch.linspace(-0.5, 1.5, cout)  # learned slopes may be negative
    x = torch.randn(2, cin, *size)
    exact = x.double().requires_grad_(True)
    want = torch.prelu(
        nn.functional.conv2d(exact, conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=1),
        slope.double(),
    )
    weights = torch.randn_like(want)
    (gradient,) = torch.autograd.grad((want * weights).sum(), exact)
    fast = Conv3x3(conv, slope)
    x.requires_grad_(True)
    with torch.no_grad():
        assert (fast(x) - want).abs().max() < 1e-4 * want.abs().max()
    got = fast(x)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    (mine,) = torch.autograd.grad((got * weights.float()).sum(), x)
    assert (mine - gradient).abs().max() < 1e-4 * gradient.abs().max()


def gradients(conv, x, of):
    x = x.clone().requires_grad_(True)
    y = conv(x)
    return y, *torch.autograd.grad((y * of).sum(), [x, *conv.parameters()])


@needs_compiler
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 9), (4, 68), (37, 53)])  # 4x68: a thread's last block is one tile
@pytest.mark.parametrize("channels", [(16, 32), (64, 48), (96, 16)])
def test_gradients_in_training_are_those_of_float64(channels, size, two_threads, monkeypatch):
    torch.manual_seed(0)
    cin, cout = channels
    conv = nn.Conv2d(cin, cout, 3, padding=1, bias=cin != 96)
    x, of = torch.randn(3, cin, *size), torch.randn(3, cout, *size)
    monkeypatch.setattr(winograd, "FEWEST", 0)
    with FastConvolutions():
        got = gradients(conv, x, of)
    plain, want = gradients(conv, x, of), gradients(conv.double(), x.double(), of.double())
    for mine, torchs, exact in zip(got, plain, want, strict=True):
        assert not torch.equal(mine, torchs) or mine.dim() == 1  # another way of computing it, but the bias'
        assert (mine - exact).abs().max() < 1e-4 * exact.abs().max()


@needs_compiler
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (37, 53)])
def test_gradients_of_prelu_are_those_of_float64(size, two_threads):
    torch.manual_seed(0)
    prelu, x, of = nn.PReLU(48), torch.randn(3, 48, *size), torch.randn(3, 48, *size)
    prelu.weight.data.normal_()  # of both signs
    with FastConvolutions():
        got = gradients(prelu, x, of)
    want = gradients(prelu.double(), x.double(), of.double())
    assert "_PReLU" in str(got[0].grad_fn)
    for mine, exact in zip(got, want, strict=True):
        assert (mine - exact).abs().max() <= 1e-6 * exact.abs().max()


@needs_compiler
def test_a_bias_may_be_a_view():
    x, w, bias = torch.randn(1, 16, 6, 6), torch.randn(16, 16, 3, 3), torch.randn(16, 2)[:, 0]
    with FastConvolutions():
        got = torch.conv2d(x, w, bias, (1, 1), (1, 1), (1, 1), 1)
    torch.testing.assert_close(got, torch.conv2d(x, w, bias, padding=1), atol=1e-4, rtol=1e-4)


@needs_compiler
def test_slopes_may_be_a_view():
    x, w, of = (
        torch.randn(2, 16, 8, 8, requires_grad=True),
        torch.randn(1, requires_grad=True),
        torch.randn(2, 16, 8, 8),
    )
    with FastConvolutions():
        got = torch.autograd.grad((torch.prelu(x, w.expand(16)) * of).sum(), [x, w])
    want = torch.autograd.grad((torch.prelu(x, w) * of).sum(), [x, w])
    for mine, exact in zip(got, want, strict=True):
        assert (mine - exact).abs().max() <= 1e-5 * exact.abs().max()


@needs_compiler
def test_slopes_that_do_not_train_have_no_gradient():
    prelu = nn.PReLU(16).requires_grad_(False)
    x = torch.randn(1, 16, 4, 4, requires_grad=True)
    with FastConvolutions():
        prelu(x).sum().backward()
    assert prelu.weight.grad is None and torch.equal(x.grad, torch.where(x > 0, 1.0, 0.25))


@needs_compiler
@pytest.mark.parametrize("fused", [False, True])
def test_training_sees_every_change_of_its_weights(fused):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(16, 16, 3, padding=1), torch.randn(8, 16, 16, 16)
    adam = torch.optim.Adam(conv.parameters(), lr=0.1, fused=fused)
    frozen, mode = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False), FastConvolutions()
    for _ in range(3):
        with mode:
            y = frozen(conv(x))
            frozen.bias.zero_()
            frozen.weight.mul_(0.5)
            again = frozen(conv(x))
        want = frozen(conv(x)).detach()
        assert (again - want).abs().max() < 1e-4 and (y - want).abs().max() > 1e-2
        adam.zero_grad()
        again.square().sum().backward()
        adam.step()
        conv.bias.data.mul_(0.5)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 20, 3, padding=1), nn.Conv2d(16, 16, 1)],
)
def test_other_convolutions_stay_those_of_torch(layer):
    x = torch.randn(1, 16, 8, 8)
    with FastConvolutions():
        fast = layer(x), layer.double()(x.double()), layer.float()(x[0]), torch.conv2d(x, layer.weight)
    assert torch.equal(fast[0], layer(x)) and torch.equal(fast[1], layer.double()(x.double()))
    assert torch.equal(fast[2], layer.float()(x[0])) and torch.equal(fast[3], torch.conv2d(x, layer.weight))


@pytest.mark.parametrize("how", [{"dilation": 2}, {"groups": 2}, {"padding_mode": "reflect"}], ids=str)
def test_dilated_grouped_and_reflecting_convolutions_stay_those_of_torch(how):
    layer, x = nn.Conv2d(32, 32, 3, padding=1, **how), torch.randn(8, 32, 16, 16)
    with FastConvolutions():
        fast = layer(x)
    assert torch.equal(fast, layer(x))


@pytest.mark.parametrize("channels", [1, 20])
def test_other_prelus_stay_those_of_torch(channels):
    layer, x = nn.PReLU(channels), torch.randn(2, 20, 4, 4)
    with FastConvolutions():
        fast = layer(x), layer.double()(x.double()), layer.float()(x[:, :, 0])
    for mine, want in zip(fast, (layer(x), layer.double()(x.double()), layer.float()(x[:, :, 0])), strict=True):
        assert torch.equal(mine, want) and "_PReLU" not in str(mine.grad_fn)


def test_autocast_keeps_its_number_format():
    conv, x = nn.Conv2d(16, 16, 3, padding=1), torch.randn(1, 16, 8, 8)
    with FastConvolutions(), torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    with FastConvolutions(), torch.inference_mode():
        inside = nn.Conv2d(16, 16, 3, padding=1)
        assert (inside(x) - torch.conv2d(x, inside.weight, inside.bias, padding=1)).abs().max() < 1e-5


@needs_compiler
def test_shipped_model_stays_within_1e_5_of_float64():
    network = load("certsr", device="cpu")
    assert (network.engine, network.precision) == ("winograd", "fp32") or network.precision == "bf16"
    network = network.with_precision("fp32")
    x = photograph_like(64)
    exact = copy.deepcopy(network.module).double()
    with torch.inference_mode():
        assert (network(x) - exact(x.double())).abs().max() < 1e-5


@needs_compiler
def test_gradient_through_a_shipped_model_is_that_of_torch():
    network = load("certsr", device="cpu", precision="fp32")
    x = photograph_like(48).requires_grad_(True)
    (fast,) = torch.autograd.grad(network(x).square().sum(), x)
    (plain,) = torch.autograd.grad(network.module(x).square().sum(), x)
    error = (fast - plain).abs() / plain.abs().max()
    # A few activations lie within rounding of PReLU's kink, where gradients jump, torch's float32 to float64 as well.
    assert error.median() < 1e-6 and (error > 1e-4).float().mean() < 0.05


@needs_compiler
def test_results_do_not_depend_on_the_batch_or_on_threads(two_threads):
    network = load("certsr", device="cpu", precision="fp32")
    x = torch.rand(3, 3, 21, 18)
    with torch.inference_mode():
        together = network(x)
        torch.set_num_threads(1)
        alone = torch.cat([network(one[None]) for one in x])
    assert (together - alone).abs().max() < 1e-6


@needs_compiler
def test_a_list_of_layers_that_is_not_run_in_order_is_left_to_torch():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 32, 3, padding=1)])

        def forward(self, x):
            x = self.parts[0](x.repeat(1, 11, 1, 1)[:, :32])
            return self.parts[2](x)[:, :3] + self.parts[1](x)[:, :3]

    network = load("certsr", device="cpu", precision="fp32")
    odd = Odd().eval().requires_grad_(False)
    odd.parts[1].weight.fill_(0.3)
    made = replace(network, net=odd, winograd=False)
    copies.own(odd)
    assert accelerated(odd) is not None
    assert quickened(made) is made


def test_networks_of_other_convolutions_are_left_alone():
    assert accelerated(nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 1))) is None
    assert accelerated(nn.Identity()) is None


@needs_compiler
@pytest.mark.parametrize("n", [1, 2, 3, 4, 20, 21, 64])
def test_median_in_c_is_the_one_in_torch_bit_for_bit(n):
    values = [v.clone() for v in torch.randn(n, 2, 3, 7, 11).round(decimals=1)]
    middle = [n // 2] if n % 2 else [n // 2 - 1, n // 2]
    want = torch.stack(values).sort(0).values[middle].mean(0)
    flat = [v.flatten() for v in values]
    assert torch.equal(kernels.median(flat, selection_network(n, middle), middle), want.flatten())
    assert torch.equal(median(values), want)
    last = [v.contiguous(memory_format=torch.channels_last) for v in values]
    assert torch.equal(median(last), want)
    gaps = [torch.stack([v.flatten(), torch.zeros(v.numel())], 1)[:, 0] for v in values]
    assert torch.equal(median(gaps), want.flatten())
    gradients = [v.clone().requires_grad_(True) for v in values]
    assert torch.equal(median(gradients), want)  # by torch


@needs_compiler
def test_median_of_a_value_that_is_no_number_is_none():
    values = [torch.rand(100) for _ in range(5)]
    values[3][17] = float("nan")
    values[2][5], values[0][6], values[1][6], values[4][6] = float("inf"), *[float("-inf")] * 3
    found = median(values)
    assert found.isnan().nonzero().tolist() == [[17]] and found[5].isfinite() and found[6] == float("-inf")


@needs_compiler
def test_autocast_and_other_defaults_of_torch_do_no_harm():
    network, x = load("certsr", device="cpu", precision="fp32"), photograph_like(24)
    want = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(x) - want).abs().max() < 0.1
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert torch.equal(network(x), want)
    finally:
        torch.set_default_dtype(torch.float32)


@needs_compiler
def test_weights_of_another_shape_are_refused():
    conv = Conv3x3(nn.Conv2d(16, 32, 3, padding=1))
    with pytest.raises(ValueError, match="not for 32 to 32"):
        conv(torch.rand(1, 32, 8, 8))
    with pytest.raises(ValueError, match="not for 16 to 24"):
        kernels.convolve(torch.rand(1, 16, 8, 8), torch.rand(1, 36, 16, 16), torch.rand(24))
    with pytest.raises(TypeError, match="float32"):
        kernels.median([torch.rand(3).double()], [], [0])


def copying(library):
    """In the place of the compiler, which takes longer."""
    return lambda command, source, folder: Path(shutil.copy(library, folder))


@needs_compiler
@pytest.mark.parametrize(("mode", "ours"), [(0o700, True), (0o744, True), (0o720, False), (0o702, False)])
def test_what_others_may_write_is_not_ours(tmp_path, mode, ours):
    tmp_path.chmod(mode)
    assert kernels._only_ours(tmp_path) == ours


@needs_compiler
def test_code_that_does_not_load_or_that_others_could_have_written_is_not_run(home, tmp_path, monkeypatch):
    fresh, usual = kernels._library.__wrapped__, os.umask(0o002)
    try:
        assert fresh() is not None
    finally:
        os.umask(usual)
    (made,) = (home / "compiled").iterdir()
    assert made.stat().st_mode & 0o777 == 0o700  # and so it is taken the next time
    monkeypatch.setattr(kernels, "_compile", copying(made))
    code, evil, seen = tmp_path / "evil.c", tmp_path / "evil.so", tmp_path / "seen"
    code.write_text(f'#include <stdio.h>\n__attribute__((constructor)) void f() {{ fclose(fopen("{seen}", "w")); }}')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", evil, code], check=True)
    for name, content, mode, folder in (
        ("broken", b"no library", 0o700, 0o700),
        ("theirs", evil.read_bytes(), 0o766, 0o700),
        ("in theirs", evil.read_bytes(), 0o700, 0o777),
    ):
        place = tmp_path / name / "compiled" / made.name
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
        place.chmod(mode)
        place.parent.chmod(folder)
        monkeypatch.setenv("ROBUSTSR_HOME", str(tmp_path / name))
        assert fresh() is not None and place.read_bytes() == content, name  # compiled elsewhere
    assert not seen.exists()
    ctypes.CDLL(str(evil))
    assert seen.exists()


def test_without_a_working_compiler_torch_does_it(tmp_path):
    code = (
        "import torch\nfrom robustsr import kernels\nfrom robustsr.models import load\n"
        "from robustsr.smoothing import median\n"
        "net = load('certsr', device='cpu', precision='fp32')\n"
        "assert not kernels.available() and net.engine == 'eager', net.engine\n"
        "print(float(median(list(torch.arange(5.)[:, None]))))"
    )
    environment = {"PATH": "/usr/bin:/bin", "ROBUSTSR_CC": "false", "ROBUSTSR_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["2.0"], done.stderr
    assert not list(tmp_path.glob("compiled/*"))


@needs_compiler
def test_the_code_for_wide_vectors_is_right_too(tmp_path):
    """Compiled for AVX-512's 16 values at a time, which the compiler breaks in two where the processor has but 8."""
    code = (
        "import torch\nfrom robustsr import copies, kernels, winograd\nfrom robustsr.smoothing import median\n"
        "from robustsr.bounds import Histogram\nfrom robustsr.winograd import Conv3x3\n"
        "conv, x = torch.nn.Conv2d(48, 32, 3, padding=1), torch.randn(2, 48, 9, 14)\n"
        "assert kernels.available()\n"
        "x.requires_grad_()\n"
        "prelu = torch.nn.PReLU(32)\n"
        "slopes = lambda y: torch.autograd.grad(prelu(y).square().sum(), [x, *conv.parameters(), prelu.weight])\n"
        "want, exact = conv(x), slopes(conv(x))\n"
        "with torch.no_grad():\n"
        "    off = float((Conv3x3(conv)(x) - want).abs().max())\n"
        "winograd.FEWEST = 0\n"
        "with winograd.FastConvolutions():\n"
        "    pairs = list(zip(slopes(conv(x)), exact, strict=True))\n"
        "print(max(off, *(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)))\n"
        "values = list(torch.randn(6, 1000))\n"
        "print(float((median(values) - torch.stack(values).quantile(0.5, 0)).abs().max()))\n"
        "draws = torch.rand(5, 77) * 1.2 - 0.1\n"
        "one, two = Histogram((77,), 5), Histogram((77,), 5)\n"
        "one.add(draws)\n"
        "two._count(draws.clamp(0, 1))\n"
        "print(int((one.counts - two.counts).abs().max()))"
    )
    environment = {"PATH": os.environ["PATH"], "ROBUSTSR_CC": "cc -D__AVX512F__", "ROBUSTSR_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    convolution, middle, counted = map(float, done.stdout.split())
    assert convolution < 1e-4 and middle < 1e-6 and counted == 0, done.stderr


@needs_compiler
def test_it_is_compiled_once_and_kept_for_each_processor_and_command(home, monkeypatch):
    fresh = kernels._library.__wrapped__
    stamps = []
    for _ in range(2):
        assert fresh() is not None
        (made,) = (home / "compiled").iterdir()
        stamps.append(made.stat().st_mtime_ns)
    assert stamps[0] == stamps[1]
    monkeypatch.setattr(kernels, "_compile", copying(made))
    monkeypatch.setattr(platform, "platform", lambda: "another")
    assert fresh() is not None and len(list((home / "compiled").iterdir())) == 2
    monkeypatch.setenv("ROBUSTSR_CC", "cc -DANOTHER")
    assert fresh() is not None and len(list((home / "compiled").iterdir())) == 3


@needs_compiler
def test_second_derivatives_in_training_are_those_of_float64():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 16, 3, padding=1))
    x = torch.randn(2, 16, 20, 24)  # FEWEST tiles and more

    def second(layers, x):
        x = x.clone().requires_grad_(True)
        first = torch.autograd.grad(layers(x).square().sum(), [x, *layers.parameters()], create_graph=True)
        return [
            second
            for gradient in first  # each for itself, for they differ in size
            for second in torch.autograd.grad(gradient.square().sum(), [x, *layers.parameters()], retain_graph=True)
        ]

    exact = second(copy.deepcopy(layers).double(), x.double())
    with FastConvolutions():
        mine = second(layers, x)
    for got, want in zip(mine, exact, strict=True):
        assert (got - want).abs().max() < 1e-3 * want.abs().max()
