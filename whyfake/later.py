"""A value that is worked out once, when it is first wanted, in whatever thread that is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Later(Generic[Value]):
    """`get` calls `work` the first time; who asks meanwhile waits. An error is raised each time.

    A coroutine that yields one to the scheduler goes on at once, and a lane that is free may work
    it out in the meantime.
    """

    def __init__(self, work: Callable[[], Value]) -> None:
        self._work: Callable[[], Value] | None = work
        self._lock = threading.Lock()

    def get(self) -> Value:
        """The value."""
        with self._lock:
            if self._work is not None:
                self._value = self._work()
                self._work = None
            return self._value
