"""One picture through an upscaler: its passes, gray, alpha, final size, memory that runs out, numbers that are none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .engine import buffers_kept, is_out_of_memory
from .images import Picture, bleed
from .models import Loaded
from .plan import Counter, Plan, Watched, compose, count_windows, smallest_tile
from .settings import Smoothing, Target
from .smoothing import is_gray
from .types import RobustSRError

OnWindow = Callable[[int, int], None]


def upscale_picture(
    picture: Picture,
    network: Loaded,
    smoothing: Smoothing | None,
    target: Target,
    plan: Plan,
    on_window: OnWindow | None = None,
) -> tuple[Picture, Plan]:
    """Upscales a picture, and returns with it the plan that was used: ``plan``, or a smaller tile after an
    out-of-memory, or a higher precision after a result that was not finite.

    ``on_window(done, total)`` is called after each call of the network with the number of windows, times draws, that
    are through, and may raise to stop. RobustSRError: the result is not finite in float32 either, or memory does
    not suffice for any tile.
    """
    memory: Callable[[], AbstractContextManager[None]] = buffers_kept
    while True:
        try:
            with memory():
                return _upscale(picture, network, smoothing, target, plan, on_window), plan
        except _NotFiniteError:
            exact = network.with_precision("fp32")
            if exact.precision == network.precision:
                raise RobustSRError(f"{network.name} gives values that are not numbers for this picture") from None
            network, plan = exact, replace(plan, precision="fp32")
        except Exception as error:  # onnxruntime's are no RuntimeErrors
            if not is_out_of_memory(error):
                raise
            h, w = picture.rgb.shape[:2]
            largest = max(h, w) * network.scale ** (target.passes(w, h, network.scale) - 1)  # input of a pass
            now, least = min(plan.tile, largest), smallest_tile(network, plan.context)
            if not network.fixed_size and now > least:
                plan = replace(plan, tile=max(now // 2, least), batch=plan.batch // 4)
            elif memory is nullcontext:
                raise RobustSRError(f"out of memory, even in tiles of {now} pixels") from None
            memory = nullcontext  # where memory is short, blocks that are kept leave none for larger ones
        if network.device.type in ("cuda", "mps"):
            getattr(torch, network.device.type).empty_cache()


class _NotFiniteError(Exception):
    pass


def _upscale(
    picture: Picture,
    network: Loaded,
    smoothing: Smoothing | None,
    target: Target,
    plan: Plan,
    on_window: OnWindow | None,
) -> Picture:
    h, w = picture.rgb.shape[:2]
    width, height = target.size(w, h, network.scale)
    jobs, alpha = [picture.rgb], picture.alpha
    if alpha is not None and np.ptp(alpha) > 0:
        jobs = [bleed(picture.rgb, alpha), np.repeat(alpha[..., None], 3, axis=2)]
    passes = target.passes(w, h, network.scale)
    notes = picture.notes
    if smoothing is not None:
        x = torch.from_numpy(jobs[0].transpose(2, 0, 1)[None].clip(0, 1))
        smoothing, note = smoothing.settled(x, Watched(network, lambda _: on_window(0, 1) if on_window else None))
        notes += (note,) * bool(note)
    total = count_windows(network, smoothing, plan, (h, w), passes)
    if len(jobs) > 1:
        total += count_windows(network, None, plan, (h, w), passes)
    counter = Counter(on_window, total)
    planes = []
    for pixels, smooth, kind in zip(jobs, (smoothing, None), ("colours", "alpha"), strict=False):
        low, high = min(0.0, float(pixels.min())), max(1.0, float(pixels.max()))  # beyond [0, 1] for wide gamuts
        x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))
        gray = is_gray(x)  # also where a file stores it as RGB: no tint
        for number in range(passes):
            smooth_now, size = smooth if number == 0 else None, (x.shape[-2], x.shape[-1])
            up = compose(network, smooth_now, plan, size, gray=gray, watch=counter.add)
            with torch.inference_mode():
                before, x = x, up(x)
                if not bool(torch.isfinite(x.sum())):
                    raise _NotFiniteError
                x = x.clamp_(low, high)  # Tiled's own memory
                if kind == "alpha":
                    _hold_between(x, before, network.scale)
        if gray:
            x = x[:, :1]
        plane = resize(x[0].permute(1, 2, 0).numpy(), width, height)
        planes.append(np.clip(plane, low, high, out=plane))
    rgb = np.repeat(planes[0], 3, axis=2) if planes[0].shape[2] == 1 else planes[0]
    if alpha is not None:
        alpha = planes[1][..., 0] if len(planes) > 1 else np.full(rgb.shape[:2], alpha.flat[0], np.float32)
    return replace(picture, rgb=rgb, alpha=alpha, notes=notes)


def _hold_between(sr: Tensor, x: Tensor, scale: int) -> None:
    """Holds ``sr``, in its own memory, between the least and the most of the pixels around in ``x``, ``scale`` times
    smaller: what is opaque or transparent all around stays so.
    """
    plane = x[:, :1]
    for bound, hold in ((-F.max_pool2d(-plane, 3, 1, 1), torch.maximum), (F.max_pool2d(plane, 3, 1, 1), torch.minimum)):
        hold(sr, F.interpolate(bound, scale_factor=scale), out=sr)


def resize(pixels: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Antialiased Lanczos (PIL, float32) of ``(h, w, c)`` ; may overshoot; untouched if the size is right already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    out = np.empty((height, width, pixels.shape[2]), np.float32)
    for c in range(pixels.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(pixels[..., c]), mode="F")
        out[..., c] = np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS))
    return out
