"""robustsr: super-resolution that stays stable.

``robustsr.upscale(image)`` upscales a PIL image, an array or a tensor; ``robustsr.load(name_or_path)`` gives the
upscaler itself, a differentiable function of tensors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .types import RobustSRError
from .version import __version__

if TYPE_CHECKING:
    from .api import upscale
    from .models import load

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anything imports onnxruntime, which reports to its makers

__all__ = ["RobustSRError", "__version__", "load", "upscale"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - torch is imported only when it is needed
    if name == "load":
        from .models import load

        return load
    if name == "upscale":
        from .api import upscale

        return upscale
    raise AttributeError(f"module 'robustsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
