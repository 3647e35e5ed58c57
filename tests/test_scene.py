"""What is drawn on a clip's frames: heat where the crop is, boxes, the strip of scores."""

from __future__ import annotations

import numpy as np
import pytest

from whyfake.media import Crop
from whyfake.report.clip_chart import ticks, timeline
from whyfake.report.overlay import OPACITY, viridis
from whyfake.report.scene import Curve, Marked, Patch, Strip, draw_scene, label_of, track_colour

SIZE = (120, 200)
FRAME = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def patch(level: float, crop: Crop) -> Patch:
    return Patch(*crop.placed(np.full((4, 4), level, np.float32), SIZE))


def test_heat_is_where_the_crop_is_and_nowhere_else() -> None:
    """The hottest heat is the scale's last colour at its opacity; outside, not a bit changes."""
    crop = Crop(30, 20, 50, 40)
    drawn = draw_scene(FRAME, [patch(1.0, crop)], [])
    expected = FRAME.astype(np.float64)
    inside = (slice(20, 60), slice(30, 80))
    expected[inside] += OPACITY * (viridis()[255] - expected[inside])
    assert np.abs(drawn.astype(float) - expected).max() <= 1
    changed = (drawn != FRAME).any(axis=2)
    changed[inside] = False
    assert not changed.any()


def test_no_heat_changes_nothing() -> None:
    drawn = draw_scene(FRAME, [patch(0.0, Crop(30, 20, 50, 40))], [])
    np.testing.assert_array_equal(drawn, FRAME)


def test_a_crop_over_the_border_is_drawn_as_far_as_it_is_there() -> None:
    drawn = draw_scene(FRAME, [patch(1.0, Crop(-20, -20, 40, 40))], [])
    assert (drawn[:20, :20] != FRAME[:20, :20]).any(axis=2).mean() > 0.9
    np.testing.assert_array_equal(drawn[20:], FRAME[20:])
    np.testing.assert_array_equal(drawn[:, 20:], FRAME[:, 20:])


@pytest.mark.parametrize("asked", [True, False])
def test_boxes_are_whole_where_the_frame_was_asked_about(asked: bool) -> None:
    """In the middle of its sides, only a whole box has the track's colour."""
    face = Marked((60.0, 40.0, 80.0, 60.0), 2, "face 2", asked)
    drawn = draw_scene(np.zeros((*SIZE, 3), np.uint8), [], [face])
    middle = drawn[100, 100]
    assert (np.abs(middle.astype(int) - track_colour(2)).max() < 60) == asked
    assert np.abs(drawn[100, 62].astype(int) - track_colour(2)).max() < 60


def test_faces_at_the_very_border_are_no_error() -> None:
    face = Marked((-30.0, -30.0, 400.0, 300.0), 1, "x" * 200, True)
    assert draw_scene(FRAME, [], [face]).shape == FRAME.shape


def test_the_strip_shows_scores_over_time() -> None:
    """High on the left, low on the right; and a line that says where the clip is."""
    curve = Curve(1, [(0.0, 1.0, True), (5.0, 1.0, True), (5.001, 0.0, False), (10.0, 0.0, False)])
    strip = Strip((360, 400), 10.0, [curve])
    frame = np.zeros((360, 400, 3), np.uint8)
    strip.put(frame, 2.5)
    height = round(360 / 9)
    band = frame[-height:].astype(int)
    assert not frame[:-height].any()
    near = np.abs(band - np.array(track_colour(1))).max(axis=2) < 90
    rows = np.arange(height)[:, None]
    left, right = near[:, 20:90], near[:, 210:390]
    assert (rows * left).sum() / left.sum() < height * 0.25
    assert (rows * right).sum() / right.sum() > height * 0.75
    bright = band.min(axis=(0, 2)) > 200
    assert np.flatnonzero(bright).mean() == pytest.approx(100, abs=3)


def test_words_over_a_face_are_never_certain() -> None:
    assert label_of(3, "fake", 0.99999) == "face 3  fake >99.9 %"


def test_the_timeline_breaks_where_a_face_is_away() -> None:
    """Points at 0, 1, 2 and 9, 10 of 20 s: a line over each second, none from 2 to 9."""
    points = [(float(t), 0.5, t < 9) for t in (0, 1, 2, 9, 10)]
    svg = timeline([Curve(7, points)], [5.0], 20.0, 'a "title"')
    group = svg[svg.index('<g class="track t1"') :]
    group = group[: group.index("</g>")]
    assert group.count("<line") == 3
    assert group.count('class="asked"') == 3
    assert group.count('class="scored"') == 2
    assert 'cx="45.000%"' in group
    assert 'class="gap" x1="25.000%"' in svg
    assert "a &quot;title&quot;" in svg


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (0.4, ["0.0 s", "0.1 s", "0.2 s", "0.3 s", "0.4 s"]),
        (10.0, ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]),
        (150.0, ["0 s", "30 s", "1:00", "1:30", "2:00", "2:30"]),
        (5400.0, ["0 s", "20:00", "40:00", "60:00", "80:00"]),
    ],
)
def test_the_time_axis_has_a_few_round_times(duration: float, words: list[str]) -> None:
    found = ticks(duration)
    assert [text for _, text in found] == words
    assert found[0][0] == 0
    assert all(0 <= at <= 100 for at, _ in found)
