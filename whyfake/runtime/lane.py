"""Where one thread composes pictures and runs the engine on them, and what that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import Changing
from ..errors import DetectorError
from ..onnx_graph import PIXELS, SCORES
from ..perturbation import FloatArray, Scratch
from .engine import Engine
from .stem import StemCopies
from .throughput import lane_rows

if TYPE_CHECKING:
    from .detector import Detector

Copies = Any
"""A batch and its frame, ready to be composed: by the host a Composer, of values behind a stem a
StemCopies, else what the engine has."""


@dataclass
class Stages:
    """What lanes did: their seconds by stage, summed over lanes, and bytes of scores they got.

    `waiting` is for something to do, or for another lane to let go of what they share.
    """

    composing: float = 0.0
    running: float = 0.0
    handing_back: float = 0.0
    resuming: float = 0.0
    waiting: float = 0.0
    bytes_out: int = 0

    def copy(self) -> Stages:
        """The numbers of now."""
        return replace(self)

    def add(self, other: Stages) -> None:
        """Add another's numbers to these."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def since(self, earlier: Stages) -> Stages:
        """What came after `earlier`."""
        return Stages(
            *(getattr(self, item.name) - getattr(earlier, item.name) for item in fields(self))
        )

    def seconds(self) -> dict[str, float]:
        """Seconds by stage."""
        return {item.name: getattr(self, item.name) for item in fields(self)[:-1]}


Rows = tuple[Copies, int, int]
"""Copies start … stop of a batch."""


class Lane:
    """One thread's pictures: `ask` about up to `most`, or `compose` them and `run(count)`.

    All of them are run by the same engine (`Detector.engine_of`).
    """

    def __init__(self, detector: Detector, composition: str = "host") -> None:
        self._detector = detector
        engine = detector.engine
        self._canvas = engine.canvas() if composition == "device" else None
        self._places: dict[Engine, _Place] = {}
        if self._canvas is None:
            self._places[engine] = _Place(engine, PIXELS, (3, *detector.size))
        self._composed = engine
        self.halted: Callable[[], bool] = lambda: False
        """Whether to stop, by HaltedError, in what may take longer than a batch."""
        self.stages = Stages()
        self.scratch = Scratch()

    def most(self, engine: Engine) -> int:
        """How many pictures are composed at a time for an engine (`lane_rows`)."""
        return engine.batch if self._canvas is not None else lane_rows(engine.batch)

    def ask(self, pieces: Sequence[Rows]) -> NDArray[np.float32]:
        """Raw scores (rows, columns) of these copies, one piece after the other."""
        copies, start, stop = pieces[0]
        if len(pieces) == 1 and isinstance(copies, Changing):
            return self._ask_one_by_one(copies, start, stop)
        began, row = time.perf_counter(), 0
        for copies, start, stop in pieces:
            self.compose(copies, start, stop, row)
            row += stop - start
        composed = time.perf_counter()
        scores = self.run(row)
        self.stages.composing += composed - began
        self.stages.running += time.perf_counter() - composed
        return scores

    def _ask_one_by_one(self, copies: Changing, start: int, stop: int) -> NDArray[np.float32]:
        """The same, each batch made of the one before and run at once."""
        engine = self._composed = self._detector.engine
        place, scores, composing = self._places[engine], [], 0.0
        began = time.perf_counter()
        for first in range(start, stop, engine.batch):
            composed = time.perf_counter()
            count = min(engine.batch, stop - first)
            place.change(copies, first, count)
            composing += time.perf_counter() - composed
            scores.append(self.run(count))
        self.stages.composing += composing
        self.stages.running += time.perf_counter() - began - composing
        return np.concatenate(scores)

    def compose(self, copies: Copies, start: int, stop: int, row: int) -> None:
        """Make copies start … stop of a batch the pictures row … of the next run."""
        if self._canvas is not None:
            self._canvas.compose(copies, start, stop, row)
            return
        engine = self._composed = self._detector.engine_of(copies)
        place = self._places.get(engine)
        if place is None:
            place = self._places[engine] = _Place(engine, copies.name, copies.shape)
        if isinstance(copies, StemCopies):
            began = time.perf_counter()
            copies.fill(self.halted)
            spent = time.perf_counter() - began
            self.stages.running += spent  # it is the engine that runs; whoever times composing
            self.stages.composing -= spent  # counts it as that
        copies(place.pictures(row, row + stop - start), start, self.scratch)

    def run(self, count: int) -> NDArray[np.float32]:
        """Raw scores (count, columns) of the first `count` pictures, for `Detector.decode`.

        The rest of the last batch runs too, whatever is in it: every batch has one size.
        """
        batch = self._composed.batch
        parts = [self._run_batch(number, batch) for number in range(-(-count // batch))]
        self._detector._count(count)
        return parts[0][:count] if len(parts) == 1 else np.concatenate(parts)[:count]

    def try_out(self, copies: Copies) -> None:
        """Compose one engine batch and run it, without counting it."""
        batch = self._detector.engine.batch
        self.compose(copies, 0, batch, 0)
        self._run_batch(0, batch)

    def _run_batch(self, number: int, batch: int) -> NDArray[np.float32]:
        if self._canvas is not None:
            raw = self._canvas.run()
        else:
            feed = self._places[self._composed].feeds[number]
            raw = self._composed.run(feed)[SCORES]
        if raw.shape[:1] != (batch,) and batch != 1:  # a batch of one may come squeezed
            raise DetectorError(
                f"{self._detector.card.name} gave scores of shape {raw.shape} for {batch} pictures"
            )
        self.stages.bytes_out += raw.nbytes
        rows: NDArray[np.float32] = raw.reshape(batch, -1)
        return rows


class _Place:
    """Where a lane composes what an engine runs, and the batches of it by the input's name."""

    def __init__(self, engine: Engine, name: str, shape: tuple[int, ...]) -> None:
        rows = lane_rows(engine.batch)
        self._buffer: FloatArray = engine.host_array((rows, *shape))
        self.feeds = [{name: part} for part in np.split(self._buffer, rows // engine.batch)]
        self._maker: Changing | None = None
        self._held = [-1] * engine.batch
        self._addresses = [picture.ctypes.data for picture in self._buffer[: engine.batch]]

    def pictures(self, start: int, stop: int) -> FloatArray:
        """Pictures start … stop, to be written to."""
        self._maker = None
        return self._buffer[start:stop]

    def change(self, copies: Changing, start: int, count: int) -> None:
        """Make the first pictures copies start …, of what they are."""
        if self._maker is not copies:
            self._held = [-1] * len(self._held)
            self._maker = copies
        for row in range(count):
            copies.change(self._addresses[row], self._held[row], start + row)
            self._held[row] = start + row
