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
                missing = self._values[self._drawn : stop]
                if len(missing):  # nobody else drew them meanwhile
                    self._rng.standard_normal(len(missing), np.float32, out=missing)
                    self._drawn += len(missing)
                if self._drawn == len(self):  # then it may be kept on a device
                    self._values.flags.writeable = False
        return self._view

    @property
    def whole(self) -> NDArray[np.float32]:
        """The table (floats,), read-only."""
        return self.upto(len(self))
