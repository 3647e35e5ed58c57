"""Badges stand inside their regions, near the heat, clear of one another and of the edge."""

from __future__ import annotations

import numpy as np
import pytest

from whyfake.report.overlay import _placed


def concave() -> np.ndarray:
    """A ring that is open to the right: its centre of mass lies in the hole."""
    mask = np.zeros((120, 200), bool)
    mask[10:110, 20:140] = True
    mask[40:80, 50:] = False
    return mask


def test_place_in_a_concave_region() -> None:
    mask = concave()
    assert not mask[tuple(np.argwhere(mask).mean(axis=0).astype(int))]
    x, y = _placed(mask, np.ones(mask.shape, np.float32), [], radius=10)
    rows, columns = np.indices(mask.shape)
    assert mask[np.hypot(rows - y, columns - x) <= 10].all()  # all of the badge is inside


def test_place_is_near_the_heat() -> None:
    mask, heat = concave(), np.zeros((120, 200), np.float32)
    heat[85:110, 100:140] = 1
    x, y = _placed(mask, heat, [], radius=10)
    assert x > 90
    assert y > 80


def test_places_keep_clear_of_one_another_and_of_the_edge() -> None:
    mask, spots = concave(), []
    for _ in range(4):
        spots.append(_placed(mask, np.ones(mask.shape, np.float32), spots, radius=10))
    for i, (x, y) in enumerate(spots):
        assert mask[y, x]
        assert all(np.hypot(x - u, y - v) >= 20 for u, v in spots[:i])
    corner = np.zeros((120, 200), bool)
    corner[:30, -20:] = True
    x, y = _placed(corner, np.ones(corner.shape, np.float32), [], radius=9)
    assert corner[y, x]
    assert 9 < x < 191
    assert y > 9


@pytest.mark.parametrize("seed", range(5))
def test_place_is_inside_however_small_the_region(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((30, 41)) < 0.03
    x, y = _placed(mask, rng.random(mask.shape).astype(np.float32), [(20, 15)], radius=12)
    assert mask[y, x]
