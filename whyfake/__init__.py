"""Why does this deepfake detector call this frame fake?

import whyfake

detector = whyfake.load_detector("detector.onnx")
explanation = whyfake.explain(detector, "face.png", method="lime-adv", seed=0)
explanation.save("out/face")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import WhyfakeError

if TYPE_CHECKING:
    from .card import DetectorCard
    from .explainers import METHODS
    from .explanation import Explanation
    from .pipeline import explain, explain_many
    from .runtime import Detector, load_detector
    from .settings import Settings
    from .video import explain_video

__version__ = "0.1.0"

_HOMES = {
    "METHODS": ".explainers",
    "Detector": ".runtime",
    "DetectorCard": ".card",
    "Explanation": ".explanation",
    "Settings": ".settings",
    "explain": ".pipeline",
    "explain_many": ".pipeline",
    "explain_video": ".video",
    "load_detector": ".runtime",
}

__all__ = [
    "METHODS",
    "Detector",
    "DetectorCard",
    "Explanation",
    "Settings",
    "WhyfakeError",
    "explain",
    "explain_many",
    "explain_video",
    "load_detector",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: `whyfake --help` must not load NumPy."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'whyfake' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
