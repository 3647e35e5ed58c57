"""Partition SHAP: Owen values over a hierarchy of halved rectangles (Lundberg's `shap` package)."""

from __future__ import annotations

import dataclasses
import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, RegionMix
from .base import Asking, Attribution, Scene, Score, Target, check, check_score
from .shapes import Box, Shape


@dataclass(frozen=True)
class Shap:
    """Owen values of image parts, refined where the score changes most, within a budget.

    samples: the most images, both ends (all visible, all hidden) included; nodes_per_round: how
    many nodes are split before the order of splitting is looked at again; two images a node.
    """

    samples: int = 2000
    nodes_per_round: int = 32
    score: Score = "probability"

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
        check_score(owner, self.score)

    def images(self) -> int:
        """The most images it asks for."""
        return self.samples

    def with_budget(self, images: int) -> Shap:
        """SHAP with so many images."""
        return dataclasses.replace(self, samples=images)

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: each pixel's share of the score's rise from baseline to frame."""
        tree = _Tree(self._whole(frame, scene), frame.shape[1], frame.shape[2])
        ends = np.array([[0], [1]], np.uint8)
        answer = yield RegionMix(ends, tree.labels(), scene.baseline)
        f00, f11 = target.score(answer, self.score)
        queue = _Queue(scene.rng)
        queue.push(_Part(0, np.packbits(ends[0]), 1, f00, f11, 1.0))
        asked = 2
        while queue and self.samples - asked >= 2:
            parts: list[_Part] = []
            while queue and len(parts) < min(self.nodes_per_round, (self.samples - asked) // 2):
                part = queue.pop()
                if tree.split(part.node):
                    parts.append(part)
                else:
                    tree.credit[part.node] += part.gain
            if not parts:
                continue
            codes = np.concatenate([tree.halves(part) for part in parts])
            answer = yield RegionMix(codes, tree.labels(), scene.baseline)
            asked += len(codes)
            scores = target.score(answer, self.score)
            for index, part in enumerate(parts):
                own = slice(2 * index, 2 * index + 2)
                for child in _children(tree, part, codes[own], scores[own]):
                    queue.push(child)
        while queue:  # the budget is spent: what is left goes evenly to each part's pixels
            part = queue.pop()
            tree.credit[part.node] += part.gain
        return Attribution(tree.heatmap())

    def _whole(self, frame: FloatArray, scene: Scene) -> Shape:
        """The frame as the shape that is halved."""
        return Box(0, frame.shape[1], 0, frame.shape[2])


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
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
        return (self.f_with - self.f_without) * self.weight


def _children(
    tree: _Tree, part: _Part, codes: NDArray[np.uint8], scores: NDArray[np.float64]
) -> list[_Part]:
    """Both halves of a part, each without and with the other half visible, at half its weight."""
    left, right = tree.children[part.node]
    f10, f01 = scores
    half = part.weight / 2
    around, blocks = np.packbits(tree.widen(part)), codes.shape[1]
    with_left, with_right = np.packbits(codes, axis=1)
    return [
        _Part(left, around, blocks, part.f_without, f10, half),
        _Part(right, around, blocks, part.f_without, f01, half),
        _Part(left, with_right, blocks, f01, part.f_with, half),
        _Part(right, with_left, blocks, f10, part.f_with, half),
    ]


class _Queue:
    """Parts by the largest |gain|; ties in an order that the seed gives."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._heap: list[tuple[float, float, int, _Part]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, part: _Part) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (-abs(part.gain), self._rng.random(), self._pushed, part))

    def pop(self) -> _Part:
        return heapq.heappop(self._heap)[-1]


class _Tree:
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

    def widen(self, part: _Part) -> NDArray[np.uint8]:
        """A part's context, which is over the blocks of its time, over those of now."""
        origin = self._origins.get(part.blocks)
        if origin is None:
            found = list(range(part.blocks))
            for source in self._cut_from[part.blocks :]:
                found.append(found[source])
            origin = self._origins[part.blocks] = np.array(found)
        return np.unpackbits(part.visible, count=part.blocks)[origin]

    def halves(self, part: _Part) -> NDArray[np.uint8]:
        """Codes (2, blocks): the part's context with its left half visible, with its right half."""
        codes = np.repeat(self.widen(part)[None], 2, axis=0)
        for row, child in enumerate(self.children[part.node]):
            codes[row, self._blocks(child)] = 1
        return codes

    def _blocks(self, node: int) -> list[int]:
        """All blocks inside a node."""
        if node not in self.children:
            return [self._block_of[node]]
        left, right = self.children[node]
        return self._blocks(left) + self._blocks(right)

    def heatmap(self) -> FloatArray:
        """Every node's credit spread over its pixels (h, w), by each one's share."""
        heat = np.zeros(self._labels.shape)
        for shape, credit in zip(self._shapes, self.credit, strict=True):
            heat[shape.pixels] += credit * shape.share
        return heat.astype(np.float32)
