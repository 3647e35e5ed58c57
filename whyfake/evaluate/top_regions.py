"""Which regions an explanation puts first, and the pixels that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..explainers.base import LabelMap
from ..perturbation import FloatArray

LEAST = 1e-9
"""A weight of 1e-15 is rounding, not a region that speaks for the target."""


def top_regions(scores: NDArray[Any], top: int, *, signed: bool) -> list[int]:
    """The labels of the `top` best of the region scores (R,), best first; equal ones by label.

    Of signed scores (LIME, SHAP) only positive ones count, since the others speak against the
    target: fewer than `top` may come back, or none.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:top]
    return [int(label) for label in order if not signed or scores[label] > LEAST]


def moving_pixels(regions: LabelMap, labels: Sequence[int]) -> FloatArray:
    """One where pixels belong to one of the regions `labels`, zero elsewhere (h, w)."""
    return np.isin(regions, list(labels)).astype(np.float32)
