"""Scenes in a plane: an enamel sign, an old print, a cloth."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .toolkit import Array, fbm, mix, noise, rgb, shifted, smooth, to_image


def letters(draw: ImageDraw.ImageDraw, y: float, text: str, size: int, fill: str, gap: float) -> None:
    """Text centred on (960, y), spaced by gap pixels."""
    font = ImageFont.load_default(size)
    x = 960 - (sum(font.getlength(c) for c in text) + gap * (len(text) - 1)) / 2
    for c in text:
        draw.text((x, y), c, fill, font, "lm", stroke_width=size / 30)
        x += font.getlength(c) + gap


def sign() -> Image.Image:
    """An enamel shop sign, worn at its edge, with a soft shadow on nothing: RGBA."""
    w, h = 1920, 1440
    face = Image.new("RGB", (w, h), "#efe6cf")
    mask = Image.new("L", (w, h), 0)
    for inset, paint in ((0, "white"), (26, "#12324a"), (60, "#efe6cf"), (72, "#12324a")):
        draw, i = ImageDraw.Draw(face if inset else mask), inset
        draw.rounded_rectangle((150 + i, 420 + i, 1770 - i, 1250 - i), 90 - i // 2, paint)
        draw.ellipse((500 + i, 130 + i, 1420 - i, 1050 - i), paint)
    draw = ImageDraw.Draw(face)
    for k in range(25):  # sun rays, then sea, then boat
        a = np.pi * (1 + k / 24)
        ray = ((150, 0), (330, 0.022), (330, -0.022))
        draw.polygon([(960 + r * np.cos(a + t), 560 + r * np.sin(a + t)) for r, t in ray], "#e2a93b")
    draw.pieslice((830, 430, 1090, 690), 180, 360, "#e2a93b")
    draw.polygon([(975, 300), (975, 520), (1125, 520)], "#efe6cf")
    draw.polygon([(955, 340), (955, 520), (840, 520)], "#c8442f")
    draw.polygon([(800, 535), (1140, 535), (1080, 590), (860, 590)], "#efe6cf")
    for k in range(3):
        x = np.arange(700 - 40 * k, 1221 + 40 * k, 4)
        y = 606 + 26 * k + 8 * np.sin(x / 24 + k)
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), "#7fb2c4", 9)
    letters(draw, 790, "HARBOUR BAKERY", 146, "#efe6cf", 9)
    draw.line((300, 905, 1620, 905), "#e2a93b", 7)
    letters(draw, 985, "fresh bread & strong coffee", 88, "#e2a93b", 4)
    letters(draw, 1090, "OPEN DAILY 7 - 18   \u00b7   14 QUAYSIDE LANE", 54, "#efe6cf", 5)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    deep = np.asarray(mask.filter(ImageFilter.GaussianBlur(22)), np.float32) / 255
    gy, gx = np.gradient(np.asarray(mask.filter(ImageFilter.GaussianBlur(9)), np.float32) / 255)
    worn = fbm(x / 90, y / 90, 6, 21) + 1.5 * (1 - deep) - 0.42
    for cx, cy in ((250, 520), (1670, 520), (250, 1150), (1670, 1150)):
        worn = np.maximum(worn, 0.9 - np.hypot(x - cx, y - cy) / 45 + 0.5 * fbm(x / 30, y / 30, 4, 5))
    rust = mix(rgb("3a1c10"), rgb("a4562a"), smooth(-0.4, 0.5, fbm(x / 12, y / 12, 4, 9)))
    glaze = (np.asarray(face, np.float32) / 255) ** 2.2 * (1 + 0.12 * fbm(x / 200, y / 60, 5, 2))[..., None]
    lit = mix(glaze, rust, smooth(0.33, 0.4, worn))
    gloss = np.exp(-(((x * 0.8 + y - 1150 + 40 * np.sin(x / 300)) / 190) ** 2)) * smooth(0.4, 0.3, worn)
    lit = lit * (0.95 + 14 * (gx + gy) + 0.25 * (1 - y / h))[..., None] * 0.8 + 0.10 * gloss[..., None]
    solid = Image.composite(to_image(lit, (w, h)), Image.new("RGB", (w, h), "#0c1016"), mask)
    solid.putalpha(Image.composite(mask, shifted(mask, 26, (1, 0, -34, 0, 1, -46)).point(lambda a: a * 0.55), mask))
    return solid.rotate(3.5, Image.Resampling.BICUBIC).resize((640, 480), Image.Resampling.LANCZOS)


def branch(draw: list[ImageDraw.ImageDraw], rng: np.random.Generator, p: Array, way: float, size: float) -> None:
    """A bough and, recursively, its twigs: the tree on draw[0], the light on its left side on draw[1]."""
    for k in range(7):
        q = p + (5 + 0.85 * size) * np.array([np.cos(way), np.sin(way)])
        draw[0].line([*p, *q], 255, max(2, round(size)))
        if size > 4:
            draw[1].line([*(p - (0.22 * size, 0)), *(q - (0.22 * size, 0))], 150, round(0.3 * size))
        p, way, size = q, way + rng.normal(0, 0.1) - 0.04 * np.cos(way), size * 0.96
        if k > 1 and size > 1.6 and rng.random() < 0.5:
            turn = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
            branch(draw, rng, p, way + turn, size * rng.uniform(0.4, 0.7))
    for turn in (-0.35, 0.35) if size > 1.2 else ():
        branch(draw, rng, p, way + turn + rng.normal(0, 0.12), size * 0.72)


def scan() -> Image.Image:
    """An old print: a bare tree and its shadow before a brick house in the snow, faded, on toned card."""
    w, h, rng = 1280, 960, np.random.default_rng(12)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    row = np.floor(y / 22)
    bx, by = (x + 26 * (row % 2) + 3 * noise(y / 30, row, 3)) % 52, y % 22
    tone = rng.random((60, 60))[row.astype(int) % 60, ((x + 26 * (row % 2)) / 52).astype(int) % 60]
    edge = np.minimum(np.minimum(bx, 52 - bx), np.minimum(by, 22 - by)) + 1.2 * fbm(x / 6, y / 6, 3, 4)
    wall = mix(0.55 + 0 * x, 0.22 + 0.22 * tone + 0.1 * fbm(x / 9, y / 9, 5, 6), smooth(1.2, 3.2, edge))
    wall += 0.1 * ((by < 4) & (edge > 1.5)) + 0.08 * fbm(x / 160, y / 160, 4, 9)
    house = Image.fromarray((wall.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(house)
    for cx, cy in ((240, 150), (240, 560), (1020, 150), (1020, 560)):
        draw.polygon([(cx - 125, cy - 52), (cx + 125, cy - 52), (cx + 105, cy), (cx - 105, cy)], 165)
        for k in range(-4, 5):
            draw.line((cx + 27 * k, cy - 52, cx + 23 * k, cy), 95, 2)
        draw.rectangle((cx - 100, cy, cx + 100, cy + 260), 205)
        for i in range(2):
            for k in range(3):
                box = (cx - 86 + 92 * i, cy + 14 + 80 * k, cx - 6 + 92 * i, cy + 86 + 80 * k)
                draw.rectangle(box, 34 + 9 * k)
                draw.polygon([box[:2], (box[0] + 60 - 40 * i, box[1]), (box[0], box[3])], 60 + 30 * i)
        draw.rectangle((cx - 120, cy + 260, cx + 120, cy + 282), 235)
        draw.rectangle((cx - 112, cy + 283, cx + 112, cy + 296), 60)
    layers = [Image.new("L", (w, h)) for _ in range(2)]
    branch([ImageDraw.Draw(i) for i in layers], np.random.default_rng(7), np.array([620.0, 960.0]), -1.55, 40)
    tree, bark = (np.asarray(i, np.float32) / 255 for i in layers)
    cast = np.asarray(shifted(layers[0], 3, (1, 0.12, -190, 0, 1, -60)), np.float32) / 255
    out = np.asarray(house, np.float32) / 255 * (1 - 0.55 * cast)
    drift = 855 + 30 * fbm(x / 260, x * 0, 4, 14)
    snow = 0.8 + 0.1 * fbm(x / 90, y / 30, 5, 15) - 0.25 * cast
    out = mix(out, snow, smooth(0, 3, y - drift))
    out = mix(out, 0.09 + 0.1 * fbm(x / 4, y / 14, 3, 17) + 0.75 * bark, tree)
    old = 0.08 + 0.9 * out * (1 - 0.35 * smooth(0.5, 1.1, np.hypot(x / w - 0.5, y / h - 0.5) * 1.4))
    rim = np.minimum(np.minimum(x, w - 1 - x), np.minimum(y, h - 1 - y)) + 2 * noise(x / 9, y / 9, 18)
    old = mix(0.9 + 0.04 * fbm(x / 60, y / 60, 5, 19), old, smooth(44, 47, rim))
    return Image.fromarray((old.clip(0, 1) * 255).astype(np.uint8)).reduce(2)


def fabric() -> Image.Image:
    """Tartan wool in folds: a 2/2 twill of plied threads, shaded by its own relief, with loose hairs."""
    w, h, rng, pitch = 1280, 960, np.random.default_rng(5), 22
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    fold = 190 * fbm((x + 0.4 * y) / 520, y / 900, 3, 3)
    fold += 26 * np.sin(x / 150 + y / 210 + 2 * noise(x / 400, y / 400, 8))
    fy, fx = np.gradient(fold)
    s = (0.94 * x - 0.34 * y + 0.45 * fold + 2.5 * noise(x / 40, y / 40, 1)) / pitch
    t = (0.34 * x + 0.94 * y + 0.35 * fold + 2.5 * noise(x / 40, y / 40, 2)) / pitch
    warp = (np.floor(s) + np.floor(t)) % 4 < 2
    across, along = np.where(warp, s, t) % 1 - 0.5, np.where(warp, t, s)
    phase = (np.where(warp, t + np.floor(s), s + np.floor(t)) % 4) / 2 % 1
    relief = np.sqrt((1 - 3.6 * across**2).clip(0.02)) * (0.55 + 0.45 * np.sin(np.pi * phase))
    relief += 0.10 * np.sin(2 * np.pi * (along * 2.2 + across * 1.3))
    relief += 0.12 * fbm(along * 2, across * 9 + np.floor(s), 4, 6)
    sett = np.array([0] * 10 + [1] * 3 + [0] * 3 + [2] + [0] * 3 + [1] * 3 + [3] * 9 + [2] * 1 + [3] * 9)
    dye = np.stack([rgb(c) for c in ("8a2b2e", "1c2a40", "d9bd72", "2f5246")])
    thread = np.where(warp, np.floor(s), np.floor(t)).astype(int) % len(sett)
    colour = dye[sett[thread]] * (1 + 0.25 * fbm(along / 3, thread * 1.7, 3, 9))[..., None]
    ry, rx = np.gradient(relief * 9)
    slope_x, slope_y = fx * 1.2 + rx, fy * 1.2 + ry
    light = (0.62 + 0.62 * slope_x + 0.3 * slope_y).clip(0) / np.sqrt(1 + slope_x**2 + slope_y**2)
    lit = colour * (light * 2.2 * (0.25 + 0.75 * relief.clip(0, 1)) + 0.12)[..., None]
    hairs = Image.new("L", (w, h))
    draw = ImageDraw.Draw(hairs)
    for _ in range(420):
        a, p, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0, (w, h)), rng.normal(0, 0.09)
        turn = a + bend * np.arange(rng.integers(8, 26))
        path = p + 6 * np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1), axis=0)
        draw.line([tuple(q) for q in path.tolist()], int(rng.integers(60, 170)), 2)
    lit = mix(lit, lit * 0.5 + rgb("e9d9c8") * 0.35, np.asarray(hairs, np.float32) / 255)
    return to_image(lit, (w // 2, h // 2))
