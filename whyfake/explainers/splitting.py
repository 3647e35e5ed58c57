"""How SHAP splits a part: in every context, or in pairs of random orders."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .partition import Tree
from .waiting import Codes, Parts


class Every:
    """Splits a part in one context: each half without and with the other, at half its weight."""

    cost = 2
    contexts = 1

    def codes(self, tree: Tree, parts: Parts, around: Codes) -> Codes:
        """Each part's context (a row of `around`) with its left half visible, with its right."""
        codes = np.repeat(around, 2, axis=0)
        tree.show(codes, tree.halves(parts.nodes).ravel().tolist())
        return codes

    def children(
        self,
        tree: Tree,
        parts: Parts,
        around: Codes,
        codes: Codes,
        scores: NDArray[np.float64],
    ) -> tuple[Parts, Codes]:
        """What the parts split into, four each: left and right, without and with the other."""
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

    def codes(self, tree: Tree, parts: Parts, around: Codes) -> Codes:
        """Each part's context (a row of `around`) with the half that its order puts first."""
        codes: Codes = around.copy()
        halves = tree.halves(parts.nodes)
        drawn = self._rng.integers(0, 2, (len(parts), self.cost // 2))
        firsts = np.stack([drawn, 1 - drawn], axis=2).reshape(len(parts), self.cost)
        tree.show(codes, np.take_along_axis(halves, firsts, axis=1).ravel().tolist())
        return codes

    def children(
        self,
        tree: Tree,
        parts: Parts,
        around: Codes,
        codes: Codes,
        scores: NDArray[np.float64],
    ) -> tuple[Parts, Codes]:
        """What the parts split into, two each: the left half in every order, the right half."""
        shape = parts.without.shape
        halves = tree.halves(parts.nodes)
        probes = np.repeat([tree.first_block(left) for left in halves[:, 0].tolist()], shape[1])
        left_first = codes[np.arange(len(codes)), probes].reshape(shape).astype(bool)
        firsts = np.stack([left_first, ~left_first], axis=1)  # (N, 2, K): whether it comes first
        one = scores.reshape(shape)[:, None]
        none, both = parts.without[:, None], parts.present[:, None]
        children = Parts(
            nodes=halves.ravel(),
            weights=np.repeat(parts.weights, 2),
            without=np.where(firsts, none, one).reshape(-1, shape[1]),
            present=np.where(firsts, one, both).reshape(-1, shape[1]),
        )
        before, after = (bits.reshape(len(parts), 1, shape[1], -1) for bits in (around, codes))
        contexts = np.where(firsts[..., None], before, after)
        return children, contexts.reshape(len(codes) * 2, -1)
