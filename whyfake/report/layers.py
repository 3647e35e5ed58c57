"""A frame's pictures for a page, small: crop, heat and difference as WebP, outlines as paths."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..explanation import Explanation
from ..perturbation import FloatArray
from .overlay import OPACITY, Rgb, _outlines, _placed, heat_of, viridis

SIDE = 288
"""The longest side of a picture on a page, in pixels."""


def crop_layer(rgb: Rgb) -> tuple[str, tuple[int, int]]:
    """A crop (H, W, 3) as a data URI, and the size (h, w) that it was brought to."""
    import cv2

    scale = min(SIDE / max(rgb.shape[:2]), 1.0)
    size = max(round(rgb.shape[0] * scale), 1), max(round(rgb.shape[1] * scale), 1)
    if size != rgb.shape[:2]:
        rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    return _webp(rgb, 82), size


def heat_layer(explanation: Explanation, smoothed: FloatArray | None = None) -> str | None:
    """Heat as a picture to lay over the crop: see-through where it is cold. None without heat."""
    import cv2

    heat = heat_of(explanation, smoothed)
    if heat is None:
        return None
    height, width = heat[0].shape
    scale = min(SIDE / 2 / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    level = np.asarray(cv2.resize(heat[0], size, interpolation=cv2.INTER_AREA))
    colours = viridis()[np.rint(level * 255).astype(np.uint8)]
    alpha = np.rint(255 * OPACITY * level**0.7).astype(np.uint8)
    return _webp(np.dstack([colours, alpha]), 80)


def difference_layer(explanation: Explanation) -> str | None:
    """What was added to make the sample *real*, grey where nothing, full black or white at most.

    None where there is no sample.
    """
    if explanation.adversarial is None:
        return None
    added = explanation.adversarial - explanation.frame
    most = max(float(np.abs(added).max()), 1e-9)
    picture = np.rint(127.5 + 127.5 * added.transpose(1, 2, 0) / most).clip(0, 255)
    return _webp(picture.astype(np.uint8), 45)


def outline_layer(
    explanation: Explanation, size: tuple[int, int], top: int = 5
) -> list[dict[str, Any]]:
    """The best regions as SVG paths in pixels of `size` (h, w), each with a place for its rank."""
    import cv2

    least = 1e-9 if explanation.signed else -np.inf
    best = [r for r in explanation.regions[:top] if r["score"] > least and r["area"] > 0]
    level = np.zeros(size, np.float32)
    spots: list[tuple[int, int]] = []
    lines = []
    for region in best:
        mask = explanation.region_map == region["region"]
        path = "".join(_path(line) for line in _outlines(mask, size))
        large = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
        if not large.any():
            continue
        x, y = _placed(large > 0, level, spots, max(size) // 40)
        spots.append((x, y))
        lines.append(
            {"rank": region["rank"], "path": path, "x": x, "y": round(y + max(size) / 50, 1)}
        )
    return lines


def _path(line: NDArray[np.int32]) -> str:
    """Points in sixteenths of a pixel as an SVG path, with as few as show the same outline."""
    import cv2

    few = cv2.approxPolyDP(line.reshape(-1, 1, 2), 10, True).reshape(-1, 2) / 16
    return "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in few) + "Z"


def _webp(picture: NDArray[np.uint8], quality: int) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
