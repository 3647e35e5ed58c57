"""Square attack, then bisection of its perturbation's strength back towards the frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..perturbation import FloatArray, Pixels
from .adversary import AdversarialSample, into_ball, probability, real_margin
from .base import check
from .square import Square


@dataclass(frozen=True)
class Bisect:
    """How closely the boundary is sought: `rounds` batches of `cuts` strengths.

    The strength is then within 1 / (cuts + 1)^rounds of one that is not called real.
    """

    cuts: int = 6
    rounds: int = 1

    def __post_init__(self) -> None:
        check(self.cuts >= 1, "Bisect", "cuts must be 1 or more", self.cuts)
        check(self.rounds >= 1, "Bisect", "rounds must be 1 or more", self.rounds)

    def images(self) -> int:
        """What it asks for."""
        return self.cuts * self.rounds

    def towards(
        self, frame: FloatArray, sample: AdversarialSample, real: tuple[int, ...]
    ) -> Generator[Pixels, FloatArray, AdversarialSample]:
        """A coroutine: a flipped `sample` with its perturbation as weak as it still flips.

        The image returned was itself called real; one that did not flip comes back as it is, for
        no images. Where the decision changes more than once on the way, the weakest strength that
        was asked about and is real is taken.
        """
        if not sample.flipped:
            return sample
        added, low, high = sample.image - frame, 0.0, 1.0
        least, most = np.minimum(frame, sample.image), np.maximum(frame, sample.image)
        image, kept = sample.image, sample.log_probs
        for _ in range(self.rounds):
            cuts = low + (high - low) * np.arange(1, self.cuts + 1) / (self.cuts + 1)
            tried = np.stack([into_ball(frame + np.float32(s) * added, least, most) for s in cuts])
            answer = yield Pixels(tried)
            flips = np.flatnonzero(real_margin(answer, real) > 0)
            if not len(flips):
                low = float(cuts[-1])
                continue
            best = int(flips[0])
            image, kept, high = tried[best], answer[best], float(cuts[best])
            low = float(cuts[best - 1]) if best else low
        return dataclasses.replace(
            sample,
            image=image,
            log_probs=kept,
            images=sample.images + self.images(),
            linf=float(np.abs(image - frame).max()),
            score_after=probability(kept, real),
        )


@dataclass(frozen=True)
class SquareBisect:
    """A Square attack whose sample is brought back to the boundary."""

    square: Square = dataclasses.field(default_factory=Square)
    bisect: Bisect = dataclasses.field(default_factory=Bisect)

    name: ClassVar[str] = "square-bisect"

    def images(self) -> int:
        """The most images it asks for."""
        return self.square.images() + self.bisect.images()

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
        """A coroutine: as `Square.attack`, and then the weakest of its perturbation that flips."""
        sample = yield from self.square.attack(
            frame, real, seed=seed, rng=rng, mask=mask, start=start
        )
        sample = yield from self.bisect.towards(frame, sample, real)
        return dataclasses.replace(sample, method=self.name)
