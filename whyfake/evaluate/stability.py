"""Does the same question get the same answer under another seed?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The rank correlation of two rankings (N,), ties at their mean rank; NaN if one is flat."""
    ranks = np.stack([_ranks(a), _ranks(b)])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    if not norms.all():
        return float("nan")
    return float((centred[0] @ centred[1]) / (norms[0] * norms[1]))


def top_overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """The share of the longer list that the other has too; NaN if both are empty."""
    longest = max(len(a), len(b))
    return len(set(a) & set(b)) / longest if longest else float("nan")


def mean_over_pairs(values: Sequence[Any], measure: Any) -> float:
    """The mean of `measure` over all pairs of `values`; NaN for fewer than two."""
    found = [measure(a, b) for a, b in combinations(values, 2)]
    return float(np.mean(found)) if found else float("nan")


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(np.ravel(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2
    return np.asarray(middle[inverse.ravel()])
