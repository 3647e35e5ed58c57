"""Which part of a face a region lies on, from the five landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PARTS = (
    "right eye",
    "left eye",
    "nose",
    "mouth",
    "forehead",
    "right cheek",
    "left cheek",
    "chin",
    "outside the face",
)
"""Right and left are the person's: the right eye is on the left of the picture."""


def part_at(point: tuple[float, float], landmarks: NDArray[np.float64]) -> str:
    """The part of the face at a point (x, y).

    `landmarks` (5, 2): right eye, left eye, nose, right and left corner of the mouth. Distances are
    measured in a frame of the face's own: the origin between the eyes, one unit the larger of the
    eyes' distance and that of eyes to mouth, so that a turned head keeps its parts.
    """
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    down = mouth - eyes
    unit = max(float(np.hypot(*(landmarks[1] - landmarks[0]))), float(np.hypot(*down)), 1e-6)
    down = down / max(float(np.hypot(*down)), 1e-6)
    across = np.array([down[1], -down[0]])  # from the person's right to left

    def local(at: NDArray[np.float64]) -> tuple[float, float]:
        return float((at - eyes) @ across) / unit, float((at - eyes) @ down) / unit

    x, y = local(np.asarray(point, np.float64))
    (right, left) = local(landmarks[0])[0], local(landmarks[1])[0]
    (mouth_right, mouth_y), (mouth_left, _) = local(landmarks[3]), local(landmarks[4])
    if abs(y) < 0.3 and right - 0.35 < x < left + 0.35:
        middle = (right + left) / 2
        if abs(x - middle) < 0.12 and y > 0.05:
            return "nose"
        return "right eye" if x < middle else "left eye"
    nose_x, nose_y = local(landmarks[2])
    if 0.05 < y < nose_y + 0.2 and abs(x - nose_x) < 0.28:
        return "nose"
    if abs(y - mouth_y) < 0.28 and mouth_right - 0.2 < x < mouth_left + 0.2:
        return "mouth"
    if -0.95 < y <= -0.3 and right - 0.45 < x < left + 0.45:
        return "forehead"
    if mouth_y + 0.28 <= y < mouth_y + 0.75 and mouth_right - 0.35 < x < mouth_left + 0.35:
        return "chin"
    if -0.3 < y < mouth_y + 0.45 and right - 0.6 < x < left + 0.6:
        return "right cheek" if x < (right + left) / 2 else "left cheek"
    return "outside the face"


def parts_of_regions(
    labels: NDArray[np.int32], landmarks: NDArray[np.float64] | None
) -> list[str] | None:
    """The part that most of each region 0 … R−1 of a map (h, w) lies on; landmarks in its pixels.

    None where there are no landmarks.
    """
    if landmarks is None:
        return None
    height, width = labels.shape
    count = int(labels.max()) + 1
    votes = np.zeros((count, len(PARTS)), np.int64)
    # every fourth pixel, and none of a small region's left out
    step = 4 if min(height, width) >= 128 else 1
    rows, columns = np.mgrid[0:height:step, 0:width:step]
    for y, x in zip(rows.ravel(), columns.ravel(), strict=True):
        part = part_at((float(x), float(y)), landmarks)
        votes[labels[y, x], PARTS.index(part)] += 1
    names = []
    for label in range(count):
        if not votes[label].any():
            y, x = (int(np.median(axis)) for axis in np.nonzero(labels == label))
            names.append(part_at((float(x), float(y)), landmarks))
        else:
            names.append(PARTS[int(votes[label].argmax())])
    return names
