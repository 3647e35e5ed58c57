"""How far jobs are: what the lanes of a run and its caller share, under one lock."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..errors import WhyfakeError
from ..later import Later
from ..perturbation import FloatArray
from .engine import Engine
from .gate import Gate
from .jobs import Delivered, Failed, Job, Promise
from .lane import Copies
from .shelves import Memory


@dataclass(eq=False)
class Asked:
    """A batch under way: `taken` rows of `rows` are with lanes or back, `pending` are not back."""

    copies: Copies
    engine: Engine
    """What runs them."""
    rows: int
    pending: int
    taken: int = 0
    scores: FloatArray | None = None

    @property
    def untaken(self) -> int:
        """Rows that no lane has taken."""
        return self.rows - self.taken

    def drop(self) -> None:
        """What no lane has taken need not be asked."""
        self.pending -= self.untaken
        self.taken = self.rows


@dataclass(eq=False)
class Running:
    """A job under way, and its batches, the oldest first.

    At any time it is `advancing`, or `waits` for the oldest batch, or `awaits` a promise.
    """

    job: Job
    batches: deque[Asked] = field(default_factory=deque)
    memory: Memory = field(default_factory=Memory)
    error: WhyfakeError | None = None
    seconds: float = 0.0
    advancing: bool = True
    waits: bool = False
    awaits: Promise | None = None

    @property
    def untaken(self) -> int:
        """Rows of all its batches that no lane has taken."""
        return sum(batch.untaken for batch in self.batches)

    @property
    def stalled(self) -> bool:
        """Whether it waits for rows that are all with lanes: it will soon ask for more."""
        return self.waits and not self.batches[0].untaken

    @property
    def ready(self) -> bool:
        """Whether the promise that it awaits is kept, or its oldest batch done, well or badly."""
        if self.awaits is not None:
            return self.awaits.kept
        return self.waits and not self.batches[0].pending

    def fail(self, error: WhyfakeError) -> None:
        """Its batches failed."""
        self.error = error
        for batch in self.batches:
            batch.drop()

    def resume(self) -> FloatArray | None:
        """Go on: the answer that it waited for, if any. Raises what its batches failed with."""
        waited, self.waits, self.awaits = self.waits, False, None
        if self.error is not None:
            raise self.error
        return self.batches.popleft().scores if waited else None


@dataclass
class State:
    """All that is shared; `changed`, the gate's, guards it."""

    gate: Gate
    changed: threading.Condition
    running: list[Running] = field(default_factory=list)
    fresh: deque[Running] = field(default_factory=deque)
    aside: deque[Later[Any]] = field(default_factory=deque)
    events: deque[Delivered | Failed] = field(default_factory=deque)
    stop: bool = False
    crash: BaseException | None = None

    def wake(self) -> None:
        """Let those go on who have what they wait for; under the lock, after every advance."""
        for running in self.running:
            if not running.advancing and running.ready:
                running.advancing = True
                self.fresh.append(running)
