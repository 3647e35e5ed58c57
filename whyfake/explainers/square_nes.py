"""Square attack, bisection, and a few NES steps along the boundary, each brought back to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..perturbation import FloatArray, NoiseStep, Pixels
from .adversary import AdversarialSample, ball, into_ball, real_margin
from .base import check
from .nes import Directions, Nes
from .square import Square
from .square_bisect import Bisect


@dataclass(frozen=True)
class SquareNes:
    """What Square found, drawn towards what NES would have found.

    steps: how often a step along NES's gradient is tried, with `nes`'s pairs, σ, α and noise; the
    stepped image is bisected back towards the frame. A step that ends no nearer to it (L2) is not
    taken.
    """

    square: Square = dataclasses.field(default_factory=Square)
    bisect: Bisect = dataclasses.field(default_factory=Bisect)
    nes: Nes = dataclasses.field(default_factory=Nes)
    steps: int = 2

    name: ClassVar[str] = "square-nes"

    def __post_init__(self) -> None:
        check(self.steps >= 1, "SquareNes", "steps must be 1 or more", self.steps)

    def images(self) -> int:
        """The most images it asks for."""
        step = 2 * self.nes.pairs + 2 + self.bisect.images()
        return self.square.images() + self.bisect.images() + self.steps * step

    def attack(
        self,
        frame: FloatArray,
        real: tuple[int, ...],
        *,
        seed: int,
        rng: np.random.Generator,
        mask: FloatArray | None = None,
        start: FloatArray | None = None,
    ) -> Generator[NoiseStep | Pixels, FloatArray, AdversarialSample]:
        """A coroutine: as `Square.attack`, and then nearer to the frame step by step.

        The gradient is asked for as in NES; one more image asks about the step. `steps` of the
        sample are the squares.
        """
        sample = yield from self.square.attack(
            frame, real, seed=seed, rng=rng, mask=mask, start=start
        )
        sample = yield from self.bisect.towards(frame, sample, real)
        if not sample.flipped:
            return dataclasses.replace(sample, method=self.name)
        nes = self.nes
        low, high = ball(frame, min(nes.epsilon, self.square.epsilon))
        directions = Directions(frame.shape[1:], nes.channels, seed, rng, nes.cell)
        for _ in range(self.steps):
            batch = nes.asked(directions, sample.image, nes.pairs, mask)
            answer = yield batch
            margins = real_margin(answer, real)
            gradient = nes.gradient(batch, margins)
            moved = into_ball(sample.image + nes.step(gradient, mask), low, high)
            answer = yield Pixels(moved[None])
            asked = sample.images + len(batch) + 1
            sample = dataclasses.replace(sample, images=asked)
            if real_margin(answer, real)[0] > 0:
                stepped = dataclasses.replace(sample, image=moved, log_probs=answer[0])
                stepped = yield from self.bisect.towards(frame, stepped, real)
                nearer = _distance(stepped, frame) < _distance(sample, frame)
                sample = stepped if nearer else dataclasses.replace(sample, images=stepped.images)
        return dataclasses.replace(sample, method=self.name)


def _distance(sample: AdversarialSample, frame: FloatArray) -> float:
    return float(np.linalg.norm(sample.image - frame))
