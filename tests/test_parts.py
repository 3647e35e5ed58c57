"""Parts of the face from five landmarks: in any place, size and lean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyfake.video.parts import PARTS, part_at, parts_of_regions

# right eye, left eye, nose, right and left corner of the mouth: a face of unit eye distance
FACE = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.6], [-0.4, 1.1], [0.4, 1.1]])
PLACES = {
    (-0.5, 0.0): "right eye",
    (0.5, 0.05): "left eye",
    (0.0, 0.55): "nose",
    (0.0, 0.3): "nose",
    (0.0, 1.1): "mouth",
    (0.4, 1.1): "mouth",
    (0.0, -0.6): "forehead",
    (0.0, 1.6): "chin",
    (-0.75, 0.7): "right cheek",
    (0.75, 0.7): "left cheek",
    (0.0, -1.8): "outside the face",
    (2.0, 0.0): "outside the face",
    (0.0, 2.6): "outside the face",
}


@pytest.mark.parametrize(("at", "part"), PLACES.items())
@given(
    angle=st.floats(-0.6, 0.6),
    scale=st.floats(20, 400),
    x=st.floats(-100, 500),
    y=st.floats(-100, 500),
)
def test_each_place_has_its_part(
    at: tuple[float, float], part: str, angle: float, scale: float, x: float, y: float
) -> None:
    """The same wherever the face is, however large it is and leans."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = FACE @ turn.T * scale + [x, y]
    point = np.array(at) @ turn.T * scale + [x, y]
    assert part_at((float(point[0]), float(point[1])), landmarks) == part


def test_a_region_is_what_most_of_it_is() -> None:
    """Brute force over every pixel of a small map, a region of one pixel among them."""
    landmarks = FACE * 20 + [32, 20]
    labels = (np.arange(60)[:, None] // 12 * 6 + np.arange(66)[None] // 11).astype(np.int32)
    labels[59, 65] = labels.max() + 1
    found = parts_of_regions(labels, landmarks)
    assert found is not None
    for label in range(int(labels.max()) + 1):
        rows, columns = np.nonzero(labels == label)
        votes = [part_at((float(c), float(r)), landmarks) for r, c in zip(rows, columns)]  # noqa: B905
        best = max(PARTS, key=lambda part: (votes.count(part), -PARTS.index(part)))
        assert found[label] == best
    assert {"right eye", "left eye", "mouth", "outside the face"} <= set(found)


def test_large_maps_leave_no_small_region_out() -> None:
    """Every fourth pixel is looked at; a region between them is named by its middle."""
    labels = np.zeros((160, 160), np.int32)
    labels[81:83, 41:43] = 1
    landmarks = FACE * 50 + [70, 81]
    found = parts_of_regions(labels, landmarks)
    assert found is not None
    assert found[1] == part_at((42.0, 82.0), landmarks) == "right eye"


def test_without_landmarks_there_are_no_parts() -> None:
    assert parts_of_regions(np.zeros((8, 8), np.int32), None) is None
