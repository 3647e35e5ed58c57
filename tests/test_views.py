"""Windows on maps of regions, and pictures that show them what is wanted: by brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whyfake.onnx_stem import Window
from whyfake.runtime.views import View

windows = st.builds(Window, st.integers(1, 5), st.integers(-6, 3), st.integers(1, 9))


def what_is_seen(labels: Any, sides: Any, shape: tuple[int, int]) -> list[set[int]]:
    """The regions in each window, window by window."""
    found = []
    for place in np.ndindex(*shape):
        inside = []
        for window, i, length in zip(sides, place, labels.shape, strict=True):
            start = i * window.step + window.first
            inside.append(slice(max(start, 0), max(0, min(start + window.length, length))))
        found.append({int(label) for label in labels[tuple(inside)].ravel()})
    return found


@given(
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    sides=st.tuples(windows, windows),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    regions=st.sampled_from([1, 3, 8, 64, 65, 140]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_classes_are_those_that_see_the_same(
    size: Any, sides: Any, shape: Any, regions: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, regions, size)
    view = View(labels, sides, shape)
    wanted = what_is_seen(labels, sides, shape)
    got = [set(np.flatnonzero(view.members[number]).tolist()) for number in view.of]
    assert got == wanted
    assert len(view.members) == len({frozenset(one) for one in wanted})
    assert view.crowd == max(map(len, wanted))


def checked(view: View, there: Any, wanted: Any, most: int) -> Any:
    """`more`, held to what it says: every class is shown, by some picture, all that it is."""
    more = view.more(there, wanted, most)
    if more is None:
        return None
    assert len(more) <= most
    pictures = np.concatenate([there, more])
    numbers = view.found(pictures)[np.arange(len(view.members)), view.shown(wanted)]
    for row, codes in enumerate(wanted):
        for number, members in enumerate(view.members > 0):
            picture = pictures[numbers[row, number]]
            assert numbers[row, number] >= 0
            assert np.array_equal(picture[members], codes[: len(members)][members])
    return more


@given(
    cells=st.integers(1, 5),
    length=st.integers(1, 8),
    rows=st.integers(1, 20),
    spare=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_pictures_show_all_that_is_wanted(
    cells: int, length: int, rows: int, spare: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(np.arange(cells**2).reshape(cells, cells), np.ones((7, 7), int))
    view = View(labels, (Window(2, -2, length),) * 2, (3 * cells, 3 * cells))
    assert view.crowd <= 4
    wanted = rng.integers(0, 2, (rows, cells**2 + spare), np.uint8)
    nothing = np.empty((0, cells**2), np.uint8)
    more = checked(view, nothing, wanted, 64)
    assert more is not None
    assert len(checked(view, more, wanted, 64)) == 0  # they are there
    again = rng.integers(0, 2, (rows, cells**2), np.uint8)
    checked(view, more, again, 64)


def test_few_pictures_do_for_many_copies() -> None:
    labels = np.kron(np.arange(64).reshape(8, 8), np.ones((8, 8), int))
    view = View(labels, (Window(2, -1, 4),) * 2, (32, 32))
    wanted = np.random.default_rng(0).integers(0, 2, (1000, 64), np.uint8)
    more = checked(view, wanted[:0], wanted, 1000)
    assert 16 <= len(more) <= 24  # a window at a corner is shown four regions in 16 ways


def test_no_more_than_are_allowed() -> None:
    labels = np.arange(4).reshape(2, 2)
    view = View(labels, (Window(1, 0, 2),) * 2, (1, 1))
    wanted = np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]], np.uint8)
    assert view.more(wanted[:0], wanted, 2) is None
    assert len(checked(view, wanted[:0], wanted, 3)) == 3
    assert len(checked(view, wanted[:2], wanted, 1)) == 1
    assert len(checked(view, wanted, wanted, 0)) == 0


def test_a_region_that_no_window_sees() -> None:
    labels = np.array([[0, 0, 1, 1]])
    view = View(labels, (Window(), Window()), (1, 2))
    wanted = np.array([[1, 0], [1, 1]], np.uint8)
    assert len(checked(view, wanted[:0], wanted, 5)) == 1
    assert view.crowd == 1


def test_eight_regions_are_a_byte() -> None:
    labels = np.arange(8)[None]
    view = View(labels, (Window(), Window(8, 0, 8)), (1, 1))
    wanted = np.eye(8, dtype=np.uint8)[::-1]
    assert view.crowd == 8
    assert view.shown(wanted).ravel().tolist() == [128, 64, 32, 16, 8, 4, 2, 1]
    assert len(checked(view, wanted[:0], wanted, 8)) == 8


@pytest.mark.parametrize("regions", [64, 65])
def test_the_last_bit_of_a_word(regions: int) -> None:
    labels = np.arange(regions)[None]
    view = View(labels, (Window(), Window()), (1, regions))
    assert np.array_equal(view.members[view.of], np.eye(regions))
