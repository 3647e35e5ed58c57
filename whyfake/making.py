"""Makes explanations of one frame under one seed: its sample, its baselines, its attributions.

What `whyfake explain` shows and what `whyfake evaluate` judges is made here, so they are the same.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .explainers import (
    BASELINES,
    AdversarialSample,
    Attack,
    Explainer,
    Scene,
    Target,
    baseline_image,
    nes_in,
    region_means,
    trusted_nes,
    with_nes,
)
from .explainers.base import LabelMap
from .later import Later
from .media import fit_to, load_picture
from .perturbation import FloatArray, Pixels
from .runtime import Detector


@dataclass(frozen=True, eq=False)
class Found:
    """A heat map (h, w), a score for every region (R,), and how sure the first regions are.

    `confidence` in [0, 1] is None where it was not asked for.
    """

    heatmap: FloatArray
    region_scores: NDArray[np.float64]
    confidence: float | None


@dataclass(frozen=True, eq=False)
class Maker:
    """A frame (3, h, w) on a detector under a seed, and everything that is made of the three.

    Draws depend on seed, frame and stage, never on what else is being explained.
    """

    frame: FloatArray
    detector: Detector
    seed: int
    _key: int = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.frame.tobytes()).digest()
        object.__setattr__(self, "_key", int.from_bytes(digest[:8], "little"))

    def rng(self, stage: str) -> np.random.Generator:
        """The draws of a stage, such as a method's name."""
        return np.random.default_rng([self.seed, self._key, zlib.crc32(stage.encode())])

    def trusted(self, attack: Attack) -> Generator[Any, FloatArray, tuple[Attack, float]]:
        """A coroutine: the attack with a σ that the detector's arithmetic allows, and how far its
        differences are trusted.

        Costs nothing on an exact detector, or for an attack that takes no differences; elsewhere as
        `trusted_nes`.
        """
        nes, detector = nes_in(attack), self.detector
        if nes is None or detector.exact:
            return attack, 1.0
        chosen, trust = yield from trusted_nes(
            nes,
            self.frame,
            detector.real,
            seed=self.seed,
            rng=self.rng("sigma"),
            precision=detector.engine.precision,
        )
        return with_nes(attack, chosen), trust

    def sample(
        self, attack: Attack, start: FloatArray | None = None
    ) -> Generator[Any, FloatArray, AdversarialSample]:
        """A coroutine: the adversarial sample that all adversarial forms share."""
        rng = self.rng(attack.name)
        return attack.attack(self.frame, self.detector.real, seed=self.seed, rng=rng, start=start)

    def baseline(self, name: str, regions: LabelMap | Later[LabelMap]) -> FloatArray:
        """The baseline image (3, h, w) of that name, or from a picture's path. Asks nothing."""
        if name not in BASELINES:
            return fit_to(load_picture(name).rgb, self.detector.size)
        neutral = self.detector.card.input.neutral_color
        return baseline_image(name, self.frame, regions, neutral, self.rng("noise"))

    def attribution(
        self,
        explainer: Explainer,
        target: Target,
        regions: LabelMap | Later[LabelMap],
        baseline: FloatArray,
    ) -> Generator[Any, FloatArray, Found]:
        """A coroutine: what an explainer found, with a score for every region.

        Where the method works on a grid of its own, a region's score is its mean heat.
        """
        scene = Scene(baseline, regions, self.rng(explainer.name))
        made = yield from explainer.explain(self.frame, target, scene)
        scores = made.region_scores
        scores = region_means(made.heatmap, scene.regions) if scores is None else scores
        return Found(made.heatmap, scores, made.confidence)


def detect(frame: FloatArray) -> Generator[Pixels, FloatArray, FloatArray]:
    """A coroutine: the frame's own log-probabilities (C,), for one image."""
    answer = yield Pixels(frame[None])
    log_probs: FloatArray = answer[0]
    return log_probs


def counted(
    coroutine: Generator[Any, FloatArray, Any],
) -> Generator[Any, FloatArray, tuple[Any, int]]:
    """Delegate to a coroutine that only asks; its result, and how many images it asked for."""
    images, answer = 0, None
    while True:
        try:
            batch = coroutine.send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            return stop.value, images
        images += len(batch)
        answer = yield batch
