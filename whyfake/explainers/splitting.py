"""How SHAP splits a part: in every context, or in pairs of random orders."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .partition import Tree
from .waiting import Codes, Parts

Firsts = NDArray[np.int64]
"""Which half each image of a split shows (N, cost), 0 or 1."""

Scores = NDArray[np.float64]


class Splitter(Protocol):
    """What a split costs and brings."""

    cost: int
    """Images of a split."""
    contexts: int
    """Contexts in which a part is split together."""

    def firsts(self, count: int) -> Firsts:
        """What to show of `count` parts; maybe drawn."""
        ...

    def children(
        self, tree: Tree, parts: Parts, firsts: Firsts, around: Codes, codes: Codes, scores: Scores
    ) -> tuple[Parts, Codes]:
        """What parts split into, and its contexts, by the scores (N·cost,) of `codes`."""
        ...


def split_codes(tree: Tree, nodes: NDArray[np.intp], firsts: Firsts, around: Codes) -> Codes:
    """The images of splits (N·cost, blocks): nodes' contexts, `around`, with a half in each."""
    codes: Codes = np.repeat(around, firsts.size // len(around), axis=0)
    tree.show(codes, np.take_along_axis(tree.halves(nodes), firsts, axis=1).ravel().tolist())
    return codes


class Every:
    """Splits a part in one context: each half without and with the other, at half its weight."""

    cost = 2
    contexts = 1

    def firsts(self, count: int) -> Firsts:
        """The left half, then the right one."""
        return np.tile(np.arange(2), (count, 1))

    def children(
        self, tree: Tree, parts: Parts, firsts: Firsts, around: Codes, codes: Codes, scores: Scores
    ) -> tuple[Parts, Codes]:
        """Four of each part: left and right, without and with the other."""
        left, right = scores[0::2], scores[1::2]
        none, both = parts.without[:, 0], parts.present[:, 0]
        children = Parts(
            nodes=np.tile(tree.halves(parts.nodes), 2).ravel(),
            weights=np.repeat(parts.weights / 2, 4),
            without=np.stack([none, none, right, left], axis=1).reshape(-1, 1),
            present=np.stack([left, right, both, both], axis=1).reshape(-1, 1),
        )
        contexts = np.stack([around, around, codes[1::2], codes[0::2]], axis=1)
        return children, contexts.reshape(len(children), -1)


class Paired:
    """Splits a part in 2·pairs contexts, each of an order of the parts; every second order is the
    reverse of the one before it.

    One image an order: the half that comes first, then, with it, the other.
    """

    def __init__(self, pairs: int, rng: np.random.Generator) -> None:
        self.cost = self.contexts = 2 * pairs
        self._rng = rng

    def firsts(self, count: int) -> Firsts:
        """Drawn, and the reverse of what was drawn, by turns."""
        drawn = self._rng.integers(0, 2, (count, self.cost // 2))
        return np.stack([drawn, 1 - drawn], axis=2).reshape(count, self.cost)

    def children(
        self, tree: Tree, parts: Parts, firsts: Firsts, around: Codes, codes: Codes, scores: Scores
    ) -> tuple[Parts, Codes]:
        """Two of each part: the left half in every order, the right half."""
        shape = parts.without.shape
        comes_first = np.stack([firsts == 0, firsts == 1], axis=1)  # (N, 2, K)
        one = scores.reshape(shape)[:, None]
        none, both = parts.without[:, None], parts.present[:, None]
        children = Parts(
            nodes=tree.halves(parts.nodes).ravel(),
            weights=np.repeat(parts.weights, 2),
            without=np.where(comes_first, none, one).reshape(-1, shape[1]),
            present=np.where(comes_first, one, both).reshape(-1, shape[1]),
        )
        before, after = (bits.reshape(len(parts), 1, shape[1], -1) for bits in (around, codes))
        contexts = np.where(comes_first[..., None], before, after)
        return children, contexts.reshape(len(codes) * 2, -1)
