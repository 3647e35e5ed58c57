"""The adversarial sample: Natural Evolution Strategies towards an image that is called *real*.

Wierstra et al. 2014; Ilyas et al. 2018; as in arXiv 2502.03957, section III.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..noise_table import NoiseTable
from ..perturbation import FloatArray, NoiseStep, Pixels
from .adversary import (
    AdversarialSample,
    at_strengths,
    ball,
    into_ball,
    probability,
    real_margin,
)
from .base import LATER, check, check_choice

TABLE_FLOATS = 1 << 22
"""16 MB of Gaussian noise, drawn once a seed and sliced at random offsets (Salimans et al. 2017,
arXiv 1703.03864)."""


@dataclass(frozen=True)
class Nes:
    """Signed NES steps inside an L∞ ball. Sizes are in pixel units of [0, 1].

    sigma: search radius; pairs: antithetic pairs a step; alpha: step size; epsilon: radius of the
    ball; steps: the most steps; noise: `luma` moves all channels alike, as the paper's code does,
    `rgb` each on its own; cell: side in pixels of the blocks that share a noise value, so that
    fewer directions are searched; momentum: the share of past gradients that a step keeps (Dong et
    al. 2018, arXiv 1710.06081; 0: none). Costs 2·pairs + 1 images a step.

    differences: `central` asks both sides of each direction; `forward` asks one side of twice as
    many, and compares it with the centre, which is asked about anyway: as many images say twice as
    much, where curvature hardly matters over sigma. move: `sign`, alpha in every pixel; `gradient`,
    in proportion to the estimate, alpha the root mean square over the pixels that may move. The
    sign keeps 2/π of the squared signal to noise of an estimate that is mostly noise, as it is with
    far fewer directions than pixels.
    """

    sigma: float = 0.001
    pairs: int = 40
    alpha: float = 1 / 255
    epsilon: float = 16 / 255
    steps: int = 80
    noise: Literal["luma", "rgb"] = "luma"
    cell: int = field(default=1, metadata=LATER)
    momentum: float = field(default=0.0, metadata=LATER)
    differences: Literal["central", "forward"] = field(default="central", metadata=LATER)
    move: Literal["sign", "gradient"] = field(default="sign", metadata=LATER)

    name: ClassVar[str] = "nes"

    def __post_init__(self) -> None:
        check(self.sigma > 0, "NES", "sigma must be positive", self.sigma)
        check(self.pairs >= 1, "NES", "pairs must be 1 or more", self.pairs)
        check(self.alpha > 0, "NES", "alpha must be positive", self.alpha)
        check(0 < self.epsilon <= 1, "NES", "epsilon must lie in (0, 1]", self.epsilon)
        check(self.steps >= 1, "NES", "steps must be 1 or more", self.steps)
        check(self.noise in ("luma", "rgb"), "NES", "noise must be luma or rgb", self.noise)
        check(self.cell >= 1, "NES", "cell must be 1 or more", self.cell)
        check(0 <= self.momentum < 1, "NES", "momentum must lie in [0, 1)", self.momentum)
        check_choice("NES", "differences", self.differences, ("central", "forward"))
        check_choice("NES", "move", self.move, ("sign", "gradient"))

    def images(self) -> int:
        """The most images it asks for."""
        return self.steps * (2 * self.pairs + 1) + 1

    @property
    def channels(self) -> int:
        """How many channels the noise has."""
        return 1 if self.noise == "luma" else 3

    def asked(
        self, directions: Directions, center: FloatArray, pairs: int, mask: FloatArray | None
    ) -> NoiseStep:
        """A step's batch of 2·pairs + 1 images around `center` (3, h, w), the centre first."""
        if self.differences == "forward":
            return directions.one_sided(center, 2 * pairs, self.sigma, mask)
        return directions.batch(center, pairs, self.sigma, mask)

    def gradient(self, batch: NoiseStep, margins: NDArray[np.float64]) -> FloatArray:
        """The estimate (channels, h, w) from a step's batch and its margins (2·pairs + 1,)."""
        if self.differences == "forward":
            return forward_gradient(batch, margins)
        return antithetic_gradient(batch, margins[1:])

    def step(self, gradient: FloatArray, mask: FloatArray | None) -> FloatArray:
        """How far a step along `gradient` (channels, h, w) goes in each pixel."""
        if self.move == "sign":
            return np.asarray(np.float32(self.alpha) * np.sign(gradient))
        free = 1.0 if mask is None else float((mask > 0).mean())
        mean = float(np.mean(np.square(gradient, dtype=np.float64)))  # float32 would underflow
        size = (mean / max(free, 1e-30)) ** 0.5
        return np.asarray(np.float32(self.alpha / max(size, 1e-30)) * gradient)

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
        """A coroutine: an image near `frame` (3, h, w) whose argmax is one of the columns `real`.

        `seed` draws the shared noise table, `rng` the offsets; `mask` (h, w), where given, is one
        where pixels may move and zero where not. The check of the current image rides in the same
        batch as its step, so a step is one batch.

        `start` (3, h, w), where given, is a perturbation to begin with, such as that of the frame
        before. It is tried at several strengths, each brought into this frame's ball, for nine
        images in one batch. The weakest that the detector calls real is the sample; if there is
        none, the steps begin at the one nearest to real, or at the frame if that is nearer.
        """
        low, high = ball(frame, self.epsilon)
        directions = Directions(frame.shape[1:], self.channels, seed, rng, self.cell)
        image, asked, step, flipped = frame, 0, 0, False
        before = kept = None
        velocity = np.float32(0)
        if start is not None:
            added = start if mask is None else start * mask
            tried = np.concatenate([frame[None], at_strengths(frame, added, low, high)])
            log_probs = yield Pixels(tried)
            margins = real_margin(log_probs, real)
            asked, before = len(tried), log_probs[0]
            best = int(np.argmax(margins > 0 if margins.max() > 0 else margins))
            if best:  # 0 is the frame itself
                image, kept, flipped = tried[best], log_probs[best], bool(margins[best] > 0)
        while not flipped:
            last = step == self.steps
            batch = self.asked(directions, image, 0 if last else self.pairs, mask)
            log_probs = yield batch
            margins = real_margin(log_probs, real)
            asked += len(batch)
            kept = log_probs[0]
            before = kept if before is None else before
            flipped = bool(margins[0] > 0)
            if flipped or last:
                break
            gradient = self.gradient(batch, margins)
            if self.momentum:
                gradient /= max(float(np.abs(gradient).mean()), 1e-30)
                gradient += np.float32(self.momentum) * velocity
                velocity = gradient
            image = into_ball(image + self.step(gradient, mask), low, high)
            step += 1
        assert before is not None
        assert kept is not None
        return AdversarialSample(
            image=image,
            log_probs=kept,
            flipped=flipped and image is not frame,
            steps=step,
            images=asked,
            linf=float(np.abs(image - frame).max()),
            score_before=probability(before, real),
            score_after=probability(kept, real),
            method=self.name,
        )


