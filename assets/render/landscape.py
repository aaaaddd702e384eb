"""A mountain lake, ray-marched. y is up, z into the picture."""

import numpy as np
from PIL import Image

from .toolkit import Array, fbm, mix, noise, rgb, smooth, to_image


def terrain(x: Array, z: Array, octaves: int) -> tuple[Array, Array]:
    """Height above the lake and the share of it that is tree, at points of the ground."""
    shore = z - 2.3 - 0.9 * fbm(x * 0.8, z * 0.4, 4, 1) - 1.2 * np.exp(-(((x - 0.3) / 1.2) ** 2))
    bank = 0.075 - 0.16 * np.hypot(x + 0.62, 0.8 * (z - 0.95)) + 0.1 * fbm(x * 5, z * 5, octaves, 40)
    rise = smooth(0.5, 9, shore)
    rock = fbm(x * 0.22 + 4.6, z * 0.22 + 0.3, octaves, 10, ridged=True)
    ground = 0.05 * shore.clip(-1, 1) + rise * (3.6 * rock - 0.55) + 0.05 * fbm(x * 2, z * 2, 3, 30)
    ground = np.maximum(ground, bank)
    trees = np.zeros_like(ground)
    wood = smooth(0.03, 0.06, ground) * smooth(0.95, 0.45, ground + 0.4 * noise(x * 1.5, z * 1.5, 5))
    table = np.random.default_rng(6).random((4, 256, 256), dtype=np.float32)
    for k, cell in enumerate((0.022, 0.029, 0.037)):
        cx, cz = x / cell + 0.37 * k, z / cell + 0.61 * k
        jx, jz, tall, _ = table[:, cz.astype(np.int32) & 255, np.floor(cx).astype(np.int32) & 255]
        r = np.hypot(cx % 1 - 0.35 - 0.3 * jx, cz % 1 - 0.35 - 0.3 * jz)
        trees = np.maximum(trees, cell * (1.1 + 1.1 * tall) * (1 - r / 0.36).clip(0, 1))
    return ground, trees * wood * (z > 1.6)


def landscape() -> Image.Image:
    """A mountain lake: a height field seen by one sorted search per column, once direct, once mirrored."""
    w, h, fov, eye, n = 1536, 1024, 1.1, 0.14, 3000
    u = ((np.arange(w, dtype=np.float32) + 0.5) / w - 0.5) * fov
    v = (0.60 * h - np.arange(h, dtype=np.float32)) / w * fov
    z = np.geomspace(0.3, 40, n, dtype=np.float32)[:, None]
    ground, trees = terrain(u * z, z + 0 * u, 10)
    top = (ground + trees) * (ground > 0)
    # The sun shines along +x, so its shadows are one running maximum over a map seen from above.
    mx, mz = np.meshgrid(np.linspace(-24, 24, 1600), np.linspace(0, 40, 1000))
    low = sum(terrain(mx, mz, 6)) + mx * 0.42
    lit = smooth(0.12, -0.02, np.maximum.accumulate(low, axis=1) - low)
    dz, dx = np.gradient(top, axis=0) / np.gradient(z, axis=0), np.gradient(top, axis=1) / (z * fov / w)
    haze, blue = rgb("c9cfe0") * 0.9, rgb("3f78b8")

    def sky(col: Array, up: Array) -> Array:
        a = u[col]
        base = mix(rgb("f6dcc0") * 1.1, blue, smooth(-0.05, 0.42, up))
        far = 1 / (up.clip(0) + 0.12)
        cloud = fbm(a * far * 1.3 + 3.1, far * 1.9, 7, 50)
        light = smooth(-0.2, 0.5, cloud - fbm(a * far * 1.3 + 2.9, far * 1.9, 4, 50) + 0.1)
        return mix(base, mix(rgb("8c93ab"), rgb("fff1e0") * 1.25, light), 0.9 * smooth(0.02, 0.35, cloud))

    def land(row: Array, col: Array, up: Array) -> Array:
        k = row.clip(0, n - 1)
        d, y, tree = z[k, 0], top[k, col], trees[k, col]
        x = u[col] * d
        gx, gz = dx[k, col].clip(-3, 3), dz[k, col].clip(-3, 3)
        up_n = 1 / np.sqrt(1 + gx**2 + gz**2)
        at = (d / 40 * 999).astype(int).clip(0, 999), ((x + 24) / 48 * 1599).astype(int).clip(0, 1599)
        sun = ((0.42 + 0.85 * gx + 0.3 * gz) * up_n).clip(0) * lit[at]
        grain = fbm(x * 9, y * 30 + d * 5, 5, 70)
        colour = mix(rgb("8a7d72"), rgb("5d5550"), smooth(-0.3, 0.4, grain))
        grass = mix(rgb("4a5a2a"), rgb("a39a55"), smooth(-0.5, 0.6, grain))
        colour = mix(colour, grass, smooth(0.8, 0.2, y) * smooth(0.5, 0.8, up_n) * smooth(0.01, 0.02, y))
        snow = smooth(0.9, 1.5, y + 0.5 * grain) * smooth(0.42, 0.62, up_n + 0.15 * grain)
        colour = mix(colour, np.ones(3) * 0.92, snow)
        leaf = mix(rgb("22382a"), rgb("6d6a30"), smooth(-0.5, 0.7, fbm(x * 4, d * 4, 6, 8)))
        colour = mix(colour, leaf * (0.25 + 26 * tree)[..., None].clip(0, 1), smooth(1.1, 0.9, y) * (d > 1.6))
        shade = sun[..., None] * rgb("ffdfb0") * 2.8 + (0.2 + 0.3 * up_n)[..., None] * rgb("7f9cd0")
        seen = mix(colour * shade, haze, (1 - np.exp(-d / 30)) * np.exp(-0.4 * y.clip(0)))
        return np.where((row >= n)[..., None], sky(col, up), seen)

    direct = np.maximum.accumulate((top - eye) / z, axis=0)
    image = np.where(top > 0, (top + eye) / z, -9)
    mirrors = [np.maximum.accumulate(np.where(z > near, image, -9), axis=0) for near in (0, 2.1)]
    out = np.empty((h, w, 3), np.float32)
    for c in range(0, w, 256):
        cols = np.broadcast_to(np.arange(c, c + 256), (h, 256))
        rows = np.stack([np.searchsorted(direct[:, k], v) for k in cols[0]], 1)
        up = np.broadcast_to(v[:, None], rows.shape)
        wet = (rows < n) & (top[rows.clip(0, n - 1), cols] <= 0)
        d = eye / (-up).clip(1e-3)
        wave = fbm(u[cols] * d * 14, d * 34, 4, 90) * smooth(-0.5, 0.6, noise(u[cols] * d * 2, d * 3, 95))
        back = (-up + 0.035 * wave * smooth(0, 0.05, -up)).clip(1e-4)
        columns = [(i, int(k)) for i, k in enumerate(cols[0])]
        seen, beyond = (np.stack([np.searchsorted(m[:, k], back[:, i]) for i, k in columns], 1) for m in mirrors)
        seen = np.where(seen < rows, beyond, seen)  # the bank mirrors in the water before it, not behind it
        fresnel = (0.25 + 0.75 * (1 - back / np.sqrt(1 + back**2)) ** 5)[..., None]
        lake = land(seen, cols, back) * fresnel + rgb("16343a") * (1 - fresnel)
        out[:, c : c + 256] = np.where(wet[..., None], lake, land(rows, cols, up))
    return to_image(out, (w // 2, h // 2))
