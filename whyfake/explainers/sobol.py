"""SOBOL: total-order indices of a grid of cells as inputs (Fel et al. 2021)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import Asking, Attribution, Scene, Score, Target, check, check_score, chunks
from .regions import grid


@dataclass(frozen=True)
class Sobol:
    """How much of the score's variance each cell takes part in, when all cells fade at random.

    grid: cells a side; design: rows n of the two base designs A and B, taken from an unscrambled
    Sobol' sequence (powers of two are balanced). The design has n·(grid² + 2) rows, many of them
    equal; each distinct row is asked once: 1,722 images for the default 2,112 rows.
    """

    grid: int = 8
    design: int = 32
    score: Score = "probability"

    name: ClassVar[str] = "sobol"
    baseline: ClassVar[str] = "zero"
    signed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(1 <= self.grid <= 100, "SOBOL", "grid must lie in 1 … 100", self.grid)
        check(self.design >= 2, "SOBOL", "design must be 2 or more", self.design)
        check_score("SOBOL", self.score)

    def images(self) -> int:
        """The images it asks for: the distinct rows of the design."""
        return len(np.unique(jansen_rows(*base_designs(self.grid**2, self.design)), axis=0))

    def with_budget(self, images: int) -> Sobol:
        """SOBOL with the largest design whose rows, duplicates included, fit; at least two rows."""
        return dataclasses.replace(self, design=max(2, images // (self.grid**2 + 2)))

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the total-order index of each cell, painted on the cells."""
        cells = grid(frame.shape[1], frame.shape[2], self.grid)
        rows = jansen_rows(*base_designs(self.grid**2, self.design))
        distinct, where = np.unique(rows, axis=0, return_inverse=True)
        scores = np.empty(len(distinct))
        for start, stop in chunks(len(distinct)):
            answer = yield RegionMix(distinct[start:stop], cells, scene.baseline)
            scores[start:stop] = target.score(answer, self.score)
        indices = jansen_total_order(scores[where.ravel()], self.design)
        return Attribution(indices.astype(np.float32)[cells])


def base_designs(inputs: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two designs A and B (count, inputs) in [0, 1): the halves of one Sobol' sequence."""
    from scipy.stats import qmc

    # in whole powers of two, for which the sequence is balanced (SciPy warns otherwise)
    points: NDArray[Any] = qmc.Sobol(2 * inputs, scramble=False).random_base2(
        int(np.ceil(np.log2(count)))
    )
    halves: NDArray[np.float32] = points[:count].astype(np.float32)
    return halves[:, :inputs], halves[:, inputs:]


def jansen_rows(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """A, B, then for each input i the design A with column i of B: n·(inputs + 2) rows."""
    count, inputs = a.shape
    mixed = np.repeat(a[None], inputs, axis=0)
    for i in range(inputs):
        mixed[i, :, i] = b[:, i]
    return np.concatenate([a, b, mixed.reshape(inputs * count, inputs)])


def jansen_total_order(scores: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Total-order indices (inputs,) from the scores of `jansen_rows` (Jansen 1999).

    STᵢ = Σ (f(A) − f(Cᵢ))² / (2n·var f(A)); all zero where the score does not vary.
    """
    of_a = scores[:count]
    of_mixed = scores[2 * count :].reshape(-1, count)
    variance = of_a.var(ddof=1)
    if variance == 0:
        return np.zeros(len(of_mixed))
    return np.asarray(((of_a - of_mixed) ** 2).sum(axis=1) / (2 * count * variance))
