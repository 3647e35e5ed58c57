"""Which parts SHAP asks about: the largest, and ahead of time those that are likely the next."""

from __future__ import annotations

from collections.abc import Container, Generator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ahead import DUE, Ahead
from ..perturbation import FloatArray, RegionMix
from .base import Score, Target
from .partition import Tree
from .splitting import Firsts, Splitter, split_codes
from .waiting import Codes, Parts, Waiting


class Round(NamedTuple):
    """N parts to split, what is shown of them (codes, of half `firsts` in contexts `around`), and
    the scores (N·cost,) of that.
    """

    parts: Parts
    firsts: Firsts
    around: Codes
    codes: Codes
    scores: NDArray[np.float64]


class Rounds:
    """Rounds of `most` parts, for `images` in all.

    While a round is asked, so are the `ahead` largest parts that are left (half a round at most):
    the engine has something to do until the next round is known. They are split only in their turn,
    so what is split in which order stays the same unless some are left in the end; that is rare,
    and nothing is asked ahead when images run out. `asked` is what was asked so far, in images.
    """

    def __init__(
        self,
        tree: Tree,
        waiting: Waiting,
        splitter: Splitter,
        *,
        images: int,
        most: int,
        ahead: int,
    ) -> None:
        self._tree = tree
        self._waiting = waiting
        self._splitter = splitter
        self._images = images
        self._most, self._ahead = most, min(ahead, most // 2)
        self._firsts: dict[int, Firsts] = {}
        """What was asked of rows that are not split yet."""
        self._scores: dict[int, NDArray[np.float64]] = {}
        """The answers, as far as they are in."""
        self._due: list[int] = []
        self.asked = 0

    @property
    def affordable(self) -> int:
        """How many more parts can be paid for."""
        return (self._images - self.asked) // self._splitter.cost

    def next(
        self, target: Target, score: Score, baseline: FloatArray
    ) -> Generator[Any, FloatArray, Round | None]:
        """A coroutine: the next parts, taken from those that wait; None at the end."""
        rows = _take(self._tree, self._waiting, self._most, self._firsts, self.affordable)
        if not rows:
            return None
        unknown = [place for place, row in enumerate(rows) if row not in self._firsts]
        new = [rows[place] for place in unknown]
        self.asked += self._splitter.cost * len(new)
        guesses = self._guess(rows)
        self.asked += self._splitter.cost * len(guesses)
        firsts, around, codes = self._shown(rows + guesses, new + guesses)
        end = len(rows)
        for some in (codes[unknown], codes[end:]):
            if len(some):
                flat = some.reshape(-1, some.shape[2])
                yield Ahead(RegionMix(flat, self._tree.labels(), baseline))
        for asked in (self._due, new):
            if asked:
                scores = target.score((yield DUE), score)
                self._scores.update(zip(asked, scores.reshape(len(asked), -1), strict=True))
        self._due = guesses
        for row in rows:
            del self._firsts[row]
        return Round(
            self._waiting.parts(rows),
            firsts[:end],
            around[:end].reshape(-1, around.shape[2]),
            codes[:end].reshape(-1, codes.shape[2]),
            np.concatenate([self._scores.pop(row) for row in rows]),
        )

    def _shown(self, rows: list[int], new: list[int]) -> tuple[Firsts, Codes, Codes]:
        """What is shown of N rows (N, cost), of the new ones as the splitter says now; their
        contexts (N, K, blocks) and the codes of the images (N, cost, blocks).
        """
        drawn = self._splitter.firsts(len(new))
        self._firsts.update(zip(new, drawn, strict=True))
        firsts = np.array([self._firsts[row] for row in rows])
        around = self._waiting.contexts(rows, self._tree.cut_from)
        nodes = np.array([self._waiting.node(row) for row in rows])
        codes = split_codes(self._tree, nodes, firsts, around)
        count, blocks = len(rows), around.shape[1]
        return firsts, around.reshape(count, -1, blocks), codes.reshape(count, -1, blocks)

    def _guess(self, rows: list[int]) -> list[int]:
        """The largest that are left and not asked yet, if they will be among the next after `rows`.

        What a part is worth its halves share, each in two contexts at half the weight: so where no
        credit is negative, only parts of twice its size have halves larger than another part, and
        no more than two. A round, at least, stays affordable.
        """
        most = min(self._ahead, self.affordable - self._most)
        if most <= 0:
            return []
        tree, waiting = self._tree, self._waiting
        largest = waiting.largest(most)
        sizes, chosen = waiting.parts(largest).sizes(), waiting.parts(rows).sizes()
        before = np.arange(len(largest)) + 2 * (chosen > 2 * sizes[:, None]).sum(axis=1)
        return [
            row
            for row in np.array(largest, np.intp)[before < self._most].tolist()
            if row not in self._firsts and tree.split(waiting.node(row))
        ]


def _take(
    tree: Tree, waiting: Waiting, most: int, known: Container[int], affordable: int
) -> list[int]:
    """The rows of the largest parts that can be split, `most` at most, which wait no more.

    Those that are known cost nothing. Credits larger ones that cannot be split.
    """
    rows: list[int] = []
    while waiting and len(rows) < most:
        free = waiting.first() in known
        if not (free or affordable):
            break
        row = waiting.pop()
        if tree.split(waiting.node(row)):
            rows.append(row)
            affordable -= not free
        else:
            tree.keep(waiting.parts([row]))
    return rows
