"""Who carries out an evaluation: this process, or workers elsewhere; one interface for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from ..evaluate.manifest import Entry
from ..ledger import Ledger
from ..runtime import Detector, load_detector
from ..runtime.layout import layout_from_record
from ..runtime.throughput import Layout
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
    planned: int = 0
    """Images that will be asked: where it is worth it, and no ledger tells, it is measured."""
    begun: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the ledger has of detectors, by hash: the layout that a run began with holds."""

    @property
    def on_gpu(self) -> bool:
        """Whether it is told to run on a GPU."""
        return self.device.partition(":")[0] in _GPU


def open_detector(opening: Opening, *, threads: int | None, tune: bool) -> Detector:
    """The detector at the layout that the ledger's results of it were made with, or, without any,
    at the one that is remembered or measured (`tune`), or the rule's.
    """

    def load(layout: Layout | None, tune: bool) -> Detector:
        return load_detector(
            opening.model,
            card=opening.card,
            device=opening.device,
            threads=threads,
            layout=layout,
            tune=tune,
            planned=opening.planned if tune else 0,
        )

    detector = load(None, tune and not opening.begun)
    facts = opening.begun.get(detector.sha256)
    layout = None if facts is None else layout_from_record(facts, threads)
    if layout is not None or (tune and opening.begun and facts is None):
        detector.close()
        detector = load(layout, layout is None)
    return detector


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
        self._detector = open_detector(opening, threads=opening.threads, tune=True)
        self.sha256, self.facts = self._detector.sha256, detector_facts(self._detector)
        self.notice = self._detector.card.notice or ""

    @property
    def detector(self) -> Detector:
        """The detector, as it was opened."""
        return self._detector

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
