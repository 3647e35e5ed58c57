"""Gaussian noise that many directions share, drawn as far as it is needed."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray


class NoiseTable:
    """`floats` standard normal float32 values, the same for the same seed.

    To draw 16 MB takes as long as some thirty runs of a light detector. So a table is drawn from
    its beginning as far as somebody needs it, in any thread, to the same bits in whatever parts.
    """

    def __init__(self, seed: int, floats: int) -> None:
        self._rng = np.random.default_rng([seed, 0])
        self._values = np.empty(floats, np.float32)
        self._view: NDArray[np.float32] = self._values.view()
        self._view.flags.writeable = False
        self._drawn = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def upto(self, stop: int) -> NDArray[np.float32]:
        """All the table's memory (floats,), read-only; its first `stop` values are there."""
        if self._drawn < stop:
            with self._lock:
                if self._drawn < min(stop, len(self)):  # nobody else drew them meanwhile
                    self._draw(self._values[self._drawn : stop])
        return self._view

    def _draw(self, missing: NDArray[np.float32]) -> None:
        """Draw what comes next; all of it, or nothing where Ctrl-C comes between."""
        drawn, state = self._drawn, self._rng.bit_generator.state
        try:
            self._rng.standard_normal(len(missing), np.float32, out=missing)
            self._drawn = drawn + len(missing)
        finally:
            if self._drawn == drawn:
                self._rng.bit_generator.state = state
        if self._drawn == len(self):  # then a device may keep it
            self._values.flags.writeable = False

    @property
    def whole(self) -> NDArray[np.float32]:
        """The table (floats,), read-only."""
        return self.upto(len(self))
