"""`render` against a reference that goes pixel by pixel, and the promises of each kind of batch."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from batches import ROUNDING, grid_mix, noise_step, region_mix
from games import random_frame, upsampling
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from whyfake.perturbation import (
    GridMix,
    NoiseStep,
    PerturbationBatch,
    Pixels,
    RegionMix,
    Scratch,
    bilinear_matrix,
    cell_size,
    render,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 7), st.integers(1, 7)).filter(lambda size: size[0] != size[1])
seeds = st.integers(0, 2**32 - 1)
starts = st.integers(0, 7)
stops = st.none() | st.integers(0, 7)


def region_pixel(batch: RegionMix, frame: Any, n: int, c: int, y: int, x: int) -> float:
    hidden = 1 - float(batch.codes[n, batch.labels[y, x]])
    here = float(frame[c, y, x])
    return here + hidden * (float(batch.baseline[c, y, x]) - here)


def grid_pixel(batch: GridMix, frame: Any, n: int, c: int, y: int, x: int) -> float:
    cells = batch.grids.shape[1]
    dy, dx = batch.shifts[n]
    down = upsampling(cells, frame.shape[1])[y + dy]
    across = upsampling(cells, frame.shape[2])[x + dx]
    shown = sum(
        float(batch.grids[n, i, j]) * down[i] * across[j]
        for i in range(cells)
        for j in range(cells)
    )
    here = float(frame[c, y, x])
    return float(here + (1 - shown) * (float(batch.baseline[c, y, x]) - here))


def noise_pixel(batch: NoiseStep, frame: Any, n: int, c: int, y: int, x: int) -> float:
    _, height, width = frame.shape
    channel = c if batch.channels == 3 else 0
    noise = batch.table.whole[int(batch.offsets[n]) + (channel * height + y) * width + x]
    allowed = 1.0 if batch.mask is None else float(batch.mask[y, x])
    moved = int(batch.signs[n]) * batch.sigma * float(noise) * allowed
    return float(batch.center[c, y, x]) + moved


def own_pixel(batch: Pixels, frame: Any, n: int, c: int, y: int, x: int) -> float:
    return float(batch.images[n, c, y, x])


def assert_renders(
    pixel: Any, batch: PerturbationBatch, frame: Any, start: int, stop: int | None
) -> None:
    """`render` equals `pixel(batch, frame, n, c, y, x)` for the copies start … stop."""
    rows = range(len(batch))[start:stop]
    expected = np.empty((len(rows), *frame.shape))
    for index in np.ndindex(expected.shape):
        expected[index] = pixel(batch, frame, rows[index[0]], *index[1:])
    got = render(batch, frame, start, stop)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=ROUNDING)


@quick
@given(size=sizes, seed=seeds, count=st.integers(0, 5), start=starts, stop=stops)
def test_region_mix_is_what_it_says(
    size: tuple[int, int], seed: int, count: int, start: int, stop: int | None
) -> None:
    batch = region_mix(np.random.default_rng(seed), count, size)
    assert_renders(region_pixel, batch, random_frame(size, seed), start, stop)


@quick
@given(
    size=sizes,
    seed=seeds,
    count=st.integers(0, 3),
    cells=st.integers(1, 4),
    start=starts,
    stop=stops,
)
def test_grid_mix_is_what_it_says(
    size: tuple[int, int], seed: int, count: int, cells: int, start: int, stop: int | None
) -> None:
    batch = grid_mix(np.random.default_rng(seed), count, size, cells)
    assert_renders(grid_pixel, batch, random_frame(size, seed), start, stop)


@quick
@given(
    size=sizes,
    seed=seeds,
    count=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    masked=st.booleans(),
    start=starts,
    stop=stops,
)
def test_noise_step_is_what_it_says(
    size: tuple[int, int],
    seed: int,
    count: int,
    channels: int,
    masked: bool,
    start: int,
    stop: int | None,
) -> None:
    batch = noise_step(np.random.default_rng(seed), count, size, channels, masked)
    assert_renders(noise_pixel, batch, random_frame(size, seed), start, stop)


@quick
@given(size=sizes, seed=seeds, count=st.integers(0, 5), start=starts, stop=stops)
def test_pixels_are_themselves(
    size: tuple[int, int], seed: int, count: int, start: int, stop: int | None
) -> None:
    images = np.random.default_rng(seed).random((count, 3, *size), np.float32)
    assert_renders(own_pixel, Pixels(images), random_frame(size, seed), start, stop)


@pytest.mark.parametrize("size", [(5, 9), (9, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_code_one_shows_the_frame_and_code_zero_the_baseline(
    size: tuple[int, int], dtype: Any
) -> None:
    frame, baseline = random_frame(size, 1), random_frame(size, 2)
    labels = np.arange(size[0] * size[1]).reshape(size) % 4
    shifts = np.array([[0, 0], [1, 0], [0, 1]])
    ends: list[tuple[Any, Any]] = [
        (RegionMix(np.full((3, 4), code, dtype), labels, baseline), code) for code in (0, 1)
    ]
    ends += [(GridMix(np.full((3, 4, 4), code, dtype), shifts, baseline), code) for code in (0, 1)]
    for batch, code in ends:
        copies = render(batch, frame)
        if code == 1:
            assert (copies == frame).all()
        else:
            np.testing.assert_allclose(
                copies, np.broadcast_to(baseline, copies.shape), rtol=0, atol=ROUNDING
            )


@pytest.mark.parametrize(("height", "width", "cells"), [(30, 47, 7), (47, 30, 7), (13, 40, 5)])
def test_grid_mix_upsamples_as_scikit_image(height: int, width: int, cells: int) -> None:
    """`resize` in mode `edge`; `reflect`, its default, bends the outermost half cell inwards."""
    rng = np.random.default_rng(0)
    down, across = cell_size(cells, height), cell_size(cells, width)
    grids = rng.random((4, cells, cells))
    shifts = np.array([[0, 0], [down - 1, across - 1], [0, across - 1], [down - 1, 0]])
    white = np.ones((3, height, width), np.float32)
    shown = render(GridMix(grids, shifts, np.zeros_like(white)), white)[:, 0]
    for grid, (dy, dx), mask in zip(grids, shifts, shown, strict=True):
        whole = resize(
            grid,
            ((cells + 1) * down, (cells + 1) * across),
            order=1,
            mode="edge",
            anti_aliasing=False,
        )
        expected = whole[dy : dy + height, dx : dx + width]
        # float32 against float64 weights
        np.testing.assert_allclose(mask, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cells", "length"), [(1, 1), (1, 9), (2, 1), (7, 224), (7, 3), (8, 61)])
def test_bilinear_matrix_interpolates(cells: int, length: int) -> None:
    matrix = bilinear_matrix(cells, length)
    assert matrix.shape == ((cells + 1) * -(-length // cells), cells)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=2e-7)  # two float32 weights
    np.testing.assert_allclose(matrix, upsampling(cells, length), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_of_sign_zero_shows_the_centre(channels: int) -> None:
    size = (4, 7)
    batch = noise_step(np.random.default_rng(3), 6, size, channels, masked=True)
    still = NoiseStep(**{**vars(batch), "signs": np.zeros(6, int)})
    copies = render(still, random_frame(size, 4))
    assert (copies == batch.center).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_keeps_masked_pixels_still_and_moves_all_others(channels: int) -> None:
    size = (4, 7)
    batch = noise_step(np.random.default_rng(5), 6, size, channels, masked=True)
    assert batch.mask is not None
    assert 0 < batch.mask.sum() < batch.mask.size
    plus = NoiseStep(**{**vars(batch), "signs": np.ones(6, int)})
    moved = render(plus, random_frame(size, 6)) != batch.center
    np.testing.assert_array_equal(moved, np.broadcast_to(batch.mask == 1, moved.shape), strict=True)


def test_luma_noise_is_one_picture_in_all_channels() -> None:
    size = (4, 7)
    for channels, alike in ((1, True), (3, False)):
        batch = noise_step(np.random.default_rng(7), 5, size, channels, masked=False)
        black = NoiseStep(**{**vars(batch), "center": np.zeros((3, *size), np.float32)})
        copies = render(black, random_frame(size, 8))
        assert np.abs(copies).max() > 0
        assert (copies[:, 0] == copies[:, 1]).all() == alike
        assert (copies[:, 0] == copies[:, 2]).all() == alike


@pytest.mark.parametrize("codes", [np.ones((2, 2)), np.ones(3), np.ones((2, 3, 1))])
def test_region_mix_wants_a_column_for_each_region(codes: Any) -> None:
    labels = np.array([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"3 regions need codes of as many columns, got \("):
        RegionMix(codes, labels, np.zeros((3, 1, 3), np.float32))


class Meeting(np.ndarray[Any, Any]):
    """Pixels that are written only when the other thread is about to write its own.

    So both threads have filled their scratch, whatever the scheduler does, before either uses it.
    """

    place: threading.Barrier

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: Any, *inputs: Any, out: tuple[Any, ...], **kwargs: Any
    ) -> Any:
        Meeting.place.wait(timeout=30)
        given = [np.asarray(item) for item in inputs]
        return getattr(ufunc, method)(*given, out=tuple(map(np.asarray, out)), **kwargs)


@pytest.mark.parametrize("make", [region_mix, grid_mix, noise_step])
def test_one_composer_serves_two_threads(make: Any) -> None:
    size, count = (12, 18), 20
    extra = (3, True) if make is noise_step else ()
    batch = make(np.random.default_rng(9), count, size, *extra)
    frame = random_frame(size, 10)
    compose = batch.composer(frame)
    half = count // 2
    pictures = np.empty((count, *frame.shape), np.float32)
    Meeting.place = threading.Barrier(2)

    def work(start: int) -> None:
        compose(pictures[start : start + half].view(Meeting), start, Scratch())

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, half)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (pictures == render(batch, frame)).all()


@pytest.mark.parametrize("regions", [1, 255, 256, 257, 900])
@pytest.mark.parametrize("size", [(31, 40), (600, 509)])
def test_region_mix_gives_the_same_bits_however_labels_are_kept(
    regions: int, size: tuple[int, int]
) -> None:
    """Up to 256 regions labels are bytes, looked up in blocks; the last label must not be lost."""
    rng = np.random.default_rng(regions)
    labels = (np.arange(size[0] * size[1]) * regions // (size[0] * size[1])).reshape(size)
    frame, baseline = rng.random((2, 3, *size), np.float32)
    codes = rng.random((2, regions), np.float32)
    hidden = (1.0 - codes)[:, labels][:, None]
    wanted = (baseline - frame) * hidden + frame
    batch = RegionMix(codes, labels.astype(np.int32), baseline)
    np.testing.assert_array_equal(render(batch, frame), wanted)
