import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fakes import Plain
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from safetensors.torch import save_file
from torch import nn

import robustsr
from robustsr import copies
from robustsr import export as work
from robustsr.architectures import UNet
from robustsr.certificate import certify
from robustsr.certify import Claim
from robustsr.export import export, verify
from robustsr.models import load, seeded
from robustsr.noise import philox
from robustsr.onnx_graph import Graph
from robustsr.onnx_smoothing import smoothed
from robustsr.plan import make_plan
from robustsr.settings import AutoSmoothing, Smoothing, smoothing_for
from robustsr.smoothing import Smoothed
from robustsr.tiling import Tiled
from robustsr.types import RobustSRError

F = 0xFFFFFFFF
FEW = Smoothing("median", 0.1, 3, "independent")  # opposite draws would cancel out: the tiny network is nearly linear


def session(graph_or_content):
    content = graph_or_content
    if not isinstance(content, bytes):
        content = helper.make_model(content, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(content, full_check=True)
        content = content.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def picture(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def saved(made, path):
    path.write_bytes(made.content)
    return load(path, device="cpu")


@pytest.fixture(scope="module")
def network(tiny):
    return load(tiny, device="cpu", precision="fp32")


# --- the noise ---


@pytest.fixture(scope="module")
def symbolic_philox():
    graph = Graph()
    words = [graph.value(np.uint64, name, ("n",)) for name in "abcdkl"]
    out = [graph.node("Identity", v, name=f"out_{i}") for i, v in enumerate(philox(tuple(words[:4]), words[4:]))]
    return session(graph.proto("philox", words, [replace(v, shape=("n",)) for v in out]))


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.integers(0, F), min_size=6, max_size=6))
def test_the_bits_are_those_of_torch(symbolic_philox, words):
    *counter, k, l = words  # noqa: E741
    want = philox(tuple(torch.tensor([c]) for c in counter), (k, l))
    got = symbolic_philox.run(None, dict(zip("abcdkl", np.array(words, np.uint64)[:, None], strict=True)))
    assert [int(v[0]) for v in got] == [int(v) for v in want]


@pytest.mark.parametrize("samples", [1, 2, 5, 17])
@pytest.mark.parametrize("draws", ["antithetic", "independent"])
@pytest.mark.parametrize("reduce", ["median", "mean"])
def test_every_draw_has_the_noise_of_torch(reduce, draws, samples):
    inner = Graph()
    noisy = inner.value(np.float32, "noisy")
    net = inner.proto("identity", [noisy], [inner.node("Identity", noisy, name="sr")])
    run = session(smoothed(net, 1, reduce, 1.0, samples, draws))
    x, origin = torch.zeros(2, 3, 13, 9), torch.tensor([[0, 0], [70_000, 3]])
    for seed in (0, 2**40 + 1, 2**64 - 3):
        want = Smoothed(Plain(scale=1), 1.0, samples, reduce, draws, seed)(x, origin=origin)
        number = np.array(seed, np.uint64).view(np.int64)
        (got,) = run.run(None, {"input": x.numpy(), "seed": number, "origin": origin.numpy()})
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-6)


# --- networks ---


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 20), ("fp32", 13), ("fp16", 18)])
def test_a_network_takes_any_batch_and_size(network, tmp_path, precision, opset):
    made = export(network, precision=precision, opset=opset)
    assert [check.size for check in made.checks] == list(work.SIZES)
    onnx.checker.check_model(onnx.load_from_string(made.content), full_check=True)
    net = saved(made, tmp_path / "tiny.onnx")
    assert (net.scale, net.context, net.exact, net.feather, net.align) == (4, 3, True, 0, 1)
    for shape in ((1, 3, 5, 7), (2, 3, 16, 9), (3, 3, 33, 20)):
        torch.testing.assert_close(net(picture(*shape)), network(picture(*shape)), rtol=0, atol=1e-3)


def test_the_metadata_says_what_it_is(network):
    made = export(network, Smoothing("mean", 0.05, 3, "independent"), precision="fp16")
    model = onnx.load_from_string(made.content)
    told = {p.key: p.value for p in model.metadata_props}
    want = {"name": "tiny", "scale": "4", "sigma": "0.05", "sha256": network.digest, "licence": "unknown"}
    want |= {"reduce": "mean", "samples": "3", "draws": "independent", "precision": "fp16", "context": "3"}
    assert want.items() <= told.items()
    assert [i.name for i in model.graph.input] == ["input", "seed", "origin"]
    assert [o.name for o in model.graph.output] == ["output"]


