import subprocess
import sys

import pytest
import torch

from robustsr.engine import auto_precision, check_precision, devices, is_out_of_memory, resolve_device, unused_gpu
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
    for words in ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "Unable to find an engine to execute this computation"):
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
