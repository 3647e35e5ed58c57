"""How good a detector is, with the uncertainty that few identities leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Scores = NDArray[np.float64]
Metric = Callable[[Scores, NDArray[np.bool_]], float]


def auc(scores: Scores, fake: NDArray[np.bool_]) -> float:
    """The chance that a fake scores above a real one, ties counting half; NaN with one class."""
    positives, negatives = int(fake.sum()), int((~fake).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[fake].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def accuracy(scores: Scores, fake: NDArray[np.bool_]) -> float:
    """The share called right at logit 0."""
    return float(((scores > 0) == fake).mean())


def false_alarms(scores: Scores, fake: NDArray[np.bool_]) -> float:
    """The share of real ones called fake at logit 0."""
    return float((scores[~fake] > 0).mean()) if (~fake).any() else float("nan")


def found(scores: Scores, fake: NDArray[np.bool_]) -> float:
    """The share of fakes called fake at logit 0."""
    return float((scores[fake] > 0).mean()) if fake.any() else float("nan")


def interval(
    metric: Metric,
    scores: Scores,
    fake: NDArray[np.bool_],
    groups: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """A 95 % bootstrap interval that draws whole groups (identities, clips), not pictures.

    None for fewer than ten groups: pictures of one person or clip are not independent, and an
    interval from a handful of groups would say more than is known.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 10:
        return None
    members = [np.flatnonzero(member == g) for g in range(len(names))]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        chosen = np.concatenate([members[g] for g in rng.integers(len(names), size=len(names))])
        values.append(metric(scores[chosen], fake[chosen]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
