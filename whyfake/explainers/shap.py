"""Partition SHAP: Owen values over a hierarchy of halved rectangles (Lundberg's `shap` package)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
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
from .partition import Tree
from .rounds import Rounds
from .shapes import Box, Shape
from .splitting import Every, Paired, Splitter
from .stopping import Measured, Watch, check_stops
from .waiting import Codes, Parts, Waiting

Contexts = Literal["all", "paired"]
CONTEXTS: tuple[str, ...] = ("all", "paired")


@dataclass(frozen=True)
class Shap:
    """Owen values of image parts, refined where the score changes most, within a budget.

    samples: the most images, both ends (all visible, all hidden) included; nodes_per_round: how
    many nodes are split before the order of splitting is looked at again. contexts: `all`, every
    combination of what else is visible, which double with each halving: two images for each; or
    `paired`, `pairs` random orders of the parts and their reverses, so that a halving costs 2·pairs
    images however fine (antithetic permutations, Mitchell et al. 2022, inside the hierarchy): the
    same expectation, and exact where parts interact by twos. ahead: how many nodes, half a round at
    most, are asked about before a round's answers are in, if they will be among the next: so the
    engine need not wait. They are split in their turn, and the result is the same to the bit,
    unless some turn out not to be; not with `paired` or `confidence`. May ask less: see `stopping`
    for confidence, top, least; here the doubt is how the credit of unsplit parts lies inside them,
    and how pairs differ.
    """

    samples: int = 2000
    nodes_per_round: int = 32
    score: Score = "probability"
    contexts: Contexts = field(default="all", metadata=LATER)
    pairs: int = field(default=4, metadata=LATER)
    ahead: int = field(default=16, metadata=LATER)
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
        check(self.ahead >= 0, owner, "ahead must be 0 or more", self.ahead)
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
        answer = yield RegionMix(np.array([[0], [1]], np.uint8), tree.labels(), scene.baseline)
        splitter: Splitter = Every() if self.contexts == "all" else Paired(self.pairs, scene.rng)
        waiting = Waiting(scene.rng, *_root(target.score(answer, self.score), splitter.contexts))
        watch, unevenness = Watch(self, self.samples, scene.rng), _Unevenness()
        rounds = Rounds(
            tree,
            waiting,
            splitter,
            images=self.samples - len(answer),
            most=self.nodes_per_round,
            # not where it may stop early, nor where what is asked draws something
            ahead=0 if watch.looks or self.contexts == "paired" else self.ahead,
        )
        while (now := (yield from rounds.next(target, self.score, scene.baseline))) is not None:
            children, contexts = splitter.children(tree, *now)
            waiting.push(children, contexts)
            if watch.looks:
                unevenness.add(now.parts, children)
            last = not waiting or not rounds.affordable
            if watch.due(len(answer) + rounds.asked, last=last):
                left = waiting.parts(waiting.rows())
                sizes = self._sizes(scene.regions)
                if watch.enough(_measured(tree, left, unevenness, scene.regions, sizes)):
                    break
        # what is left goes evenly to each part's pixels
        left = waiting.parts(waiting.rows(ordered=True))
        return Attribution(tree.heatmap(left.nodes, left.gains()), confidence=watch.confidence)

    def _whole(self, frame: FloatArray, scene: Scene) -> Shape:
        """The frame as the shape that is halved."""
        return Box(0, frame.shape[1], 0, frame.shape[2])

    def _sizes(self, regions: LabelMap) -> NDArray[np.intp]:
        """What a region's sum of heat is divided by to be its score (R,): its pixels."""
        return np.bincount(regions.ravel())


def _root(ends: NDArray[np.float64], contexts: int) -> tuple[Parts, Codes]:
    """The whole picture: what it adds to the score of the baseline, in every context the same."""
    without, present = np.repeat(ends, contexts).reshape(2, 1, contexts)
    whole = Parts(np.zeros(1, np.intp), np.full(1, 1 / contexts), without, present)
    return whole, np.zeros((contexts, 1), np.uint8)


class _Unevenness:
    """How unevenly credit lies in the halves of a part, by all splits so far (root mean square of
    half the difference, over the credit).
    """

    def __init__(self) -> None:
        self._differences = 0.0
        self._credits = 0.0

    def add(self, parts: Parts, children: Parts) -> None:
        """Take in what parts have split into: by turns a left and a right half."""
        gains = children.gains().reshape(len(parts), -1, 2, parts.without.shape[1])
        sums = gains.transpose(0, 2, 1, 3).reshape(len(parts), 2, -1).cumsum(axis=2)[..., -1]
        for (left, right), size in zip(sums.tolist(), parts.sizes().tolist(), strict=True):
            self._differences += ((left - right) / 2) ** 2
            self._credits += size**2

    @property
    def value(self) -> float:
        return float(np.sqrt(self._differences / self._credits)) if self._credits else 0.0


def _measured(
    tree: Tree,
    parts: Parts,
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
    nodes, gains = parts.nodes, parts.gains()

    def scores(heatmap: FloatArray) -> NDArray[np.float64]:
        return np.bincount(regions.ravel(), weights=heatmap.ravel().astype(np.float64)) / sizes

    heat = scores(tree.heatmap(nodes, gains))
    credit: dict[int, float] = {}
    for node, values in zip(nodes.tolist(), np.abs(gains).tolist(), strict=True):
        for value in values:
            credit[node] = credit.get(node, 0.0) + value
    moves = [
        unevenness.value * size * tree.transfer(node, regions) / sizes
        for node, size in credit.items()
    ]
    orders = gains.shape[1] if len(parts) else 1
    degrees = max(len(moves), 1)
    if orders > 1:
        pairs = np.stack([
            scores(tree.heatmap(nodes, gains[:, first : first + 2], bare=True))
            for first in range(0, orders, 2)
        ])  # fmt: skip
        # a pair's share is 1/pairs of its estimate: hence the spread of the mean of all
        spread = pairs - pairs.mean(axis=0)
        scale = np.sqrt(len(pairs) / max(len(pairs) - 1, 1))
        moves += list(spread * scale)
        degrees = len(pairs) - 1
    return heat, np.array(moves).reshape(-1, len(heat)), degrees
