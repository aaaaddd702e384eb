"""Render the sample pictures: ground truths in `hr/` and their degraded quarter-size copies in `samples/`.

Everything is computed here, so no photograph and no licence is involved: `python assets/render.py` takes
about a minute on one core. Coordinates are y up and z into the picture; colours are linear light until
`to_image`; every random number has a fixed seed.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Array = npt.NDArray[Any]


def smooth(lo: float, hi: float, x: Array) -> Array:
    """Hermite step from 0 at lo to 1 at hi."""
    t = np.clip((x - lo) / (hi - lo), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Array | float, b: Array | float, t: Array) -> Array:
    """a where t is 0, b where t is 1; colours (3,) broadcast over a plane of weights."""
    t = t[..., None] if np.ndim(a) > np.ndim(t) or np.shape(a) == (3,) or np.shape(b) == (3,) else t
    return np.asarray(a * (1 - t) + b * t)


def rgb(code: str) -> Array:
    """Linear-light colour (3,) of an sRGB code such as "d9a441"."""
    return np.asarray((np.frombuffer(bytes.fromhex(code), np.uint8) / np.float32(255)) ** 2.2)


@lru_cache(maxsize=64)
def gradients(seed: int) -> tuple[Array, Array]:
    """The unit vectors on a 256 x 256 lattice, flattened."""
    turn = np.random.default_rng(seed).random(65536, dtype=np.float32) * np.float32(2 * np.pi)
    return np.cos(turn), np.sin(turn)


def noise(x: Array, y: Array, seed: int) -> Array:
    """Perlin's gradient noise, about [-1, 1], period 256."""
    gx, gy = gradients(seed)
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0).astype(np.float32), (y - y0).astype(np.float32)
    i, j = x0.astype(np.int32) & 255, y0.astype(np.int32) & 255

    def corner(a: int, b: int) -> Array:
        k = ((j + b) & 255) * 256 + ((i + a) & 255)
        return np.asarray(gx[k] * (fx - a) + gy[k] * (fy - b))

    u, v = (t * t * t * (t * (t * 6 - 15) + 10) for t in (fx, fy))
    low = corner(0, 0) * (1 - u) + corner(1, 0) * u
    high = corner(0, 1) * (1 - u) + corner(1, 1) * u
    return np.asarray((low * (1 - v) + high * v) * np.float32(1.5))


def fbm(x: Array, y: Array, octaves: int, seed: int, ridged: bool = False) -> Array:
    """Fractal sum of noise, each octave turned and doubled; ridged ones make crests, in [0, 1]."""
    total, weight = np.zeros(np.broadcast(x, y).shape, np.float32), np.float32(1)
    for k in range(octaves):
        n = noise(x, y, seed + k)
        if ridged:
            n = np.clip(1 - np.abs(n), 0, 1) ** 2 * weight
            weight = np.clip(n * 1.7, 0, 1)
        total += n * np.float32(0.5 ** (k + 1))
        x, y = 1.6 * x + 1.2 * y + 7.3, 1.6 * y - 1.2 * x + 3.1
    return total


def to_image(linear: Array, size: tuple[int, int]) -> Image.Image:
    """Linear light (H, W, 3) through a filmic shoulder (Narkowicz's ACES fit) to an 8-bit picture."""
    x = np.clip(linear, 0, None)
    x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1) ** (1 / 2.2)
    return Image.fromarray((x * 255 + 0.5).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)


def shifted(mask: Image.Image, blur: float, affine: tuple[float, ...]) -> Image.Image:
    """The soft shadow of a mask."""
    return mask.filter(ImageFilter.GaussianBlur(blur)).transform(mask.size, Image.Transform.AFFINE, affine)


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


def ellipsoid(
    at: npt.ArrayLike, radii: npt.ArrayLike, kind: int, axis: Array | None = None, cut: float = 9
) -> tuple[Array, Array, int, float]:
    """Centre, world-to-unit-sphere matrix, material, and the height in it above which nothing is left."""
    basis = np.eye(3)
    if axis is not None:  # turn y towards axis
        y = axis / np.linalg.norm(axis)
        x = np.cross(y, (0.31, 0.2, 0.93))
        x /= np.linalg.norm(x)
        basis = np.stack([x, y, np.cross(x, y)])
    return np.array(at, np.float32), (basis / np.array(radii)[:, None]).astype(np.float32), kind, cut


