"""SHAP's table of waiting parts against a plain list of them, and the blocks of its tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whyfake.explainers.partition import Tree
from whyfake.explainers.shapes import Box
from whyfake.explainers.waiting import Parts, Waiting


@dataclass
class Entry:
    """A part as one object: its size and tie, and for each context what is visible."""

    size: float
    tie: float
    node: int
    contexts: list[list[int]]


def some_parts(rng: np.random.Generator, count: int, contexts: int, largest: int) -> Parts:
    """Parts with scores of few values, so that many sizes are equal."""
    return Parts(
        nodes=rng.integers(0, 1000, count),
        weights=np.full(count, 0.5),
        without=rng.integers(0, largest, (count, contexts)).astype(np.float64),
        present=rng.integers(0, largest, (count, contexts)).astype(np.float64),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    contexts=st.sampled_from([1, 2, 6, 8]),
    most=st.integers(1, 9),
    largest=st.sampled_from([2, 1000]),
)
def test_the_largest_come_first_with_the_contexts_that_they_had(
    seed: int, contexts: int, most: int, largest: int
) -> None:
    """Rounds of popping, cutting blocks and pushing, as SHAP does them."""
    rng = np.random.default_rng(seed)
    ties = np.random.default_rng(seed + 1)
    cut_from = [0]
    first, seen = some_parts(rng, 1, contexts, largest), rng.integers(0, 2, (contexts, 1), np.uint8)
    waiting = Waiting(np.random.default_rng(seed + 1), first, seen)
    plain: list[Entry] = []

    def note(parts: Parts, codes: np.ndarray) -> None:
        drawn = ties.random(len(parts))
        for index in range(len(parts)):
            gains = (parts.present[index] - parts.without[index]) * parts.weights[index]
            shown = codes[index * contexts : (index + 1) * contexts].tolist()
            size = float(np.abs(gains).sum())
            plain.append(Entry(size, float(drawn[index]), int(parts.nodes[index]), shown))

    note(first, seen)
    for _ in range(12):
        plain.sort(key=lambda entry: (-entry.size, entry.tie))
        assert len(waiting) == len(plain)
        assert waiting.parts(waiting.rows(ordered=True)).nodes.tolist() == [e.node for e in plain]
        taken = min(int(rng.integers(1, most + 1)), len(plain))
        largest_rows = waiting.largest(taken)
        assert len(waiting) == len(plain)
        rows = []
        for _ in range(taken):
            rows.append(waiting.first())
            assert waiting.pop() == rows[-1]
        assert largest_rows == rows
        assert waiting.largest(10_000) == waiting.rows(ordered=True)
        expected, plain[:taken] = plain[:taken], []
        for _ in range(rng.integers(0, 4)):
            source = int(rng.integers(len(cut_from)))
            cut_from.append(source)
            for entry in expected + plain:
                for shown in entry.contexts:
                    shown.append(shown[source])
        assert [waiting.node(row) for row in rows] == [entry.node for entry in expected]
        np.testing.assert_array_equal(
            waiting.contexts(rows, cut_from), [shown for e in expected for shown in e.contexts]
        )
        found = waiting.parts(rows)
        np.testing.assert_array_equal(found.sizes(), [entry.size for entry in expected])
        new = some_parts(rng, int(rng.integers(1, 4)) * 2, contexts, largest)
        codes = rng.integers(0, 2, (len(new) * contexts, len(cut_from)), np.uint8)
        waiting.push(new, codes)
        note(new, codes)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_node_shows_its_pixels_however_fine_its_blocks(
    seed: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    tree = Tree(Box(0, height, 0, width), height, width)
    boxes = [Box(0, height, 0, width)]
    for _ in range(30):
        node = int(rng.integers(len(boxes)))
        halves, known = boxes[node].halves(), node in tree.children
        labels = tree.labels()
        assert tree.split(node) == (halves is not None)
        if halves is not None and not known:
            boxes += halves
            assert labels.max() + 1 == len(tree.cut_from) - 1, "an older label map changes never"
        assert (tree.labels() is labels) == (halves is None or known)
        codes = np.zeros((len(boxes), len(tree.cut_from)), np.uint8)
        tree.show(codes, range(len(boxes)))
        shown = codes[:, tree.labels()]
        for box, found in zip(boxes, shown, strict=True):
            expected = np.zeros((height, width), np.uint8)
            expected[box.pixels] = 1
            np.testing.assert_array_equal(found, expected)
