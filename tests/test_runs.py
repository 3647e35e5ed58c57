"""Runs of copies with two values a region, against one row after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from whyfake.explainers.sobol import base_designs, half_steps, jansen_rows
from whyfake.runtime import runs
from whyfake.runtime.runs import runs_of


def one_by_one(codes: NDArray[Any]) -> list[int]:
    """Where runs begin: each takes rows as long as no column has a third value."""
    starts: list[int] = []
    seen: list[set[float]] = []
    for number, row in enumerate(codes):
        wider = [values | {value} for values, value in zip(seen, row.tolist(), strict=False)]
        if not starts or max(map(len, wider)) > 2:
            starts.append(number)
            wider = [{value} for value in row.tolist()]
        seen = wider
    return starts


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    regions=st.integers(1, 6),
    few=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_runs_are_as_long_as_can_be_and_say_what_the_codes_are(
    lengths: list[int], regions: int, few: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.concatenate(
        [
            np.where(rng.random((length, regions)) < 0.3, *rng.random((2, regions)))
            for length in lengths
        ]
    )
    if few:  # so that neighbours share values, and runs may go on
        codes = np.round(codes * 2) / 2
    starts = one_by_one(codes)
    found = runs_of(codes, 1)
    assert found is not None
    assert np.flatnonzero(np.diff(found.run, prepend=-1)).tolist() == starts
    assert len(found.ends) == len(starts)
    columns = np.arange(regions)
    assert np.array_equal(found.ends[found.run[:, np.newaxis], found.choice, columns], codes)
    assert found.choice.dtype == np.uint8
    mean = len(codes) / len(starts)
    assert (runs_of(codes, 20) is None) == (mean < 20) or len(starts) > 4  # which may end it sooner


def test_a_picture_for_each_choice_of_each_run() -> None:
    codes = np.array([[0.1, 0.2], [0.1, 0.7], [0.9, 0.8], [0.9, 0.3], [0.5, 0.3]])
    found = runs_of(codes, 1)
    assert found is not None
    assert found.run.tolist() == [0, 0, 1, 1, 1]
    made = found.pictures(np.array([[0, 0], [1, 1]], np.uint8))
    assert made.tolist() == [[0.1, 0.2], [0.1, 0.7], [0.9, 0.8], [0.5, 0.3]]


@pytest.mark.parametrize("half", [False, True])
def test_sobols_design_row_by_row_is_a_run_a_row(half: bool) -> None:
    a, b = base_designs(9, 8, np.random.default_rng(0))
    rows = jansen_rows(a, half_steps(a) if half else b)
    found = runs_of(rows.reshape(-1, 8, 9).swapaxes(0, 1).reshape(-1, 9), 11)
    assert found is not None
    assert found.run.tolist() == np.repeat(np.arange(8), 11).tolist()
    assert runs_of(rows, 4) is None  # as the design has them


@pytest.mark.parametrize("rows", [0, 1])
def test_next_to_nothing(rows: int) -> None:
    assert runs_of(np.zeros((rows, 3)), 16) is None


def test_codes_without_runs_are_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, asked = runs._end, []
    monkeypatch.setattr(runs, "_end", lambda *rows: (asked.append(1), plain(*rows))[1])
    assert runs_of(np.random.default_rng(0).random((2000, 64)), 16) is None
    assert len(asked) < 10
