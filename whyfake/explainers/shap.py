"""Partition SHAP: Owen values over a hierarchy of halved rectangles (Lundberg's `shap` package)."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import (
    LATER,
    Asking,
    Attribution,
    LabelMap,
    Scene,
    Score,
    Target,
    check,
    check_choice,
    check_score,
)
from .partition import Part, Tree
from .shapes import Box, Shape
from .stopping import Measured, Watch, check_stops

Contexts = Literal["all", "paired"]
CONTEXTS: tuple[str, ...] = ("all", "paired")

Group = list[Part]
"""A node in the contexts in which it is split together: one, or one for each order of the parts."""


@dataclass(frozen=True)
class Shap:
    """Owen values of image parts, refined where the score changes most, within a budget.

    samples: the most images, both ends (all visible, all hidden) included; nodes_per_round: how
    many nodes are split before the order of splitting is looked at again. contexts: `all`, every
    combination of what else is visible, which double with each halving: two images for each; or
    `paired`, `pairs` random orders of the parts and their reverses, so that a halving costs 2·pairs
    images however fine (antithetic permutations, Mitchell et al. 2022, inside the hierarchy): the
    same expectation, and exact where parts interact by twos. May ask less: see `stopping` for
    confidence, top, least; here the doubt is how the credit of unsplit parts lies inside them, and
    how pairs differ.
    """

    samples: int = 2000
    nodes_per_round: int = 32
    score: Score = "probability"
    contexts: Contexts = field(default="all", metadata=LATER)
    pairs: int = field(default=4, metadata=LATER)
    confidence: float = field(default=0.0, metadata=LATER)
    top: int = field(default=3, metadata=LATER)
    least: int = field(default=128, metadata=LATER)

    name: ClassVar[str] = "shap"
    baseline: ClassVar[str] = "blur"
    signed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        owner = self.name.upper()
        check(self.samples >= 4, owner, "samples must be 4 or more", self.samples)
        check(
            self.nodes_per_round >= 1,
            owner,
            "nodes_per_round must be 1 or more",
            self.nodes_per_round,
        )
        check(self.pairs >= 1, owner, "pairs must be 1 or more", self.pairs)
        check_score(owner, self.score)
        check_choice(owner, "contexts", self.contexts, CONTEXTS)
        check_stops(owner, self)

    def images(self) -> int:
        """The most images it asks for."""
        return self.samples

    def with_budget(self, images: int) -> Shap:
        """SHAP with so many images."""
        return dataclasses.replace(self, samples=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: each pixel's share of the score's rise from baseline to frame."""
        tree = Tree(self._whole(frame, scene), frame.shape[1], frame.shape[2])
        ends = np.array([[0], [1]], np.uint8)
        answer = yield RegionMix(ends, tree.labels(), scene.baseline)
        f00, f11 = target.score(answer, self.score)
        splitter: _All | _Paired = (
            _All() if self.contexts == "all" else _Paired(self.pairs, scene.rng)
        )
        root = Part(0, np.packbits(ends[0]), 1, f00, f11, 1.0)
        queue = _Queue(scene.rng)
        queue.push([splitter.begin(root)])
        watch, unevenness = Watch(self, self.samples, scene.rng), _Unevenness()
        asked, cost = 2, splitter.cost
        while queue and self.samples - asked >= cost:
            groups: list[Group] = []
            while queue and len(groups) < min(self.nodes_per_round, (self.samples - asked) // cost):
                group = queue.pop()
                if tree.split(group[0].node):
                    groups.append(group)
                else:
                    for part in group:
                        tree.credit[part.node] += part.gain
            if not groups:
                continue
            around = tree.contexts([part for group in groups for part in group])
            codes = splitter.codes(tree, groups, around)
            answer = yield RegionMix(codes, tree.labels(), scene.baseline)
            asked += len(codes)
            scores = target.score(answer, self.score)
            found = list(splitter.children(tree, groups, around, codes, scores))
            if watch.looks:
                for group, children in zip(groups, found, strict=True):
                    unevenness.add(tree, group, children)
            queue.push(list(chain.from_iterable(found)))
            last = not queue or self.samples - asked < cost
            if watch.due(asked, last=last) and watch.enough(
                _measured(
                    tree, queue.groups(), unevenness, scene.regions, self._sizes(scene.regions)
                )
            ):
                break
        # what is left goes evenly to each part's pixels
        left = [part for group in queue.drained() for part in group]
        return Attribution(tree.heatmap(left), confidence=watch.confidence)

    def _whole(self, frame: FloatArray, scene: Scene) -> Shape:
        """The frame as the shape that is halved."""
        return Box(0, frame.shape[1], 0, frame.shape[2])

    def _sizes(self, regions: LabelMap) -> NDArray[np.intp]:
        """What a region's sum of heat is divided by to be its score (R,): its pixels."""
        return np.bincount(regions.ravel())


class _All:
    """Splits a part in one context: each half without and with the other, at half its weight."""

    cost = 2

    def begin(self, root: Part) -> Group:
        return [root]

    def codes(
        self, tree: Tree, groups: list[Group], around: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Each part's context (a row of `around`) with its left half visible, with its right."""
        codes = np.repeat(around, 2, axis=0)
        for index, [part] in enumerate(groups):
            for half, child in enumerate(tree.children[part.node]):
                codes[2 * index + half, tree.blocks(child)] = 1
        return codes

    def children(
        self,
        tree: Tree,
        groups: list[Group],
        around: NDArray[np.uint8],
        codes: NDArray[np.uint8],
        scores: NDArray[np.float64],
    ) -> Iterator[list[Group]]:
        """What each part splits into."""
        blocks = codes.shape[1]
        without, halves = np.packbits(around, axis=1), np.packbits(codes, axis=1)
        answers = scores.tolist()
        for index, [part] in enumerate(groups):
            left, right = tree.children[part.node]
            with_left, with_right = halves[2 * index : 2 * index + 2]
            f10, f01 = answers[2 * index : 2 * index + 2]
            half = part.weight / 2
            yield [
                [Part(left, without[index], blocks, part.f_without, f10, half)],
                [Part(right, without[index], blocks, part.f_without, f01, half)],
                [Part(left, with_right, blocks, f01, part.f_with, half)],
                [Part(right, with_left, blocks, f10, part.f_with, half)],
            ]


class _Paired:
    """Splits a part in 2·pairs contexts, each of an order of the parts; every second order is the
    reverse of the one before it.

    One image an order: the half that comes first, then, with it, the other.
    """

    def __init__(self, pairs: int, rng: np.random.Generator) -> None:
        self.cost = 2 * pairs
        self._rng = rng

    def begin(self, root: Part) -> Group:
        return [root._replace(weight=root.weight / self.cost)] * self.cost

    def codes(
        self, tree: Tree, groups: list[Group], around: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Each part's context (a row of `around`) with the half that its order puts first."""
        codes: NDArray[np.uint8] = around.copy()
        for index, group in enumerate(groups):
            halves = [tree.blocks(child) for child in tree.children[group[0].node]]
            for pair, first in enumerate(self._rng.integers(0, 2, self.cost // 2).tolist()):
                row = self.cost * index + 2 * pair
                codes[row, halves[first]] = 1
                codes[row + 1, halves[1 - first]] = 1
        return codes

    def children(
        self,
        tree: Tree,
        groups: list[Group],
        around: NDArray[np.uint8],
        codes: NDArray[np.uint8],
        scores: NDArray[np.float64],
    ) -> Iterator[list[Group]]:
        """What each group splits into: its left half in every order, its right half."""
        blocks = codes.shape[1]
        without, shown = np.packbits(around, axis=1), np.packbits(codes, axis=1)
        answers = iter(scores.tolist())
        row = 0
        for group in groups:
            left, right = tree.children[group[0].node]
            probe = tree.blocks(left)[0]
            halves: dict[int, Group] = {left: [], right: []}
            for part in group:
                score = next(answers)
                # whether this order shows the left half first
                first, second = (left, right) if codes[row, probe] else (right, left)
                before = Part(first, without[row], blocks, part.f_without, score, part.weight)
                after = Part(second, shown[row], blocks, score, part.f_with, part.weight)
                halves[first].append(before)
                halves[second].append(after)
                row += 1
            yield [halves[left], halves[right]]


class _Unevenness:
    """How unevenly credit lies in the halves of a part, by all splits so far (root mean square of
    half the difference, over the credit).
    """

    def __init__(self) -> None:
        self._differences = 0.0
        self._credits = 0.0

    def add(self, tree: Tree, group: Group, children: list[Group]) -> None:
        left, right = tree.children[group[0].node]
        sums = dict.fromkeys((left, right), 0.0)
        for part in (part for child in children for part in child):
            sums[part.node] += part.gain
        self._differences += ((sums[left] - sums[right]) / 2) ** 2
        self._credits += sum(abs(part.gain) for part in group) ** 2

    @property
    def value(self) -> float:
        return float(np.sqrt(self._differences / self._credits)) if self._credits else 0.0


def _measured(
    tree: Tree,
    groups: list[Group],
    unevenness: _Unevenness,
    regions: LabelMap,
    sizes: NDArray[np.intp],
) -> Measured:
    """Scores of the regions, sums of heat over `sizes` (R,), and what moves them: credit inside
    unsplit nodes, other orders.

    All that is left to ask about a node may turn out to lie in one half of it, by as much as it did
    in nodes that were split, and so on in halves of halves: for these the spread is doubled, as it
    is for the new questions of other methods. Pairs of orders differ like independent samples.
    """
    parts = [part for group in groups for part in group]

    def scores(heatmap: FloatArray) -> NDArray[np.float64]:
        return np.bincount(regions.ravel(), weights=heatmap.ravel().astype(np.float64)) / sizes

    heat = scores(tree.heatmap(parts))
    credit: dict[int, float] = {}
    for part in parts:
        credit[part.node] = credit.get(part.node, 0.0) + abs(part.gain)
    moves = [
        unevenness.value * size * tree.transfer(node, regions) / sizes
        for node, size in credit.items()
    ]
    orders = len(groups[0]) if groups else 1
    degrees = max(len(moves), 1)
    if orders > 1:
        pairs = np.stack([
            scores(tree.heatmap([part for g in groups for part in g[2 * k : 2 * k + 2]], bare=True))
            for k in range(orders // 2)
        ])  # fmt: skip
        # a pair's share is 1/pairs of its estimate: hence the spread of the mean of all
        spread = pairs - pairs.mean(axis=0)
        scale = np.sqrt(len(pairs) / max(len(pairs) - 1, 1))
        moves += list(spread * scale)
        degrees = len(pairs) - 1
    return heat, np.array(moves).reshape(-1, len(heat)), degrees


class _Queue:
    """Groups of parts by the largest Σ|gain|; ties in an order that the seed gives."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._heap: list[tuple[float, float, int, Group]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, groups: list[Group]) -> None:
        for group, tie in zip(groups, self._rng.random(len(groups)).tolist(), strict=True):
            self._pushed += 1
            size = sum([abs(part.gain) for part in group])
            heapq.heappush(self._heap, (-size, tie, self._pushed, group))

    def pop(self) -> Group:
        return heapq.heappop(self._heap)[-1]

    def groups(self) -> list[Group]:
        """All that wait, in no order."""
        return [entry[-1] for entry in self._heap]

    def drained(self) -> list[Group]:
        """All that wait, the largest first; none wait then."""
        heap, self._heap = sorted(self._heap), []
        return [entry[-1] for entry in heap]