def still_life_scene(rng: np.random.Generator) -> list[Any]:
    """Groups (centre, radius, ellipsoids): a vase of eucalyptus, oranges, a lemon, grapes."""
    groups = [[ellipsoid((-0.35, 0.62, 0.1), (0.44, 0.66, 0.44), 1, cut=0.86)]]
    groups.append([ellipsoid((-0.35, 1.26, 0.1), (0.25, 0.06, 0.25), 1, cut=0.2)])
    fruit = [((0.42, 0.31, 0.12), 0.31), ((0.0, 0.27, -0.62), 0.27), ((0.62, 0.26, -0.48), 0.26)]
    groups += [[ellipsoid(c, (q, 0.94 * q, q), 2)] for c, q in fruit]
    groups += [[ellipsoid((x, y + 0.93 * q, z - 0.02), (0.035, 0.012, 0.035), 6)] for (x, y, z), q in fruit]
    groups.append([ellipsoid((-0.62, 0.19, -0.62), (0.19, 0.27, 0.19), 3, np.array([1, 0.1, -0.5]))])
    groups[-1].append(ellipsoid((-0.42, 0.215, -0.72), (0.09, 0.11, 0.09), 3, np.array([1, 0.1, -0.5])))
    grapes = []
    for k in range(16):
        level, turn = (0.08, 0.19)[k > 10], 2.4 * k
        x, z = 0.62 + 0.085 * np.sqrt(k % 11) * np.cos(turn), -1.0 + 0.085 * np.sqrt(k % 11) * np.sin(turn)
        grapes.append(ellipsoid((x, level, z), (0.08, 0.085, 0.08), 4))
    groups.append(grapes)
    for k in range(6):
        p, stem = np.array([-0.35, 1.2, 0.1]), []
        way = np.array([1.1 * (k / 5 - 0.5) + 0.1 * rng.normal(), 1.5, 0.4 * rng.normal()])
        for j in range(9):
            step = way / np.linalg.norm(way) * 0.15
            stem.append(ellipsoid(p + step / 2, (0.011, 0.095, 0.011), 5, step))
            p, way = p + step, way + np.array([0.22 * (k / 5 - 0.5), -0.09, 0]) + 0.12 * rng.normal(size=3)
            for side in (-1, 1):
                out = np.cross(step, rng.normal(size=3) * 0.5 + (0, 0, 1)) * side
                out = out / np.linalg.norm(out) + 4 * step
                size = 0.115 * (1 - 0.06 * j) * (0.8 + 0.4 * rng.random())
                stem.append(ellipsoid(p + out * size * 0.8, (0.7 * size, size, 0.012), 6, out))
        groups += [stem[:9], stem[9:18], stem[18:]]
    bounds = []
    for group in groups:
        centre = np.mean([g[0] for g in group], axis=0)
        reach = max(np.linalg.norm(g[0] - centre) + 1 / np.linalg.norm(g[1], axis=1).min() for g in group)
        bounds.append((centre, float(reach), group))
    return bounds


def hit(scene: list[Any], o: Array, d: Array, shadow: bool = False) -> tuple[Array, Array, Array]:
    """Nearest hit of rays o + t d: t (inf: none), unit normal facing the ray, material (0 table, 7 wall)."""
    t, kind, normal = np.full(len(o), np.inf, np.float32), np.zeros(len(o), np.int8), np.zeros_like(o)
    for axis, level, k in ((1, 0.0, 0), (2, 1.1, 7)) if not shadow else ():
        with np.errstate(divide="ignore"):
            s = (level - o[:, axis]) / d[:, axis]
        near = (s > 1e-3) & (s < t)
        t[near], kind[near] = s[near], k
        normal[near] = np.eye(3)[axis] * (1 - 2 * (k == 7))
    for centre, reach, group in scene:
        oc = o - centre
        b = np.einsum("ij,ij->i", oc, d)
        rays = np.flatnonzero((b * b - np.einsum("ij,ij->i", oc, oc) + reach**2 > 0) & (b < reach))
        for at, matrix, k, cut in group if len(rays) else ():
            p, q = (o[rays] - at) @ matrix.T, d[rays] @ matrix.T
            a, b = np.einsum("ij,ij->i", q, q), np.einsum("ij,ij->i", p, q)
            root = b * b - a * (np.einsum("ij,ij->i", p, p) - 1)
            i = np.flatnonzero(root > 0)
            p, q, a, b, root, met = p[i], q[i], a[i], b[i], np.sqrt(root[i]), rays[i]
            for sign in (-1, 1) if cut < 1 else (-1,):
                s = (sign * root - b) / a
                near = (s > 2e-3) & (s < t[met]) & (p[:, 1] + s * q[:, 1] < cut)
                i = met[near]
                t[i], kind[i] = s[near], k
                n = (p[near] + s[near, None] * q[near]) @ matrix
                normal[i] = n * (-sign / np.linalg.norm(n, axis=1, keepdims=True))
    return t, normal, kind


