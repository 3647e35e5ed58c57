"""NES that asks one image a call, as the paper's code does, written from its description alone.

arXiv 2502.03957 published code beside its text. From a description of that code: each of the 2n
images of a step is a call of its own; the noise is one channel for all three, drawn by NumPy's
`multivariate_normal`; the score is p(real); the clip acts on the step and not on the sample, so
that the sample may leave the ball and [0, 1]; it ends silently where nothing flipped.

What the description leaves open is read in that code's favour: one draw a step, of rows of
independent pixels, since a covariance over all the pixels of a frame would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PaperSample:
    """What it returns: `image` (3, h, w), whether it was called real, steps taken, calls made."""

    image: FloatArray
    flipped: bool
    steps: int
    images: int


def paper_nes(
    frame: FloatArray,
    ask: Callable[[FloatArray], NDArray[Any]],
    real: tuple[int, ...],
    rng: np.random.RandomState,
    *,
    steps: int = 80,
    pairs: int = 40,
    sigma: float = 0.001,
    alpha: float = 1 / 255,
    epsilon: float = 16 / 255,
) -> PaperSample:
    """Move `frame` (3, h, w) until `ask(image)`, probabilities (C,), is highest in `real`.

    Costs 2·pairs + 1 images a step, a call each; 6,480 in all by default.
    """
    height, width = frame.shape[1:]
    image, asked = frame.copy(), 0

    def p_real(picture: NDArray[Any]) -> float:
        nonlocal asked
        asked += 1
        return float(ask(picture.astype(np.float32))[list(real)].sum())

    for step in range(steps):
        asked += 1
        if int(np.argmax(ask(image))) in real:
            return PaperSample(image, True, step, asked)
        noise = rng.multivariate_normal(np.zeros(width), np.eye(width), size=(pairs, height))
        gradient = np.zeros((height, width))
        for u in noise:
            gradient += (p_real(image + sigma * u) - p_real(image - sigma * u)) * u
        gradient /= 2 * pairs * sigma
        move = np.clip(alpha * np.sign(gradient), -epsilon, epsilon)  # the step, not the sample
        image = (image + move).astype(np.float32)
    return PaperSample(image, False, steps, asked)
