"""PSNR of models on folders with HR/ and LR/, bicubic beside them, on clean and on noisy LR.

python -m tests.bench.quality ../shared/data/dev/Set5 ../shared/data/dev/Set14 -m psnr --sigma 0.03
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robustsr.metrics import psnr
from robustsr.models import load
from robustsr.noise import gaussian
from robustsr.settings import smoothing_for
from robustsr.smoothing import Smoothed


def read(path, size=None):
    with Image.open(path) as file:
        image = file.convert("RGB")
        image = image.resize(size, Image.Resampling.BICUBIC) if size else image
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def bicubic(x, *, origin=None):
    """PIL's bicubic enlargement, in float."""
    planes = [Image.fromarray(p.numpy(), "F") for p in x[0]]
    size = (4 * x.shape[-1], 4 * x.shape[-2])
    return torch.from_numpy(np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in planes]))[None]


def measure(upscaler, folder, noise):
    values = []
    for path in sorted((folder / "HR").iterdir()):
        hr, x = read(path), read(folder / "LR" / path.name)
        if noise:
            x = x + noise * gaussian(1, range(1), 3, *x.shape[-2:], torch.zeros(1, 2, dtype=torch.int64))[0]
            x = (x.clamp(0, 1) * 255).round() / 255
        with torch.inference_mode():
            sr = (upscaler(x).clamp(0, 1) * 255).round() / 255
        h, w = (min(a, b) for a, b in zip(hr.shape[-2:], sr.shape[-2:], strict=True))
        pair = sr[..., :h, :w], hr[..., :h, :w]
        values.append([float(psnr(*pair, crop=4, y=True)), float(psnr(*pair, crop=4))])
    return np.mean(values, axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-m", "--model", action="append", default=[])
    parser.add_argument("--noise", type=float, default=0.03, help="std of the noise on noisy LR, rounded to 8 bits")
    parser.add_argument("--sigma", type=float, help="also smoothed by the median with this sigma")
    args = parser.parse_args()
    rows = {"bicubic": bicubic}
    for name in args.model:
        rows[name] = load(name, device="cpu", precision="fp32")
        if args.sigma:
            smoothing = smoothing_for(rows[name], "median", args.sigma)
            rows[f"{name}, median sigma {args.sigma:g}"] = Smoothed(rows[name], **vars(smoothing))
    print(f"PSNR in dB, Y / RGB, 4 px border left out, 8-bit results; noisy: std {args.noise:g} on LR")
    for folder in args.folders:
        print(f"{folder.name:34s} {'clean':>15s} {'noisy':>15s}")
        for name, upscaler in rows.items():
            clean, noisy = measure(upscaler, folder, 0), measure(upscaler, folder, args.noise)
            print(f"  {name:32s} {clean[0]:7.2f}/{clean[1]:7.2f} {noisy[0]:7.2f}/{noisy[1]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
