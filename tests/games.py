"""Coroutines fed by hand: the test says what the score is, and no detector is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whyfake.ahead import DUE, Ahead
from whyfake.explainers import Scene, Target

FAKE = Target("fake", (1,))
"""The second of two classes, as in all toy detectors."""

Game = Callable[[Any], NDArray[np.float64]]
"""Batch in, one value per copy out, in float64."""


def play(coroutine: Any, game: Game) -> tuple[Any, int]:
    """What a coroutine returns when the game answers it, and how many images it asked for.

    The answer is [0, value], so that the log odds of class 1 are the value, to the bit.
    """

    def answer(batch: Any) -> NDArray[np.float64]:
        values = np.asarray(game(batch), np.float64)
        assert values.shape == (len(batch),)
        return np.stack([np.zeros(len(batch)), values], axis=1)

    return answered(coroutine, answer)


def answered(
    coroutine: Any, answer: Callable[[Any], Any], due_then: list[int] | None = None
) -> tuple[Any, int]:
    """What a coroutine returns that is told `answer(batch)`, and how many images it asked for.

    `due_then` is told how many batches are under way whenever it waits for one asked ahead.
    """
    told, images = None, 0
    due: deque[Any] = deque()
    while True:
        try:
            asked = coroutine.send(told)
        except StopIteration as stop:
            assert not due, "what was asked ahead was never looked at"
            return stop.value, images
        images += len(asked)
        if isinstance(asked, Ahead):
            due.append(answer(asked.batch))
        if asked is DUE and due_then is not None:
            due_then.append(len(due))
        told = (
            None if isinstance(asked, Ahead) else due.popleft() if asked is DUE else answer(asked)
        )


def recorded(
    coroutine: Any, batches: list[Any], answers: list[Any]
) -> Generator[Any, NDArray[np.float32], Any]:
    """The same coroutine; what it asks, ahead or not, and is told is kept in the lists."""
    answer = None
    while True:
        try:
            asked = coroutine.send(answer)
        except StopIteration as stop:
            return stop.value
        if asked is not DUE:
            batches.append(asked.batch if isinstance(asked, Ahead) else asked)
        answer = yield asked
        if not isinstance(asked, Ahead):
            answers.append(answer)


def scene(size: tuple[int, int], *, seed: int = 0, **changes: Any) -> Scene:
    """A black baseline and one region, unless told otherwise."""
    parts: dict[str, Any] = {
        "baseline": np.zeros((3, *size), np.float32),
        "regions": np.zeros(size, np.int32),
        "rng": np.random.default_rng(seed),
    }
    return Scene(**{**parts, **changes})


def pixels(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture (h, w, 3) of bytes as a frame (3, h, w) in [0, 1]."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32) / 255


def random_frame(size: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Uniform noise (3, h, w) in [0, 1)."""
    return np.random.default_rng(seed).random((3, *size), np.float32)


def upsampling(cells: int, length: int) -> NDArray[np.float64]:
    """RISE's bilinear weights ((cells + 1)·⌈length/cells⌉, cells), from the tent functions.

    Cell i of `cells` has its centre at i + ½; a pixel beyond the outermost centres takes their
    value. Written apart from the package's own, which it judges.
    """
    total = (cells + 1) * -(-length // cells)
    matrix = np.zeros((total, cells))
    for pixel in range(total):
        at = (pixel + 0.5) / total * cells - 0.5
        at = min(max(at, 0.0), cells - 1.0)
        for cell in range(cells):
            matrix[pixel, cell] = max(0.0, 1.0 - abs(at - cell))
    return matrix