def material(p: Array, n: Array, kind: Array) -> tuple[Array, Array, Array]:
    """Diffuse colour, bumped normal and gloss spread at points p."""
    x, y, z = p.T
    colour, n, rough = np.zeros_like(p), n.copy(), np.full(len(p), 0.25, np.float32)
    for k in np.unique(kind):
        m = kind == k
        a, b, c = x[m], y[m], z[m]
        if k == 0:  # planks along x
            plank = np.floor(c / 0.42)
            ring = fbm(a * 0.7 + plank * 9.1, c * 13 + 0.8 * fbm(a * 2, c * 3, 2, 4) + plank * 3.3, 5, 1)
            tone = 0.75 + 0.35 * np.sin(plank * 2.7) + 1.0 * ring
            gap = smooth(0.0, 0.025, 0.5 - np.abs((c / 0.42) % 1 - 0.5))
            colour[m] = mix(rgb("4a2c18"), rgb("a8754a"), tone.clip(0, 1)) * (0.15 + 0.85 * gap)[:, None]
            rough[m] = 0.12 + 0.15 * np.abs(ring)
        elif k == 7:
            colour[m] = rgb("7e8f8e") * (1 + 0.35 * fbm(a * 3, b * 3, 6, 7))[:, None]
        elif k == 1:  # glazed stoneware with painted bands
            wave = b + 0.03 * np.sin(9 * np.arctan2(c - 0.1, a + 0.35)) + 0.01 * fbm(a * 6, b * 6, 3, 2)
            band = smooth(0.012, 0.004, np.abs((wave - 0.575) % 0.09 - 0.045)) * (np.abs(b - 0.7) < 0.25)
            speck = smooth(0.45, 0.6, fbm(a * 30 + c * 20, b * 30, 2, 3))
            colour[m] = mix(mix(rgb("e6dfd0"), rgb("2b4a7a"), band), rgb("6b5a48"), 0.7 * speck)
            rough[m] = 0.03
        else:
            code = {2: "e87412", 3: "ecc42e", 4: "4a2348", 5: "6b4a32", 6: "7f9a86"}[int(k)]
            blotch = fbm(a * 9 + c * 7, b * 9 - c * 5, 4, int(k))
            colour[m] = rgb(code) * (1 + (0.8 if k == 6 else 0.3) * blotch)[:, None]
            if k in (2, 3):
                bump = [noise(a * 55 + i, b * 55 + c * 40, 11 + i) for i in range(3)]
                n[m] += 0.16 * np.stack(bump, 1)
            rough[m] = 0.1 if k == 4 else 0.2
    return colour.clip(0, 0.95), n / np.linalg.norm(n, axis=1, keepdims=True), rough


