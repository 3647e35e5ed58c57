"""The first layers of copies that differ by regions, looked up instead of computed.

A value behind the first layers, the stem, sees a small window. Of copies that show each region in
one of two ways it has one version for each way to show the regions in its window, and many copies
share it. Which two ways is the same for all where regions are shown or not, and changes from run to
run in SOBOL's design (`runs.py`). A few pictures that show every window all that some copy shows it
have all versions of all values: the stem runs on these, and the rest of the detector on values put
together from them. The scores are those of whole pictures, but for rounding at most.

Nakandala, Kumar and Papakonstantinou (2019) reuse a network's values for occlusion by computing
what a moving patch changes; here nothing is computed that was computed before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import compiled
from ..onnx_graph import PIXELS
from ..onnx_stem import Cut, cuts, split
from ..perturbation import FloatArray, RegionMix, Scratch
from .engine import Engine
from .runs import Runs, runs_of
from .shelves import FEWEST, WORTH, Memory, Plan, Shelf, Table
from .views import Codes, View

_REGIONS = 256
"""In a map, at most."""
_TRIALS = 4
"""Pictures that parts are held to the whole detector on."""
_BATCH, _BATCH_BYTES = 8, 1 << 20
"""How many copies the rest runs at a time at most, and how large a value of all of them may be:
what the caches hold."""

Read = Callable[[], bytes | None]
Open = Callable[[bytes, int | None], Engine]


@dataclass(frozen=True, eq=False)
class Parts:
    """A detector cut in two, each part an engine."""

    cut: Cut
    stem: Engine
    rest: Engine

    def close(self) -> None:
        """Free both."""
        self.stem.close()
        self.rest.close()


class Stems:
    """What a detector can be cut into, opened when it is first worth it; for all lanes.

    `read()` gives the serialised graph from PIXELS to SCORES, None where it cannot be had any more;
    `open_engine(model, batch)` opens a part as the detector is, at a batch of its own where given;
    `whole()` is what runs the detector on pictures of that `size` (h, w).
    """

    def __init__(
        self, read: Read, open_engine: Open, whole: Callable[[], Engine], size: tuple[int, int]
    ) -> None:
        self._read = read
        self._open = open_engine
        self._whole = whole
        self._size = size
        self._cuts: list[Cut] | None = None
        self._parts: dict[Cut, Parts | None] = {}
        self._lock = threading.Lock()

    @property
    def bytes_up(self) -> int:
        """Bytes handed over to the engines of parts so far."""
        with self._lock:
            parts = [parts for parts in self._parts.values() if parts is not None]
        return sum(each.stem.bytes_up + each.rest.bytes_up for each in parts)

    def copies(self, batch: RegionMix, frame: FloatArray, memory: Memory) -> StemCopies | None:
        """A batch as values behind a stem; None where whole pictures are no more work.

        What comes hangs on `memory` alone, that is on the batches before. Parts that cannot be
        opened, or do not make the detector, are not used.
        """
        codes, runs = batch.codes.astype(np.uint8), None
        found = self._all_cuts()
        if codes.shape[1] > _REGIONS or not found or not memory.patient(len(codes)):
            return None
        if codes.max(initial=0) > 1 or not np.array_equal(codes, batch.codes):
            runs = runs_of(batch.codes, FEWEST)
            if runs is None:
                return None
            codes, table = runs.choice, Table(frame, batch.baseline, batch.labels)
        else:
            table = memory.table(batch, frame)
        plan = memory.plan(table, codes, found, 1 if runs is None else len(runs.ends))
        parts = self._opened(plan.cut) if plan is not None else None
        if plan is None or parts is None:
            return None
        return StemCopies(parts, plan, table.shelve(plan, runs), codes, runs)

    def _all_cuts(self) -> list[Cut]:
        """Where it can be cut; nowhere, where its graph cannot be read or followed."""
        with self._lock:
            if self._cuts is None:
                self._cuts = []
                with contextlib.suppress(Exception):  # whole pictures do without
                    content = self._read()
                    found = [] if content is None else cuts(_model(content))
                    self._cuts = [cut for cut in found if cut.share > WORTH]
            return self._cuts

    def _opened(self, cut: Cut) -> Parts | None:
        """The parts at a cut, held to the whole detector once; None where that fails."""
        with self._lock:
            if cut not in self._parts:
                self._parts[cut] = None
                with contextlib.suppress(Exception):  # as above
                    content = self._read()
                    if content is not None:
                        self._parts[cut] = self._checked(cut, content)
            return self._parts[cut]

    def _checked(self, cut: Cut, content: bytes) -> Parts | None:
        stem, rest = split(_model(content), cut)
        batch = max(1, min(_BATCH, _BATCH_BYTES // cut.widest))
        parts = Parts(cut, self._open(stem, None), self._open(rest, batch))
        if agree(parts, self._whole(), self._size):
            return parts
        parts.close()
        return None

    def close(self) -> None:
        """Free all engines; they are opened again when they are wanted."""
        with self._lock:
            for parts in self._parts.values():
                if parts is not None:
                    parts.close()
            self._parts.clear()


def _model(content: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(content)


def agree(parts: Parts, whole: Engine, size: tuple[int, int]) -> bool:
    """Whether values at a cut are as local as they should be, and both parts make the detector.

    Where single pixels of a noise are changed, windows without one of them must keep their values;
    and what comes out behind both parts must be the scores of `whole`.
    """
    cut, rng = parts.cut, np.random.default_rng(0)
    noise, other = rng.random((2, 3, *size), np.float32)
    plain = _run(parts.stem, PIXELS, noise).reshape(cut.shape)
    rare = 0.5 / (cut.windows[0].length * cut.windows[1].length)
    for _ in range(_TRIALS):
        changed = rng.random(size) < rare
        changed.flat[rng.integers(changed.size)] = True
        picture = np.where(changed, other, noise)
        values = _run(parts.stem, PIXELS, picture).reshape(cut.shape)
        view = View(changed.astype(np.intp), cut.windows, cut.shape[1:])
        same = view.members[view.of, 1].reshape(cut.shape[1:]) == 0
        if not _close(values[:, same], plain[:, same]):
            return False
        if not _close(_run(parts.rest, cut.name, values), _run(whole, PIXELS, picture)):
            return False
    return True


def _run(engine: Engine, name: str, row: FloatArray) -> FloatArray:
    """What an engine gives for one row, flat."""
    [made] = engine.run({name: np.repeat(row[np.newaxis], engine.batch, axis=0)}).values()
    first: FloatArray = made.reshape(engine.batch, -1)[0]
    return first


def _close(one: FloatArray, other: FloatArray) -> bool:
    """Whether they are the same but for rounding."""
    return np.allclose(one, other, rtol=1e-3, atol=1e-4 * float(np.abs(other).max(initial=0)))


class StemCopies:
    """Copies as `engine`, the rest of the detector, takes them: a Composer of values at a cut.

    `name` and `shape` (C, H, W) are the cut's.
    """

    def __init__(
        self, parts: Parts, plan: Plan, shelf: Shelf, codes: Codes, runs: Runs | None
    ) -> None:
        self.engine = parts.rest
        self.name, self.shape = plan.cut.name, plan.cut.shape
        self._stem = parts.stem
        self._values = shelf.values
        self._of = plan.view.of
        found, classes = plan.view.found(shelf.codes), np.arange(len(plan.view.members))
        self._pictures = found[classes, plan.view.shown(codes)]
        if runs is not None:
            self._pictures += (len(shelf.codes) * runs.run[:, np.newaxis]).astype(np.int16)
        arrays = [values.array for values in self._values]
        self._put = compiled.cells(arrays, self._pictures, self._of, self.shape)
        self._whole: FloatArray | None = None

    def fill(self, halted: Callable[[], bool] = lambda: False) -> None:
        """Have the values made that they want. Raises EngineError; HaltedError once `halted()`."""
        for values in self._values:
            values.fill(self._stem, halted)

    def __call__(self, out: FloatArray, start: int, scratch: Scratch) -> None:
        """Write copies start … start + len(out), of values that `fill` has made."""
        if self._put is not None:
            self._put(out, start, scratch)
            return
        if self._whole is None:
            self._whole = np.concatenate([values.array for values in self._values])
        places = np.arange(len(self._of))
        for row, image in enumerate(out, start):
            found = self._whole[self._pictures[row][self._of], :, places]  # (H·W, C)
            image[...] = found.T.reshape(self.shape)
