"""Square attack: random squares of ±ε, kept where they help (Andriushchenko et al. 2020).

The second judge: it shares nothing with NES, which makes the adversarial baseline and would
otherwise be alone in judging the explanations made with it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..explainers import AdversarialSample, real_margin
from ..explainers.base import check
from ..perturbation import FloatArray, Pixels

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Where, in shares of the queries, the published schedule halves the squares' area."""


@dataclass(frozen=True)
class Square:
    """The L∞ Square attack, arXiv 1912.00049 algorithm 1, on the pixels of a mask.

    epsilon: radius in [0, 1]; queries: the most images after the first; share: the area of the
    first squares as a share of the pixels that may move (the paper's p).
    """

    epsilon: float = 16 / 255
    queries: int = 1000
    share: float = 0.1

    name: ClassVar[str] = "square"

    def __post_init__(self) -> None:
        check(0 < self.epsilon <= 1, "Square", "epsilon must lie in (0, 1]", self.epsilon)
        check(self.queries >= 1, "Square", "queries must be 1 or more", self.queries)
        check(0 < self.share <= 1, "Square", "share must lie in (0, 1]", self.share)

    def images(self) -> int:
        """The most images it asks for."""
        return self.queries + 1

    def attack(
        self,
        frame: FloatArray,
        real: tuple[int, ...],
        *,
        rng: np.random.Generator,
        mask: FloatArray | None = None,
    ) -> Generator[Pixels, FloatArray, tuple[AdversarialSample, FloatArray]]:
        """A coroutine: an image near `frame` (3, h, w) whose argmax is one of the columns `real`.

        Where `mask` (h, w) is zero, pixels stay. The sample comes with its log-probabilities (C,);
        `steps` are the squares that were tried. One image a question, after the first: frame and
        stripes together.
        """
        where = np.ones(frame.shape[1:], bool) if mask is None else mask > 0
        rows, columns = np.nonzero(where)
        step = np.float32(self.epsilon)
        low, high = np.maximum(frame - step, 0), np.minimum(frame + step, 1)
        stripes = rng.choice((-step, step), (3, 1, frame.shape[2])).astype(np.float32)
        image = np.where(where, np.clip(frame + stripes, low, high), frame)
        answer = yield Pixels(np.stack([frame, image]))
        margins = real_margin(answer, real)
        before, kept, margin = answer[0], answer[1], margins[1]
        called_real = bool(margins[0] > 0)
        tried = 1
        if called_real:
            image, kept = frame, before
        while margin <= 0 and not called_real and tried < self.queries:
            side = square_side(tried / self.queries, self.share, len(rows), min(where.shape))
            candidate = image.copy()
            window = _window(where.shape, side, (rows, columns), rng)
            sign = rng.choice((-step, step), (3, 1, 1)).astype(np.float32)
            moved = np.clip(frame[window] + sign, low[window], high[window])
            candidate[window] = np.where(where[window[1:]], moved, frame[window])
            answer = yield Pixels(candidate[None])
            tried += 1
            found = float(real_margin(answer, real)[0])
            if found > margin:
                image, kept, margin = candidate, answer[0], found
        sample = AdversarialSample(
            image=image,
            flipped=bool(margin > 0 and not called_real),
            steps=0 if called_real else tried,
            images=tried + 1,
            linf=float(np.abs(image - frame).max()),
            score_before=_probability(before, real),
            score_after=_probability(kept, real),
        )
        return sample, kept


def square_side(progress: float, share: float, area: int, most: int) -> int:
    """The side of a square in pixels, at `progress` in [0, 1) through the queries."""
    halvings = sum(progress > limit for limit in _HALVINGS)
    return int(np.clip(round((share * area / 2**halvings) ** 0.5), 1, most))


def _window(
    shape: tuple[int, ...],
    side: int,
    pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
    rng: np.random.Generator,
) -> tuple[slice, slice, slice]:
    """A square inside the frame that covers a randomly chosen one of `pixels` (rows, columns)."""
    chosen = rng.integers(len(pixels[0]))
    corner = [
        int(np.clip(axis[chosen] - rng.integers(side), 0, length - side))
        for axis, length in zip(pixels, shape, strict=True)
    ]
    return (slice(None), *(slice(start, start + side) for start in corner))  # type: ignore[return-value]


def _probability(log_probs: FloatArray, columns: tuple[int, ...]) -> float:
    return float(np.exp(np.logaddexp.reduce(log_probs[list(columns)].astype(np.float64))))
