"""RISE: the mean score of copies in which a pixel was visible (Petsiuk et al. 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, GridMix, bilinear_matrix, cell_size, shifted_matrices
from .adjustment import Adjustment
from .base import (
    CHUNK,
    LATER,
    Asking,
    Attribution,
    LabelMap,
    Scene,
    Score,
    Target,
    check,
    check_choice,
    check_score,
    region_means,
)
from .designs import fold_over, regroup
from .stopping import Measured, Watch, check_stops, pieces

Sampling = Literal["random", "paired", "stratified"]
SAMPLINGS: tuple[str, ...] = ("random", "paired", "stratified")


@dataclass(frozen=True)
class Rise:
    """Random coarse masks, upsampled and shifted; saliency Σ score·mask / Σ mask per pixel.

    masks: copies; grid: cells a side before upsampling; p: the probability that a cell is visible;
    debiased: subtract the mean score, so that a pixel that does not matter is about zero; sampling:
    `random`, mask by mask; `paired`, each with its complement under the same shift; `stratified`,
    pairs in blocks in which every cell and every two cells are seen equally often, and shifts lie
    evenly. Each mask alone is distributed as a random one, so the expectation is the same; for p
    other than ½ a cell's complement is visible where u > 1 − p, with u < p for the cell. adjusted:
    average over the masks only what a linear model of the score leaves over, see `adjustment`; the
    expectation is the same but for terms of order 1/masks, the spread smaller. It keeps up to 2 kB
    a mask. Costs `masks` images, or less: see `stopping` for confidence, top, least.
    """

    masks: int = 4000
    grid: int = 7
    p: float = 0.5
    debiased: bool = False
    score: Score = "probability"
    sampling: Sampling = field(default="random", metadata=LATER)
    adjusted: bool = field(default=False, metadata=LATER)
    confidence: float = field(default=0.0, metadata=LATER)
    top: int = field(default=3, metadata=LATER)
    least: int = field(default=128, metadata=LATER)

    name: ClassVar[str] = "rise"
    baseline: ClassVar[str] = "zero"
    signed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self.masks >= 1, "RISE", "masks must be 1 or more", self.masks)
        check(self.grid >= 1, "RISE", "grid must be 1 or more", self.grid)
        check(0 < self.p < 1, "RISE", "p must lie in (0, 1)", self.p)
        check_score("RISE", self.score)
        check_choice("RISE", "sampling", self.sampling, SAMPLINGS)
        check_stops("RISE", self)

    def images(self) -> int:
        """The most images it asks for."""
        return self.masks

    def with_budget(self, images: int) -> Rise:
        """RISE with so many masks."""
        return dataclasses.replace(self, masks=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the saliency of each pixel."""
        height, width = frame.shape[1:]
        answers = _Answers(self, height, width)
        watch = Watch(self, self.masks, scene.rng)
        seen = RegionShares(self.grid, scene.regions) if watch.looks else None
        parts = pieces(self.masks, watch.looks)
        blocks = self._masks((height, width), scene.rng)
        drawn = regroup(blocks, [stop - start for start, stop in parts])
        for (_, asked), (visible, shifts) in zip(parts, drawn, strict=True):
            batch = GridMix(visible, shifts, scene.baseline)
            answers.add(batch, target.score((yield batch), self.score))
            if seen is not None:
                seen.add(batch)
                if watch.due(asked) and watch.enough(self._measured(answers, seen)):
                    break
        saliency, mean, _ = answers.saliency()
        heat = (saliency - mean if self.debiased else saliency).astype(np.float32)
        return Attribution(heat, confidence=watch.confidence)

    def _masks(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """Blocks without end of which cells are visible (n, grid, grid), and of shifts (n, 2)."""
        cells = [cell_size(self.grid, side) for side in size]
        start, form = 0, (self.grid, self.grid)
        while self.sampling == "random":
            count = min(CHUNK, max(self.masks - start, 1))
            start += count
            visible = rng.random((count, *form), np.float32) < self.p
            yield visible.view(np.uint8), rng.integers(0, cells, (count, 2))
        while True:
            if self.sampling == "paired":
                uniform = rng.random((CHUNK // 2, self.grid**2))
                evenly = rng.random((len(uniform), 2))
            else:
                half = fold_over(self.grid**2, rng)[::2]  # 1: u lies in the lower half
                uniform = (1 - half + rng.random(half.shape)) / 2
                strata = np.stack([rng.permutation(len(half)) for _ in cells], axis=1)
                evenly = (strata + rng.random(strata.shape)) / len(half)
            pairs = np.stack([uniform < self.p, 1 - uniform < self.p], axis=1)
            shifts = np.repeat((evenly * cells).astype(np.intp), 2, axis=0)
            yield pairs.reshape(-1, *form).view(np.uint8), shifts

    def _measured(self, answers: _Answers, seen: RegionShares) -> Measured:
        """Mean heat of the regions, how each mask (or pair) moves it, degrees of freedom."""
        saliency, _, scores = answers.saliency()
        heat = region_means(saliency.astype(np.float32), seen.regions)
        shares = seen.shares()
        # of Σ score·share / Σ share, the linear part: as the region's pixels are seen together
        ratios = scores @ shares / shares.sum(axis=0)
        moves = shares * (scores[:, None] - ratios) / shares.sum(axis=0)
        if self.sampling != "random":
            moves = np.add.reduceat(moves, range(0, len(moves), 2))
        return heat, moves, len(moves) - 1


class _Answers:
    """What was answered so far, and the saliency that follows."""

    def __init__(self, rise: Rise, height: int, width: int) -> None:
        size = rise.grid, height, width
        self._shown, self._weighted = MaskSum(*size), MaskSum(*size)
        self._model: Adjustment | None = None
        if rise.adjusted:
            self._model = Adjustment(rise.grid, rise.p, height, width, rise.sampling != "random")
        self._keeps = rise.adjusted or rise.confidence > 0
        self._batches: list[GridMix] = []
        self._scores: list[NDArray[np.float64]] = []
        self._total, self._count = 0.0, 0
        self._size = size

    def add(self, batch: GridMix, scores: NDArray[np.float64]) -> None:
        """Take in the scores (N,) of a batch."""
        self._shown.add(batch, np.ones(len(batch)))
        self._total += float(scores.sum())
        self._count += len(batch)
        if self._keeps:
            self._scores.append(scores)
        if self._model is None:
            self._weighted.add(batch, scores)
        else:
            self._model.add(batch)
            self._batches.append(batch)

    def saliency(self) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
        """The saliency (h, w), the mean score, and what was averaged over the masks (N,).

        That is the scores (empty where they are not kept), or what the model leaves of them, as
        large as it would be for masks that it was not fitted to.
        """
        scores = np.concatenate([np.empty(0), *self._scores])
        if self._model is None:
            mean = self._total / self._count
            # a pixel that no mask ever showed says nothing: it gets the mean score
            return _ratio(self._weighted, self._shown, mean), mean, scores
        fit = self._model.fit(scores)
        left, start = MaskSum(*self._size), 0
        for batch in self._batches:
            left.add(batch, fit.residuals[start : start + len(batch)])
            start += len(batch)
        saliency = fit.saliency + _ratio(left, self._shown, 0.0)
        return saliency, fit.mean, fit.residuals / np.sqrt(fit.unused)


def _ratio(weighted: MaskSum, plain: MaskSum, otherwise: float) -> NDArray[np.float64]:
    """Σ score·mask / Σ mask per pixel (h, w)."""
    mask = plain.result()
    return np.divide(weighted.result(), mask, out=np.full_like(mask, otherwise), where=mask > 1e-9)


class RegionShares:
    """How much of each region every mask shows, without making any mask.

    The mean of a mask over a region is linear in its cells; the weights depend on the shift down,
    of which there are few. Keeps a number a mask and region, and 4·shifts·grid·w·R bytes.
    """

    def __init__(self, grid: int, regions: LabelMap) -> None:
        self.regions = regions
        height, width = regions.shape
        count, steps = int(regions.max()) + 1, cell_size(grid, height)
        down = bilinear_matrix(grid, height)
        self._across = bilinear_matrix(grid, width).T.copy()
        at = (regions * width + np.arange(width)).ravel()
        areas = np.bincount(regions.ravel())
        self._weights = np.empty((steps, count, grid * width), np.float32)
        for dy in range(steps):
            for cell in range(grid):
                rows = np.repeat(down[dy : dy + height, cell], width)
                sums = np.bincount(at, rows, count * width).reshape(count, width)
                self._weights[dy, :, cell * width : (cell + 1) * width] = sums / areas[:, None]
        self._shares: list[NDArray[np.float32]] = []

    def add(self, batch: GridMix) -> None:
        """Take in the masks of a batch."""
        width = self.regions.shape[1]
        shares = np.empty((len(batch), self._weights.shape[1]), np.float32)
        for row, (grid, (dy, dx)) in enumerate(zip(batch.grids, batch.shifts, strict=True)):
            wide = grid.astype(np.float32) @ self._across[:, dx : dx + width]
            shares[row] = self._weights[dy] @ wide.ravel()
        self._shares.append(shares)

    def shares(self) -> NDArray[np.float64]:
        """The mean of each mask over each region (N, R)."""
        return np.concatenate(self._shares).astype(np.float64)


class MaskSum:
    """Σ weight·mask over many masks without making any: upsampling is linear.

    A mask is D[dy : dy + h] G E[dx : dx + w]ᵀ with bilinear matrices D and E. So the weighted G are
    gathered by their shift, and multiplied by D and E once, at the end: s² operations a mask
    instead of h·w. Keeps h·w + h² + w² numbers of 8 bytes.
    """

    def __init__(self, grid: int, height: int, width: int) -> None:
        down, across = shifted_matrices(grid, height), shifted_matrices(grid, width)
        self._cells = np.zeros((len(down), len(across), grid, grid))
        # (pixels, shifts · grid): all shifts side by side
        self._down = down.swapaxes(0, 1).reshape(height, -1)
        self._across = across.swapaxes(0, 1).reshape(width, -1)

    def add(self, batch: GridMix, weights: NDArray[Any]) -> None:
        """Add the masks of a batch, weighted (N,)."""
        weighted = batch.grids * np.asarray(weights, np.float64)[:, None, None]
        np.add.at(self._cells, tuple(batch.shifts.T), weighted)

    def result(self) -> NDArray[np.float64]:
        """The sum so far (h, w)."""
        sides = self._down.shape[1], self._across.shape[1]
        cells = self._cells.swapaxes(1, 2).reshape(sides)
        total: NDArray[np.float64] = self._down @ cells @ self._across.T
        return total
