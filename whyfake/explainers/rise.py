"""RISE: the mean score of copies in which a pixel was visible (Petsiuk et al. 2018)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, GridMix, bilinear_matrix, cell_size
from .base import Asking, Attribution, Scene, Score, Target, check, check_score, chunks


@dataclass(frozen=True)
class Rise:
    """Random coarse masks, upsampled and shifted; saliency Σ score·mask / Σ mask per pixel.

    masks: copies; grid: cells a side before upsampling; p: the probability that a cell is visible;
    debiased: subtract the mean score, so that a pixel that does not matter is about zero. Costs
    `masks` images.
    """

    masks: int = 4000
    grid: int = 7
    p: float = 0.5
    debiased: bool = False
    score: Score = "probability"

    name: ClassVar[str] = "rise"
    baseline: ClassVar[str] = "zero"
    signed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.masks >= 1, "RISE", "masks must be 1 or more", self.masks)
        check(self.grid >= 1, "RISE", "grid must be 1 or more", self.grid)
        check(0 < self.p < 1, "RISE", "p must lie in (0, 1)", self.p)
        check_score("RISE", self.score)

    def images(self) -> int:
        """The images it asks for."""
        return self.masks

    def with_budget(self, images: int) -> Rise:
        """RISE with so many masks."""
        return dataclasses.replace(self, masks=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the saliency of each pixel."""
        height, width = frame.shape[1:]
        cells = [cell_size(self.grid, side) for side in (height, width)]
        weighted = MaskSum(self.grid, height, width)
        plain = MaskSum(self.grid, height, width)
        total = 0.0
        for start, stop in chunks(self.masks):
            count = stop - start
            visible = scene.rng.random((count, self.grid, self.grid), np.float32) < self.p
            shifts = scene.rng.integers(0, cells, (count, 2))
            batch = GridMix(visible.view(np.uint8), shifts, scene.baseline)
            scores = target.score((yield batch), self.score)
            weighted.add(batch, scores)
            plain.add(batch, np.ones(count))
            total += float(scores.sum())
        mask = plain.result()
        # a pixel that no mask ever showed says nothing: it gets the mean score
        mean = total / self.masks
        saliency = np.divide(
            weighted.result(), mask, out=np.full_like(mask, mean), where=mask > 1e-9
        )
        return Attribution((saliency - mean if self.debiased else saliency).astype(np.float32))


class MaskSum:
    """Σ weight·mask over many masks without making any: upsampling is linear.

    A mask is D[dy : dy + h] G E[dx : dx + w]ᵀ with bilinear matrices D and E, so the sums of G Eᵀ
    are gathered by dy and multiplied by D once, at the end: s·w operations a mask instead of h·w.
    """

    def __init__(self, grid: int, height: int, width: int) -> None:
        self._size = (height, width)
        self._down = bilinear_matrix(grid, height).astype(np.float64)
        self._across = bilinear_matrix(grid, width).astype(np.float64).T.copy()
        self._by_shift = np.zeros((cell_size(grid, height), grid, width))

    def add(self, batch: GridMix, weights: NDArray[Any]) -> None:
        """Add the masks of a batch, weighted (N,)."""
        width = self._size[1]
        for grid, (dy, dx), weight in zip(batch.grids, batch.shifts, weights, strict=True):
            self._by_shift[dy] += (grid * weight) @ self._across[:, dx : dx + width]

    def result(self) -> NDArray[np.float64]:
        """The sum so far (h, w)."""
        height, width = self._size
        total = np.zeros((height, width))
        for dy, rows in enumerate(self._by_shift):
            total += self._down[dy : dy + height] @ rows
        return total
