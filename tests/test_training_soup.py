"""Means of weights: the numbers, what else a file holds, and what has no mean."""

import pytest
import torch
from robustsr_training.soup import main, soup
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from robustsr.models import load
from robustsr.types import RobustSRError

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def moved(tiny, tmp_path):
    """The tiny network after a step to the side."""
    generator = torch.Generator().manual_seed(1)
    weights = {k: v + 0.1 * torch.randn(v.shape, generator=generator) for k, v in load_file(tiny).items()}
    save_file(weights, tmp_path / "moved.safetensors")
    return tmp_path / "moved.safetensors"


def test_each_weight_is_the_mean(tiny, moved, tmp_path):
    soup([str(tiny), str(moved), str(moved)], tmp_path / "mean.safetensors")
    one, other, mean = load_file(tiny), load_file(moved), load_file(tmp_path / "mean.safetensors")
    assert mean.keys() == one.keys()
    for key, value in mean.items():
        torch.testing.assert_close(value, ((one[key] + 2 * other[key]) / 3).half(), rtol=1e-3, atol=1e-6)
    x = torch.rand(1, 3, 8, 8)
    assert load(str(tmp_path / "mean.safetensors"), device="cpu")(x).shape == (1, 3, 32, 32)


def test_the_command_says_what_it_did_and_the_file_what_it_is_of(tiny, moved, tmp_path, capsys):
    out = tmp_path / "mean.safetensors"
    main([str(tiny), str(moved), "-o", str(out)])
    assert capsys.readouterr().err == f"mean of 2 models: {out}\n"
    digests = [load(str(path), device="cpu").digest[:16] for path in (tiny, moved)]
    assert safe_open(out, "pt").metadata() == {"mean of": ", ".join(digests)}
    with pytest.raises(SystemExit, match="error: .*is there already: name a new file"):
        main([str(tiny), str(moved), "-o", str(out)])


def test_what_has_no_mean_is_named(tiny, denoiser, tmp_path):
    out = tmp_path / "mean.safetensors"
    for names, message in [
        ([tiny], "a mean needs two models"),
        ([tiny, denoiser], "cleaner.* is another network than .*tiny"),
        ([tiny, "bicubic"], "'bicubic' has no weights to average"),
    ]:
        with pytest.raises(RobustSRError, match=message):
            soup([str(name) for name in names], out)
    with pytest.raises(RobustSRError, match=r"mean\.pth is written as safetensors"):
        soup([str(tiny), str(tiny)], tmp_path / "mean.pth")
    assert not out.exists()
