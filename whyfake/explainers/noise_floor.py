"""Chooses NES's search radius on detectors whose arithmetic is coarse (fp16, bf16, int8, TF32).

NES lives on differences of scores, f(x + σu) − f(x − σu) = 2σ·∂f/∂u + noise. In float32 the noise
is negligible at σ = 0.001; in fp16 or bf16 it can be as large as the difference, and the gradient
is then drawn from rounding errors. The noise grows little with σ, the difference in proportion: so
the same directions are measured at σ/2 and at σ, which tells one from the other, and σ is doubled
until the differences can be trusted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..perturbation import FloatArray, NoiseStep
from .adversary import Attack, real_margin
from .nes import Directions, Nes
from .square_nes import SquareNes

TRUSTED = 0.95
"""What differences should correlate with those of exact arithmetic. At .95 the gradient estimate
has the sign of the exact one in nine pixels of ten (1 − arccos(.95)/π = .90)."""
LEAST = 0.8
"""Below this at every σ, NES refuses: a third of the signs would be wrong at .5, a fifth at .8."""


def difference_correlation(half: NDArray[np.float64], full: NDArray[np.float64]) -> float:
    """What differences `full` at σ correlate with exact ones, judged by `half` at σ/2 (both n,).

    In exact arithmetic full = 2·half. E[2·half·full] is the variance of the signal, and full −
    2·half has 5 times the variance of the noise in one difference. A curved function looks noisy
    here: the estimate errs towards a larger σ.
    """
    signal = max(float(np.mean(2 * half * full)), 0.0)
    noise = float(np.mean((full - 2 * half) ** 2)) / 5
    return float(np.sqrt(signal / (signal + noise))) if signal else 0.0


def trusted_nes(
    nes: Nes,
    frame: FloatArray,
    real: tuple[int, ...],
    *,
    seed: int,
    rng: np.random.Generator,
    precision: str,
) -> Generator[NoiseStep, FloatArray, tuple[Nes, float]]:
    """A coroutine: `nes` with a σ that can be trusted on `frame`, and the correlation there.

    σ is the smallest of nes.sigma, its double, … up to nes.epsilon at which differences correlate
    TRUSTED with exact ones, or else the best of them. `real` are the columns of the real classes,
    `precision` is for the message. Costs 4·pairs images, and 2·pairs more for each doubling; one
    more at each σ where differences are forward ones, which are judged as what they are. Raises
    EngineError where none reaches LEAST: no step is drawn from noise.
    """
    directions = Directions(frame.shape[1:], nes.channels, seed, rng, nes.cell)
    batch = nes.asked(directions, frame, nes.pairs, None)
    half = yield from _differences(batch, nes.sigma / 2, real)
    sigma, best = nes.sigma, (0.0, nes.sigma)
    while sigma <= max(nes.epsilon, nes.sigma):
        full = yield from _differences(batch, sigma, real)
        best = max(best, (difference_correlation(half, full), sigma))
        if best[0] >= TRUSTED:
            break
        half, sigma = full, 2 * sigma
    correlation, sigma = best
    if correlation < LEAST:
        raise EngineError(
            f"NES cannot tell the slope from rounding on this picture: the detector computes in "
            f"{precision}, and at no sigma up to {nes.epsilon:.2g} do differences of scores "
            f"correlate {LEAST} with exact ones (at best {correlation:.2f}): use a more exact "
            "engine (--precision fp32), or the original forms of the methods"
        )
    return dataclasses.replace(nes, sigma=sigma), correlation


def nes_in(attack: Attack) -> Nes | None:
    """The NES that an attack takes differences with; None where it only compares scores."""
    if isinstance(attack, SquareNes):
        return attack.nes
    return attack if isinstance(attack, Nes) else None


def with_nes(attack: Attack, nes: Nes) -> Attack:
    """The attack with another NES in it."""
    return dataclasses.replace(attack, nes=nes) if isinstance(attack, SquareNes) else nes


def _differences(
    batch: NoiseStep, sigma: float, real: tuple[int, ...]
) -> Generator[NoiseStep, FloatArray, NDArray[np.float64]]:
    """Ask for f(x + σu) − f(x − σu) of each pair (n,) of a step's batch, without its centre.

    Of a batch that has one side only, f(x + σu) − f(x) of each direction (2n,).
    """
    if batch.signs.min() >= 0:
        log_probs = yield dataclasses.replace(batch, sigma=sigma)
        margins = real_margin(log_probs, real)
        return np.asarray(margins[1:] - margins[0])
    log_probs = yield dataclasses.replace(
        batch, offsets=batch.offsets[1:], signs=batch.signs[1:], sigma=sigma
    )
    margins = real_margin(log_probs, real)
    pairs = len(margins) // 2
    return margins[:pairs] - margins[pairs:]
