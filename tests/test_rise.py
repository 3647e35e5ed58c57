"""RISE: its expectation in closed form, and sums that never hold the masks."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame, recorded, scene, upsampling
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.explainers import Rise
from whyfake.explainers.base import CHUNK
from whyfake.explainers.rise import MaskSum
from whyfake.perturbation import GridMix, bilinear_matrix, cell_size, render

OFFSET, GAIN = 0.2, 0.6
"""The score is OFFSET + GAIN · (mean of the mask over a patch)."""

Box = tuple[slice, slice]


def reading(patch: Box, size: tuple[int, int]) -> Any:
    """A game that reads the brightness of one patch; on a white frame over black it is the mask."""
    white = np.ones((3, *size), np.float32)

    def game(batch: Any) -> NDArray[np.float64]:
        shown = render(batch, white)[:, 0, patch[0], patch[1]].astype(np.float64)
        return np.asarray(OFFSET + GAIN * shown.mean(axis=(1, 2)))

    return game


def expectation(cells: int, p: float, patch: Box, size: tuple[int, int]) -> NDArray[np.float64]:
    """What RISE's saliency tends to at each pixel (h, w).

    A mask's pixel is Σ u(pixel, cell)·g(cell) with weights u that the shift chooses and that sum to
    one, and coins g of mean p and variance p(1 − p). So E[m(x)] = p, and with ū the mean weights of
    the patch, E[m(x)·m(patch)] = p² + p(1 − p)·E[Σ u(x, cell)·ū(cell)] over the shifts, all of
    which are taken here. The saliency is E[score·m(x)] / E[m(x)].
    """
    height, width = size
    down, across = upsampling(cells, height), upsampling(cells, width)
    overlap = np.zeros(size)
    shifts = [(dy, dx) for dy in range(-(-height // cells)) for dx in range(-(-width // cells))]
    for dy, dx in shifts:
        rows, columns = down[dy : dy + height], across[dx : dx + width]
        weights = np.einsum("yi,xj->yxij", rows, columns)
        read = weights[patch].mean(axis=(0, 1))
        overlap += np.einsum("yxij,ij->yx", weights, read)
    overlap /= len(shifts)
    return np.asarray(OFFSET + GAIN * (p + (1 - p) * overlap))


@pytest.mark.parametrize(
    ("size", "cells", "patch"),
    [
        ((11, 17), 4, (slice(2, 4), slice(10, 13))),
        ((17, 11), 4, (slice(10, 13), slice(2, 4))),
        ((12, 21), 7, (slice(9, 12), slice(0, 2))),
    ],
)
@pytest.mark.parametrize(("p", "debiased"), [(0.5, False), (0.2, False), (0.2, True)])
def test_saliency_tends_to_its_closed_form(
    size: tuple[int, int], cells: int, patch: Box, p: float, debiased: bool
) -> None:
    masks = 24000
    rise = Rise(masks=masks, grid=cells, p=p, debiased=debiased, score="log_odds")
    result, images = play(rise.explain(random_frame(size), FAKE, scene(size)), reading(patch, size))
    expected = expectation(cells, p, patch, size)
    mean = OFFSET + GAIN * p
    if debiased:
        expected = expected - mean
    assert images == rise.images() == masks
    # The error at x is the mean of (score − saliency)·m(x)/p over the masks. The score's spread is
    # at most GAIN/2, and m² ≤ m: a standard error of at most GAIN/2 / √(p·masks). Masks between
    # zero and one spread half as much at most, so two of these are four standard errors.
    tolerance = 2 * GAIN / 2 / np.sqrt(p * masks)
    assert tolerance < 0.05 * np.ptp(expected)
    np.testing.assert_allclose(result.heatmap, expected, rtol=0, atol=tolerance)
    assert np.corrcoef(result.heatmap.ravel(), expected.ravel())[0, 1] > 0.998

    # the hottest pixel is the right one, or one that the closed form puts next to it
    hottest = np.unravel_index(result.heatmap.argmax(), size)
    truth = np.unravel_index(expected.argmax(), size)
    assert max(abs(int(a) - int(b)) for a, b in zip(hottest, truth, strict=True)) <= 1
    # pixels that share no cell with the patch, whatever the shift, do not matter
    base = 0.0 if debiased else mean
    apart = np.abs(expected - base) < 1e-12
    assert apart.sum() >= 20
    np.testing.assert_allclose(result.heatmap[apart], base, rtol=0, atol=tolerance)


def random_masks(size: tuple[int, int], cells: int, count: int, seed: int = 0) -> GridMix:
    """Masks over a white frame with a black baseline."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, [cell_size(cells, side) for side in size], (count, 2))
    return GridMix(
        rng.integers(0, 2, (count, cells, cells), np.uint8),
        shifts,
        np.zeros((3, *size), np.float32),
    )


