"""RISE by regression: what a fitted model of the score says is known exactly, the rest is sampled.

The mean score of the masks that show a pixel is mostly what a linear model of the mask says it is,
and of a model g that is linear in the mask that mean is known in closed form, over all masks that
could be drawn. So g is fitted to the answers, and only what it leaves over, f − g, is averaged over
the masks that were asked (the regression estimator of survey sampling; Särndal, Swensson and
Wretman 1992, ch. 6). The spread is that of f − g instead of f. It tends to the same saliency
whatever g is: the model decides only how much is gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..perturbation import GridMix, shifted_matrices

Floats = NDArray[np.float64]

PER_CELL = 2
"""Blocks of the model a side, for each cell of RISE's grid: shifted masks are finer than cells."""
MOST = 16
"""Blocks a side at the most: the fit solves for their square, at most 256 unknowns."""
PENALTIES = np.geomspace(1e-5, 1e3, 25)
"""Ridge penalties that are tried, in mean eigenvalues of the shares' scatter."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What a model of the score says, and what it leaves over.

    `saliency` (h, w) and `mean`: the model's own, over all masks that could be drawn. `residuals`
    (N,): of the scores of the masks that were asked. `unused`: the share of these questions (or
    pairs) that the fit did not use up, in (0, 1].
    """

    saliency: Floats
    mean: float
    residuals: Floats
    unused: float


class Adjustment:
    """A ridge model of the score in how much of each block of the frame a mask shows.

    `grid`, `p`: as RISE draws its masks; `height`, `width` of the frame; `paired`: masks come in
    pairs, one after the other. Keeps the shares of each mask that it is given: up to 256 numbers of
    8 bytes.
    """

    def __init__(self, grid: int, p: float, height: int, width: int, paired: bool) -> None:
        self._p, self._paired = p, paired
        self._down, self._rows = _side(grid, height)
        self._across, self._columns = _side(grid, width)
        self._shares: list[Floats] = []

    def add(self, batch: GridMix) -> None:
        """Take in the masks of a batch: the mean of each over each block."""
        down, across = self._down[batch.shifts[:, 0]], self._across[batch.shifts[:, 1]]
        shares = down @ batch.grids @ across.transpose(0, 2, 1)
        self._shares.append(shares.reshape(len(batch), -1))

    def fit(self, scores: Floats) -> Fit:
        """The model of the scores (N,) of all masks so far."""
        shares = np.concatenate(self._shares)
        if self._paired:
            # what differs within a pair: else validation would find each answer in the other half
            whole = len(scores) // 2 * 2
            apart = shares[1:whole:2] - shares[:whole:2]
            weights, used = ridge(apart, scores[1:whole:2] - scores[:whole:2], lost=0)
            unused = 1 - used / max(len(apart), 1)
        else:
            weights, used = ridge(shares - shares.mean(axis=0), scores - scores.mean(), lost=1)
            unused = 1 - used / len(scores)
        constant = float(scores.mean() - shares.mean(axis=0) @ weights)
        mean = constant + self._p * float(weights.sum())
        # E[g·m(x)] / E[m(x)]: cells are coins of mean p and variance p(1 − p)
        blocks = weights.reshape(self._rows.shape[1], self._columns.shape[1])
        saliency = mean + (1 - self._p) * (self._rows @ blocks @ self._columns.T)
        residuals = scores - constant - shares @ weights
        return Fit(saliency, mean, residuals, unused)


def ridge(shares: Floats, scores: Floats, lost: int) -> tuple[Floats, float]:
    """Weights (B,) of scores (N,) on shares (N, B), without a constant, and the degrees they use.

    The penalty is that of the least generalised cross-validation (Golub, Heath and Wahba 1979);
    `lost` degrees were used before. Weights of zero where all shares are.
    """
    wide = len(shares) < shares.shape[1]  # then as few axes as there are scores
    scatter, axes = np.linalg.eigh(shares @ shares.T if wide else shares.T @ shares)
    scatter = np.maximum(scatter, 0)
    if not scatter.any():
        return np.zeros(shares.shape[1]), 0.0
    along = axes.T @ (scores if wide else shares.T @ scores)
    tried = []
    for penalty in PENALTIES * scatter.sum() / shares.shape[1]:
        weights = axes @ (along / (scatter + penalty))
        weights = shares.T @ weights if wide else weights
        used = float((scatter / (scatter + penalty)).sum())
        misfit = float(((scores - shares @ weights) ** 2).sum())
        tried.append((misfit / (len(scores) - lost - used) ** 2, used, weights))
    _, used, weights = min(tried, key=lambda one: one[0])
    return weights, used


def _side(grid: int, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Along one side: by shift, each block's mean of each cell's tent (shifts, blocks, grid); and
    the mean over all shifts of what each pixel shares with each block (length, blocks).
    """
    windows = shifted_matrices(grid, length)
    count = min(PER_CELL * grid, MOST, length)
    starts = np.arange(count) * length // count
    sizes = np.diff(starts, append=length)
    means = np.add.reduceat(windows, starts, axis=1) / sizes[:, None]
    return means, (windows @ means.transpose(0, 2, 1)).mean(axis=0)
