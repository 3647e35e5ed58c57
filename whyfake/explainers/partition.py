"""Shapes cut in halves again and again: the tree that Owen values are taken over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray
from .base import LabelMap
from .shapes import Shape
from .waiting import Parts


class Tree:
    """Shapes halved as needed, from the whole (height, width).

    The finest shapes so far are the blocks. When a block is cut, its left half keeps its number and
    its right half gets the next: `cut_from` tells which block each was cut from.
    """

    def __init__(self, whole: Shape, height: int, width: int) -> None:
        self._shapes = [whole]
        self._parent = [-1]
        self._blocks = [[0]]  # of each node, the one that its first pixel lies in first
        self.cut_from = [0]
        self._labels = np.zeros((height, width), np.int32)
        self._shown: LabelMap | None = None
        self.children: dict[int, tuple[int, int]] = {}
        self.credit = [0.0]

    def labels(self) -> LabelMap:
        """The blocks as a label map (h, w) of its own; the same one until a block splits."""
        if self._shown is None:
            self._shown = self._labels.copy()
            self._shown.flags.writeable = False
        return self._shown

    def split(self, node: int) -> bool:
        """Make sure that a node has children; False for one that cannot be halved."""
        if node in self.children:
            return True
        halves = self._shapes[node].halves()
        if halves is None:
            return False
        block, new = self._blocks[node][0], len(self.cut_from)
        self.cut_from.append(block)
        self._labels[halves[1].pixels] = new
        self._shown = None
        self.children[node] = (len(self._shapes), len(self._shapes) + 1)
        self._shapes += halves
        self._parent += [node, node]
        self._blocks += [[block], [new]]
        self.credit += [0.0, 0.0]
        while node >= 0:
            self._blocks[node].append(new)
            node = self._parent[node]
        return True

    def halves(self, nodes: NDArray[np.intp]) -> NDArray[np.intp]:
        """The children of nodes (N,), left and right (N, 2)."""
        return np.array([self.children[node] for node in nodes.tolist()])

    def show(self, codes: NDArray[np.uint8], nodes: Sequence[int]) -> None:
        """Make nodes (N,) visible, each in its row of codes (N, blocks)."""
        inside = [self._blocks[node] for node in nodes]
        rows = np.repeat(np.arange(len(inside)), [len(blocks) for blocks in inside])
        codes[rows, list(chain.from_iterable(inside))] = 1

    def keep(self, parts: Parts) -> None:
        """Credit nodes with what parts that cannot be split are worth."""
        for node, gains in zip(parts.nodes.tolist(), parts.gains().tolist(), strict=True):
            for gain in gains:
                self.credit[node] += gain

    def heatmap(
        self, nodes: NDArray[np.intp], gains: NDArray[np.float64], *, bare: bool = False
    ) -> FloatArray:
        """Every node's credit spread over its pixels (h, w) by their shares, and likewise the gains
        (N, K) of unsplit nodes (N,); `bare`: of these alone.
        """
        credits = np.zeros(len(self.credit)) if bare else np.array(self.credit)
        np.add.at(credits, np.repeat(nodes, gains.shape[1]), gains.ravel())
        heat = np.zeros(self._labels.shape)
        for shape, credit in zip(self._shapes, credits.tolist(), strict=True):
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
