"""How small a change of the top regions flips the detector: accuracy over radii ε.

An image that flips at distance d from the frame shows that the frame does not hold at any ε ≥ d.
So radii are tried downwards, each next one below what was reached, until an attack fails; at the
radii below that the frame counts as holding.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..explainers import Nes
from ..perturbation import FloatArray
from .verdict import Case, Verdict, judge

RADII = (2 / 255, 4 / 255, 8 / 255, 16 / 255)
_ROUNDING = 1e-6  # of float32 pixels


def smallest_radius(
    nes: Nes,
    case: Case,
    first: Verdict,
    rng: np.random.Generator,
    radii: Sequence[float] = RADII,
) -> Generator[Any, FloatArray, tuple[float | None, int]]:
    """A coroutine: the smallest of `radii` (rising) at which an attack flips, and its images.

    `first` is the verdict at the largest radius, which is not asked again; None where that failed.
    """
    verdict, smallest, asked = first, None, 0
    while verdict.flipped:
        smallest = min(r for r in radii if r >= verdict.linf - _ROUNDING)
        below = [r for r in radii if r < smallest]
        if not below:
            break
        attack = within(nes, below[-1])
        verdict = yield from judge(attack, case, first.labels, rng)
        asked += verdict.images
    return smallest, asked


def within(nes: Nes, radius: float) -> Nes:
    """The same attack in a smaller ball, with twice the steps that reach its edge, and four."""
    steps = 2 * math.ceil(radius / nes.alpha - _ROUNDING) + 4
    return replace(nes, epsilon=radius, steps=min(nes.steps, steps))


def accuracy_over_radii(
    smallest: Sequence[float | None], radii: Sequence[float] = RADII
) -> NDArray[np.float64]:
    """The share of frames that hold at 0 and at each of `radii`: (1 + len(radii),), falling."""
    found = np.array([np.inf if s is None else s for s in smallest])
    return np.array([np.mean(found > r + _ROUNDING) for r in (-1.0, *radii)])


def area_under_radii(smallest: float | None, radii: Sequence[float] = RADII) -> float:
    """One frame's area under its accuracy over radii, from 0 to the largest, as a share: in [0, 1].

    By the trapezoid rule, so the mean over frames is the area under `accuracy_over_radii`. Less is
    better: the regions flip the detector by a smaller change.
    """
    curve = accuracy_over_radii([smallest], radii)
    points = np.array([0.0, *radii])
    return float(np.sum((curve[1:] + curve[:-1]) / 2 * np.diff(points)) / points[-1])
