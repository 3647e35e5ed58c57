"""What hidden pixels show: the baseline image of a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UsageError, unknown
from ..later import Later
from ..perturbation import FloatArray
from .base import LabelMap, labels_of

NAMES = ("mean", "zero", "black", "gray", "blur", "noise", "adversarial")
"""All but `adversarial`, which has to be asked for, are made by `baseline_image`."""


def check_baseline(name: str) -> None:
    """Raise UsageError unless `name` is a baseline or a readable picture's path."""
    if name not in NAMES and not Path(name).is_file():
        raise UsageError(unknown("baseline", name, (*NAMES, "a picture's path")))


def baseline_image(
    name: str,
    frame: FloatArray,
    regions: LabelMap | Later[LabelMap],
    neutral: tuple[float, float, float],
    rng: np.random.Generator,
) -> FloatArray:
    """The baseline (3, h, w) of a frame (3, h, w).

    `mean`: each region's mean colour (LIME). `zero`: the colour that the detector sees as zero
    (`neutral`, RGB in [0, 1]; the data set's mean). `black`, `gray`: 0 and 0.5. `blur`: a box blur
    of half the frame's sides (SHAP). `noise`: uniform in [0, 1].
    """
    if name == "mean":
        labels = labels_of(regions)
        areas = np.bincount(labels.ravel())
        means = [
            np.bincount(labels.ravel(), weights=channel.ravel()) / np.maximum(areas, 1)
            for channel in frame
        ]
        return np.stack([mean[labels] for mean in means]).astype(np.float32)
    if name in ("zero", "black", "gray"):
        color = {"zero": neutral, "black": (0.0,) * 3, "gray": (0.5,) * 3}[name]
        plain = np.empty(frame.shape, np.float32)
        plain[...] = np.array(color)[:, None, None]
        return plain
    if name == "blur":
        return _box_blur(frame)
    if name == "noise":
        return rng.random(frame.shape, np.float32)
    made = [known for known in NAMES if known != "adversarial"]
    raise UsageError(unknown("baseline", name, made))


def _box_blur(frame: FloatArray) -> FloatArray:
    import cv2

    height, width = frame.shape[1:]
    kernel = (max(width // 2, 1), max(height // 2, 1))
    blurred: FloatArray = cv2.blur(np.ascontiguousarray(frame.transpose(1, 2, 0)), kernel)
    return np.ascontiguousarray(blurred.transpose(2, 0, 1))
