"""Localisation metrics in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whyfake.evaluate import energy_above_floor, energy_in_mask, top_region_precision


def test_energy_in_closed_form() -> None:
    mask = np.zeros((4, 10), bool)
    mask[:2, :5] = True  # a quarter of the area
    assert energy_in_mask(np.ones((4, 10), np.float32), mask) == 0.25
    heat = np.zeros((4, 10), np.float32)
    heat[0, 0], heat[3, 9], heat[3, 0] = 3, 1, -100  # what speaks against does not count
    assert energy_in_mask(heat, mask) == 0.75
    assert np.isnan(energy_in_mask(-heat.clip(0), mask))


def test_precision_is_the_share_of_the_region() -> None:
    regions = np.repeat([[0, 1, 2]], 4, axis=0)
    mask = np.zeros((4, 3), bool)
    mask[0, 0] = mask[:, 1] = True
    found = [top_region_precision(regions, r, mask) for r in range(3)]
    assert found == pytest.approx([0.25, 1.0, 0.0])


def corner() -> np.ndarray:
    """A mask (4, 10) of a quarter of the area."""
    mask = np.zeros((4, 10), bool)
    mask[:2, :5] = True
    return mask


def test_energy_above_the_floor_in_closed_form() -> None:
    heat = np.full((4, 10), 7, np.float32)  # RISE's mean, which says nothing
    heat[0, 0], heat[3, 9] = 10, 8
    assert energy_above_floor(heat, corner(), signed=False) == 0.75
    # measured from zero the same map is little better than chance
    assert energy_in_mask(heat, corner()) == (9 * 7 + 10) / (38 * 7 + 10 + 8)
    heat[2, 2] = 3  # one cold pixel outside lowers the floor: (9·4 + 7) of (37·4 + 7 + 5)
    assert energy_above_floor(heat, corner(), signed=False) == pytest.approx(43 / 160, rel=1e-12)


def test_a_signed_map_has_its_own_zero() -> None:
    heat = np.zeros((4, 10), np.float32)
    heat[0, 0], heat[3, 9], heat[3, 0] = 3, 1, -100
    assert energy_above_floor(heat, corner(), signed=True) == 0.75
    # taken for an unsigned map, it is 100 above its floor nearly everywhere: (9·100 + 103) of …
    wrong = 1003 / (37 * 100 + 103 + 101)
    assert energy_above_floor(heat, corner(), signed=False) == pytest.approx(wrong, rel=1e-12)
    assert energy_above_floor(heat + 1, corner(), signed=True) == (9 + 4) / (37 + 4 + 2)


@pytest.mark.parametrize("level", [-3.0, 0.0, 5.0])
def test_without_relief_there_is_no_energy(level: float) -> None:
    flat = np.full((4, 10), level, np.float32)
    assert np.isnan(energy_above_floor(flat, corner(), signed=False))
    if level > 0:  # a signed map may speak for the target everywhere
        assert energy_above_floor(flat, corner(), signed=True) == 0.25
    else:
        assert np.isnan(energy_above_floor(flat, corner(), signed=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    lift=st.integers(-1000, 1000),
    gain=st.integers(1, 8),
)
def test_the_floor_and_the_scale_of_an_unsigned_map_say_nothing(
    rows: int, columns: int, seed: int, lift: int, gain: int
) -> None:
    """Whole numbers, so that float32 is exact; brute force pixel by pixel."""
    rng = np.random.default_rng(seed)
    heat = rng.integers(-20, 20, (rows, columns)).astype(np.float32)
    mask = rng.random((rows, columns)) < 0.4
    found = energy_above_floor(heat, mask, signed=False)
    above = [int(value - heat.min()) for value in heat.ravel()]
    inside = sum(value for value, lit in zip(above, mask.ravel(), strict=True) if lit)
    wanted = inside / sum(above) if sum(above) else np.nan
    assert found == pytest.approx(wanted, rel=1e-12, nan_ok=True)
    again = energy_above_floor(gain * heat + lift, mask, signed=False)
    assert again == pytest.approx(found, rel=1e-12, nan_ok=True)
    signed = energy_above_floor(heat, mask, signed=True)
    assert signed == pytest.approx(energy_in_mask(heat, mask), rel=0, nan_ok=True)
