import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from robustsr import copies, models, upscale
from robustsr.cli import app
from robustsr.engine import PRECISIONS, auto_precision
from robustsr.legends import model_labels
from robustsr.metrics import psnr
from robustsr.models import load
from robustsr.onnx_network import outside
from robustsr.probes import receptive_radius
from robustsr.spread import Weights
from robustsr.tiling import EFFECTIVE_CONTEXT
from robustsr.torchvision_schema import import_torchvision
from robustsr.types import RobustSRError


def test_a_checkpoint_becomes_an_upscaler(tiny):
    net = load(tiny, device="cpu", precision="fp32")
    assert (net.scale, net.context, net.exact, net.name) == (4, 3, True, "tiny")
    x = torch.rand(2, 3, 5, 7, requires_grad=True)
    sr = net(x)
    assert sr.shape == (2, 3, 20, 28) and sr.dtype == torch.float32
    assert torch.autograd.grad(sr.sum(), x)[0].abs().sum() > 0
    assert all(net.with_precision(p)(x).dtype == torch.float32 for p in PRECISIONS)


def test_a_file_of_words_is_said_to_be_no_checkpoint(tmp_path):
    (tmp_path / "words.pth").write_text("junk\n")
    with pytest.raises(RobustSRError, match=r"words.pth cannot be read as a checkpoint: it is damaged, or something"):
        load(tmp_path / "words.pth", device="cpu")


def test_what_is_loaded_in_inference_mode_is_as_any_other(tiny):
    with torch.inference_mode():
        network = load(tiny, device="cpu", precision="fp32")
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert network.exact and torch.autograd.grad(network(x).sum(), x)[0].abs().sum() > 0


def test_the_receptive_radius_is_the_exact_one(tiny):
    module = load(tiny, device="cpu", precision="fp32").module
    radius, exact = receptive_radius(module, nn.Module.__call__)
    assert exact
    a = torch.rand(1, 3, 31, 31, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[..., 15, 15] += 1
    moved = (module(a) != module(b)).any(1)[0].nonzero()
    assert int(moved.min()) == 4 * (15 - radius) and int(moved.max()) == 4 * (15 + radius) + 3


@pytest.mark.parametrize("name", ["certsr", "psnr", "denoiser", "unet-x2"])
def test_what_is_known_of_the_catalogues_networks_is_what_a_probe_finds(name):
    network = load(name, device="cpu", precision="fp32")
    assert receptive_radius(network.module, network.call, network.multiple) == (network.context, network.exact)
    assert network.exact == (name != "unet-x2")


def test_a_network_with_a_global_operation_has_no_exact_radius():
    class Global(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x) * x.mean((2, 3), keepdim=True)

    assert receptive_radius(Global(), nn.Module.__call__) == (EFFECTIVE_CONTEXT, False)


def test_nor_has_one_that_looks_beyond_only_at_some_pictures():
    class Gated(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.conv, self.shift = nn.Conv2d(3, 3, 3, padding=1), shift

        def forward(self, x):
            return self.conv(x) * (1 - (x.mean((1, 2, 3), keepdim=True) - self.shift).relu())

    assert receptive_radius(Gated(0.6), nn.Module.__call__) == (EFFECTIVE_CONTEXT, False)  # bright ones
    assert receptive_radius(Gated(2), nn.Module.__call__) == (1, True)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("realesr-general-x4v3", 26.64),
        ("realesr-general-wdn-x4v3", 26.70),
        ("realesr-animevideov3-x4", 28.25),
        ("4xLSDIRCompactC3", 29.60),
    ],
)
def test_real_models_reach_their_known_figures_on_set5(shared, name, want):
    """Y-PSNR, 4 pixels of border left out, rounded to 8 bits; measured independently."""
    net = load(shared / "weights" / f"{name}.pth", device="cpu", precision="fp32")
    values = []
    for path in sorted((shared / "data/dev/Set5/LR").iterdir()):
        lr, hr = (
            torch.from_numpy(np.array(Image.open(path.parents[1] / part / path.name).convert("RGB"))).permute(2, 0, 1)[
                None
            ]
            / 255
            for part in ("LR", "HR")
        )
        with torch.inference_mode():
            sr = (net(lr).clamp(0, 1) * 255).round() / 255
        hr = hr[..., : sr.shape[-2], : sr.shape[-1]]
        values.append(float(psnr(sr[..., : hr.shape[-2], : hr.shape[-1]], hr, crop=4, y=True)))
    assert np.mean(values) == pytest.approx(want, abs=0.05)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_fast_format_is_taken_only_where_it_is_true_to_float32(tiny):
    net = load(tiny, device="cpu", precision="fp32")
    assert models.faithful(net.with_precision("bf16"), net)
    assert load(tiny, device="cpu").precision == auto_precision(torch.device("cpu"))
    with torch.no_grad():  # the same function, but half precision overflows on the way
        net.module.body[0].weight.mul_(1e6)
        net.module.body[0].bias.mul_(1e6)
        net.module.body[2].weight.div_(1e6)
    assert models.faithful(replace(net, precision="bf16"), net)
    assert not models.faithful(replace(net, precision="fp16"), net)


