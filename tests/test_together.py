"""Coroutines in step: each gets its own answers, and a stack composes what its batches do."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from games import random_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from whyfake.evaluate.together import Stack, together
from whyfake.explainers.regions import grid
from whyfake.perturbation import Pixels, RegionMix, render


def count_to(name: str, rounds: int, rows: int) -> Generator[Any, Any, None]:
    """Asks about pictures that hold its number, and checks that the answers are its own."""
    for turn in range(rounds):
        value = float(ord(name) + turn)
        answer = yield Pixels(np.full((rows, 3, 2, 3), value, np.float32))
        assert answer[:, 1].tolist() == [value] * rows
        yield (name, turn)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_each_in_step_gets_its_own_answers(width: int) -> None:
    heard: list[Any] = []
    sizes: list[int] = []
    running = together([count_to("a", 3, 2), count_to("b", 0, 1), count_to("c", 2, 5)], width)
    answer = None
    while True:
        try:
            got = running.send(answer)
        except StopIteration:
            break
        if isinstance(got, tuple):
            heard.append(got)
            answer = None
        else:
            images = render(got, np.zeros((3, 2, 3), np.float32))
            sizes.append(len(got))
            answer = np.stack([np.zeros(len(got)), images[:, 0, 0, 0]], axis=1)
    assert sorted(heard) == [("a", 0), ("a", 1), ("a", 2), ("c", 0), ("c", 1)]
    assert sizes == ([2, 2, 2, 5, 5] if width == 1 else [7, 7, 2])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_a_stack_composes_what_its_batches_do(sizes: list[int], data: Any) -> None:
    frame = random_frame((4, 6))
    rng = np.random.default_rng(0)
    batches: list[Any] = [
        Pixels(rng.random((n, 3, 4, 6), np.float32))
        if i % 2
        else RegionMix(rng.random((n, 4)), grid(4, 6, 2), np.zeros_like(frame))
        for i, n in enumerate(sizes)
    ]
    expected = np.concatenate([render(batch, frame) for batch in batches])
    start = data.draw(st.integers(0, sum(sizes)))
    stop = data.draw(st.integers(start, sum(sizes)))
    assert len(Stack(batches)) == sum(sizes)
    assert np.array_equal(render(Stack(batches), frame, start, stop), expected[start:stop])