def still_life(spp: int = 40) -> Image.Image:
    """Path tracing with one bounce: the sun through a window beside the camera, a room behind it."""
    w, h, rng = 480, 640, np.random.default_rng(3)
    scene, out = still_life_scene(np.random.default_rng(8)), np.zeros((h * w, 3), np.float32)
    eye, aim, above, sun = np.array(
        [[0.35, 1.75, -5.2], [0.0, 1.02, 0.0], [0, 1, 0], [-0.6218, 0.5014, -0.6017]], np.float32
    )
    f = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.cross(above, f) / np.linalg.norm(np.cross(above, f))
    py, px = np.divmod(np.arange(h * w, dtype=np.int64), w)

    def room(d: Array, mirrored: Array) -> Array:  # the window itself only in reflections: far less noise
        y, z = np.abs(d[:, 1] / -d[:, 0] - 0.75), np.abs(d[:, 2] / d[:, 0] - 0.5)
        glass = mirrored & (d[:, 0] < -0.5) & (y < 0.5) & (z < 0.6) & (np.minimum(y, z) > 0.04)
        dome = mix(rgb("8a7a6a") * 0.3, rgb("b4c4dc") * 0.7, smooth(-0.4, 1, d[:, 1] * 0.5 - d[:, 0] * 0.7))
        return np.asarray(dome + 5 * np.outer(glass, rgb("e6efff")))

    def pane(p: Array) -> Array:  # how much sun the window lets through on its way to p
        s = (p[:, 0] + 3) / sun[0]
        y, z = p[:, 1] - s * sun[1] - 3.4, p[:, 2] - s * sun[2] + 2.75
        bars = (np.abs((y + 0.45) % 0.9 - 0.45) > 0.05) & (np.abs((z + 0.35) % 0.7 - 0.35) > 0.045)
        return np.asarray((np.abs(y) < 1.35) & (np.abs(z) < 1.05) & bars)

    chunk = 3840  # pixels at once: the rays of one pass stay near the cache
    for start in range(0, h * w, chunk):
        pix = np.repeat(np.arange(start, start + chunk), spp)
        j = rng.random((4, len(pix)), dtype=np.float32)
        j[0] = (np.tile(np.arange(spp), chunk) + j[0]) / spp  # stratified in x
        turn, far = 2 * np.pi * j[2], np.float32(np.linalg.norm(aim - eye) - 0.45)
        ray = f + ((px[pix] + j[0] * 1.3 - w / 2) / w * 0.5)[:, None] * right
        ray = ray - ((py[pix] + j[1] * 1.3 - h / 2) / w * 0.5)[:, None] * np.cross(f, right)
        disc = 0.035 * np.sqrt(j[3]) * np.stack([np.cos(turn), np.sin(turn)])
        o = (eye + np.outer(disc[0], right) + np.outer(disc[1], above)).astype(np.float32)
        d = (eye + ray * far - o).astype(np.float32)
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        power, light = np.ones_like(o), np.zeros_like(o)
        live = np.arange(len(o))
        gloss = np.zeros(len(o), bool)
        for _ in range(2):
            t, n, kind = hit(scene, o, d)
            gone = ~(t < 9)
            light[live[gone]] += power[gone] * room(d[gone], gloss[gone])
            o, d, t, n, kind, power, live = (x[~gone] for x in (o, d, t, n, kind, power, live))
            p = o + d * t[:, None]
            colour, n, rough = material(p, n, kind)
            facing = np.abs(np.einsum("ij,ij->i", n, d))
            schlick = np.where(kind == 7, 0, 0.04 + 0.9 * (1 - facing) ** 5 * (rough < 0.2)).astype(np.float32)
            chance = np.where(kind == 7, 0, 0.15 + 0.85 * schlick)  # more gloss than due, weighed back: less noise
            gloss = rng.random(len(p)) < chance
            diffuse = power * colour * (1 - schlick)[:, None]
            to_sun = sun + rng.normal(0, 0.012, p.shape).astype(np.float32)
            cos = np.einsum("ij,ij->i", n, to_sun).clip(0) * pane(p)
            i = np.flatnonzero(cos)
            clear = ~np.isfinite(hit(scene, p[i] + 1e-3 * n[i], to_sun[i], shadow=True)[0])
            light[live[i]] += diffuse[i] * (cos[i] * clear)[:, None] * rgb("ffe2b4") * 2.5
            mirror_power = power * (schlick / chance.clip(1e-3))[:, None]
            power = np.where(gloss[:, None], mirror_power, diffuse / (1 - chance)[:, None]).astype(np.float32)
            ball = rng.normal(size=p.shape).astype(np.float32)
            ball /= np.linalg.norm(ball, axis=1, keepdims=True)
            mirrored = d - 2 * np.einsum("ij,ij->i", n, d)[:, None] * n + rough[:, None] * ball
            d = np.where(gloss[:, None], mirrored, n + ball * 0.999)
            d = (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)
            o = (p + 1e-3 * n).astype(np.float32)
        light[live] += power * room(d, gloss) * 0.7  # what is left sees the room unhindered
        out[start : start + chunk] = light.clip(0, 6).reshape(-1, spp, 3).mean(1)
    return to_image(out.reshape(h, w, 3), (w, h))


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


def main(root: Path, scenes: Sequence[str] = ("landscape", "still-life", "sign", "scan", "fabric")) -> None:
    """Write root/hr/NAME.webp and, from that file shrunk 4 times, root/samples/NAME as a device saves it."""
    exif = Image.Exif()  # a camera held upright: the stored rows are the scene's columns
    exif.update({0x010F: "robustsr render", 0x0110: "path tracer", 0x0112: 6, 0x0132: "2025:06:01 12:00:00"})
    renders: dict[str, tuple[Any, str, float, dict[str, Any]]] = {
        "landscape": (landscape, "png", 0, {"optimize": True}),
        "still-life": (still_life, "jpg", 0.03, {"quality": 85, "exif": exif}),
        "sign": (sign, "png", 0, {"optimize": True}),
        "scan": (scan, "png", 0.04, {"optimize": True}),
        "fabric": (fabric, "webp", 0, {"quality": 80, "method": 6}),
    }
    for folder in ("hr", "samples"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in scenes:
        scene, suffix, sigma, options = renders[name]
        truth = scene()
        truth.save(root / f"hr/{name}.webp", quality=92, method=6)
        with Image.open(root / f"hr/{name}.webp") as stored:
            size = stored.width // 4, stored.height // 4
            lr = stored.convert(truth.mode).resize(size, Image.Resampling.BICUBIC)
        if sigma:
            grain = np.random.default_rng(1).normal(0, 255 * sigma, np.asarray(lr).shape)
            lr = Image.fromarray((np.asarray(lr) + grain).round().clip(0, 255).astype(np.uint8))
        lr = lr.transpose(Image.Transpose.ROTATE_90) if "exif" in options else lr
        lr.save(root / f"samples/{name}.{suffix}", **options)


if __name__ == "__main__":
    main(Path(__file__).parent)
