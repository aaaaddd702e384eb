import pytest
from robustsr_ui import shelf

from robustsr import catalogue


@pytest.mark.parametrize(("name", "smoothed"), [("certsr", True), ("denoiser", False), ("unet-x2", False)])
def test_smoothing_defaults_are_shown_of_upscalers_alone(name, smoothed):
    text = shelf.details(name)
    assert ("**smoothing**" in text) == smoothed and "**sha256**" in text and "| measured |" in text


def test_measured_figures_have_their_names_and_units():
    figures = catalogue.catalogue()["psnr"].quality
    fgsm = f"{figures['fgsm_psnr']:.2f} dB, LPIPS {figures['fgsm_lpips']:.3f}"
    assert f"| FGSM 10/255 | {fgsm} |" in shelf.details("psnr")
    assert f"| Set5 (Y) | {figures['set5_y_psnr']:.2f} dB |" in shelf.details("psnr")
    assert shelf.line("psnr") == f"{catalogue.catalogue()['psnr'].description}."


def test_ones_own_model_is_described_by_what_was_loaded(tiny):
    text = shelf.details(str(tiny))
    assert "Your own: x4, receptive radius" in text and "sha256" in text
