"""The README's picture: a crop of the noisy sample as it is, by bicubic, by the network alone, and smoothed.

python -m tests.bench.figure
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robustsr import images, load, upscale

ASSETS = Path(__file__).parents[2] / "assets"
CROP = (28, 52, 92, 132)  # left, top, right, bottom in LR pixels
SIGMA = 0.06


def main():
    rgb = images.read(ASSETS / "samples/still-life.jpg", max_pixels=10**6).rgb
    lr = Image.fromarray((rgb * 255 + 0.5).astype(np.uint8))
    size, box = (lr.width * 4, lr.height * 4), tuple(4 * c for c in CROP)
    net = load("certsr", device="cpu", precision="fp32")
    panels = {
        "input": lr.resize(size, Image.Resampling.NEAREST),
        "bicubic": lr.resize(size, Image.Resampling.BICUBIC),
        "network alone": upscale(lr, net),
        f"median, sigma {SIGMA:g}": upscale(lr, net, smooth="median", sigma=SIGMA),
    }
    w, h, gap, bar = box[2] - box[0], box[3] - box[1], 6, 22
    sheet = Image.new("RGB", (len(panels) * (w + gap) - gap, h + bar), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, panel) in enumerate(panels.items()):
        sheet.paste(panel.crop(box), (i * (w + gap), bar))
        draw.text((i * (w + gap) + w / 2, bar / 2), label, "black", ImageFont.load_default(14), "mm")
    sheet.save(ASSETS / "before-after.webp", quality=92)


if __name__ == "__main__":
    main()
