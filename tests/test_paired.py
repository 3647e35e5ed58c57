"""Which differences of a study count as worse, and how many do by chance."""

from __future__ import annotations

import numpy as np
import pytest

from studies.paired import Change, chance

CLIPS = ["a", "a", "b", "c"]


def change(metric: str, *values: float) -> Change:
    return Change(metric, np.array(values), CLIPS)


@pytest.mark.parametrize(
    ("metric", "more"),
    [
        ("nes_to_flip_1", -1),
        ("square_to_flip_3", -1),
        ("deletion", -1),
        ("insertion", 1),
        ("energy", 1),
        ("nes_sufficiency_1", 1),
        ("precision_3", 1),
    ],
)
def test_whether_more_is_better_depends_on_the_metric(metric: str, more: int) -> None:
    assert change(metric, 1, 2, 3, 1).verdict() == more
    assert change(metric, -1, -2, -3, -1).verdict() == -more
    assert change(metric, 1, 1, -3, 1).verdict() == 0
    assert change(metric, 1, 2, 3, 1).verdict({"a": -1, "b": -1, "c": -1}) == -more
    assert change(metric, 1, 2, -3, 1).verdict({"a": 1, "b": -1, "c": 1}) == more


def test_chance_turns_whole_clips_in_every_pattern() -> None:
    """Of eight patterns of three clips one has all signs up and one all down: beyond, either way.

    Images asked, which are no figure of quality, and a clip alone are not counted.
    """
    found = [
        change("insertion", 1, 1, 1, 1),
        change("energy", 2, 2, 2, 2),
        change("deletion", 1, 1, -1, 1),
        change("images", 1, 1, 1, 1),
        Change("energy", np.ones(2), ["a", "a"]),
    ]
    head, worse, better = chance(found, 1000).splitlines()
    assert head == "3 differences of 3 clips, 8 patterns of signs."
    # all up: two are better; all down: two worse; b alone down, or a and c: deletion beyond
    assert worse.startswith("0 worse beyond their interval; by chance 0 [0, 2]")
    assert better.startswith("2 better beyond their interval; by chance 0 [0, 2]")
    assert better.endswith("as many or more in 12% of them.")
