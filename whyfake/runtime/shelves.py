"""What one coroutine asked about, and the values behind stems that it may want again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..onnx_graph import PIXELS
from ..onnx_stem import Cut
from ..perturbation import FloatArray, RegionMix, Scratch
from .engine import Engine
from .runs import Runs
from .views import Codes, View

WORTH = 0.1
"""Of a batch's operations, what must be saved."""
_OPENING = 32
"""What it costs to open the parts at a cut, in pictures, roughly: it must have been better by that
many first. Counted for every Memory anew, so that what was opened for others changes no score."""
FEWEST, _PATIENCE = 16, 16
"""Copies that are worth a plan, and the most batches in a row of which one gets one."""
_BYTES = 32 << 20
"""Of values that a Memory keeps because more copies may want them, at most."""
_PICTURES = 1024
"""That these may be of, at most."""


class HaltedError(Exception):
    """Nobody waits for values any more."""


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
        return rows >= FEWEST

    def plan(self, table: Table, codes: Codes, found: Sequence[Cut], runs: int = 1) -> Plan | None:
        """The best plan for codes (N, R) at cuts that were used before, or that have earned it."""
        best = table.plan(codes, found, runs)
        if best is None:
            self._vain += 1
            self._skip = min(1 << self._vain, _PATIENCE) - 1
            return None
        self._vain = 0
        if best.cut in self._used:
            return best
        usual = table.plan(codes, self._used, runs)
        better = best.saved - (usual.saved if usual is not None else 0.0)
        self._missed[best.cut] = self._missed.get(best.cut, 0.0) + better
        if self._missed[best.cut] < _OPENING:
            return usual
        self._used.append(best.cut)
        return best


@dataclass(frozen=True, eq=False)
class Plan:
    """How to put a batch together: from pictures that are there and `more`, codes (Q, R) of others,
    of which every run has its own.

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

    def plan(self, codes: Codes, found: Sequence[Cut], runs: int = 1) -> Plan | None:
        """Where to cut for codes (N, R), and with which pictures: what saves most, if enough.

        Where the codes are of several `runs`, each needs pictures of its own, and none are kept.
        """
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
            limit = min(int(len(codes) - most / cut.share), _most(cut)) // runs
            more = view.more(shelf.codes, codes, limit)
            if more is not None and len(shelf.codes) + len(more) > _most(cut):
                shelf = Shelf(cut, shelf.codes[:0])  # full: only what these copies want
                more = view.more(shelf.codes, codes, limit)
            if more is not None and (len(codes) - runs * len(more)) * cut.share > most:
                most = (len(codes) - runs * len(more)) * cut.share
                best = Plan(cut, view, shelf, more, most)
        return best

    def shelve(self, plan: Plan, runs: Runs | None = None) -> Shelf:
        """The pictures of a plan, kept for later ones: those that are not there are made when they
        are wanted. Those at other cuts are kept no longer.
        """
        self._shelf = plan.shelf
        if len(plan.more):
            codes = plan.more if runs is None else runs.pictures(plan.more)
            pictures = RegionMix(codes, self._labels, self._baseline)
            values = Values(plan.cut, pictures, self._frame)
            self._shelf = plan.shelf.with_more(plan.more, values)
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
    """Pictures, by their codes (P, R), and their values at a cut, in the same order, for one run
    after the other.
    """

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

    def fill(self, stem: Engine, halted: Callable[[], bool]) -> None:
        """Return when all are there. Raises EngineError, in every lane where it did in one, and
        HaltedError where they need not be made any more.
        """
        if self._done:
            return
        scratch = Scratch()
        images = stem.host_array((stem.batch, *self._size))
        while True:
            if halted():
                raise HaltedError
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
            while not self._changed.wait_for(lambda: self.error or self._done, timeout=0.1):
                if halted():
                    raise HaltedError
            if self.error is not None:
                raise self.error
