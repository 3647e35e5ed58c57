"""Who carries out an evaluation: this process, or workers elsewhere; one interface for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..evaluate.manifest import Entry
from ..ledger import Ledger
from ..runtime import load_detector
from .plan import Plan
from .run import Done, Stored, detector_facts, evaluate

_GPU = ("cuda", "tensorrt", "ort-tensorrt")


@dataclass(frozen=True)
class Opening:
    """How the detector is opened: what `load_detector` takes. The files must be at hand."""

    model: str
    card: Path | None = None
    device: str = "auto"
    threads: int | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether it is told to run on a GPU."""
        return self.device.partition(":")[0] in _GPU


class Evaluators(Protocol):
    """What carries out plans; `facts` are what the ledger keeps of the detector."""

    sha256: str
    facts: dict[str, Any]
    notice: str

    def evaluate(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        ledger: Ledger,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[Stored | Done]:
        """Carry out the plan on all pictures, as `whyfake.evaluation.evaluate` does."""
        ...


class LocalCrew:
    """This process and its detector, until the block ends."""

    def __init__(self, opening: Opening) -> None:
        self._detector = load_detector(
            opening.model, card=opening.card, device=opening.device, threads=opening.threads
        )
        self.sha256, self.facts = self._detector.sha256, detector_facts(self._detector)
        self.notice = self._detector.card.notice or ""

    def evaluate(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        ledger: Ledger,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[Stored | Done]:
        """Carry out the plan on all pictures."""
        return evaluate(self._detector, entries, plan, ledger, tick)

    def __enter__(self) -> LocalCrew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._detector.close()
