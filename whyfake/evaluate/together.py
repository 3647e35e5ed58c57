"""Runs several coroutines of one frame in step, so that each round asks for all of them at once."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from ..ahead import in_turn
from ..perturbation import FloatArray, PerturbationBatch, Stack


def together(
    coroutines: Iterable[Generator[Any, FloatArray, Any]], width: int
) -> Generator[Any, Any, None]:
    """A coroutine: `width` of them in step, the next one as soon as one ends.

    What they yield beside batches is handed on as it comes. A kill loses what is under way, so
    `width` should be no more than fills a batch.
    """
    left = map(in_turn, coroutines)
    waiting: list[tuple[Generator[Any, FloatArray, Any], PerturbationBatch]] = []
    try:
        while True:
            while len(waiting) < width and (coroutine := next(left, None)) is not None:
                batch = yield from _next(coroutine, None)
                if batch is not None:
                    waiting.append((coroutine, batch))
            if not waiting:
                return
            answer = yield Stack([batch for _, batch in waiting])
            asked, waiting, row = waiting, [], 0
            for coroutine, batch in asked:
                own = answer[row : row + len(batch)]
                row += len(batch)
                following = yield from _next(coroutine, own)
                if following is not None:
                    waiting.append((coroutine, following))
    finally:
        for coroutine, _ in waiting:
            coroutine.close()


def _next(
    coroutine: Generator[Any, Any, Any], answer: FloatArray | None
) -> Generator[Any, Any, PerturbationBatch | None]:
    """Resume one up to its next batch, or None at its end; what else it yields is handed on."""
    try:
        asked = coroutine.send(answer)
        while not isinstance(asked, PerturbationBatch):
            yield asked
            asked = next(coroutine)
    except StopIteration:
        return None
    return asked
