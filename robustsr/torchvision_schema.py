"""Lets a torchvision whose compiled part does not fit torch be imported.

A torchvision built for CUDA beside a CPU build of torch (what `pip install` gives on many machines) cannot load
its compiled operators, and then fails on import with "operator torchvision::nms does not exist", because it
registers shape functions for two operators that were never declared. Declaring their schemas is all it needs;
spandrel and lpips use none of the compiled operators.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # a schema lives as long as the Library that declared it


def import_torchvision() -> bool:
    """Imports torchvision, declaring the missing schemas when, and only when, the import fails for want of them.

    Returns whether it had to. Any other failure of the import is passed on untouched.
    """
    try:
        importlib.import_module("torchvision")
        return False
    except RuntimeError as error:
        if not any(f"torchvision::{name} does not exist" in str(error) for name in _SCHEMAS):
            raise
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)
    importlib.import_module("torchvision")
    return True