@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, ending):
    trap, path = tmp_path / "trap", tmp_path / f"evil{ending}"
    torch.save({"params": {"body.0.weight": torch.zeros(1)}, "x": Malice(trap)}, path)
    with pytest.raises(
        RobustSRError, match=r"was refused, and nothing in it was run: it holds more than weights \(\w+\.\w+\)$"
    ):
        load(path, device="cpu")
    path.write_bytes(pickle.dumps(Malice(trap)))
    with pytest.raises(RobustSRError, match=f"evil{ending}"):
        load(path, device="cpu")
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap does work


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 not a zip"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".ckpt", ".onnx"])
def test_rubbish_is_refused_by_name(tmp_path, ending, content):
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content)
    with pytest.raises(RobustSRError, match=f"bad{ending}"):
        load(path, device="cpu")


def test_an_unknown_architecture_is_refused(tmp_path):
    path = tmp_path / "classifier.pth"
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(RobustSRError, match="no architecture that spandrel"):
        load(path, device="cpu")


def test_an_absent_device_and_a_wrong_precision_are_refused(tiny):
    with pytest.raises(RobustSRError, match=r"no device 'cuda:7' here \(present: .*cpu\)"):
        load(tiny, device="cuda:7")
    with pytest.raises(RobustSRError, match="precision must be auto, fp32, bf16, fp16; got 'int4'"):
        load(tiny, precision="int4")


