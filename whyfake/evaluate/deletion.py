"""Deletion and insertion (Petsiuk et al. 2018): the score while pixels go, or come, by their heat.

Gowrisankar and Thing 2023 find them unsuited to deepfakes, so they do not lead any table here.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from ..explainers import Target
from ..perturbation import FloatArray, RegionMix

PARTS = 32


def heat_parts(heatmap: FloatArray, parts: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Pixels in `parts` groups of equal size, the hottest first: labels (h, w) 0 … parts−1.

    Equal heat is ordered at random, not from the upper left.
    """
    flat = heatmap.ravel()
    order = np.lexsort((rng.random(flat.size), -flat))
    labels = np.empty(flat.size, np.int32)
    labels[order] = np.arange(flat.size) * parts // flat.size
    return labels.reshape(heatmap.shape)


def deletion(
    target: Target, labels: NDArray[np.int32], baseline: FloatArray
) -> Generator[RegionMix, FloatArray, NDArray[np.float64]]:
    """A coroutine: the target's probability as parts are hidden, hottest first (parts + 1,)."""
    parts = int(labels.max()) + 1
    answer = yield RegionMix(1 - _steps(parts), labels, baseline)
    return target.score(answer)


def insertion(
    target: Target, labels: NDArray[np.int32], baseline: FloatArray
) -> Generator[RegionMix, FloatArray, NDArray[np.float64]]:
    """A coroutine: the target's probability as parts are shown, hottest first (parts + 1,)."""
    parts = int(labels.max()) + 1
    answer = yield RegionMix(_steps(parts), labels, baseline)
    return target.score(answer)


def area_under(curve: NDArray[np.float64]) -> float:
    """The area under an evenly spaced curve from 0 to 1, by the trapezoid rule.

    Less is better for deletion, more for insertion.
    """
    return float((curve[1:] + curve[:-1]).mean() / 2)


def _steps(parts: int) -> NDArray[np.uint8]:
    """Row i has its first i parts one: (parts + 1, parts)."""
    return np.tri(parts + 1, parts, -1, np.uint8)
