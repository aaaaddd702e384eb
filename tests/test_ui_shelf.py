import pytest
from robustsr_ui import shelf


@pytest.mark.parametrize(("name", "smoothed"), [("certsr", True), ("denoiser", False), ("unet-x2", False)])
def test_smoothing_defaults_are_shown_of_upscalers_alone(name, smoothed):
    text = shelf.details(name)
    assert ("**smoothing**" in text) == smoothed and "**sha256**" in text and "| measured |" in text


def test_ones_own_model_is_described_by_what_was_loaded(tiny):
    text = shelf.details(str(tiny))
    assert "Your own: x4, receptive radius" in text and "sha256" in text
