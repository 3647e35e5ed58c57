"""KernelSHAP: Shapley values of the regions by a regression (Lundberg and Lee 2017)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import Asking, Attribution, Scene, Score, Target, check, check_score, chunks

TRIES = 4
"""Coalitions drawn for each one wanted, before the rest counts as too hard to come by."""


@dataclass(frozen=True)
class KernelShap:
    """Each region's Shapley value: its mean effect over all orders in which regions appear.

    samples: the most images, both ends (all visible, none) included. Sizes of coalitions all of
    which fit are asked whole, as package `shap` does, so with few regions the values are exact; the
    rest is drawn in pairs of complements (Covert and Lee 2021). The values add up to the rise of
    the score from baseline to frame.

    Hidden regions show SHAP's blur: a smooth picture of the same colours, so that `kernelshap`,
    `owen` and `shap` share a question and differ only in how they answer it.
    """

    samples: int = 2000
    score: Score = "probability"

    name: ClassVar[str] = "kernelshap"
    baseline: ClassVar[str] = "blur"
    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self.samples >= 4, "KernelSHAP", "samples must be 4 or more", self.samples)
        check_score("KernelSHAP", self.score)

    def images(self) -> int:
        """The most images it asks for."""
        return self.samples

    def with_budget(self, images: int) -> KernelShap:
        """KernelSHAP with so many images."""
        return dataclasses.replace(self, samples=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the Shapley value of each region, painted on the regions."""
        count = int(scene.regions.max()) + 1
        codes, weights = coalitions(count, self.samples - 2, scene.rng)
        ends = np.repeat(np.array([[0], [1]], np.uint8), count, axis=1)
        asked = np.concatenate([ends, codes])
        scores = np.empty(len(asked))
        for start, stop in chunks(len(asked)):
            answer = yield RegionMix(asked[start:stop], scene.regions, scene.baseline)
            scores[start:stop] = target.score(answer, self.score)
        values = constrained_fit(codes, weights, scores[2:] - scores[0], scores[1] - scores[0])
        return Attribution(values.astype(np.float32)[scene.regions], values)


def coalitions(
    regions: int, budget: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """At most `budget` distinct coalitions (N, regions) of zeros and ones, and their weights (N,).

    None is empty or whole. Sizes 1 and R − 1, 2 and R − 2 … are taken whole while the budget's
    share of a size covers it, each coalition with its share of Shapley's kernel,
    (R − 1) / (s·(R − s)) for all of size s together. What is left is drawn by that kernel, each
    coalition with its complement; what was drawn twice weighs twice.
    """
    sizes = range(1, regions // 2 + 1)
    kernel = np.array([1 / (s * (regions - s)) * (1 if 2 * s == regions else 2) for s in sizes])
    kernel /= max(kernel.sum(), 1e-300)
    rows: list[NDArray[np.uint8]] = []
    weights: list[float] = []
    done, left = 0, budget
    for s in sizes:
        members = comb(regions, s) * (1 if 2 * s == regions else 2)
        if left * kernel[s - 1] / kernel[done:].sum() < members * (1 - 1e-8):
            break
        for row in _all_of_size(regions, s):
            rows.append(row)
            weights.append(kernel[s - 1] / members)
        done, left = s, left - members
    if done < len(sizes) and left > 0:
        drawn = _drawn(regions, kernel[done:], done + 1, left, rng)
        total = sum(times for _, times in drawn)
        rows += [row for row, _ in drawn]
        weights += [kernel[done:].sum() * times / total for _, times in drawn]
    return np.array(rows, np.uint8).reshape(-1, regions), np.array(weights)


def _all_of_size(regions: int, size: int) -> list[NDArray[np.uint8]]:
    """Every coalition of a size, and of the size that complements it."""
    found = []
    for members in combinations(range(regions), size):
        row = np.zeros(regions, np.uint8)
        row[list(members)] = 1
        found.append(row)
    return found if 2 * size == regions else [side for row in found for side in (row, 1 - row)]


def _drawn(
    regions: int, kernel: NDArray[np.float64], first: int, wanted: int, rng: np.random.Generator
) -> list[tuple[NDArray[np.uint8], int]]:
    """Up to `wanted` distinct coalitions and how often each was drawn.

    Sizes `first`, `first` + 1 … are drawn in proportion to `kernel`.
    """
    found: dict[bytes, list[int]] = {}
    for size in rng.choice(len(kernel), TRIES * wanted, p=kernel / kernel.sum()) + first:
        row = np.zeros(regions, np.uint8)
        row[rng.permutation(regions)[:size]] = 1
        for side in (row, 1 - row):
            key = side.tobytes()
            if key in found:
                found[key][0] += 1
            elif len(found) < wanted:
                found[key] = [1]
        if len(found) == wanted:
            break
    return [(np.frombuffer(key, np.uint8), times) for key, [times] in found.items()]


def constrained_fit(
    codes: NDArray[np.uint8],
    weights: NDArray[np.float64],
    rises: NDArray[np.float64],
    whole: float,
) -> NDArray[np.float64]:
    """Values (R,) that sum to `whole` and fit `rises` (N,) best: Σ w (rise − z·value)² is least.

    The sum holds to rounding, since what is fitted is how values differ from their mean. Where
    there are too few coalitions to tell values apart, they are as even as the fit allows. Solved by
    the normal equations: R² numbers, however many the coalitions.
    """
    regions = codes.shape[1]
    mean = whole / regions
    visible = codes.astype(np.float64)
    apart = visible - visible.mean(axis=1, keepdims=True)
    weighted = apart * weights[:, None]
    rest = rises - visible.sum(axis=1) * mean
    values = np.linalg.lstsq(apart.T @ weighted, weighted.T @ rest, rcond=None)[0]
    return np.asarray(mean + values - values.mean())
