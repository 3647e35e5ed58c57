"""Parts of a picture that wait to be split, the largest first."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
"""Which of the present blocks are visible, ones and zeros (N·K, blocks): of the first node its K
contexts, then of the second."""


@dataclass(frozen=True, eq=False)
class Parts:
    """N nodes of a tree, each in the K contexts in which it is split together."""

    nodes: NDArray[np.intp]  # (N,)
    weights: NDArray[np.float64]  # (N,)
    without: NDArray[np.float64]  # (N, K): the score of a context
    present: NDArray[np.float64]  # (N, K): the score with the node visible in it

    def __len__(self) -> int:
        return len(self.nodes)

    def gains(self) -> NDArray[np.float64]:
        """What each node adds to the score in each context, times its weight (N, K)."""
        return (self.present - self.without) * self.weights[:, None]

    def sizes(self) -> NDArray[np.float64]:
        """Σ|gain| of each node (N,), added up in the order of its contexts."""
        return np.asarray(np.add.accumulate(np.abs(self.gains()), axis=1)[:, -1])


class Waiting:
    """Parts by the largest Σ|gain|; ties in an order that the seed gives.

    The columns of a table, and a heap of its rows: a round takes and brings dozens, and an object
    for each would take as long as a picture. Contexts are kept a bit each, since there are many
    parts, and block by block, so that all of them grow at once by those that were cut.
    """

    def __init__(self, rng: np.random.Generator, first: Parts, contexts: Codes) -> None:
        self._rng = rng
        self._heap: list[tuple[float, float, int]] = []
        self._rows = self._blocks = 0
        self._each = first.without.shape[1]
        self._table = first
        self._visible = np.zeros((0, 0), np.uint8)
        self.push(first, contexts)

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, parts: Parts, contexts: Codes) -> None:
        """Let parts wait, too."""
        start, stop = self._rows, self._rows + len(parts)
        self._rows = -(-stop // 8) * 8  # the next contexts begin with a byte
        if self._rows > len(self._table):
            columns = {name: _longer(old, self._rows) for name, old in _columns(self._table)}
            self._table = Parts(**columns)
        for name, column in _columns(self._table):
            column[start:stop] = getattr(parts, name)
        bits = np.packbits(contexts.T, axis=1)
        self._blocks, width = bits.shape
        first = start * self._each // 8
        self._visible = _longer(self._visible, self._blocks, first + width)
        self._visible[: self._blocks, first : first + width] = bits
        order = (-parts.sizes()).tolist(), self._rng.random(len(parts)).tolist(), range(start, stop)
        for entry in zip(*order, strict=True):
            heapq.heappush(self._heap, entry)

    def first(self) -> int:
        """The row of the largest."""
        return self._heap[0][-1]

    def pop(self) -> int:
        """The row of the largest, which waits no more."""
        return heapq.heappop(self._heap)[-1]

    def largest(self, count: int) -> list[int]:
        """The rows of the `count` largest, the largest first."""
        entries = [heapq.heappop(self._heap) for _ in range(min(count, len(self)))]
        for entry in entries:
            heapq.heappush(self._heap, entry)
        return [entry[-1] for entry in entries]

    def rows(self, *, ordered: bool = False) -> list[int]:
        """The rows of all that wait; `ordered`: the largest first."""
        return [entry[-1] for entry in (sorted(self._heap) if ordered else self._heap)]

    def node(self, row: int) -> int:
        """The node in a row."""
        return int(self._table.nodes[row])

    def parts(self, rows: Sequence[int]) -> Parts:
        """What rows hold, waiting or not."""
        index = np.array(rows, np.intp)
        return Parts(**{name: column[index] for name, column in _columns(self._table)})

    def contexts(self, rows: Sequence[int], cut_from: Sequence[int]) -> Codes:
        """The contexts of rows, over the present blocks: each visible where the one was that it was
        cut from.
        """
        self._visible = _longer(self._visible, len(cut_from))
        for block in range(self._blocks, len(cut_from)):
            self._visible[block] = self._visible[cut_from[block]]
        self._blocks = len(cut_from)
        bits = (np.array(rows, np.intp)[:, None] * self._each + np.arange(self._each)).ravel()
        shifts = (7 - bits & 7).astype(np.uint8)
        return np.ascontiguousarray((self._visible[: self._blocks, bits >> 3] >> shifts & 1).T)


def _columns(parts: Parts) -> list[tuple[str, NDArray[Any]]]:
    return [(field.name, getattr(parts, field.name)) for field in dataclasses.fields(parts)]


def _longer(array: NDArray[Any], *least: int) -> NDArray[Any]:
    """The array, or if its first axes are not so long a copy with half as much again, or more."""
    sizes = list(array.shape)
    for axis, (have, want) in enumerate(zip(array.shape, least, strict=False)):
        if want > have:
            sizes[axis] = max(want, have * 3 // 2)
    if tuple(sizes) == array.shape:
        return array
    longer = np.zeros(sizes, array.dtype)
    longer[tuple(map(slice, array.shape))] = array
    return longer
