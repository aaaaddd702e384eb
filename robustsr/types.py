"""The vocabulary every other module shares: upscalers, how numbers are written, the one error a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 400_000_000  # of a picture, where nothing else is said


class RobustSRError(Exception):
    """A mistake the user can mend: the message says what was got, what was expected, and what to do."""

    code = 1  # with which the command ends


class UsageError(RobustSRError):
    """A command line that makes no sense, whatever there is on this machine."""

    code = 2


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The job was asked to stop; raised between two tiles by the caller's own hook."""


NUMBER = "8/255, 8px or 0.031"  # what `number` reads


def number(text: str) -> float:
    """A size of pixel values as people write it: 8/255, 8px (levels of 255), .031. RobustSRError: something else."""
    try:
        if text.endswith("px"):
            return float(text[:-2]) / 255
        above, slash, below = text.partition("/")
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise RobustSRError(f"{text!r} is no size: write {NUMBER}") from None


def shown(value: float) -> str:
    """The shortest text that `number` reads back: 0.1, 8/255, 2.5/255."""
    texts = f"{value:.6g}", f"{value * 255:.6g}/255", repr(float(value))
    return min((text for text in texts if number(text) == value), key=len, default=str(value))


def named(spec: str) -> str:
    """The name that a spec NAME:key=value,... begins with: capitals, and '_' for '-', make no difference."""
    return spec.partition(":")[0].strip().lower().replace("_", "-")


def settings(spec: str) -> dict[str, str]:
    """The settings of a spec NAME:key=value,..., as they are written.

    RobustSRError: a part has another form, or a key comes twice.
    """
    found: dict[str, str] = {}
    for part in filter(str.strip, spec.partition(":")[2].split(",")):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise RobustSRError(f"{spec!r}: {part.strip()!r} is not of the form key=value")
        if key in found:
            raise RobustSRError(f"{spec!r}: {key} is given twice")
        found[key] = text
    return found


def meant(word: str, known: Iterable[str], of: str = "known") -> str:
    """The words of a message that help after a wrong name: the one that it is close to, or all there are."""
    names = list(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"did you mean {close[0]!r}?" if close else f"{of}: {', '.join(names)}"


class Upscaler(Protocol):
    """Maps pictures to larger pictures. Networks, smoothers and tilers all have this shape, so they nest.

    ``scale``: output pixels per input pixel along one axis.
    ``context``: receptive radius in LR pixels: an output pixel depends on input pixels at most this far away.
    ``exact``: whether ``context`` is that radius, or only an effective one beyond which little changes.
    """

    @property
    def scale(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def exact(self) -> bool: ...

    def __call__(self, x: Tensor, *, origin: Tensor | None = None) -> Tensor:
        """``x (N, 3, h, w)`` to ``(N, 3, scale*h, scale*w)``, float RGB in [0, 1] (values may overshoot).

        Differentiable, no clamp. ``origin (N, 2)``, int64, is the (row, column) of each ``x`` in its picture
        (zeros if omitted); smoothers use it, tiles make it, most others pass it on.
        """
        ...


def refuse_others(x: Tensor) -> None:
    """RobustSRError: ``x`` is nothing that upscalers take, floats of shape (N, 3, h, w), h and w at least 1."""
    from torch import Tensor  # who has one has imported torch

    if not isinstance(x, Tensor):
        raise RobustSRError(f"upscalers take tensors of floats, (N, 3, h, w), got {type(x).__name__}")
    if x.ndim != 4 or x.shape[1] != 3 or not min(x.shape[2:]) or not x.is_floating_point():
        raise RobustSRError(f"upscalers take tensors of floats, (N, 3, h, w), got {x.dtype} of {tuple(x.shape)}")


@dataclass(frozen=True)
class Wrapper:
    """What every upscaler around another one shares: it is as large, as far-sighted and as exact as its inside."""

    inner: Upscaler

    @property
    def scale(self) -> int:
        return self.inner.scale

    @property
    def context(self) -> int:
        return self.inner.context

    @property
    def exact(self) -> bool:
        return self.inner.exact
