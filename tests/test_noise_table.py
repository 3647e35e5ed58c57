"""The noise that directions share is one stream, whoever draws how much of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from whyfake.explainers.nes import Directions, noise_table
from whyfake.noise_table import NoiseTable
from whyfake.perturbation import NoiseStep, Scratch

FLOATS = 1000


Values = NDArray[np.float32]


def stream(seed: int) -> Values:
    """What a table of that seed holds."""
    return np.random.default_rng([seed, 0]).standard_normal(FLOATS, np.float32)


@given(st.lists(st.integers(0, FLOATS + 50), max_size=9), st.integers(0, 99))
def test_the_same_bits_in_whatever_parts(stops: list[int], seed: int) -> None:
    table = NoiseTable(seed, FLOATS)
    for stop in stops:
        assert np.array_equal(table.upto(stop)[:stop], stream(seed)[:stop])
    assert np.array_equal(table.whole, stream(seed))
    assert len(table) == FLOATS


def test_a_draw_that_is_broken_off_is_drawn_again() -> None:
    table = NoiseTable(3, FLOATS)
    table.upto(100)
    rng = table._rng

    class Breaks:
        bit_generator = rng.bit_generator

        def standard_normal(self, *args: Any, **options: Any) -> None:
            rng.standard_normal(*args, **options)
            raise KeyboardInterrupt

    table._rng = Breaks()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        table.upto(400)
    table._rng = rng
    assert np.array_equal(table.whole, stream(3))


def begun(table: NoiseTable, stop: int) -> Values:
    """What is there of a table once its first `stop` values have been asked for."""
    return table.upto(stop)[:stop].copy()


def test_many_threads_at_once() -> None:
    for seed in range(20):
        table = NoiseTable(seed, FLOATS)
        stops = range(FLOATS, 0, -125)
        with ThreadPoolExecutor(8) as pool:
            drawn = list(pool.map(begun, [table] * len(stops), stops))
        for stop, values in zip(stops, drawn, strict=True):
            assert np.array_equal(values, stream(seed)[:stop])


@pytest.mark.parametrize("mask", [False, True])  # which NumPy composes
def test_no_more_is_drawn_than_is_composed(mask: bool) -> None:
    size = (4, 6)
    center = np.zeros((3, *size), np.float32)
    table = NoiseTable(5, FLOATS)
    offsets = np.array([0, 100, 300, 100, 300])
    signs = np.array([0, 1, 1, -1, -1])
    still = np.ones(size, np.float32) if mask else None
    step = NoiseStep(center, table, offsets, signs, 0.5, 1, still)
    compose = step.composer(center)
    out = np.empty((2, 3, *size), np.float32)
    for start, drawn in ((0, 124), (1, 324), (3, 324)):
        compose(out, start, Scratch())
        expected = center + 0.5 * np.stack(
            [
                signs[row] * np.tile(stream(5)[offsets[row] : offsets[row] + 24], 3)
                for row in (start, start + 1)
            ]
        ).reshape(2, 3, *size).astype(np.float32)
        assert np.array_equal(out, expected)
        assert table._drawn == drawn


def test_a_step_asks_for_its_directions_in_the_order_of_the_table() -> None:
    """So that some of its copies can run before all of the table is drawn."""
    noise_table.cache_clear()
    center = np.zeros((3, 16, 16), np.float32)
    directions = Directions((16, 16), 1, 3, np.random.default_rng(1))
    for batch in (
        directions.batch(center, 40, 0.1, None),
        directions.one_sided(center, 40, 0.1, None),
    ):
        assert (np.diff(batch.offsets[1:41]) >= 0).all()
        assert batch.offsets[1] < len(batch.table) / 8  # of forty, uniform
        compose = batch.composer(center)
        compose(np.empty((4, 3, 16, 16), np.float32), 0, Scratch())
    assert batch.table._drawn < len(batch.table) / 2
