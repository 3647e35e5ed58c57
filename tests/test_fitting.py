"""Pictures fitted to the detector's size: averaged when they shrink, and each side in its place."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import H, W, noise

from whyfake.media import fit_to


def test_at_its_size_a_picture_is_unchanged() -> None:
    rgb = noise(H, W, 3)
    frame = fit_to(rgb, (H, W))
    assert frame.dtype == np.float32
    assert frame.shape == (3, H, W)
    assert frame.flags.c_contiguous
    np.testing.assert_array_equal(np.rint(frame * 255), rgb.transpose(2, 0, 1))
    np.testing.assert_allclose(frame, rgb.transpose(2, 0, 1) / 255, rtol=1e-7)


@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 2), (1, 4), (5, 1)])
def test_shrinking_averages_blocks(down: int, across: int) -> None:
    rgb = noise(H * down, W * across, 3)
    blocks = rgb.reshape(H, down, W, across, 3).mean(axis=(1, 3))
    frame = fit_to(rgb, (H, W))
    assert frame.shape == (3, H, W)
    # rounded to a level of 8 bits
    assert np.abs(frame * 255 - blocks.transpose(2, 0, 1)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("tall", [True, False])
def test_shrinking_one_side_averages_though_the_other_grows(tall: bool) -> None:
    """Stripes one pixel wide become their mean; picking every fourth would give black or white."""
    stripes = np.zeros((4 * H, W // 2, 3), np.uint8)
    stripes[::2] = 200
    if not tall:
        stripes = np.ascontiguousarray(stripes.transpose(1, 0, 2))
    frame = fit_to(stripes, (H, W) if tall else (W, H))
    assert frame.shape == ((3, H, W) if tall else (3, W, H))
    np.testing.assert_allclose(frame * 255, 100, atol=1)


@pytest.mark.parametrize(("height", "width"), [(H * 2, W), (H, W * 3), (H * 2, W * 3), (7, 90)])
def test_height_and_width_are_not_swapped(height: int, width: int) -> None:
    """Along each side a ramp stays a ramp, to a level: enlarging and shrinking keep the place."""
    y, x = np.indices((64, 40))
    rgb = np.stack([y * 3, x * 5, np.full_like(x, 90)], axis=2).astype(np.uint8)
    frame = fit_to(rgb, (height, width)) * 255
    rows = ((np.arange(height) + 0.5) * 64 / height - 0.5) * 3
    columns = ((np.arange(width) + 0.5) * 40 / width - 0.5) * 5
    inner_rows, inner_columns = slice(2, -2), slice(5, -5)
    assert frame.shape == (3, height, width)
    np.testing.assert_allclose(
        frame[0, inner_rows, inner_columns].mean(axis=1), rows[inner_rows], atol=2
    )
    np.testing.assert_allclose(
        frame[1, inner_rows, inner_columns].mean(axis=0), columns[inner_columns], atol=2
    )
    np.testing.assert_allclose(frame[2], 90, atol=1e-4)


def test_enlarging_stays_in_range_and_keeps_flat_areas() -> None:
    rgb = np.zeros((H, W, 3), np.uint8)
    rgb[:, W // 2 :] = 255
    frame = fit_to(rgb, (H * 3, W * 2))
    assert frame.min() == 0
    assert frame.max() == 1
    assert (frame[:, :, : W - 4] == 0).all()
    assert (frame[:, :, W + 4 :] == 1).all()
