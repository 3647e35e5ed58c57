"""Crops: exact pixels, repeated borders, level eyes, and heat that goes back to where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyfake.media import Crop, Face, crop_of

SIZE = (30, 46)
FRAME = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@given(
    left=st.integers(-40, 60),
    top=st.integers(-40, 60),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
)
def test_a_crop_is_its_pixels_and_beyond_the_border_the_nearest(
    left: int, top: int, width: int, height: int
) -> None:
    """Brute force, pixel by pixel."""
    found = Crop(left, top, width, height).cut(FRAME)
    expected = np.empty((height, width, 3), np.uint8)
    for row in range(height):
        for column in range(width):
            y = min(max(top + row, 0), SIZE[0] - 1)
            x = min(max(left + column, 0), SIZE[1] - 1)
            expected[row, column] = FRAME[y, x]
    np.testing.assert_array_equal(found, expected)


@given(left=st.integers(-20, 50), top=st.integers(-20, 40), side=st.integers(1, 40))
def test_padded_is_the_share_beyond_the_border(left: int, top: int, side: int) -> None:
    outside = sum(
        not (0 <= top + row < SIZE[0] and 0 <= left + column < SIZE[1])
        for row in range(side)
        for column in range(side)
    )
    assert Crop(left, top, side, side).padded(SIZE) == pytest.approx(outside / side**2)


@given(left=st.integers(-20, 40), top=st.integers(-20, 25), side=st.integers(2, 30))
def test_heat_of_the_crops_own_size_goes_back_to_the_very_pixels(
    left: int, top: int, side: int
) -> None:
    """At the crop's own resolution nothing is interpolated: each value lands on its pixel."""
    crop = Crop(left, top, side, side + 3)
    heat = np.random.default_rng(1).random((side + 3, side)).astype(np.float32)
    part, values, inside = crop.placed(heat, SIZE)
    whole = np.full(SIZE, np.nan, np.float32)
    whole[part] = np.where(inside, values, np.nan)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            row, column = y - top, x - left
            if 0 <= row < side + 3 and 0 <= column < side:
                assert abs(whole[y, x] - heat[row, column]) < 1e-4
            else:
                assert np.isnan(whole[y, x])


def test_coarse_heat_is_spread_over_the_crop() -> None:
    """2 × 2 values over 20 × 20 pixels: each quarter's middle has its value."""
    crop = Crop(10, 4, 20, 20)
    part, values, inside = crop.placed(np.array([[0, 1], [2, 3]], np.float32), SIZE)
    assert part == (slice(4, 24), slice(10, 30))
    assert inside.all()
    corners = [values[0, 0], values[0, -1], values[-1, 0], values[-1, -1]]
    np.testing.assert_allclose(corners, [0, 1, 2, 3], atol=1e-5)


def test_heat_beyond_the_frame_is_gone() -> None:
    part, values, inside = Crop(-100, -100, 20, 20).placed(np.ones((4, 4), np.float32), SIZE)
    assert values.size == 0
    assert inside.size == 0
    assert FRAME[part].size == 0


def test_a_crop_is_a_square_around_the_box() -> None:
    """Margin 1.5 of a 20 × 30 box at (50, 60): 45 a side, the same middle to half a pixel."""
    crop = crop_of(Face(box=(50, 60, 20, 30)), 1.5)
    assert (crop.width, crop.height) == (45, 45)
    assert abs(crop.left + 22.5 - 60) <= 0.5
    assert abs(crop.top + 22.5 - 75) <= 0.5


def test_tiny_faces_still_give_a_crop_that_can_be_read() -> None:
    assert crop_of(Face(box=(5, 5, 3, 3)), 1.0).width == 16


@pytest.mark.parametrize("angle", [-35.0, 0.0, 20.0])
def test_aligned_eyes_are_level(angle: float) -> None:
    """The eyes of a face that leans end on one row, the right one first; the centre stays."""
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    upright = np.array([[-15, -10], [15, -10], [0, 2], [-10, 14], [10, 14]])
    points = upright @ rotation.T + [100, 80]
    face = Face((70, 50, 60, 60), landmarks=tuple((float(x), float(y)) for x, y in points))
    crop = crop_of(face, 1.5, align=True)
    seen = crop.points(points)
    # the angle is kept to a hundredth of a degree
    np.testing.assert_allclose(seen - seen.mean(axis=0), upright - upright.mean(axis=0), atol=0.02)
    centre = np.array([[crop.left + 44.5, crop.top + 44.5]])
    np.testing.assert_allclose(crop.points(centre), [[44.5, 44.5]], atol=1e-9)


def test_a_turned_crop_shows_the_turned_picture_and_heat_goes_back() -> None:
    """A quarter turn has a closed form: np.rot90 of the upright crop."""
    rgb = np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8)
    upright, turned = Crop(20, 10, 21, 21), Crop(20, 10, 21, 21, 90.0)
    np.testing.assert_array_equal(turned.cut(rgb), np.rot90(upright.cut(rgb)))
    heat = np.random.default_rng(3).random((21, 21)).astype(np.float32)
    part, values, inside = turned.placed(heat, (60, 80))
    whole = np.zeros((60, 80), np.float32)
    whole[part] = np.where(inside, values, 0)
    np.testing.assert_allclose(whole[10:31, 20:41], np.rot90(heat, -1), atol=1e-4)


def test_aligning_without_eyes_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs landmarks"):
        crop_of(Face((1, 2, 3, 4)), 1.3, align=True)