def onnx_nearest(path, size=None, channels=3, elem=TensorProto.FLOAT, batch="n"):
    """A real ONNX model that repeats pixels twice."""
    h, w = size or ("h", "w")
    graph = helper.make_graph(
        [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest",
                          coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        "nearest",
        [helper.make_tensor_value_info("input", elem, [batch, channels, h, w])],
        [helper.make_tensor_value_info("output", elem, None)],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize("size", [None, (64, 48)])
@pytest.mark.parametrize("elem", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_an_onnx_model_is_an_upscaler_too(tmp_path, nearest, size, elem):
    onnx_nearest(tmp_path / "net.onnx", size, elem=elem)
    net = load(tmp_path / "net.onnx", device="cpu")
    assert (net.scale, net.provider, net.fixed_size) == (2, "CPUExecutionProvider", size)
    assert net.align == (32 if size is None else 16)  # of 48 pixels 9 on each side are context, 6 fade
    x = torch.rand(3, 3, 37, 41)
    want = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(net(x), want, rtol=0, atol=1e-3)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", [None, (64, 64), (16, 20)])
def test_an_onnx_model_of_fixed_batch_and_size_upscales_smoothed_pictures(tmp_path, photo, batch, size):
    onnx_nearest(tmp_path / "net.onnx", size, channels="channels" if size is None else 3, batch=batch)
    net = load(tmp_path / "net.onnx", device="cpu")
    x = torch.from_numpy(photo(90, 110)).permute(2, 0, 1).float() / 255
    want = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(upscale(x, net), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(upscale(x, net, smooth="median", samples=6), want, rtol=0, atol=1e-5)


def followed_by(path, *nodes, **constants):
    """Appends nodes to a model that `onnx_nearest` wrote, its result "output" before, "end" after."""
    model = onnx.load(path)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.output[0].name = "end"
    model.graph.output[0].ClearField("type")
    onnx.save(model, path)


def squeezed(factor):
    return (
        helper.make_node("SpaceToDepth", ["output"], ["small"], blocksize=2 * factor),
        helper.make_node("DepthToSpace", ["small"], ["end"], blocksize=2 * factor),
    )


@pytest.mark.parametrize("factor", [1, 2, 3, 7, 8, 14, 18, 20])
def test_an_onnx_model_that_takes_multiples_of_a_size_gets_them(tmp_path, photo, factor):
    onnx_nearest(tmp_path / "net.onnx")
    followed_by(tmp_path / "net.onnx", *squeezed(factor))
    net = load(tmp_path / "net.onnx", device="cpu")
    assert (net.multiple, net.min_size, net.fixed_size, net.align % factor) == (factor, factor, None, 0)
    said = CliRunner().invoke(app, ["models", "info", str(tmp_path / "net.onnx")]).stdout
    assert (f"takes     sides that are multiples of {factor}:" in said) == (factor > 1)
    for h, w in ((37, 41), (1, 2), (90, 400)):
        x = torch.from_numpy(photo(h, w)).permute(2, 0, 1).float() / 255
        want = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
        torch.testing.assert_close(upscale(x, net), want, rtol=0, atol=1e-5)
        torch.testing.assert_close(upscale(x, net, tile=256, smooth="median", samples=2), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("declared", "inside", "size"),
    [
        ((64, "w"), None, (64, 64)),
        (("h", 40), None, (64, 40)),
        (("h", "w"), (128, 128), (64, 64)),  # as a trace leaves it
        (("h", "w"), (256, 256), (128, 128)),
        (("h", "w"), (96, 96), (48, 48)),
        (("h", "w"), (128, -1), (64, 64)),
    ],
)
def test_an_onnx_model_with_a_size_fixed_on_one_side_or_only_inside_takes_it(tmp_path, photo, declared, inside, size):
    onnx_nearest(tmp_path / "net.onnx", declared)
    if inside:
        shape = np.int64([1, 3, *inside])
        followed_by(tmp_path / "net.onnx", helper.make_node("Reshape", ["output", "shape"], ["end"]), shape=shape)
    net = load(tmp_path / "net.onnx", device="cpu")
    assert (net.fixed_size, net.fixed_batch) == (size, 1)
    assert (
        f"pieces of {size[1]}x{size[0]} only"
        in CliRunner().invoke(app, ["models", "info", str(tmp_path / "net.onnx")]).stdout
    )
    x = torch.from_numpy(photo(90, 110)).permute(2, 0, 1).float() / 255
    want = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(upscale(x, net), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(upscale(x, net, smooth="median", samples=4), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("node", "constants", "words"),
    [
        (("Mul", ["output", "k"]), {"k": np.float32([255])}, "gives up to 127.5 for gray of 0.5: it must give"),
        (("Mul", ["output", "k"]), {"k": np.float32([34])}, "gives up to 17 for gray of 0.5"),
        (("SplitToSequence", ["output"]), {}, "gives no picture, but a list"),
        (("ReduceMean", ["output"]), {}, r"maps \(1, 3, 64, 64\) to .*: not a super-resolution model"),
        (
            ("Reshape", ["output", "k"]),
            {"k": np.int64([7, 7])},
            "fails on a picture of 64x64, on which it was tried: .*Reshape.*; nor on others, up to 512x512",
        ),
    ],
)
def test_an_onnx_model_that_gives_something_else_is_refused(tmp_path, node, constants, words):
    onnx_nearest(tmp_path / "net.onnx")
    followed_by(tmp_path / "net.onnx", helper.make_node(*node, ["end"]), **constants)
    with pytest.raises(RobustSRError, match=words):
        load(tmp_path / "net.onnx", device="cpu")


def test_an_onnx_model_of_a_batch_that_is_fixed_only_inside_takes_one_by_one(tmp_path, photo):
    onnx_nearest(tmp_path / "net.onnx")
    nodes = [
        helper.make_node("Shape", ["output"], ["shape"], start=1),
        helper.make_node("Concat", ["one", "shape"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["output", "wanted"], ["end"]),
    ]
    followed_by(tmp_path / "net.onnx", *nodes, one=np.int64([1]))
    net = load(tmp_path / "net.onnx", device="cpu")
    assert (net.fixed_size, net.fixed_batch, net.multiple) == (None, 1, 1)
    x = torch.rand(3, 3, 9, 8)
    torch.testing.assert_close(net(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_damaged_onnx_model_is_refused_and_nothing_is_printed(tmp_path, capsys):
    onnx_nearest(tmp_path / "net.onnx")
    path = tmp_path / "net.onnx"
    path.write_bytes(path.read_bytes().replace(b"Resize", b"Res\x9dze"))
    with pytest.raises(RobustSRError, match="cannot be read as an ONNX model"):
        load(path, device="cpu")
    assert capsys.readouterr() == ("", "")


def test_an_onnx_model_is_called_as_it_was_asked_for(home):
    (home / "models").mkdir(parents=True)
    onnx_nearest(home / "models" / "mine.onnx")
    assert load("mine", device="cpu").name == "mine"  # as certificates ask for it again
    assert load(home / "models" / "mine.onnx", device="cpu").name == "mine.onnx"


def test_models_are_told_apart_in_tables():
    one = model_labels(("certsr", "a/mine.onnx", "a/mine.pth"))
    assert list(one.values()) == ["certsr", "mine.onnx", "mine"]
    alike = model_labels(("certsr", "a/mine.pth", "b/mine.safetensors", "b/other.pth"))
    assert list(alike.values()) == ["certsr", "a/mine.pth", "b/mine.safetensors", "other"]


def test_an_onnx_model_says_what_it_cannot_do(tmp_path):
    onnx_nearest(tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx", device="cpu")
    with pytest.raises(RobustSRError, match="net.onnx is an ONNX model, which gives no gradients: take a checkpoint"):
        net(torch.rand(1, 3, 8, 8, requires_grad=True))
    with torch.no_grad():
        assert net(torch.rand(1, 3, 8, 8, requires_grad=True)).shape == (1, 3, 16, 16)
    with pytest.raises(RobustSRError, match=r"take tensors of floats, \(N, 3, h, w\), got torch"):
        net(torch.rand(3, 8, 8))
    assert len({net, net, replace(net)}) == 2 and net(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 16, 16)
    with pytest.raises(RobustSRError, match="net.onnx makes 16x16 pixels of 8x8"):
        replace(net, scale=3)(torch.rand(1, 3, 8, 8))
    onnx_nearest(tmp_path / "net.onnx", (15, 64))
    with pytest.raises(RobustSRError, match="takes pictures of 64x15 only: too small to be tiled"):
        load(tmp_path / "net.onnx", device="cpu")


class Failing:
    """A session of onnxruntime whose memory, or something else, is at an end."""

    def __init__(self, session, words):
        self.session, self.words = session, words

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, *arguments):
        raise onnxruntime.capi.onnxruntime_pybind11_state.Fail(self.words)


def test_an_onnx_model_whose_memory_ends_is_tried_in_smaller_pieces_and_other_failures_are_told(tmp_path, photo):
    onnx_nearest(tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx", device="cpu")
    for words, told in (
        ("Failed to allocate memory", "out of memory, even in tiles of"),
        ("bad", "net.onnx does not run on"),
    ):
        with pytest.raises(RobustSRError, match=told):
            upscale(photo(90, 110), replace(net, session=Failing(net.session, words)))


def test_an_onnx_model_that_takes_something_else_is_refused(tmp_path):
    onnx_nearest(tmp_path / "net.onnx", channels=1)
    with pytest.raises(RobustSRError, match=r"takes input \['n', 1, 'h', 'w'\], not one input of shape"):
        load(tmp_path / "net.onnx", device="cpu")
    onnx_nearest(tmp_path / "net.onnx", channels="h", size=("w", 3))
    with pytest.raises(RobustSRError, match=r"takes input \['n', 'h', 'w', 3\], not one"):
        load(tmp_path / "net.onnx", device="cpu")
    onnx_nearest(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.input.append(helper.make_tensor_value_info("strength", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(RobustSRError, match=r"takes input \['n', 3, 'h', 'w'\], strength \[1\], not one"):
        load(tmp_path / "net.onnx", device="cpu")
    del model.graph.input[:]
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 4, 4), np.float32), "input"))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(RobustSRError, match="takes nothing, not one"):
        load(tmp_path / "net.onnx", device="cpu")


def test_torchvision_is_only_touched_where_it_is_broken():
    """In a fresh process: an import that works is left alone; one that fails for the missing schema is mended."""
    code = """
import sys
import torch
from robustsr.torchvision_schema import import_torchvision
try:
    import torchvision
    works = True
except RuntimeError as error:
    assert "torchvision::nms" in str(error)
    works = False
mended = import_torchvision()
assert mended is not works, (mended, works)
assert not import_torchvision()
import torchvision, spandrel, lpips
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ok", done.stderr


def test_another_failure_of_torchvision_is_passed_on(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    code = "from robustsr.torchvision_schema import import_torchvision; import_torchvision()"
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert "RuntimeError: something else" in done.stderr


def test_weights_beside_an_onnx_file_are_part_of_what_it_is(tmp_path):
    made = []
    for folder, factor in (("one", 1.0), ("two", 0.5), ("same", 1.0)):
        (tmp_path / folder).mkdir()
        onnx_nearest(tmp_path / "whole.onnx")
        model = onnx.load(tmp_path / "whole.onnx")
        scale = np.full((1, 3, 1, 1), factor, np.float32)
        model.graph.initializer.append(numpy_helper.from_array(scale, "factor"))
        model.graph.node.append(helper.make_node("Mul", ["output", "factor"], ["dimmed"]))
        model.graph.output[0].name = "dimmed"
        path = tmp_path / folder / "net.onnx"
        onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
        made.append((path, load(path, device="cpu")))
    (one, two, same), x = [net for _, net in made], torch.full((1, 3, 20, 20), 0.5)
    assert made[0][0].read_bytes() == made[1][0].read_bytes() and float(two(x).mean()) == pytest.approx(0.25)
    assert one.digest == same.digest != two.digest and len(one.digest) == 64
    sent = load(Weights.of(str(made[1][0])).unpacked(str(tmp_path / "elsewhere")), device="cpu")  # to a worker
    assert sent.digest == two.digest and torch.equal(sent(x), two(x))
    with pytest.raises(RobustSRError, match="outside of its folder"):
        Weights("net.onnx", {"net.onnx": b"", "../net.data": b""}).unpacked(str(tmp_path / "elsewhere"))
    (tmp_path / "one" / "net.data").rename(tmp_path / "net.data")
    (tmp_path / "one" / "net.data").symlink_to(tmp_path / "net.data")
    with pytest.raises(RobustSRError, match="keeps weights outside of its folder, in net.data"):
        load(made[0][0], device="cpu")
    (tmp_path / "hub").mkdir()  # as caches of hubs have it: links to blobs, all in one folder
    for name, place in (("net.onnx", made[1][0]), ("net.data", made[1][0].with_name("net.data"))):
        (tmp_path / "hub" / name).symlink_to(place)
    assert load(tmp_path / "hub" / "net.onnx", device="cpu").digest == two.digest


def test_constants_beside_an_onnx_file_are_found_in_its_nodes_and_subgraphs(tmp_path):
    constant = numpy_helper.from_array(np.zeros(400, np.float32), "c")
    graph = helper.make_graph([helper.make_node("Constant", [], ["c"], value=constant)], "inner", [], [])
    branches = helper.make_node("If", ["yes"], [], then_branch=graph, else_branch=graph)
    model = helper.make_model(helper.make_graph([branches], "outer", [], []))
    settings = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0, "convert_attribute": True}
    onnx.save(model, tmp_path / "net.onnx", **settings)
    assert outside(tmp_path / "net.onnx") == ["net.data"]


def test_an_onnx_model_runs_on_as_many_threads_as_torch(tmp_path):
    onnx_nearest(tmp_path / "net.onnx")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = load(tmp_path / "net.onnx", device="cpu")
    finally:
        torch.set_num_threads(before)
    assert net.session.get_session_options().intra_op_num_threads == 1


def test_an_onnx_model_takes_the_cpu_where_only_torch_has_the_gpu(tmp_path, monkeypatch):
    onnx_nearest(tmp_path / "net.onnx")
    for kind, why in (("mps", "not on mps"), ("cuda", "CUDAExecutionProvider")):
        monkeypatch.setattr(models, "resolve_device", lambda _name, kind=kind: torch.device(kind))
        assert load(tmp_path / "net.onnx", device="auto").device.type == "cpu"
        with pytest.raises(RobustSRError, match=why):
            load(tmp_path / "net.onnx", device=kind)


def test_an_onnx_model_in_half_precision_that_overflows_is_told_so(tmp_path):
    path = tmp_path / "net.onnx"
    onnx_nearest(path, elem=TensorProto.FLOAT16)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.float16([np.nan]), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["output", "factor"], ["lost"]))
    model.graph.output[0].name = "lost"
    onnx.save(model, path)
    net = load(path, device="cpu")
    assert net.precision == "fp16"
    with pytest.raises(RobustSRError, match="not numbers"):
        upscale(Image.new("RGB", (20, 20)), net)


def copied(net):
    """Weights in place of others."""
    net.module.load_state_dict(load("psnr", device="cpu").module.state_dict())


def scaled(net):
    with torch.no_grad():
        net.module.body[0].bias.add_(0.1)


def replaced(net):
    for _ in range(20):  # a number that Python gave to a tensor that is gone may be given again
        net.module.body[2].weight = nn.Parameter(torch.randn(64, 64, 3, 3) * 0.02, requires_grad=False)


def reassigned(net):
    for p in net.module.parameters():
        p.data = p.data * 1.01


def behind_torch_s_back(net):
    for p in net.module.parameters():
        p.data.mul_(1.05)


def trained(net):
    """With an optimiser that tells nobody what it changes, and looks at what comes out in between."""
    module = net.module.requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), 1e-3, fused=True)
    x = torch.rand(1, 3, 8, 8)
    for _ in range(2):
        loss = net(x).square().mean()
        with torch.no_grad():
            net(x)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    module.requires_grad_(False)


def trained_alone(net):
    """Without the network around it."""
    module = net.module.requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), 1e-3, fused=True)
    net.call(module, torch.rand(1, 3, 8, 8)).square().mean().backward()
    optimiser.step()
    module.requires_grad_(False)


CHANGES = [copied, scaled, replaced, reassigned, behind_torch_s_back, trained, trained_alone]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_weights_that_are_changed_are_those_that_run(precision, change):
    net, x = load("plain", device="cpu", precision=precision), torch.rand(1, 3, 12, 12)
    before, exact = net(x), net.with_precision("fp32")
    assert net.as_loaded and exact.as_loaded
    change(net)
    want = net.call(net.module, x)
    with torch.inference_mode():
        found = [replace(exact)(x), exact(x), replace(net)(x), net(x)]
    close = [(sr - want).abs().max() / want.abs().max() for sr in found]
    assert max(close[:2]) < 1e-4 and max(close) < (1e-4 if precision == "fp32" else 0.05)
    assert (before - want).abs().max() > 1e-3 and not net.as_loaded and not exact.as_loaded
    y = x.clone().requires_grad_(True)  # of what was made where no gradients were asked for
    assert torch.autograd.grad(net(y).sum(), y)[0].abs().sum() > 0
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert not other.as_loaded
        torch.testing.assert_close(other(x), net(x))
    assert copy.copy(net).module is net.module


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_weights_that_are_changed_run_behind_a_denoiser_too(change):
    net, denoiser = (load(name, device="cpu", precision="fp32") for name in ("plain", "denoiser"))
    both, x = models.denoised(denoiser, net), torch.rand(1, 3, 12, 12)
    both(x)
    change(net)
    want = net.call(net.module, denoiser.call(denoiser.net, x))
    with torch.inference_mode():
        assert (both(x) - want).abs().max() < 1e-4 * want.abs().max()
    assert (both.as_loaded, net.as_loaded, denoiser.as_loaded) == (False, False, True)


def test_parts_that_are_changed_as_a_whole_are_those_that_run():
    net, denoiser = (load(name, device="cpu", precision="fp32") for name in ("plain", "denoiser"))
    both, x = models.denoised(denoiser, net), torch.rand(1, 3, 12, 12)
    net(x), denoiser(x)
    behind_torch_s_back(both)
    for part in (net, denoiser):
        want = part.call(part.net, x)
        assert (part(x) - want).abs().max() < 1e-4 * want.abs().max() and not part.as_loaded


def test_weights_that_were_looked_at_alone_are_as_loaded():
    net, x = load("plain", device="cpu"), torch.rand(1, 3, 12, 12)
    before = net(x)
    net.module.requires_grad_(True)
    net(x).sum().backward()
    net.module.requires_grad_(False)
    assert net.as_loaded and copy.deepcopy(net).as_loaded and pickle.loads(pickle.dumps(net)).as_loaded
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


def other_layer(net):
    net.module.body[2] = nn.Conv2d(64, 64, 3, padding=1)


def layers_swapped(net):
    body = net.module.body
    body[2], body[4] = body[4], body[2]


def layer_of_another(net):
    net.module.body[2] = load("psnr", device="cpu").module.body[2]


def dilated(net):
    net.module.body[2].dilation = net.module.body[2].padding = (2, 2)


def hooked(net):
    net.module.body[2].register_forward_hook(lambda _m, _i, out: out * 0)


@pytest.mark.parametrize(
    "change", [other_layer, layers_swapped, layer_of_another, dilated, hooked, behind_torch_s_back]
)
def test_networks_that_are_changed_stay_changed_whoever_looks(change):
    net, denoiser = (load(name, device="cpu", precision="fp32") for name in ("plain", "denoiser"))
    change(net)
    with torch.no_grad():
        want = net.call(net.net, x := torch.rand(1, 3, 12, 12))
    assert not net.as_loaded
    net.module.eval()
    assert not net.as_loaded and not copy.deepcopy(net).as_loaded and not models.denoised(denoiser, net).as_loaded
    torch.testing.assert_close(copy.deepcopy(net)(x), want, rtol=1e-3, atol=1e-4)
    if change is not hooked:  # by a function that cannot be pickled
        other = pickle.loads(pickle.dumps(net))
        assert other.module is other.net and not other.as_loaded
        assert not copy.deepcopy(other).as_loaded and not models.denoised(denoiser, other).as_loaded


def test_weights_of_other_kinds_or_places_are_others():
    for change in (nn.Module.half, nn.Module.double, lambda module: module.to("meta")):
        net = load("plain", device="cpu", precision="fp32")
        change(net.module)
        assert not net.as_loaded


def test_weights_that_are_trained_are_run_by_torch_alone():
    net, x = load("plain", device="cpu", precision="fp32"), torch.rand(1, 3, 48, 48)
    net.module.requires_grad_(True)
    out, moved = torch.func.jvp(net, (x,), (x,))
    assert out.shape == moved.shape == (1, 3, 192, 192)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batch_norm_is_in_the_mode_that_it_is_put_in(precision):
    net, x = load("unet-x2", device="cpu", precision=precision), torch.rand(2, 3, 32, 32)
    usual = net(x)
    net.module.train()
    other = net(x)
    net.module.eval()
    assert (other - usual).abs().max() > 0.05
    net.module.load_state_dict(load("unet-x2", device="cpu").module.state_dict())  # train() has moved its statistics
    torch.testing.assert_close(net(x), usual, rtol=1e-2, atol=1e-2 if precision == "bf16" else 1e-4)


def test_networks_in_a_structure_stay_one_when_it_is_copied():
    net = load("plain", device="cpu")
    made = copy.deepcopy({"net": net, "module": net.module})
    assert made["net"].module is made["module"] is not net.module and made["net"].call is net.call


def test_networks_that_are_called_in_a_way_of_their_own_can_be_copied_and_pickled(tmp_path):
    import_torchvision()
    from spandrel.architectures import DnCNN

    made = DnCNN.DnCNN(in_nc=3, out_nc=3, act_mode="R")
    save_file(made.state_dict(), tmp_path / "net.safetensors")
    net, x = load(tmp_path / "net.safetensors", device="cpu", precision="fp32"), torch.rand(1, 3, 32, 32)
    behind = models.denoised(net, load("plain", device="cpu", precision="fp32"))
    for one in (net, behind):
        for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            torch.testing.assert_close(other(x), one(x))


def test_a_number_format_that_is_not_faithful_leaves_nothing_in_memory(monkeypatch):
    monkeypatch.setattr(models, "auto_precision", lambda *_a, **_k: "bf16")
    judge, seen = models.faithful, []
    monkeypatch.setattr(models, "faithful", lambda *nets: seen.append(judge(*nets)))
    net = load("psnr", device="cpu")
    assert seen and net.precision == "fp32" and "bf16" not in copies._kept.get(net.net, {})


def test_statistics_of_batches_that_are_changed_are_those_that_run():
    net, x = load("unet-x2", device="cpu", precision="bf16"), torch.rand(1, 3, 32, 32)
    before = net(x)
    next(b for name, b in net.module.named_buffers() if name.endswith("running_mean")).add_(0.5)
    assert (net(x) - before).abs().max() > 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_weight_of_a_loaded_model_can_be_trained(precision):
    net = load("certsr", device="cpu", precision=precision)
    net.module.requires_grad_(True)
    x = torch.rand(1, 3, 12, 12)
    with torch.no_grad():
        assert not net(x).requires_grad
    net(x).square().mean().backward()
    want = torch.autograd.grad(net.call(net.module, x).square().mean(), list(net.module.parameters()))
    for parameter, gradient in zip(net.module.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_models_go_to_other_processes(tmp_path, tiny):
    nets = [
        load(tiny, device="cpu", denoise="denoiser"),
        load("certsr", device="cpu", precision="fp32"),
        load("unet-x2", device="cpu", precision="bf16"),
        load("bicubic", device="cpu"),
    ]
    x = torch.rand(1, 3, 32, 32)
    (tmp_path / "nets").write_bytes(pickle.dumps((x, nets)))
    code = (  # which has imported nothing before, not even torch
        "import pickle, sys; x, nets = pickle.load(open(sys.argv[1], 'rb'));"
        "pickle.dump([(n(x), n.name, n.engine) for n in nets], open(sys.argv[2], 'wb'))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "nets", tmp_path / "made"], check=True)
    made = pickle.loads((tmp_path / "made").read_bytes())
    for net, (sr, name, engine) in zip(nets, made, strict=True):
        assert (name, engine) == (net.name, net.engine)
        torch.testing.assert_close(sr, net(x))
