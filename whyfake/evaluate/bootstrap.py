"""How sure a mean is: percentile bootstrap intervals, whole clips drawn at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` frames with its 95 % interval, NaN where one cannot be had."""

    mean: float
    low: float
    high: float
    count: int


def mean_interval(
    values: Sequence[float] | NDArray[np.float64],
    clusters: Sequence[str] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of `values` (N,) with a 95 % percentile bootstrap interval.

    `clusters` names each value's clip: frames of one clip are not independent, so clips are drawn,
    not frames. With fewer than two clips there is no interval. NaN values are left out.
    """
    found = np.asarray(values, np.float64)
    names = np.arange(len(found)).astype(str) if clusters is None else np.asarray(clusters)
    known = ~np.isnan(found)
    found, names = found[known], names[known]
    nan = float("nan")
    if not len(found):
        return Estimate(nan, nan, nan, 0)
    distinct, where = np.unique(names, return_inverse=True)
    sums, sizes = np.bincount(where, found), np.bincount(where)
    mean = float(found.mean())
    if len(distinct) < 2:
        return Estimate(mean, nan, nan, len(found))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(distinct), np.full(len(distinct), 1 / len(distinct)), draws)
    means = (drawn @ sums) / (drawn @ sizes)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(mean, float(low), float(high), len(found))
