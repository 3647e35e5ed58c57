"""Stops the lanes of a run between batches, for what has to have the machine to itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class Gate:
    """Open, it lets lanes work; inside `with gate.stopped()` they all stand still.

    For one run at a time. `stood` is how long lanes have stood at it, in seconds, summed over them.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stood = 0.0
        self._closed = False
        self._busy = 0

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Wait until every lane has ended what it had begun, and hold them until the end."""
        try:
            with self.changed:
                self._closed = True
                self.changed.notify_all()  # those who wait for work stand still from now on
                self.changed.wait_for(lambda: not self._busy)
            yield
        finally:
            with self.changed:
                self._closed = False
                self.changed.notify_all()

    def stand(self) -> float:
        """For a lane, under `changed`: if the gate is closed wait for a change; seconds stood."""
        if not self._closed:
            return 0.0
        start = time.perf_counter()
        self.changed.wait()
        stood = time.perf_counter() - start
        self.stood += stood
        return stood

    def begin(self) -> None:
        """For a lane, under `changed`: it is at work from here on."""
        self._busy += 1

    def end(self) -> None:
        """For a lane, whatever became of its work."""
        with self.changed:
            self._busy -= 1
            if self._closed:
                self.changed.notify_all()
