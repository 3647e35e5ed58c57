"""Localisation metrics in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from whyfake.evaluate import energy_in_mask, top_region_precision


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
