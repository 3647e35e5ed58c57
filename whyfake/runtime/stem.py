"""The first layers of copies that differ by regions, looked up instead of computed.

A value behind the first layers, the stem, sees a small window. Of copies that show each region
wholly or not at all it has one version for each way to show the regions in its window, and many
copies share it. A few pictures that show every window all that some copy shows it have all versions
of all values: the stem runs on these, and the rest of the detector on values put together from
them. The scores are those of whole pictures, but for rounding at most.

Nakandala, Kumar and Papakonstantinou (2019) reuse a network's values for occlusion by computing
what a moving patch changes; here nothing is computed that was computed before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import compiled
from ..onnx_graph import PIXELS
from ..onnx_stem import Cut, cuts, split
from ..perturbation import FloatArray, RegionMix, Scratch
from .engine import Engine
from .views import Codes, View

WORTH = 0.1
"""Of a batch's operations, what must be saved."""
_OPENING = 32
"""What it costs to open the parts at a cut, in pictures, roughly: it must have been better by that
many first. Counted for every Memory anew, so that what was opened for others changes no score."""
_FEWEST, _PATIENCE = 16, 16
"""Copies that are worth a plan, and the most batches in a row of which one gets one."""
_BYTES = 32 << 20
"""Of values that a Memory keeps because more copies may want them, at most."""
_PICTURES = 1024
"""That these may be of, at most."""
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

        What comes hangs on `memory` alone, that is on the batches before. Raises EngineError,
        DetectorError where a part cannot be opened.
        """
        codes = batch.codes.astype(np.uint8)
        if codes.shape[1] > _REGIONS or codes.max(initial=0) > 1:
            return None
        if not np.array_equal(codes, batch.codes):
            return None
        found = self._all_cuts()
        if not found or not memory.patient(len(codes)):
            return None
        table = memory.table(batch, frame)
        plan = memory.plan(table, codes, found)
        parts = self._opened(plan.cut) if plan is not None else None
        if plan is None or parts is None:
            return None
        return StemCopies(parts, plan, table.shelve(plan), codes)

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


class Memory:
    """What one coroutine has asked about; for one thread at a time."""

    def __init__(self) -> None:
        self._tables: list[Table] = []
        self._used: list[Cut] = []
        self._missed: dict[Cut, float] = {}
        self._vain = self._skip = 0

    def table(self, batch: RegionMix, frame: FloatArray) -> Table:
        """What is known of such copies; the last ones used are kept."""
        found = next((table for table in self._tables if table.serves(batch, frame)), None)
        if found is None:
            found = Table(frame.copy(), batch.baseline.copy(), batch.labels.copy())
        self._tables = [*(table for table in self._tables if table is not found), found]
        while len(self._tables) > 1 and sum(t.nbytes for t in self._tables) > _BYTES:
            del self._tables[0]
        return found

    def patient(self, rows: int) -> bool:
        """Whether so many rows are worth a plan: after plans in vain, not every batch is."""
        if self._skip:
            self._skip -= 1
            return False
        return rows >= _FEWEST

    def plan(self, table: Table, codes: Codes, found: Sequence[Cut]) -> Plan | None:
        """The best plan for codes (N, R) at cuts that were used before, or that have earned it."""
        best = table.plan(codes, found)
        if best is None:
            self._vain += 1
            self._skip = min(1 << self._vain, _PATIENCE) - 1
            return None
        self._vain = 0
        if best.cut in self._used:
            return best
        usual = table.plan(codes, self._used)
        better = best.saved - (usual.saved if usual is not None else 0.0)
        self._missed[best.cut] = self._missed.get(best.cut, 0.0) + better
        if self._missed[best.cut] < _OPENING:
            return usual
        self._used.append(best.cut)
        return best


@dataclass(frozen=True, eq=False)
class Plan:
    """How to put a batch together: from pictures that are there and `more`, codes (Q, R) of others.

    `saved`: work, in whole pictures.
    """

    cut: Cut
    view: View
    shelf: Shelf
    more: Codes
    saved: float


class Table:
    """What is known of copies of a frame with one baseline and one map of regions."""

    def __init__(
        self, frame: FloatArray, baseline: FloatArray, labels: NDArray[np.integer[Any]]
    ) -> None:
        self._frame = frame
        self._baseline = baseline
        self._labels = labels
        self._views: dict[Cut, View] = {}
        self._crowded: set[Cut] = set()
        self._shelf: Shelf | None = None

    @property
    def nbytes(self) -> int:
        """What it holds, but for small things."""
        own = self._frame.nbytes + self._baseline.nbytes + self._labels.nbytes
        return own + (0 if self._shelf is None else self._shelf.nbytes)

    def serves(self, batch: RegionMix, frame: FloatArray) -> bool:
        """Whether a batch is of these, or of a map whose regions are parts of this one's; it is
        that map's from now on. Told by all pixels, since arrays can be written to.
        """
        for mine, other in ((self._frame, frame), (self._baseline, batch.baseline)):
            if not np.array_equal(mine, other):
                return False
        if np.array_equal(self._labels, batch.labels):
            return True
        if self._labels.shape != batch.labels.shape:
            return False
        whole = np.zeros(int(batch.labels.max()) + 1, np.intp)
        whole[batch.labels] = self._labels
        if not np.array_equal(whole[batch.labels], self._labels):
            return False
        self._labels = batch.labels.copy()
        self._views.clear()
        if self._shelf is not None:
            self._shelf = self._shelf.refined(whole)
        return True

    def plan(self, codes: Codes, found: Sequence[Cut]) -> Plan | None:
        """Where to cut for codes (N, R), and with which pictures: what saves most, if enough."""
        if self._shelf is not None and self._shelf.failed:
            self._shelf = None
        best, most = None, WORTH * len(codes)
        for cut in sorted(found, key=lambda cut: -cut.share):
            if cut in self._crowded or cut.share * len(codes) <= most:
                continue
            view = self._view(cut)
            if not view.simple:
                self._crowded.add(cut)
                continue
            shelf = self._shelf
            if shelf is None or shelf.cut is not cut:
                shelf = Shelf(cut, np.empty((0, view.members.shape[1]), np.uint8))
            limit = min(int(len(codes) - most / cut.share), _most(cut))
            more = view.more(shelf.codes, codes, limit)
            if more is not None and len(shelf.codes) + len(more) > _most(cut):
                shelf = Shelf(cut, shelf.codes[:0])  # full: only what these copies want
                more = view.more(shelf.codes, codes, limit)
            if more is not None and (len(codes) - len(more)) * cut.share > most:
                most = (len(codes) - len(more)) * cut.share
                best = Plan(cut, view, shelf, more, most)
        return best

    def shelve(self, plan: Plan) -> Shelf:
        """The pictures of a plan, kept for later ones: those that are not there are made when they
        are wanted. Those at other cuts are kept no longer.
        """
        pictures = RegionMix(plan.more, self._labels, self._baseline)
        self._shelf = plan.shelf.with_more(plan.more, Values(plan.cut, pictures, self._frame))
        return self._shelf

    def _view(self, cut: Cut) -> View:
        if cut not in self._views:
            self._views[cut] = View(self._labels, cut.windows, cut.shape[1:])
        return self._views[cut]


def _most(cut: Cut) -> int:
    """Pictures whose values at a cut may be kept."""
    return min(_PICTURES, _BYTES // cut.nbytes)


@dataclass(frozen=True, eq=False)
class Shelf:
    """Pictures, by their codes (P, R), and their values at a cut, in the same order."""

    cut: Cut
    codes: Codes
    values: tuple[Values, ...] = ()

    @property
    def nbytes(self) -> int:
        """What it holds, but for small things."""
        return len(self.codes) * self.cut.nbytes

    @property
    def failed(self) -> bool:
        """Whether the stem failed on one of them."""
        return any(values.error is not None for values in self.values)

    def with_more(self, codes: Codes, values: Values) -> Shelf:
        """With more pictures behind these."""
        if not len(codes):
            return self
        return Shelf(self.cut, np.concatenate([self.codes, codes]), (*self.values, values))

    def refined(self, whole: NDArray[np.intp]) -> Shelf:
        """The same pictures by the parts of their regions: `whole` says of which one each is."""
        return Shelf(self.cut, self.codes[:, whole], self.values)


class Values:
    """Pictures' values at a cut, `array` (P, C, H·W); `fill` runs the stem for them.

    Lanes that come while they are made help making them.
    """

    def __init__(self, cut: Cut, pictures: RegionMix, frame: FloatArray) -> None:
        channels, height, width = cut.shape
        self.array = np.empty((len(pictures), channels, height * width), np.float32)
        self.error: BaseException | None = None
        self._name = cut.name
        self._compose = pictures.composer(frame)
        self._size = frame.shape
        self._changed = threading.Condition()
        self._given = self._made = 0

    @property
    def _done(self) -> bool:
        return self._made == len(self.array)

    def fill(self, stem: Engine) -> None:
        """Return when all are there. Raises EngineError, in every lane where it did in one."""
        if self._done:
            return
        scratch = Scratch()
        images = stem.host_array((stem.batch, *self._size))
        while True:
            with self._changed:
                start, stop = self._given, min(self._given + stem.batch, len(self.array))
                self._given = stop
                if start == stop or self.error is not None:
                    break
            try:
                self._compose(images[: stop - start], start, scratch)
                made = stem.run({PIXELS: images})[self._name]
                self.array[start:stop] = made[: stop - start].reshape(-1, *self.array.shape[1:])
            except BaseException as error:
                with self._changed:
                    self.error = error
                    self._changed.notify_all()
                raise
            with self._changed:
                self._made += stop - start
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: self.error is not None or self._done)
            if self.error is not None:
                raise self.error


class StemCopies:
    """Copies as `engine`, the rest of the detector, takes them: a Composer of values at a cut.

    `name` and `shape` (C, H, W) are the cut's.
    """

    def __init__(self, parts: Parts, plan: Plan, shelf: Shelf, codes: Codes) -> None:
        self.engine = parts.rest
        self.name, self.shape = plan.cut.name, plan.cut.shape
        self._stem = parts.stem
        self._values = shelf.values
        self._of = plan.view.of
        found, classes = plan.view.found(shelf.codes), np.arange(len(plan.view.members))
        self._pictures = found[classes, plan.view.shown(codes)]
        arrays = [values.array for values in self._values]
        self._put = compiled.cells(arrays, self._pictures, self._of, self.shape)
        self._whole: FloatArray | None = None

    def fill(self) -> None:
        """Have the values made that they want. Raises EngineError."""
        for values in self._values:
            values.fill(self._stem)

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
