"""How a coroutine asks a batch ahead: it goes on while the batch runs, and waits for it later."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sized
from dataclasses import dataclass
from typing import Any, Final

from .perturbation import FloatArray, PerturbationBatch


@dataclass(frozen=True, eq=False)
class Ahead:
    """Yielded to have a batch run meanwhile; what comes back at once is None.

    The answer comes for a DUE. While one is due, a coroutine asks for nothing but more ahead.
    """

    batch: PerturbationBatch

    def __len__(self) -> int:
        """What it costs, in images."""
        return len(self.batch)


class Due:
    """Yielded to wait for the oldest batch that was asked ahead, whose log-probabilities come."""

    def __len__(self) -> int:
        """It costs no images."""
        return 0


DUE: Final = Due()


def in_turn(coroutine: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The same coroutine, asking nothing ahead: each batch at once, its answer kept until due."""
    answer: Any = None
    due: deque[FloatArray] = deque()
    while True:
        try:
            asked = coroutine.send(answer)
        except StopIteration as stop:
            return stop.value
        if asked is DUE:
            answer = due.popleft()
        elif isinstance(asked, Ahead):
            due.append((yield asked.batch))
            answer = None
        else:
            if isinstance(asked, PerturbationBatch):
                check_order(due)
            answer = yield asked


def check_order(due: Sized) -> None:
    """Raise RuntimeError, for a bug in a coroutine: its next answer would be another batch's."""
    if due:
        raise RuntimeError("a coroutine asked for an answer at once while others were due")
