"""HSIC: how much the score depends on whether a cell is visible (Novello et al. 2022)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .adjustment import ridge
from .base import LATER, Asking, Attribution, Scene, Score, Target, check, check_score, chunks
from .regions import grid

PAIRS = 1 << 20
"""Pairs of copies compared at a time: 8 MB, however many copies there are."""
FEW = 1000
"""Scores whose distances give the bandwidth: half a million pairs, however many there are."""
FREQUENCIES = np.linspace(0, 8, 257)
"""In units of 1/width: a sum over these is the integral to all digits."""


@dataclass(frozen=True)
class Hsic:
    """The Hilbert-Schmidt independence criterion of each cell's visibility and the score.

    grid: cells a side; samples: copies, a cell visible in half of them by a fractional factorial
    design that the seed draws. Costs `samples` images. The estimate compares all pairs of copies:
    time grows with the square of `samples`, memory does not. fitted: of a linear model of the score
    instead, in closed form, so that fewer images rank cells as well: see `fitted_dependence`.
    """

    grid: int = 8
    samples: int = 500
    score: Score = "probability"
    fitted: bool = field(default=False, metadata=LATER)

    name: ClassVar[str] = "hsic"
    baseline: ClassVar[str] = "zero"
    signed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(1 <= self.grid <= 100, "HSIC", "grid must lie in 1 … 100", self.grid)
        check(self.samples >= 4, "HSIC", "samples must be 4 or more", self.samples)
        check_score("HSIC", self.score)

    def images(self) -> int:
        """The images it asks for."""
        return self.samples

    def with_budget(self, images: int) -> Hsic:
        """HSIC with so many samples."""
        return dataclasses.replace(self, samples=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the dependence of the score on each cell, painted on the cells."""
        cells = grid(frame.shape[1], frame.shape[2], self.grid)
        codes = factorial(self.samples, self.grid**2, scene.rng)
        scores = np.empty(self.samples)
        for start, stop in chunks(self.samples):
            answer = yield RegionMix(codes[start:stop], cells, scene.baseline)
            scores[start:stop] = target.score(answer, self.score)
        estimate = fitted_dependence if self.fitted else dependence
        return Attribution(estimate(codes, scores).astype(np.float32)[cells])


def factorial(count: int, inputs: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Rows (count, inputs) of zeros and ones: a two-level fractional factorial in random order.

    Column j is the parity of the row number's bits under a mask, drawn, all masks different and
    odd; flipped or not, drawn. Over all 2ᵐ row numbers every column is balanced, no two are
    correlated, and no pair of cells can pass for a third. A Sobol' sequence cut at ½, the paper's
    design, is of this kind, but its masks are given: with many cells or few rows they coincide.
    """
    bits = max(int(np.ceil(np.log2(count))), int(np.ceil(np.log2(inputs))) + 1)
    rows = rng.permutation(2**bits)[:count].astype(np.uint32)
    masks = (2 * rng.choice(2 ** (bits - 1), inputs, replace=False) + 1).astype(np.uint32)
    found = rows[:, None] & masks
    for shift in (16, 8, 4, 2, 1):
        found ^= found >> np.uint32(shift)
    flips = rng.integers(0, 2, inputs, np.uint8)
    return np.asarray((found & 1).astype(np.uint8) ^ flips)


def fitted_dependence(codes: NDArray[np.uint8], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `dependence` tends to if the scores are what a linear model of them says: (inputs,).

    The model is linear in what is visible (ridge, by generalised cross-validation); what it leaves
    over counts as noise that depends on nothing, and so does what cells do only together.
    """
    count, width = len(scores), bandwidth(scores)
    if width == 0:
        return np.zeros(codes.shape[1])
    signs = 2 * codes.astype(np.float64) - 1
    signs -= signs.mean(axis=0)
    centred = scores - scores.mean()
    weights, used = ridge(signs, centred, lost=1)
    misfit = float(((centred - signs @ weights) ** 2).sum())
    return linear_dependence(weights, misfit / max(count - 1 - used, 1), width)


def linear_dependence(
    weights: NDArray[np.float64], variance: float, width: float
) -> NDArray[np.float64]:
    """HSIC of each of independent fair coins s = ±1 (inputs,) with y = Σ weights·s + normal noise.

    Exact: the Gaussian kernel is the mean of cos(ω(y − y′)) over normal ω of deviation 1/width, and
    of a sum of independent terms that mean is a product over them. ω is summed over FREQUENCIES.
    """
    density = np.exp(-(FREQUENCIES**2) / 2)
    density[0] /= 2  # what is summed is even in ω
    density *= np.exp(-variance * (FREQUENCIES / width) ** 2) / density.sum()
    turns = np.cos(np.outer(2 * weights / width, FREQUENCIES))
    same = np.ones((len(weights) + 2, len(FREQUENCIES)))
    same[1:-1] = (1 + turns) / 2
    others = np.cumprod(same, axis=0)[:-2] * np.cumprod(same[::-1], axis=0)[-3::-1]
    return np.asarray((others * (1 - turns)) @ density / 4)


def dependence(codes: NDArray[np.uint8], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """HSIC of each column of `codes` (N, inputs), zeros and ones, with `scores` (N,): (inputs,).

    tr(K H L H) / (N − 1)², H = I − 11ᵀ/N (Gretton et al. 2005). K is Dirac's kernel less its mean,
    1{z = z'} − ½, which is ½ s sᵀ for s = 2z − 1: the kernel whose products over inputs split
    dependence into single inputs, pairs and so on (da Veiga 2021). L is Gaussian, its bandwidth the
    median distance of scores that differ. All zero where the score does not vary.
    """
    count, inputs = codes.shape
    width = bandwidth(scores)
    if width == 0:
        return np.zeros(inputs)
    signs = 2 * codes.astype(np.float64) - 1
    signs -= signs.mean(axis=0)  # H s: centring K centres the product, and L need not be kept whole
    traces = np.zeros(inputs)
    for start, stop in chunks(count, max(PAIRS // count, 1)):
        gram = np.exp(-((scores[start:stop, None] - scores) ** 2) / (2 * width**2))
        traces += ((gram @ signs) * signs[start:stop]).sum(axis=0)
    return np.asarray(traces / (2 * (count - 1) ** 2))


def bandwidth(scores: NDArray[np.float64]) -> float:
    """The median distance of the first FEW scores (N,), of those that differ; 0 if none do."""
    from scipy.spatial.distance import pdist

    distances = pdist(scores[:FEW, None])
    apart = distances[distances > 0]
    return float(np.median(apart)) if len(apart) else 0.0
