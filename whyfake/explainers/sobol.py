"""SOBOL: total-order indices of a grid of cells as inputs (Fel et al. 2021)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import (
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
    chunks,
    region_means,
)
from .regions import grid
from .stopping import Measured, Watch, check_stops

Steps = Literal["free", "half"]
STEPS: tuple[str, ...] = ("free", "half")
HALF_STEPS = 2 / 3
"""What Jansen's formula over half steps is multiplied by: E[(a − b)²] is 1/6 for independent a and
b, and here 1/4.
"""


@dataclass(frozen=True)
class Sobol:
    """How much of the score's variance each cell takes part in, when all cells fade at random.

    grid: cells a side; design: rows n of the two base designs A and B, taken from an unscrambled
    Sobol' sequence (powers of two are balanced). The design has n·(grid² + 2) rows, many of them
    equal; each distinct row is asked once: 1,722 images for the default 2,112 rows. scramble: draw
    the sequence with Owen's scrambling from the seed, so that no cell is treated worse than others
    by design, and leave out the n rows of B that no index needs: n·(grid² + 1) images. steps: how
    far B lies from A in each cell: `free`, anywhere; `half`, half the range, up or down, so that an
    index does not hang on the luck of a few steps (see `half_steps` for what it is then). May ask
    less: see `stopping` for confidence, top, least; it looks after 4, 8, 16 … of the n rows.
    """

    grid: int = 8
    design: int = 32
    score: Score = "probability"
    scramble: bool = field(default=False, metadata=LATER)
    steps: Steps = field(default="free", metadata=LATER)
    confidence: float = field(default=0.0, metadata=LATER)
    top: int = field(default=3, metadata=LATER)
    least: int = field(default=128, metadata=LATER)

    name: ClassVar[str] = "sobol"
    baseline: ClassVar[str] = "zero"
    signed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(1 <= self.grid <= 100, "SOBOL", "grid must lie in 1 … 100", self.grid)
        check(self.design >= 2, "SOBOL", "design must be 2 or more", self.design)
        check_score("SOBOL", self.score)
        check_choice("SOBOL", "steps", self.steps, STEPS)
        check_stops("SOBOL", self)

    def images(self) -> int:
        """The most images it asks for: the distinct rows of the design."""
        if self.scramble:
            return self.design * (self.grid**2 + 1)
        return len(distinct_rows(self._rows(None))[0])

    def with_budget(self, images: int) -> Sobol:
        """SOBOL with the largest design whose rows, duplicates included, fit; at least two rows."""
        each = self.grid**2 + (1 if self.scramble else 2)
        return dataclasses.replace(self, design=max(2, images // each))

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the total-order index of each cell, painted on the cells."""
        cells = grid(frame.shape[1], frame.shape[2], self.grid)
        rows = self._rows(scene.rng if self.scramble else None)
        distinct, where = distinct_rows(rows)
        # by row of the design: of A, of B, of A with each column of B
        where = where.reshape(-1, self.design)
        scores = np.full(len(distinct), np.nan)
        watch = Watch(self, self.images(), scene.rng)
        used = 0
        for used in self._stages(bool(watch.looks)):
            wanted = np.delete(where, 1, axis=0) if self.scramble else where
            # row by row of A: what follows one another has much in common, which saves work
            new = np.array(list(dict.fromkeys(wanted[:, :used].T.ravel().tolist())))
            new = new[np.isnan(scores[new])]
            for start, stop in chunks(len(new)):
                part = new[start:stop]
                answer = yield RegionMix(distinct[part], cells, scene.baseline)
                scores[part] = target.score(answer, self.score)
            asked = int(np.isfinite(scores).sum())
            if watch.due(asked, last=used == self.design) and watch.enough(
                _measured(scores[where[:, :used]], cells, scene.regions)
            ):
                break
        indices = jansen_total_order(scores[where[:, :used]].ravel(), used)
        if self.steps == "half":
            indices *= HALF_STEPS
        heat = indices.astype(np.float32)[cells]
        return Attribution(heat, confidence=watch.confidence)

    def _rows(self, rng: np.random.Generator | None) -> NDArray[np.float32]:
        """The whole design, `design`·(grid² + 2) rows."""
        a, b = base_designs(self.grid**2, self.design, rng)
        return jansen_rows(a, half_steps(a) if self.steps == "half" else b)

    def _stages(self, looking: bool) -> list[int]:
        """After how many rows of the design to look: all of them, unless looking earlier."""
        sizes = [2**k for k in range(2, 32) if 2**k < self.design] if looking else []
        return [*sizes, self.design]


def _measured(scores: NDArray[np.float64], cells: LabelMap, regions: LabelMap) -> Measured:
    """Mean index of the regions, how each row of the design moves it, degrees of freedom.

    `scores` (2 + inputs, rows): of A, of B, of A with each column of B. All indices are measured in
    the same variance, which moves no rank.
    """
    squares = (scores[0] - scores[2:]) ** 2
    inputs, count = squares.shape
    overlap = np.stack(
        [region_means((cells == i).astype(np.float32), regions) for i in range(inputs)]
    )
    each = squares.T @ overlap
    mean = each.mean(axis=0)
    return mean, (each - mean) / count * np.sqrt(count / (count - 1)), count - 1


def distinct_rows(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The rows without their repetitions, in order, and for each row which of those it is (N,)."""
    found: dict[bytes, int] = {}
    where = np.array([found.setdefault(row.tobytes(), len(found)) for row in rows])
    return rows[np.unique(where, return_index=True)[1]], where


def base_designs(
    inputs: int, count: int, rng: np.random.Generator | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two designs A and B (count, inputs) in [0, 1]: the halves of one Sobol' sequence.

    Scrambled by Owen's method as `rng` draws, where there is one.
    """
    from scipy.stats import qmc

    # SciPy before 1.15 called the generator `seed`, which later ones still take
    sequence = qmc.Sobol(2 * inputs, scramble=rng is not None, seed=rng)
    # in whole powers of two, for which the sequence is balanced (SciPy warns otherwise)
    points: NDArray[Any] = sequence.random_base2(int(np.ceil(np.log2(count))))
    halves: NDArray[np.float32] = points[:count].astype(np.float32)
    return halves[:, :inputs], halves[:, inputs:]


def half_steps(a: NDArray[np.float32]) -> NDArray[np.float32]:
    """The design B that lies half the range from A in every cell: (a + ½) modulo 1.

    The index is then 4/3 of the share of variance in the odd frequencies of a cell. It equals the
    total-order index for every score that is affine in each cell alone, whatever cells do together;
    it would miss a score that repeats itself after half a cell's range. Squares (a − b)² of few
    independent rows differ by luck from cell to cell, which these do not.
    """
    moved: NDArray[np.float32] = (a + np.float32(0.5)) % np.float32(1)
    return moved


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
