"""Means of weights: the numbers, what else a file holds, and what has no mean."""

import pytest
import torch
from robustsr_training.soup import main, soup
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from robustsr import catalogue
from robustsr.architectures import UNet
from robustsr.files import sha256
from robustsr.models import load
from robustsr.types import RobustSRError

pytestmark = pytest.mark.usefixtures("home")


def moved(path, to):
    """The network of a file, a step to the side."""
    generator = torch.Generator().manual_seed(1)
    save_file({k: v.float() + 0.1 * torch.randn(v.shape, generator=generator) for k, v in load_file(path).items()}, to)
    return to


@pytest.mark.parametrize("name", ["tiny", "certsr"])  # the second is a denoiser and an upscaler
def test_each_weight_is_the_mean(name, tiny, tmp_path):
    one = tiny if name == "tiny" else catalogue.find(name)[0]
    other, out = moved(one, tmp_path / "moved.safetensors"), tmp_path / "new" / "mean.safetensors"
    soup([str(one), str(other), str(other)], out)
    first, second, mean = load_file(one), load_file(other), load_file(out)
    assert mean.keys() == first.keys()
    for key, value in mean.items():
        torch.testing.assert_close(value, ((first[key] + 2 * second[key]) / 3).half(), rtol=1e-3, atol=1e-6)
    assert load(str(out), device="cpu")(torch.rand(1, 3, 16, 16)).shape == (1, 3, 64, 64)


def test_the_command_says_what_it_did_and_the_file_what_it_is_of(tiny, tmp_path, capsys):
    other, out = moved(tiny, tmp_path / "moved.safetensors"), tmp_path / "mean.safetensors"
    main([str(tiny), str(other), "-o", str(out)])
    assert capsys.readouterr().err == f"mean of {tiny}, {other}: {out}\n"
    assert safe_open(out, "pt").metadata() == {"mean of": f"0.5 of {sha256(tiny)[:16]}, 0.5 of {sha256(other)[:16]}"}
    with pytest.raises(SystemExit, match="error: .*is there already: name a new file"):
        main([str(tiny), str(other), "-o", str(out)])


def test_some_count_more(tiny, tmp_path):
    other, out = moved(tiny, tmp_path / "moved.safetensors"), tmp_path / "mean.safetensors"
    main([str(tiny), str(other), "--counts", "3", "1", "-o", str(out)])
    first, second, mean = (load_file(path) for path in (tiny, other, out))
    for key, value in mean.items():
        torch.testing.assert_close(value, (0.75 * first[key] + 0.25 * second[key]).half(), rtol=1e-3, atol=1e-6)
    for counts in ([1.0], [1.0, 0.0], [1.0, 1.0, 1.0]):
        with pytest.raises(RobustSRError, match="2 models need as many counts above 0"):
            soup([str(tiny), str(other)], tmp_path / "no.safetensors", counts=counts)


def test_the_mean_leans_towards_another(tmp_path, tiny, capsys):
    """The same network, and the upscaler of a denoiser and an upscaler, whose denoiser stays."""
    first, goal = tiny, moved(tiny, tmp_path / "moved.safetensors")
    soup([str(first)], tmp_path / "a.safetensors", towards=str(goal), share=0.25)
    one, other, found = (load_file(path) for path in (first, goal, tmp_path / "a.safetensors"))
    for key, value in found.items():
        torch.testing.assert_close(value, (0.75 * one[key] + 0.25 * other[key]).half(), rtol=1e-3, atol=1e-6)
    out = tmp_path / "b.safetensors"
    main(["certsr", "--towards", "psnr", "--share", "0.2", "-o", str(out)])
    assert capsys.readouterr().err == f"mean of certsr, 0.2 of the way to psnr: {out}\n"
    certsr, psnr, both = load_file(catalogue.find("certsr")[0]), load_file(catalogue.find("psnr")[0]), load_file(out)
    for key, value in both.items():
        part, _, rest = key.partition(".")
        want = 0.8 * certsr[key].float() + 0.2 * psnr[rest].float() if part == "upscaler" else certsr[key]
        torch.testing.assert_close(value, want.half(), rtol=1e-3, atol=1e-6)
    assert safe_open(out, "pt").metadata()["towards"] == f"0.2 of {sha256(catalogue.find('psnr')[0])[:16]}"


def test_what_has_no_mean_is_named(tiny, denoiser, tmp_path):
    out = tmp_path / "mean.safetensors"
    save_file(UNet((8, 16), 16).state_dict(), tmp_path / "unet.safetensors")
    save_file({k: v * 1e9 for k, v in load_file(tiny).items()}, tmp_path / "large.safetensors")
    for names, message in [
        ([tiny], "a mean needs two models"),
        ([tiny, denoiser], "cleaner.* is another network than .*tiny"),
        ([tiny, "psnr"], "'psnr' is another network than .*tiny"),
        ([tiny, "nobody"], "no model 'nobody'"),
        ([tmp_path / "unet.safetensors"] * 2, "unet.* has batch normalisation"),
        ([tiny, tmp_path / "large.safetensors"], "not finite in float16"),
    ]:
        with pytest.raises(RobustSRError, match=message):
            soup([str(name) for name in names], out)
    for other in ("denoiser", str(tiny)):
        with pytest.raises(RobustSRError, match=f"'{other}' is neither the network of 'certsr' nor its upscaler"):
            soup(["certsr"], out, towards=other)
    with pytest.raises(SystemExit):
        main(["certsr", "certsr", "--share", "0.5", "-o", str(out)])
    with pytest.raises(RobustSRError, match=r"share must be more than 0 and less than 1, got 1\.5"):
        soup(["certsr"], out, towards="psnr", share=1.5)
    with pytest.raises(RobustSRError, match=r"mean\.pth is written as safetensors"):
        soup([str(tiny), str(tiny)], tmp_path / "mean.pth")
    assert not out.exists()
