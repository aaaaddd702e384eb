import subprocess
import sys

import pytest
import torch

from robustsr import engine
from robustsr.engine import (
    auto_precision,
    buffers_kept,
    check_precision,
    devices,
    is_out_of_memory,
    resolve_device,
    unused_gpu,
)
from robustsr.types import RobustSRError


def test_the_processor_is_always_there_and_auto_is_the_first():
    names = [d.name for d in devices()]
    assert names[-1] == "cpu" and str(resolve_device("auto")) == names[0]
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "CPU", ""])
def test_an_absent_device_is_an_error_that_lists_the_present(name):
    with pytest.raises(RobustSRError, match=rf"no device '{name}' here \(present: .*cpu\)"):
        resolve_device(name)


def test_precisions():
    assert auto_precision(torch.device("cpu")) in ("bf16", "fp32")
    assert check_precision("bf16") == "bf16"
    with pytest.raises(RobustSRError, match="got 'double'"):
        check_precision("double")


@pytest.mark.parametrize(("major", "precision"), [(7, "fp16"), (8, "bf16"), (9, "bf16")])
def test_gpus_from_ampere_on_take_bfloat16(monkeypatch, major, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert auto_precision(torch.device("cuda:0")) == precision


@pytest.mark.parametrize(
    ("has", "fast", "slow"), [("amx_bf16", "bf16", "bf16"), ("avx512_bf16", "fp32", "bf16"), ("", "fp32", "fp32")]
)
def test_bfloat16_without_matrix_units_is_for_where_float32_is_slow(monkeypatch, has, fast, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True})
    cpu = torch.device("cpu")
    assert (auto_precision(cpu, winograd=True), auto_precision(cpu)) == (fast, slow)


def test_buffers_are_kept_until_the_outermost_end(monkeypatch):
    class Libc:
        calls = ()

        def mallopt(self, option, value):
            self.calls += (option,)

        def malloc_trim(self, rest):
            self.calls += ("trim",)

    libc = Libc()
    monkeypatch.setattr(engine, "_glibc", lambda: libc)
    for _ in range(2):
        libc.calls = ()
        with buffers_kept():
            with buffers_kept():
                pass
            assert len(libc.calls) == 2 and "trim" not in libc.calls
        assert libc.calls[-1] == "trim"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_a_gpu_that_torch_cannot_use_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    quiet = unused_gpu()
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    hint = unused_gpu()
    assert quiet is None or "GPU seen" in quiet
    assert hint is not None and "NVIDIA GPU seen" in hint
    with pytest.raises(RobustSRError, match="no device 'cuda' here.*GPU seen"):
        resolve_device("cuda")


def test_running_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    for words in (
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "Unable to find an engine to execute this computation",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    "before",
    [
        "b.cudnn.allow_tf32 = b.cuda.matmul.allow_tf32 = True",
        "b.fp32_precision = 'tf32'",
        "b.cudnn.fp32_precision = 'tf32'",
        "b.mkldnn.conv.fp32_precision = 'bf16'",
        "torch.set_float32_matmul_precision('medium')",
    ],
)
def test_float32_is_neither_tf32_nor_bfloat16_once_a_model_is_loaded(tiny, before):
    code = f"""
import torch
from robustsr.models import load
b = torch.backends
{before}
load({str(tiny)!r}, device="cpu")
print(b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision())
print(*(part.fp32_precision for part in (b.cudnn.conv, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "highest"] + 4 * ["ieee"], done.stderr
