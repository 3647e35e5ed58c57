"""Chooses NES's search radius on detectors whose arithmetic is coarse (fp16, bf16, int8, TF32).

NES lives on differences of scores, f(x + σu) − f(x − σu) = 2σ·∂f/∂u + noise. In float32 the noise
is negligible at σ = 0.001; in fp16 it can be as large as the difference, and the gradient is then
drawn from rounding errors. The noise hardly depends on σ, the difference grows with it: so the same
directions are measured at σ/2 and at σ, where the function is still straight, which tells slope
and noise apart, and σ follows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..perturbation import FloatArray, NoiseStep
from .nes import Directions, Nes, real_margin

CORRELATION = 0.95
"""What differences must correlate with those of exact arithmetic. At .95 the gradient estimate has
the sign of the exact one in nine pixels of ten (1 − arccos(.95)/π = .90)."""


@dataclass(frozen=True)
class NoiseFloor:
    """What one frame's differences are made of, in units of log-probability.

    slope: root mean square of ∂f/∂u over the directions; noise: standard deviation of the rounding
    noise in one difference f(x + σu) − f(x − σu); error: standard error of slope².
    """

    slope: float
    noise: float
    error: float

    @property
    def certain(self) -> bool:
        """Whether the slope stands out of the noise that it was measured in."""
        return self.slope**2 > 2 * self.error

    def correlation(self, sigma: float) -> float:
        """What differences at `sigma` correlate with those of exact arithmetic."""
        signal = 2 * sigma * self.slope
        return signal / float(np.hypot(signal, self.noise)) if signal else 0.0

    def sigma(self, correlation: float) -> float:
        """The σ at which they correlate so; infinite where there is no slope."""
        if not self.slope:
            return float("inf")
        return self.noise / (2 * self.slope) * correlation / float(np.sqrt(1 - correlation**2))


def noise_floor(half: NDArray[np.float64], full: NDArray[np.float64], sigma: float) -> NoiseFloor:
    """Slope and noise from differences (n,) of the same directions at σ/2 and at σ.

    With slopes a = half/σ and b = full/(2σ): E[ab] = slope², and the noise of full − 2·half has 5
    times the variance of one difference.
    """
    products = (half / sigma) * (full / (2 * sigma))
    return NoiseFloor(
        slope=float(np.sqrt(max(products.mean(), 0.0))),
        noise=float(np.sqrt(np.mean((full - 2 * half) ** 2) / 5)),
        error=float(products.std(ddof=1) / np.sqrt(len(products))) if len(products) > 1 else 0.0,
    )


def trusted_nes(
    nes: Nes,
    frame: FloatArray,
    real: tuple[int, ...],
    *,
    seed: int,
    rng: np.random.Generator,
    precision: str,
    correlation: float = CORRELATION,
) -> Generator[NoiseStep, FloatArray, Nes]:
    """A coroutine: `nes` with the smallest σ, not below its own, that can be trusted on `frame`.

    `real` are the columns of the real classes, `precision` is for the message. Costs 4·pairs
    images, and as many again where the noise swamps the slope, at four times the σ. Raises
    EngineError where no σ within the ball would do: nothing is drawn from noise.
    """
    channels = 1 if nes.noise == "luma" else 3
    directions = Directions(frame.shape[1:], channels, seed, rng)
    sigma = nes.sigma
    while True:
        batch = directions.batch(frame, nes.pairs, sigma / 2, None)
        half = _differences((yield _without_center(batch, sigma / 2)), real)
        full = _differences((yield _without_center(batch, sigma)), real)
        floor = noise_floor(half, full, sigma)
        if floor.certain and floor.sigma(correlation) <= nes.epsilon:
            return dataclasses.replace(nes, sigma=max(nes.sigma, floor.sigma(correlation)))
        if floor.certain or 4 * sigma > nes.epsilon:
            raise EngineError(
                f"NES cannot see a slope on this detector: it computes in {precision}, and at "
                f"sigma {sigma:.2g} differences of scores correlate only "
                f"{floor.correlation(sigma):.2f} with exact ones (wanted {correlation}): use a "
                "more exact engine (--precision fp32), or the original forms of the methods"
            )
        sigma *= 4


def _without_center(batch: NoiseStep, sigma: float) -> NoiseStep:
    """The pairs of a step's batch at another σ."""
    return dataclasses.replace(batch, offsets=batch.offsets[1:], signs=batch.signs[1:], sigma=sigma)


def _differences(log_probs: FloatArray, real: tuple[int, ...]) -> NDArray[np.float64]:
    """f(x + σu) − f(x − σu) of each pair (n,)."""
    margins = real_margin(log_probs, real)
    pairs = len(margins) // 2
    return margins[:pairs] - margins[pairs:]
