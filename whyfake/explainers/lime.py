"""LIME: a weighted linear fit of the score on which regions are visible (Ribeiro et al. 2016)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import (
    CHUNK,
    LATER,
    Asking,
    Attribution,
    Scene,
    Score,
    Target,
    check,
    check_choice,
    check_score,
)
from .designs import fold_over, regroup, with_complements
from .stopping import Measured, Watch, check_stops, pieces

Design = Literal["random", "paired", "hadamard"]
DESIGNS: tuple[str, ...] = ("random", "paired", "hadamard")


@dataclass(frozen=True)
class Lime:
    """Weights of regions in a local linear model, as package `lime` computes them.

    samples: copies, each region visible with probability ½, the first all visible; kernel_width: of
    the exponential kernel on the cosine distance to the frame; alpha: ridge penalty; design: how
    copies are drawn: `random`, one by one; `paired`, each with its complement; `hadamard`, in
    fold-over blocks of about 2·regions copies, each in random column and row order, so that weights
    hardly disturb one another. Costs `samples` images, or less: see `stopping` for confidence, top,
    least.
    """

    samples: int = 2000
    kernel_width: float = 0.25
    alpha: float = 1.0
    score: Score = "probability"
    design: Design = field(default="random", metadata=LATER)
    confidence: float = field(default=0.0, metadata=LATER)
    top: int = field(default=3, metadata=LATER)
    least: int = field(default=128, metadata=LATER)

    name: ClassVar[str] = "lime"
    baseline: ClassVar[str] = "mean"
    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.samples >= 2, "LIME", "samples must be 2 or more", self.samples)
        check(self.kernel_width > 0, "LIME", "kernel_width must be positive", self.kernel_width)
        check(self.alpha > 0, "LIME", "alpha must be positive", self.alpha)
        check_score("LIME", self.score)
        check_choice("LIME", "design", self.design, DESIGNS)
        check_stops("LIME", self)

    def images(self) -> int:
        """The most images it asks for."""
        return self.samples

    def with_budget(self, images: int) -> Lime:
        """LIME with so many samples."""
        return dataclasses.replace(self, samples=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the weight of each region, painted on the regions."""
        count = int(scene.regions.max()) + 1
        fit = RidgeFit(count, self.kernel_width)
        watch = Watch(self, self.samples, scene.rng)
        kept: list[tuple[NDArray[np.uint8], NDArray[np.float64]]] = []
        parts = pieces(self.samples, watch.looks)
        drawn = regroup(self._rows(count, scene.rng), [stop - start for start, stop in parts])
        for (_, stop), (codes,) in zip(parts, drawn, strict=True):
            answer = yield RegionMix(codes, scene.regions, scene.baseline)
            scores = target.score(answer, self.score)
            fit.add(codes, scores)
            if watch.looks:
                kept.append((codes, scores))
            if watch.due(stop) and watch.enough(self._measured(fit, kept)):
                break
        weights = fit.solve(self.alpha)
        return Attribution(weights.astype(np.float32)[scene.regions], weights, watch.confidence)

    def _rows(
        self, count: int, rng: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        """Blocks of the design without end, the first row all ones."""
        if self.design != "random":
            yield (np.ones((1, count), np.uint8),)
            while True:
                if self.design == "hadamard":
                    yield (fold_over(count, rng),)
                else:
                    yield (with_complements(rng.integers(0, 2, (CHUNK // 2, count), np.uint8)),)
        start = 0
        while True:
            size = min(CHUNK, max(self.samples - start, 1))
            codes = rng.integers(0, 2, (size, count), np.uint8)
            if start == 0:
                codes[0] = 1
            start += size
            yield (codes,)

    def _measured(
        self, fit: RidgeFit, kept: list[tuple[NDArray[np.uint8], NDArray[np.float64]]]
    ) -> Measured:
        """The weights, how each copy (or pair of complements) moves them, degrees of freedom."""
        codes, scores = (np.concatenate(part) for part in zip(*kept, strict=True))
        moves = fit.influences(codes, scores, self.alpha)
        if self.design != "random":  # the first copy has no partner, nor the last, perhaps
            moves = np.add.reduceat(moves, [0, *range(1, len(moves), 2)])
        weights = fit.solve(self.alpha)
        return weights, moves, len(codes) - len(weights) - 1


class RidgeFit:
    """Weighted ridge regression with an intercept that is not penalised, fed in parts.

    Keeps the (R + 1)² normal equations only, so memory does not grow with the samples.
    """

    def __init__(self, regions: int, kernel_width: float) -> None:
        self._kernel_width = kernel_width
        self._gram = np.zeros((regions + 1, regions + 1))
        self._moments = np.zeros(regions + 1)

    def add(self, codes: NDArray[np.uint8], scores: NDArray[np.float64]) -> None:
        """Add rows `codes` (N, R) of zeros and ones with their scores (N,)."""
        rows = np.concatenate([codes, np.ones((len(codes), 1))], axis=1)
        weighted = rows * sample_weights(codes, self._kernel_width)[:, None]
        self._gram += weighted.T @ rows
        self._moments += weighted.T @ scores

    def solve(self, alpha: float) -> NDArray[np.float64]:
        """The weight of each region (R,)."""
        penalty = np.full(len(self._gram), alpha)
        penalty[-1] = 0.0
        return np.asarray(np.linalg.solve(self._gram + np.diag(penalty), self._moments)[:-1])

    def influences(
        self, codes: NDArray[np.uint8], scores: NDArray[np.float64], alpha: float
    ) -> NDArray[np.float64]:
        """How much each row (N, R) moves the weights by being there: the jackknife's, (N, R).

        The rows must be all that were added.
        """
        penalty = np.full(len(self._gram), alpha)
        penalty[-1] = 0.0
        inverse = np.linalg.inv(self._gram + np.diag(penalty))
        rows = np.concatenate([codes, np.ones((len(codes), 1))], axis=1)
        weighted = rows * sample_weights(codes, self._kernel_width)[:, None]
        pulls = weighted @ inverse
        leverage = np.einsum("nr,nr->n", pulls, rows)
        residuals = scores - rows @ (inverse @ self._moments)
        return np.asarray(pulls[:, :-1] * (residuals / np.maximum(1 - leverage, 1e-9))[:, None])


def sample_weights(codes: NDArray[np.uint8], kernel_width: float) -> NDArray[np.float64]:
    """√exp(−d²/width²) per row, d the cosine distance to all ones; a row of zeros has d = 1."""
    visible = codes.sum(axis=1) / codes.shape[1]
    distance = 1 - np.sqrt(visible)  # cos(z, 1) = Σz / (√Σz·√R) = √(Σz/R)
    return np.asarray(np.sqrt(np.exp(-(distance**2) / kernel_width**2)))
