"""Rankings that never ask the detector: what an explanation has to beat.

Face crops have their face in the middle, so a plain centred Gaussian overlaps a manipulated face
better than most heat maps do (docs/results.md); metrics mean nothing without it beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..explainers.base import LabelMap
from ..perturbation import FloatArray

Point = tuple[float, float]

RANDOM, GAUSSIAN, PARTS = "random", "gaussian", "face-parts"
CONTROLS = (RANDOM, GAUSSIAN, PARTS)
"""`face-parts` needs landmarks, and is left out where a manifest has none."""


def random_heat(regions: LabelMap, rng: np.random.Generator) -> FloatArray:
    """Regions (h, w) in random order: heat (h, w) in (0, 1], the same within a region."""
    count = int(regions.max()) + 1
    heat = (rng.permutation(count) + 1) / count
    return heat.astype(np.float32)[regions]


def centred_gaussian(height: int, width: int) -> FloatArray:
    """A Gaussian in the middle (h, w), σ a sixth of each side, 1 at its peak."""
    return gaussians(height, width, [((width - 1) / 2, (height - 1) / 2)], 1 / 6)


def face_parts(height: int, width: int, landmarks: Sequence[Point]) -> FloatArray:
    """Gaussians at both eyes and the mouth's centre (h, w), σ a sixteenth of each side.

    `landmarks`: right eye, left eye, nose, right and left mouth corner, as (x, y) in [0, 1] of the
    frame's width and height (the order of YuNet and of RetinaFace).
    """
    right, left, _, *corners = landmarks
    mouth = tuple(np.mean(corners, axis=0))
    points = [(x * width - 0.5, y * height - 0.5) for x, y in (right, left, mouth)]
    return gaussians(height, width, points, 1 / 16)


def gaussians(height: int, width: int, centres: Sequence[Point], sigma: float) -> FloatArray:
    """The sum of Gaussians at `centres` (x, y), in pixels; σ as a share of each side (h, w)."""
    total = np.zeros((height, width))
    for x, y in centres:
        rows = np.exp(-0.5 * ((np.arange(height) - y) / (height * sigma)) ** 2)
        columns = np.exp(-0.5 * ((np.arange(width) - x) / (width * sigma)) ** 2)
        total += np.outer(rows, columns)
    return total.astype(np.float32)