def antithetic_gradient(batch: NoiseStep, scores: NDArray[np.float64]) -> FloatArray:
    """The NES estimate Σ (f⁺ − f⁻)·u / (2nσ), shape (channels, h, w), zero outside the mask.

    `batch` is a step's batch: the centre, then n directions with sign +, then the same with sign −;
    `scores` (2n,) leaves the centre out.
    """
    pairs = len(scores) // 2
    return _weighted(batch, (scores[:pairs] - scores[pairs:]) / (2 * pairs * batch.sigma))


def forward_gradient(batch: NoiseStep, scores: NDArray[np.float64]) -> FloatArray:
    """The one-sided estimate Σ (f⁺ − f(x))·u / (nσ), shape (channels, h, w), zero outside the mask.

    `batch` is a step's batch: the centre, then n directions with sign +; `scores` (n + 1,) are of
    all of it.
    """
    directions = len(scores) - 1
    return _weighted(batch, (scores[1:] - scores[0]) / (directions * batch.sigma))


def _weighted(batch: NoiseStep, weights: NDArray[np.float64]) -> FloatArray:
    """The sum of the first directions after the centre, each times its weight (n,)."""
    gradient = np.zeros(batch.shape, np.float32)
    scaled = np.empty_like(gradient)
    for row, weight in enumerate(weights.astype(np.float32), 1):
        np.multiply(batch.values(row), weight, out=scaled)
        gradient += scaled
    gradient = batch.spread(gradient)
    if batch.mask is not None:
        gradient *= batch.mask
    return gradient


class Directions:
    """Draws a step's batch: the centre and both sides of random slices of the noise table.

    `size` is the frame's (h, w), `channels` 1 or 3, `seed` the table's, `rng` draws the offsets;
    blocks of `cell` × `cell` pixels share a value.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        channels: int,
        seed: int,
        rng: np.random.Generator,
        cell: int = 1,
    ) -> None:
        self._length = channels * -(-size[0] // cell) * -(-size[1] // cell)
        self._channels = channels
        self._cell = cell
        self._rng = rng
        self._table = noise_table(seed, max(TABLE_FLOATS, 4 * self._length))

    def batch(
        self, center: FloatArray, pairs: int, sigma: float, mask: FloatArray | None
    ) -> NoiseStep:
        """The centre, then `pairs` directions with sign +, then the same with sign −."""
        offsets = self._offsets(pairs)
        signs = np.repeat([0, 1, -1], [1, pairs, pairs])
        return self._step(center, np.concatenate([[0], offsets, offsets]), signs, sigma, mask)

    def one_sided(
        self, center: FloatArray, count: int, sigma: float, mask: FloatArray | None
    ) -> NoiseStep:
        """The centre, then `count` directions with sign +."""
        signs = np.repeat([0, 1], [1, count])
        return self._step(center, np.concatenate([[0], self._offsets(count)]), signs, sigma, mask)

    def _offsets(self, count: int) -> NDArray[np.int64]:
        """Where directions lie in the table, sorted: it is drawn meanwhile."""
        return np.sort(self._rng.integers(0, len(self._table) - self._length + 1, count))

    def _step(
        self,
        center: FloatArray,
        offsets: NDArray[np.int64],
        signs: NDArray[np.int64],
        sigma: float,
        mask: FloatArray | None,
    ) -> NoiseStep:
        return NoiseStep(
            center=center,
            table=self._table,
            offsets=offsets,
            signs=signs,
            sigma=sigma,
            channels=self._channels,
            mask=mask,
            cell=self._cell,
        )


noise_table = functools.lru_cache(maxsize=2)(NoiseTable)
"""The table of a seed, with so many floats."""
