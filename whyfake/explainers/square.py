"""Square attack: random squares of ±ε, kept where they help (Andriushchenko et al. 2020).

It compares scores and takes no differences, so coarse arithmetic does not mislead it. It is also
the second judge of an evaluation: NES, which makes the usual adversarial baseline, would otherwise
be alone in judging the explanations made with it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, Pixels
from .adversary import (
    AdversarialSample,
    at_strengths,
    ball,
    into_ball,
    probability,
    real_margin,
)
from .base import LATER, check

_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Where, in shares of the queries, the published schedule halves the squares' area."""


@dataclass(frozen=True)
class Square:
    """The L∞ Square attack, arXiv 1912.00049 algorithm 1, on the pixels of a mask.

    epsilon: radius in [0, 1]; queries: the most images after the first; share: the area of the
    first squares as a share of the pixels that may move (the paper's p); candidates: how many
    squares are asked about at once, the best of them kept (the paper's algorithm: 1).
    """

    epsilon: float = 16 / 255
    queries: int = 1000
    share: float = 0.1
    candidates: int = field(default=1, metadata=LATER)

    name: ClassVar[str] = "square"

    def __post_init__(self) -> None:
        check(0 < self.epsilon <= 1, "Square", "epsilon must lie in (0, 1]", self.epsilon)
        check(self.queries >= 1, "Square", "queries must be 1 or more", self.queries)
        check(0 < self.share <= 1, "Square", "share must lie in (0, 1]", self.share)
        check(self.candidates >= 1, "Square", "candidates must be 1 or more", self.candidates)

    def images(self) -> int:
        """The most images it asks for."""
        return self.queries + 1

    def attack(
        self,
        frame: FloatArray,
        real: tuple[int, ...],
        *,
        seed: int,
        rng: np.random.Generator,
        mask: FloatArray | None = None,
        start: FloatArray | None = None,
    ) -> Generator[Pixels, FloatArray, AdversarialSample]:
        """A coroutine: an image near `frame` (3, h, w) whose argmax is one of the columns `real`.

        Where `mask` (h, w) is zero, pixels stay. The first batch is the frame and `candidates` of
        stripes, and with a `start` (3, h, w) that perturbation at eight strengths; what follows is
        `candidates` images a question. `steps` are the stripes and squares that were tried. All
        draws are of `rng`; `seed` is not used.
        """
        where = np.ones(frame.shape[1:], bool) if mask is None else mask > 0
        low, high = ball(frame, self.epsilon)
        squares = _Squares(self, frame, where, low, high, rng)
        tried = min(self.candidates, self.queries)
        images = [frame, *(squares.stripes() for _ in range(tried))]
        if start is not None:
            images[1:1] = at_strengths(frame, start * where, low, high)
        answer = yield Pixels(np.stack(images))
        margins = real_margin(answer, real)
        asked, before, called_real = len(images), answer[0], bool(margins[0] > 0)
        found = margins[1:]
        # the weakest strength that is real, or else the image nearest to it; never the frame itself
        best = 0 if called_real else 1 + int(np.argmax(found > 0 if found.max() > 0 else found))
        image, kept, margin = images[best], answer[best], margins[best]
        while margin <= 0 and tried < self.queries:
            number = min(self.candidates, self.queries - tried)
            moved = np.stack([squares.moved(image, tried + i) for i in range(number)])
            answer = yield Pixels(moved)
            tried, asked = tried + number, asked + number
            margins = real_margin(answer, real)
            best = int(margins.argmax())
            if margins[best] > margin:
                image, kept, margin = moved[best], answer[best], margins[best]
        return AdversarialSample(
            image=image,
            log_probs=kept,
            flipped=bool(margin > 0 and not called_real),
            steps=0 if called_real else tried,
            images=asked,
            linf=float(np.abs(image - frame).max()),
            score_before=probability(before, real),
            score_after=probability(kept, real),
            method=self.name,
        )


class _Squares:
    """Draws stripes and squares of ±ε on a frame (3, h, w), where `where` (h, w) is true."""

    def __init__(
        self,
        square: Square,
        frame: FloatArray,
        where: NDArray[np.bool_],
        low: FloatArray,
        high: FloatArray,
        rng: np.random.Generator,
    ) -> None:
        self._square, self._frame, self._where, self._rng = square, frame, where, rng
        self._low, self._high = low, high
        self._pixels = np.nonzero(where)
        self._step = np.float32(square.epsilon)

    def stripes(self) -> FloatArray:
        """The frame with a vertical stripe a column, a sign for each channel."""
        step, columns = self._step, self._frame.shape[2]
        stripes = self._rng.choice((-step, step), (3, 1, columns)).astype(np.float32)
        striped = into_ball(self._frame + stripes, self._low, self._high)
        striped[:, ~self._where] = self._frame[:, ~self._where]
        return striped

    def moved(self, image: FloatArray, tried: int) -> FloatArray:
        """A copy of `image` with one square of the frame at ±ε, smaller the more were tried."""
        shape, step = self._where.shape, self._step
        progress = tried / self._square.queries
        side = square_side(progress, self._square.share, len(self._pixels[0]), min(shape))
        window = _window(shape, side, (self._pixels[0], self._pixels[1]), self._rng)
        sign = self._rng.choice((-step, step), (3, 1, 1)).astype(np.float32)
        frame = self._frame[window]
        candidate: FloatArray = image.copy()
        moved = into_ball(frame + sign, self._low[window], self._high[window])
        candidate[window] = np.where(self._where[window[1:]], moved, frame)
        return candidate


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
