"""Detectors that come with whyfake, found by name."""

from __future__ import annotations

from pathlib import Path

BUNDLED = "bundled"
"""The demonstration detector: see docs/bundled-detector.md."""

_FILES = {BUNDLED: "bundled.onnx"}


def model_file(model: str | Path) -> Path:
    """The file of a detector: that of a bundled one where `model` is its name, else the path.

    A file that has a bundled detector's name is reached by a path, such as `./bundled`.
    """
    if isinstance(model, str) and model in _FILES:
        return Path(__file__).parent / _FILES[model]
    return Path(model)
