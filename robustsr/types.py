"""The vocabulary every other module shares: what an upscaler is, and the one error a user can cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class RobustSRError(Exception):
    """A mistake the user can mend: the message says what was got, what was expected, and what to do."""


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The job was asked to stop; raised between two tiles by the caller's own hook."""


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
        (zeros if omitted); only smoothers use it, everything else passes it on.
        """
        ...


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
