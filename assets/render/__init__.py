"""The renderer of the sample pictures: `python -m robustsr_assets.render`, or `python -m assets.render`."""
