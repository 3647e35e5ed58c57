"""LIME: a weighted linear fit of the score on which regions are visible (Ribeiro et al. 2016)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import Asking, Attribution, Scene, Score, Target, check, check_score, chunks


@dataclass(frozen=True)
class Lime:
    """Weights of regions in a local linear model, as package `lime` computes them.

    samples: random copies, each region visible with probability ½, the first all visible;
    kernel_width: of the exponential kernel on the cosine distance to the frame; alpha: ridge
    penalty. Costs `samples` images.
    """

    samples: int = 2000
    kernel_width: float = 0.25
    alpha: float = 1.0
    score: Score = "probability"

    name: ClassVar[str] = "lime"
    baseline: ClassVar[str] = "mean"
    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.samples >= 2, "LIME", "samples must be 2 or more", self.samples)
        check(self.kernel_width > 0, "LIME", "kernel_width must be positive", self.kernel_width)
        check(self.alpha > 0, "LIME", "alpha must be positive", self.alpha)
        check_score("LIME", self.score)

    def images(self) -> int:
        """The images it asks for."""
        return self.samples

    def with_budget(self, images: int) -> Lime:
        """LIME with so many samples."""
        return dataclasses.replace(self, samples=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the weight of each region, painted on the regions."""
        count = int(scene.regions.max()) + 1
        fit = RidgeFit(count, self.kernel_width)
        for start, stop in chunks(self.samples):
            codes = scene.rng.integers(0, 2, (stop - start, count), np.uint8)
            if start == 0:
                codes[0] = 1
            scores = yield RegionMix(codes, scene.regions, scene.baseline)
            fit.add(codes, target.score(scores, self.score))
        weights = fit.solve(self.alpha)
        return Attribution(weights.astype(np.float32)[scene.regions], weights)


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


def sample_weights(codes: NDArray[np.uint8], kernel_width: float) -> NDArray[np.float64]:
    """√exp(−d²/width²) per row, d the cosine distance to all ones; a row of zeros has d = 1."""
    visible = codes.sum(axis=1) / codes.shape[1]
    distance = 1 - np.sqrt(visible)  # cos(z, 1) = Σz / (√Σz·√R) = √(Σz/R)
    return np.asarray(np.sqrt(np.exp(-(distance**2) / kernel_width**2)))
