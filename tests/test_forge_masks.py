"""Masks of a face: ellipses and hulls of landmarks stand where they should, rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from whyfake.errors import UsageError
from whyfake.evaluate import ellipse_mask, landmark_mask, self_blend
from whyfake.evaluate.forge import PARTS

Points = NDArray[np.float64]

SIZE = (150, 200)  # rows, columns
JAW, BROWS, NOSE, EYES, MOUTH = (
    list(part) for part in (range(17), range(17, 27), range(27, 36), range(36, 48), range(48, 68))
)
MIRROR = np.array(
    [
        *range(16, -1, -1),
        *range(26, 16, -1),
        *(27, 28, 29, 30, 35, 34, 33, 32, 31),
        *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
        *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
        *(64, 63, 62, 61, 60, 67, 66, 65),
    ]
)
"""Which landmark each becomes when the face is mirrored (iBUG 300-W order)."""


def ring(count: int, x: float, y: float, across: float, down: float) -> Points:
    """Points around an ellipse, clockwise from its left end, as eyes and lips are numbered."""
    angle = 2 * np.pi * np.arange(count) / count
    return np.stack([x - across * np.cos(angle), y - down * np.sin(angle)], axis=1)


def landmarks(seed: int | None = None) -> Points:
    """68 landmarks (68, 2), x and y in pixels, of a face a little right of the middle of SIZE.

    With a seed each is off by up to two pixels: no real face is symmetric.
    """
    turn = np.pi * np.arange(17) / 16
    steps = np.linspace(-1, 1, 5)
    points = np.concatenate(
        [
            np.stack([-0.8 * np.cos(turn), 0.9 * np.sin(turn) - 0.1], axis=1),
            *(np.stack([x + 0.22 * steps, -0.5 + 0.06 * steps**2], axis=1) for x in (-0.4, 0.4)),
            np.stack([np.zeros(4), np.linspace(-0.3, 0.05, 4)], axis=1),
            np.stack([0.15 * steps, 0.18 - 0.04 * steps**2], axis=1),
            *(ring(6, x, -0.28, 0.14, 0.05) for x in (-0.4, 0.4)),
            ring(12, 0, 0.42, 0.3, 0.1),
            ring(8, 0, 0.42, 0.2, 0.04),
        ]
    )
    points = np.array([110.0, 80.0]) + points * [70.0, 60.0]
    if seed is not None:
        points += np.random.default_rng(seed).uniform(-2, 2, points.shape)
    return points


def bounds(mask: NDArray[Any]) -> list[int]:
    """First and last column, first and last row of what is lit."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return [int(columns[0]), int(columns[-1]), int(rows[0]), int(rows[-1])]


def spanned(points: Points, part: str) -> Points:
    """The points that a part's hull goes around, by the words of the documentation."""
    chosen = points[list(PARTS[part])]
    if part in ("eyes", "nose", "mouth"):  # 1.4 times as large, for the skin around
        return chosen.mean(axis=0) + 1.4 * (chosen - chosen.mean(axis=0))
    if part == "face":  # a quarter of the way from chin to brows is added above the brows
        raised = points[BROWS].copy()
        raised[:, 1] += 0.25 * (points[BROWS, 1] - points[8, 1])
        return np.concatenate([chosen, raised])
    return chosen


# --- hulls


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_hull_is_filled(part: str, seed: int | None) -> None:
    """Brute force: inside the hull by a pixel is 1, outside by a pixel is 0."""
    points = landmarks(seed)
    mask = landmark_mask(points, SIZE, part)
    assert (mask.dtype, mask.shape) == (np.float32, SIZE)
    assert set(np.unique(mask)) == {0, 1}
    hull = ConvexHull(spanned(points, part))
    rows, columns = np.indices(SIZE)
    pixels = np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    outside = (hull.equations @ pixels).max(axis=0).reshape(SIZE)  # signed distance to the faces
    assert (mask[outside < -1] == 1).all()
    assert (mask[outside > 1] == 0).all()
    assert mask.sum() == pytest.approx(hull.volume, abs=hull.area)  # area, and outline, in pixels


def test_the_face_holds_all_landmarks_and_the_forehead() -> None:
    points = landmarks(3)
    face = landmark_mask(points, SIZE)
    np.testing.assert_array_equal(face, landmark_mask(points, SIZE, "face"))
    x, y = points.round().astype(int).T
    assert (face[y, x] == 1).all()
    left, right, top, bottom = bounds(face)
    assert (left, right) == (x.min(), x.max())
    assert bottom == y.max() == y[8]
    assert top == pytest.approx(y[BROWS].min() - 0.25 * (y[8] - y[BROWS].min()), abs=1)


@pytest.mark.parametrize(
    ("part", "inside", "outside"),
    [
        ("inner", BROWS + NOSE + EYES + MOUTH, [0, 1, 7, 8, 9, 15, 16]),
        ("centre", BROWS + NOSE + EYES + MOUTH + [3, 5, 11, 13], [0, 1, 7, 8, 9, 15, 16]),
        ("eyes", BROWS + EYES, [0, 3, 8, 13, 16, *MOUTH]),
        ("nose", NOSE, [*JAW, 17, 26, *MOUTH]),
        ("mouth", MOUTH, JAW + BROWS + EYES + NOSE),
    ],
)
def test_parts_are_where_they_should_be(part: str, inside: list[int], outside: list[int]) -> None:
    points = landmarks(4)
    mask, face = landmark_mask(points, SIZE, part), landmark_mask(points, SIZE)
    x, y = points.round().astype(int).T
    assert (mask[y[inside], x[inside]] == 1).all()
    assert (mask[y[outside], x[outside]] == 0).all()
    assert 0 < mask.sum() < 0.85 * face.sum()
    assert (mask * face).sum() > 0.9 * mask.sum()  # the skin beside the brows may stick out


