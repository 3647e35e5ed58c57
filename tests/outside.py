"""What tests use that is not part of the project: the research material, and timm."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@functools.cache
def import_timm() -> Any:
    """timm, or skip the tests that need it.

    timm imports torchvision, whose wheel for CUDA has no operators beside a torch for CPUs: it asks
    for the schemas of two at its import, which are defined for it here.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    try:
        return pytest.importorskip("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("timm")


_KEPT: list[Any] = []  # a torch.library.Library takes its definitions with it
