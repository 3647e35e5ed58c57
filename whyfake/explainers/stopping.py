"""When to stop asking: how surely the top regions would stay the top regions.

Every method can say how its region scores move when one question is answered otherwise: the
influence of each question (or of a pair, or a row of the design: whatever is drawn together). Their
sum of squares is the covariance of the scores, as in a jackknife. The confidence is the chance that
**as many new questions put the same regions first, in any order**: that chance under scores that
differ from the present ones by twice this covariance, since the present ones and the new ones are
both uncertain.

It is looked at on a geometric schedule, not after every question, since looking often finds a lucky
moment. What is stated is the chance at the look that stops; `benchmarks/stopping.py` measures what
it is worth after all the looking.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .base import CHUNK, check

DRAWS = 2000
"""Draws behind a confidence: at .9, a standard error of .007."""
GROWTH = 1.5
"""Each look comes after so many times the questions of the look before it."""
LEAST_DEGREES = 3
"""Fewer independent questions than this to judge by, and nothing is sure."""


class Stops(Protocol):
    """The options that every explainer stops by; confidence 0 never stops, nor estimates."""

    @property
    def confidence(self) -> float:
        """Stop as soon as the confidence is this, in [0, 1)."""
        ...

    @property
    def top(self) -> int:
        """How many regions must stay the first ones."""
        ...

    @property
    def least(self) -> int:
        """Images asked before the first look."""
        ...


def check_stops(owner: str, stops: Stops) -> None:
    """Raise UsageError for options out of range."""
    check(0 <= stops.confidence < 1, owner, "confidence must lie in [0, 1)", stops.confidence)
    check(stops.top >= 1, owner, "top must be 1 or more", stops.top)
    check(stops.least >= 1, owner, "least must be 1 or more", stops.least)


def looks(stops: Stops, budget: int) -> tuple[int, ...]:
    """After how many images to look: `least`, then times GROWTH, the budget last; empty where
    confidence is 0.
    """
    if not stops.confidence:
        return ()
    found, at = [], stops.least
    while at < budget:
        found.append(at)
        at = max(round(at * GROWTH), at + 1)
    return (*found, budget)


def pieces(total: int, stops: tuple[int, ...], size: int = CHUNK) -> list[tuple[int, int]]:
    """(start, stop) pairs that cover 0 … total in steps of `size`, and end at every one of `stops`
    too.
    """
    ends = sorted({*range(size, total, size), *(s for s in stops if s < total), total})
    return list(zip([0, *ends[:-1]], ends, strict=True))


def top_confidence(
    scores: NDArray[np.float64],
    influences: NDArray[np.float64],
    top: int,
    rng: np.random.Generator,
    *,
    degrees: int,
) -> float:
    """The chance that the `top` best of `scores` (R,) stay the best, in any order.

    `influences` (B, R): how each independent question moves the scores; `degrees` of freedom that
    they leave (Student's t). 1 where there are no more than `top` regions, 0 where `degrees` are
    too few to say.
    """
    if top >= len(scores):
        return 1.0
    if degrees < LEAST_DEGREES:
        return 0.0
    factor = np.linalg.qr(influences, mode="r")  # the same covariance from R rows
    draws = rng.standard_normal((DRAWS, len(factor)))
    draws /= np.sqrt(rng.chisquare(degrees, (DRAWS, 1)) / degrees)
    moved = scores + np.sqrt(2.0) * (draws @ factor)
    order = np.argsort(-scores, kind="stable")
    lowest = moved[:, order[:top]].min(axis=1)
    return float(np.mean(lowest > moved[:, order[top:]].max(axis=1)))


Measured = tuple[NDArray[np.float64], NDArray[np.float64], int]
"""Scores (R,), influences (B, R), degrees of freedom."""


class Watch:
    """Looks at a method's scores on schedule; draws from a generator of its own.

    So the questions of a run that stops are the first questions of one that does not.
    """

    def __init__(self, stops: Stops, budget: int, rng: np.random.Generator) -> None:
        self._stops = stops
        self.looks = looks(stops, budget)
        self._rng = rng.spawn(1)[0] if self.looks else rng
        self._next = 0
        self.confidence: float | None = None

    def due(self, asked: int, *, last: bool = False) -> bool:
        """Whether it is time to look after `asked` images; the `last` time it always is."""
        if not self.looks or not (last or asked >= self.looks[self._next]):
            return False
        while self._next < len(self.looks) - 1 and self.looks[self._next] <= asked:
            self._next += 1
        return True

    def enough(self, measured: Measured) -> bool:
        """Whether these scores are sure enough to stop."""
        scores, influences, degrees = measured
        self.confidence = top_confidence(
            scores, influences, self._stops.top, self._rng, degrees=degrees
        )
        return self.confidence >= self._stops.confidence
