"""How a coroutine asks a batch ahead: it goes on while the batch runs, and waits for it later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .perturbation import PerturbationBatch


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
