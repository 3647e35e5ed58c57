"""What makes an image near the frame that is called *real*: the interface, and what all share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..explanation import Adversary
from ..perturbation import FloatArray

STRENGTHS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
"""At which a neighbour's perturbation is tried. Without the weak ones it would only ever grow along
a clip; the strong ones are cheaper than a step."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AdversarialSample(Adversary):
    """An image near the frame, and whether the detector calls it *real*.

    `image` (3, h, w) float32 within `linf` of the frame; `log_probs` (C,) the detector's answer to
    this very image. A frame that is called real from the start comes back unchanged, with no steps
    and `flipped` False. A sample that starts from another's perturbation may be called real after
    no steps.
    """

    image: FloatArray
    log_probs: FloatArray


class Attack(Protocol):
    """Options in the constructor, data in the call; see `whyfake.explainers.ADVERSARIES`."""

    name: ClassVar[str]

    def images(self) -> int:
        """The most images it asks for, without a start; with one, nine more."""
        ...

    def attack(
        self,
        frame: FloatArray,
        real: tuple[int, ...],
        *,
        seed: int,
        rng: np.random.Generator,
        mask: FloatArray | None = None,
        start: FloatArray | None = None,
    ) -> Generator[Any, FloatArray, AdversarialSample]:
        """A coroutine: an image near `frame` (3, h, w) whose argmax is one of the columns `real`.

        `seed` draws what frames share, `rng` the rest. Where `mask` (h, w) is zero, pixels stay.
        `start` (3, h, w) is a perturbation to try first, such as that of the frame before.
        """
        ...


def ball(frame: FloatArray, epsilon: float) -> tuple[FloatArray, FloatArray]:
    """The lowest and highest images (3, h, w) within `epsilon` of the frame and [0, 1]."""
    radius = np.float32(epsilon)
    return np.maximum(frame - radius, 0), np.minimum(frame + radius, 1)


def into_ball(image: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """`image`, a new array that is written to, brought between `low` and `high`.

    What `np.clip` gives; with whole images as bounds that takes ten times as long.
    """
    np.maximum(image, low, out=image)
    np.minimum(image, high, out=image)
    return image


def at_strengths(
    frame: FloatArray, start: FloatArray, low: FloatArray, high: FloatArray
) -> FloatArray:
    """The frame with a perturbation at each of STRENGTHS, brought between `low` and `high`."""
    return np.stack([into_ball(frame + np.float32(s) * start, low, high) for s in STRENGTHS])


def real_margin(log_probs: FloatArray, real: tuple[int, ...]) -> NDArray[np.float64]:
    """log p(real) − log max p(other), (N,): positive where the argmax is real.

    The same gradient sign as p(real) near the boundary, and it does not saturate.
    """
    others = [c for c in range(log_probs.shape[1]) if c not in real]
    best = log_probs[:, list(real)].max(axis=1).astype(np.float64)
    return np.asarray(best - log_probs[:, others].max(axis=1))


def probability(log_probs: FloatArray, columns: tuple[int, ...]) -> float:
    """The probability of any of `columns` in log-probabilities (C,)."""
    return float(np.exp(np.logaddexp.reduce(log_probs[list(columns)].astype(np.float64))))
