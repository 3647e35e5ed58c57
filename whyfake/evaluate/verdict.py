"""An attack on chosen regions, and what became of the decision: what every judge returns."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from ..explainers import Nes, Square, Target
from ..explainers.base import LabelMap
from ..perturbation import FloatArray, PerturbationBatch
from .top_regions import moving_pixels

Judge = Nes | Square
Asking = Generator[PerturbationBatch, FloatArray, "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """What an attack on the regions `labels` did.

    `score_before` and `score_after`: the explained class's probability; `correct`: whether the
    attacked frame is still classified as its label says; `images`: what it cost; `linf`: the
    largest change of a pixel value in [0, 1].
    """

    labels: tuple[int, ...]
    flipped: bool
    correct: bool
    steps: int
    images: int
    linf: float
    score_before: float
    score_after: float


@dataclass(frozen=True, eq=False)
class Case:
    """A frame under judgement: what of it must be known to attack it.

    `frame` (3, h, w); `regions` (h, w) labels; `log_probs` (C,) of the frame; `accepted`: the
    columns whose rank as first counts as correct; `seed` draws NES's noise table.
    """

    frame: FloatArray
    regions: LabelMap
    log_probs: FloatArray
    target: Target
    real: tuple[int, ...]
    accepted: tuple[int, ...]
    seed: int

    def probability(self, log_probs: FloatArray) -> float:
        """The explained class's probability in log-probabilities (C,)."""
        return float(self.target.score(log_probs[None])[0])


def judge(attack: Judge, case: Case, labels: tuple[int, ...], rng: np.random.Generator) -> Asking:
    """A coroutine: attack the pixels of the regions `labels` alone. No regions cost nothing."""
    before = case.probability(case.log_probs)
    if not labels:
        return Verdict(labels, False, True, 0, 0, 0.0, before, before)
    mask = moving_pixels(case.regions, labels)
    sample = yield from attack.attack(case.frame, case.real, seed=case.seed, rng=rng, mask=mask)
    after = sample.log_probs
    return Verdict(
        labels,
        sample.flipped,
        int(after.argmax()) in case.accepted,
        sample.steps,
        sample.images,
        sample.linf,
        before,
        case.probability(after),
    )
