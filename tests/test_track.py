"""Following faces: through a crossing, over a gap, past false alarms."""

from __future__ import annotations

import numpy as np
import pytest
from clips import scene

from whyfake.media import Face, Tracker
from whyfake.media.track import PATIENCE

BLANK = np.full((180, 240, 3), 90, np.uint8)


def boxed(left: float, top: float = 40) -> Face:
    """The box that a finder would give for a portrait at (left, top)."""
    return Face(box=(left + 20, top + 20, 56, 56))


def follow(
    tracker: Tracker, looks: list[tuple[float, list[tuple[int, bool]]]]
) -> list[dict[bool, int]]:
    """Feed looks of (time, faces as (left, other)); the track of each kind of face at each look."""
    found = []
    for time, faces in looks:
        rgb = scene([(left, 40, other) for left, other in faces])
        numbers = tracker.update([boxed(left) for left, _ in faces], rgb, time)
        found.append({other: n for (_, other), n in zip(faces, numbers, strict=True)})
    return found


@pytest.mark.parametrize("speed", [6, 12, 20])
@pytest.mark.parametrize("swapped", [False, True])
def test_two_faces_that_cross_stay_themselves(speed: int, swapped: bool) -> None:
    """They walk through each other; while one hides the other only the front one is seen."""
    looks = []
    for step in range(0, 140, speed):
        a, b = step, 140 - step
        faces = [(a, False), (b, True)] if abs(a - b) > 30 else [(b, True)]
        looks.append((step / speed * 0.2, faces[::-1] if swapped else faces))
    found = follow(Tracker(), looks)
    for kind in (False, True):
        numbers = {look[kind] for look in found if kind in look}
        assert len(numbers) == 1, found
    assert found[0][False] != found[0][True]


@pytest.mark.parametrize(("away", "same"), [(1.0, True), (PATIENCE + 0.5, False)])
def test_a_face_that_leaves_and_returns(away: float, same: bool) -> None:
    """Soon, it is itself; after the patience, a track of its own."""
    tracker = Tracker()
    times = [0, 0.2, 0.4, 0.6]
    before = follow(tracker, [(time, [(60, False)]) for time in times])
    gap = np.arange(0.8, 0.6 + away, 0.2)
    follow(tracker, [(float(time), []) for time in gap])
    after = follow(tracker, [(0.6 + away, [(64, False)])])
    assert (after[0][False] == before[-1][False]) is same


def test_another_face_in_the_same_place_is_another_track() -> None:
    """A cut: at the same spot, but it looks otherwise."""
    found = follow(Tracker(), [(0.2 * k, [(60, k >= 4)]) for k in range(8)])
    assert found[0][False] != found[-1][True]


def test_a_fast_face_is_followed_by_its_speed() -> None:
    """Half its size a look; standing still, the prediction would lose it to the other face."""
    looks = [(0.2 * k, [(-60 + 28 * k, False)]) for k in range(8)]
    found = follow(Tracker(), looks)
    assert len({look[False] for look in found}) == 1


def test_a_passing_find_is_a_false_alarm() -> None:
    tracker = Tracker()
    assert tracker.update([boxed(10)], BLANK, 0.0) == [1]
    assert tracker.fleeting() == set()
    assert tracker.unsure() == {1}
    tracker.update([boxed(10)], BLANK, 0.2)
    assert tracker.unsure() == {1}
    tracker.update([], BLANK, 0.4)
    assert tracker.fleeting() == {1}
    assert tracker.fleeting() == set()
    assert tracker.dropped == 1
    assert tracker.unsure() == set()


def test_a_face_seen_three_times_is_believed() -> None:
    tracker = Tracker()
    for look in range(3):
        tracker.update([boxed(10)], BLANK, 0.2 * look)
    assert tracker.unsure() == set()
    tracker.update([], BLANK, 0.6)
    assert tracker.fleeting() == set()


def test_given_tracks_are_kept() -> None:
    """A file that numbers its tracks is believed, even where they jump."""
    tracker = Tracker(trusted=True)
    for time, left in ((0.0, 10), (0.2, 150), (5.0, 10)):
        faces = [
            Face(boxed(left).box, track=7),
            Face(boxed(left + 3).box, track=2),
        ]
        assert tracker.update(faces, BLANK, time) == [7, 2]
        assert tracker.unsure() == set()