@pytest.mark.parametrize(("size", "cells"), [((13, 22), 4), ((22, 13), 7), ((5, 30), 7)])
def test_mask_sum_is_the_sum_of_the_masks(size: tuple[int, int], cells: int) -> None:
    batch = random_masks(size, cells, 200)
    weights = np.random.default_rng(1).normal(0, 1, 200)
    fast = MaskSum(cells, *size)
    fast.add(batch, weights)
    down, across = (bilinear_matrix(cells, side).astype(np.float64) for side in size)
    slow = np.zeros(size)
    for grid, (dy, dx), weight in zip(batch.grids, batch.shifts, weights, strict=True):
        slow += weight * (down @ grid @ across.T)[dy : dy + size[0], dx : dx + size[1]]
    # the same float64 terms in another order
    np.testing.assert_allclose(fast.result(), slow, rtol=0, atol=1e-9)
    shown = render(batch, np.ones((3, *size), np.float32))[:, 0].astype(np.float64)
    # and the detector's own masks, which are float32: 200 of them, each off by some 1e-7
    np.testing.assert_allclose(
        fast.result(), np.einsum("n,nyx->yx", weights, shown), rtol=0, atol=2e-5
    )


def test_saliency_is_the_ratio_of_sums_over_the_masks_that_were_asked() -> None:
    """By brute force on the very masks of a run, across chunks."""
    size, masks = (9, 14), CHUNK + 100
    batches: list[Any] = []
    answers: list[Any] = []
    rise = Rise(masks=masks, grid=3, score="log_odds")
    coroutine = recorded(rise.explain(random_frame(size), FAKE, scene(size)), batches, answers)
    rng = np.random.default_rng(2)
    result, _ = play(coroutine, lambda batch: rng.normal(0, 1, len(batch)))
    assert [len(batch) for batch in batches] == [CHUNK, 100]
    white = np.ones((3, *size), np.float32)
    shown = np.concatenate([render(batch, white)[:, 0] for batch in batches]).astype(np.float64)
    scores = np.concatenate(answers)[:, 1]
    expected = np.einsum("n,nyx->yx", scores, shown) / shown.sum(axis=0)
    # float32 masks and a float32 heat map
    np.testing.assert_allclose(result.heatmap, expected, rtol=0, atol=1e-6)


def test_a_pixel_that_no_mask_shows_has_the_mean_score() -> None:
    size = (8, 12)
    for debiased, expected in ((False, 0.3), (True, 0.0)):
        # one mask of one cell that is hidden, but for one chance in a million
        rise = Rise(masks=1, grid=1, p=1e-6, debiased=debiased, score="log_odds")
        result, _ = play(
            rise.explain(random_frame(size), FAKE, scene(size)), lambda batch: np.array([0.3])
        )
        np.testing.assert_allclose(result.heatmap, expected, rtol=0, atol=1e-7)  # float32


def test_memory_does_not_grow_with_the_masks() -> None:
    size = (24, 40)

    def peak(masks: int) -> int:
        rise = Rise(masks=masks, score="log_odds")
        coroutine = rise.explain(random_frame(size), FAKE, scene(size))
        tracemalloc.start()
        try:
            _, images = play(coroutine, lambda batch: batch.grids[:, 0, 0] * 1.0)
            assert images == masks
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what is only ever loaded once
    few, many = peak(2 * CHUNK), peak(8 * CHUNK)
    # a chunk is drawn while the one before it is still held, so two chunks are all there ever is
    assert many < 1.05 * few
    # the masks themselves would be 63 MB
    assert many < 8 * CHUNK * size[0] * size[1] * 4 / 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 2.0}, "RISE: p must lie in (0, 1), got 2.0"),
        ({"p": 0.0}, "RISE: p must lie in (0, 1), got 0.0"),
        ({"p": 1}, "RISE: p must lie in (0, 1), got 1"),
        ({"p": float("nan")}, "RISE: p must lie in (0, 1), got nan"),
        ({"masks": 0}, "RISE: masks must be 1 or more, got 0"),
        ({"grid": 0}, "RISE: grid must be 1 or more, got 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Rise(**options)
    assert str(caught.value) == message