def test_the_mouth_is_under_the_nose_is_under_the_eyes() -> None:
    points = landmarks()
    rows, columns = np.indices(SIZE)
    at = {}
    for part in ("eyes", "nose", "mouth"):
        mask = landmark_mask(points, SIZE, part)
        at[part] = (rows * mask).sum() / mask.sum()
        assert (columns * mask).sum() / mask.sum() == pytest.approx(110, abs=1)
    assert at["eyes"] + 10 < at["nose"] < at["mouth"] - 10


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_mirrored_face_has_a_mirrored_mask(part: str, seed: int | None) -> None:
    points = landmarks(seed)
    mirrored = points[MIRROR]
    mirrored[:, 0] = SIZE[1] - 1 - mirrored[:, 0]
    mask = landmark_mask(points, SIZE, part)
    flipped = landmark_mask(mirrored, SIZE, part)[:, ::-1]
    # landmarks halfway between two pixels round to one side: the outline may be a pixel off
    assert np.abs(mask - flipped).sum() <= 0.5 * ConvexHull(spanned(points, part)).area
    assert np.abs(mask - mask[:, ::-1]).sum() > 10 * np.abs(mask - flipped).sum()


def test_a_shifted_face_has_a_shifted_mask() -> None:
    points = landmarks(5)
    for part in PARTS:
        mask = landmark_mask(points, SIZE, part)
        moved = landmark_mask(points + np.array([20, -10]), SIZE, part)  # x and y
        np.testing.assert_array_equal(moved, np.roll(mask, (-10, 20), (0, 1)))


def test_a_face_that_is_cut_off_has_a_mask_that_is_cut_off() -> None:
    points = landmarks(6)
    whole = landmark_mask(points, SIZE)
    np.testing.assert_array_equal(landmark_mask(points, (90, 120)), whole[:90, :120])
    assert not landmark_mask(points + 1000, SIZE).any()


@pytest.mark.parametrize("part", PARTS)
def test_landmarks_forge_the_part_they_name(part: str) -> None:
    """`self_blend` of landmarks is `self_blend` of their mask."""
    face = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    points = landmarks(7)
    mask = landmark_mask(points.astype(np.float32), SIZE, part)
    by_points, by_mask = self_blend(face, points, seed=3, part=part), self_blend(face, mask, seed=3)
    np.testing.assert_array_equal(by_points.image, by_mask.image)
    np.testing.assert_array_equal(by_points.mask, by_mask.mask)
    agree = (by_points.region & (mask > 0)).sum() / (by_points.region | (mask > 0)).sum()
    assert agree > 0.6  # warp, blur, shift and scale of the defaults, of a small part


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12])
def test_landmarks_that_are_not_finite_pixels(value: float) -> None:
    points = landmarks()
    points[40, 1] = value
    with pytest.raises(UsageError, match="68 finite landmarks"):
        landmark_mask(points, SIZE)


@pytest.mark.parametrize("shape", [(67, 2), (68, 3), (2, 68), (136,)])
def test_landmarks_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        landmark_mask(np.ones(shape), SIZE)
    assert f"(68, 2) in pixels, got {shape}" in str(caught.value)


def test_an_unknown_part() -> None:
    message = "unknown part of a face 'moth': did you mean 'mouth'?.* nose, mouth"
    with pytest.raises(UsageError, match=message):
        landmark_mask(landmarks(), SIZE, "moth")
    with pytest.raises(UsageError, match=message):
        self_blend(np.zeros((*SIZE, 3), np.uint8), landmarks(), part="moth")


# --- ellipses


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    radii=st.tuples(st.floats(0.6, 40), st.floats(0.6, 40)),
    twice=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_area_and_centre_of_an_ellipse(radii: tuple[float, float], twice: tuple[int, int]) -> None:
    """The centre lies on a pixel or halfway between two, so the ellipse is symmetric about it."""
    a, b = radii
    row, column = 45 + twice[0] / 2, 50 + twice[1] / 2
    mask = ellipse_mask((110, 130), (row, column), radii)
    assert (mask.dtype, mask.shape) == (np.float32, (110, 130))
    # unit squares around the pixels differ from the ellipse by less than √½ along its outline
    outline = 2 * np.pi * np.hypot(a, b) / np.sqrt(2)
    assert mask.sum() == pytest.approx(np.pi * a * b, abs=np.sqrt(2) * outline + np.pi / 2)
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert (rows.mean(), columns.mean()) == pytest.approx((row, column), abs=1e-9)
        assert max(row - rows.min(), rows.max() - row) <= a
        assert max(column - columns.min(), columns.max() - column) <= b


def test_a_large_ellipse_in_closed_form() -> None:
    mask = ellipse_mask((256, 300), (128, 122), (70, 52))
    assert mask.sum() == pytest.approx(np.pi * 70 * 52, rel=0.005)  # outline: ±0.1 pixel
    assert bounds(mask) == [122 - 52, 122 + 52, 128 - 70, 128 + 70]
    assert ellipse_mask((5, 7), (1, 4), (0.5, 0.5)).nonzero() == (np.array([1]), np.array([4]))


@pytest.mark.parametrize(
    ("centre", "radii"),
    [
        ((5, 5), (0, 3)),
        ((5, 5), (3, -1)),
        ((5, 5), (np.nan, 3)),
        ((5, 5), (3, np.nan)),
        ((5, 5), (3, np.inf)),
        ((np.nan, 5), (3, 3)),
        ((5, np.inf), (3, 3)),
    ],
)
def test_an_ellipse_that_is_none(centre: tuple[float, float], radii: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="positive radii, got"):
        ellipse_mask((20, 30), centre, radii)
