"""Shapes cut in halves again and again: the tree that Owen values are taken over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray
from .base import LabelMap
from .shapes import Shape


class Part(NamedTuple):
    """A node in a context: which of `blocks` blocks are visible around it, a bit each (there are
    many parts), and the scores without and with the node.
    """

    node: int
    visible: NDArray[np.uint8]
    blocks: int
    f_without: float
    f_with: float
    weight: float

    @property
    def gain(self) -> float:
        """What the node adds to the score in this context, times its weight."""
        return (self.f_with - self.f_without) * self.weight


class Tree:
    """Shapes halved as needed, from the whole (height, width).

    The finest shapes so far are the blocks. When a block splits, its left half keeps its number
    and its right half gets the next: an older context grows by copying, each new block from
    the one that it was cut from.
    """

    def __init__(self, whole: Shape, height: int, width: int) -> None:
        self._shapes = [whole]
        self._block_of = [0]  # the first block of a node
        self._cut_from = [0]
        self._origins: dict[int, NDArray[np.intp]] = {}
        self._labels = np.zeros((height, width), np.int32)
        self.children: dict[int, tuple[int, int]] = {}
        self.credit = [0.0]

    def labels(self) -> NDArray[np.int32]:
        """The blocks as a label map (h, w) of its own."""
        labels: NDArray[np.int32] = self._labels.copy()
        return labels

    def split(self, node: int) -> bool:
        """Make sure that a node has children; False for one that cannot be halved."""
        if node in self.children:
            return True
        halves = self._shapes[node].halves()
        if halves is None:
            return False
        block = self._block_of[node]
        new = len(self._cut_from)
        self._cut_from.append(block)
        self._origins.clear()
        self._labels[halves[1].pixels] = new
        self.children[node] = (len(self._shapes), len(self._shapes) + 1)
        self._shapes += halves
        self._block_of += [block, new]
        self.credit += [0.0, 0.0]
        return True

    def contexts(self, parts: Sequence[Part]) -> NDArray[np.uint8]:
        """The parts' contexts, each over the blocks of its time, over those of now (N, blocks)."""
        found = np.empty((len(parts), len(self._cut_from)), np.uint8)
        ages: dict[int, list[int]] = {}
        for row, part in enumerate(parts):
            ages.setdefault(part.blocks, []).append(row)
        for age, rows in ages.items():
            packed = np.array([parts[row].visible for row in rows])
            found[rows] = np.unpackbits(packed, axis=1, count=age)[:, self._origin(age)]
        return found

    def _origin(self, age: int) -> NDArray[np.intp]:
        """For each block of now, which of the first `age` blocks it was cut from."""
        origin = self._origins.get(age)
        if origin is None:
            found = list(range(age))
            for source in self._cut_from[age:]:
                found.append(found[source])
            origin = self._origins[age] = np.array(found)
        return origin

    def blocks(self, node: int) -> list[int]:
        """All blocks inside a node, the one that its first pixel lies in first."""
        if node not in self.children:
            return [self._block_of[node]]
        left, right = self.children[node]
        return self.blocks(left) + self.blocks(right)

    def heatmap(self, unspent: Iterable[Part] = (), *, bare: bool = False) -> FloatArray:
        """Every node's credit spread over its pixels (h, w) by their shares, and likewise the gain
        of `unspent` parts; `bare`: of these alone.
        """
        credits = [0.0] * len(self.credit) if bare else list(self.credit)
        for part in unspent:
            credits[part.node] += part.gain
        heat = np.zeros(self._labels.shape)
        for shape, credit in zip(self._shapes, credits, strict=True):
            heat[shape.pixels] += credit * shape.share
        return heat.astype(np.float32)

    def transfer(self, node: int, regions: LabelMap) -> NDArray[np.float64]:
        """How the sums of heat over regions (R,) change if credit 1 moves between a node's halves.

        Zero for one that cannot be halved.
        """
        change = np.zeros(int(regions.max()) + 1)
        for sign, half in zip((1, -1), self._shapes[node].halves() or (), strict=False):
            inside = regions[half.pixels].ravel()
            shares = np.broadcast_to(half.share, regions[half.pixels].shape).ravel()
            change += sign * np.bincount(inside, shares, minlength=len(change))
        return change
