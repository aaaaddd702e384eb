"""A vase and fruit by a window, path-traced. y is up, z into the picture."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .toolkit import Array, fbm, mix, noise, rgb, smooth, to_image


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