def test_onnxruntime_reports_nothing_to_its_makers(tmp_path):
    code = "import robustsr.export, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | {"HOME": str(tmp_path)}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "1\n" and not [p for p in tmp_path.rglob("*") if "onnxruntime" in p.name]


@pytest.mark.parametrize(
    ("key", "value"),
    [("context", "wide"), ("context", "-1"), ("context", "5000"), ("least", "0"), ("least", "5000"),
     ("samples", "0"), ("sigma", "nan"), ("reduce", "mode")],
)  # fmt: skip
def test_without_its_metadata_it_is_as_any_other_onnx_file(network, tmp_path, key, value):
    model = onnx.load_from_string(export(network).content)
    next(p for p in model.metadata_props if p.key == key).value = value
    onnx.save(model, tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx", device="cpu")
    assert (net.facts, net.context, net.exact, net.feather, net.align) == (None, 32, False, 16, 32)


def test_a_network_that_takes_multiples_of_a_size_pads_inside(tmp_path):
    torch.manual_seed(0)
    save_file(UNet((2, 2, 2, 2, 2), 2).state_dict(), tmp_path / "unet.safetensors")
    net = load(tmp_path / "unet.safetensors", device="cpu", precision="fp32")
    copied = saved(export(net), tmp_path / "unet.onnx")
    for shape in ((1, 3, 20, 40), (2, 3, 33, 17)):
        x = picture(*shape)
        torch.testing.assert_close(copied(x), net(x), rtol=0, atol=1e-6)
    assert copied(picture(1, 3, 5, 3)).shape == (1, 3, 5, 3)  # padded twice


def test_the_bundled_model_agrees_within_a_level(tmp_path, photo, monkeypatch):
    monkeypatch.setattr(work, "SIZES", work.SIZES[:1])  # the others take time
    net = load("certsr", device="cpu", precision="fp32")
    copied = saved(export(net), tmp_path / "certsr.onnx")
    x = torch.from_numpy(photo(40, 50)).permute(2, 0, 1)[None].float() / 255
    assert (copied(x) - net(x)).abs().max() < 0.1 / 255
    assert smoothing_for(copied, "median") == smoothing_for(net, "median")  # by the checksum of its weights
    smooth = replace(smoothing_for(net, "median"), samples=2)
    baked = saved(export(net, smooth), tmp_path / "median.onnx")
    assert (baked(x) - Smoothed(net, **vars(smooth))(x)).abs().max() < 0.1 / 255


# --- smoothed exports are upscalers ---


@pytest.fixture(scope="module")
def baked(network, tmp_path_factory):
    return saved(export(network, FEW), tmp_path_factory.mktemp("onnx") / "baked.onnx")


def test_tiles_have_the_noise_of_the_whole(network, baked):
    x = picture(1, 3, 40, 50)
    for seed in (0, 2**63 + 9):
        own, whole = seeded(baked, seed), Smoothed(network, **vars(replace(FEW, seed=seed)))(x)
        torch.testing.assert_close(own(x), whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(Tiled(own, (24, 24))(x), whole, rtol=0, atol=1e-5)
        assert (Tiled(own, (20, 25), pad=0)(x) - whole).abs().max() > 1e-4
    assert (seeded(baked, 1)(x) - baked(x)).abs().max() > 1e-4
    assert make_plan(baked, None).tile <= make_plan(network, FEW).tile  # it holds more outputs


def test_from_python_with_alpha_gray_and_seed(network, baked, photo):
    colour = photo(12, 15)
    how = {"smooth": FEW.reduce, "sigma": FEW.sigma, "samples": FEW.samples, "draws": FEW.draws, "seed": 5}
    want = robustsr.upscale(colour, network, **how).astype(int)
    assert np.abs(robustsr.upscale(colour, baked, seed=5) - want).max() <= 1
    assert robustsr.upscale(np.dstack([colour, colour[..., :1]]), baked).shape == (48, 60, 4)
    assert robustsr.upscale(colour[..., 0], baked).shape == (48, 60)


def test_what_smooths_already_is_not_smoothed_or_certified(baked):
    with pytest.raises(RobustSRError, match=r"baked.onnx smooths already \(median of 3, sigma 0.1\): leave"):
        smoothing_for(baked, "mean")
    with pytest.raises(RobustSRError, match="baked.onnx adds noise of its own, which no certificate covers"):
        certify(picture(1, 3, 8, 8), baked, Claim(0.06, 0.06, 100, 11))


def test_an_onnx_file_is_not_believed_about_certificates(network, tmp_path):
    copied = saved(export(network), tmp_path / "tiny.onnx")
    with pytest.raises(RobustSRError, match="no receptive-field claim for tiny.onnx: an ONNX file's word is no proof"):
        certify(picture(1, 3, 8, 8), copied, Claim(0.06, 0.03, 4000, 101), field="receptive")


# --- refusals ---


@pytest.mark.parametrize(
    ("smoothing", "options", "words"),
    [
        (None, {"opset": 21}, "--opset must be 13 to 20 here, got 21"),
        (FEW, {"opset": 17}, "--opset must be 18 to 20 here, got 17"),
        (None, {"precision": "bf16"}, "--precision of an export is fp32 or fp16, got 'bf16'"),
        (replace(FEW, sigma=0.0), {}, "--sigma 0 is no smoothing: leave out --smooth"),
        (AutoSmoothing("median", 0.1, 4), {}, "--sigma auto follows each picture, an exported file cannot"),
    ],
)
def test_what_an_export_cannot_be(network, smoothing, options, words):
    with pytest.raises(RobustSRError, match=words):
        export(network, smoothing, **options)


def test_what_is_onnx_already_is_not_exported(baked):
    with pytest.raises(RobustSRError, match="baked.onnx is an ONNX model already: export takes a checkpoint"):
        export(baked)


def test_a_denoiser_and_a_model_become_one_file(denoiser, tiny, tmp_path):
    both = load(tiny, device="cpu", precision="fp32", denoise=denoiser)
    made, x = saved(export(both), tmp_path / "both.onnx"), picture(1, 3, 20, 30)
    assert made.facts.sha256 == both.digest and made.facts.context == both.context
    assert (made(x) - both(x)).abs().max() < 1e-4


def test_a_network_that_half_precision_breaks_is_refused_in_it(tiny):
    network = load(tiny, device="cpu", precision="fp32")
    with torch.no_grad():  # the same function, but half precision overflows on the way
        network.net.body[0].weight.mul_(1e6)
        network.net.body[0].bias.mul_(1e6)
        network.net.body[2].weight.div_(1e6)
    with pytest.raises(RobustSRError, match="tiny strays from float32 in fp16: export it in fp32"):
        export(network, precision="fp16")


class Sized(nn.Module):
    """Does what a trace cannot see: its output depends on the size of its input as a plain number."""

    def forward(self, x):
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3) * float(x.shape[-1]) / 64


class Spectral(nn.Module):
    """Does what ONNX cannot be told by torch."""

    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x)).repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Sized(), r"tiny in onnxruntime is off torch by 0\.\d+ on a picture of 40x48 \(0.001 and 1% are allowed\)"),
        (Spectral(), "torch cannot write tiny as ONNX 20: "),
    ],
)
def test_an_architecture_that_does_not_survive_is_refused(network, module, words):
    copies.own(module)
    with pytest.raises(RobustSRError, match=words) as raised:
        export(replace(network, net=module))
    assert "\n" not in str(raised.value)


def test_weights_that_were_changed_are_not_exported_in_the_name_of_their_file(tiny):
    changed = load(tiny, device="cpu")
    changed.module.body[0].bias.data.add_(0.1)
    with pytest.raises(RobustSRError, match="the weights of tiny were changed: save them"):
        export(changed)


def test_verification_sees_other_noise(network):
    made = export(network, FEW)
    verify(made.content, network, FEW, 1e-3)
    with pytest.raises(RobustSRError, match="off torch"):
        verify(made.content, network, replace(FEW, draws="antithetic"), 1e-3)
    with pytest.raises(RobustSRError, match="onnxruntime cannot read tiny as ONNX"):
        verify(b"rubbish", network, None, 1e-3)
