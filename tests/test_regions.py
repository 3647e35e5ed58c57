"""Regions: labels without gaps, of which every single one can be hidden; and what hides them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from games import pixels, random_frame
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.explainers import baseline_image, check_baseline, parse_regions, region_map
from whyfake.explainers.base import region_means
from whyfake.explainers.regions import contiguous, grid
from whyfake.perturbation import RegionMix, render

Frame = NDArray[np.float32]
SIZES = [(40, 64), (64, 40), (37, 53)]


def natural_frame(size: tuple[int, int]) -> Frame:
    """Smooth blocks with a checkerboard: something for superpixels to follow."""
    patch = (size[0] // 4, size[0] // 2, size[1] // 3, size[1] // 2)
    return pixels(toys.planted_frame(patch, size))


def gappy_file(folder: Path, size: tuple[int, int]) -> str:
    """A label map with gaps and negative labels, saved."""
    path = folder / "labels.npy"
    columns = np.arange(size[1]) * 5 // size[1]
    np.save(path, np.array([-7, 3, 4, 90, 1000])[np.tile(columns, (size[0], 1))])
    return str(path)


SPECS: dict[str, Callable[[Path, tuple[int, int]], str]] = {
    "slic": lambda folder, size: "slic:20",
    "slic by default": lambda folder, size: "slic",
    "quickshift": lambda folder, size: "quickshift",
    "grid": lambda folder, size: "grid:5",
    "grid by default": lambda folder, size: "grid",
    "file": gappy_file,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", SPECS)
def test_every_region_is_there_and_can_be_hidden(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    """The last one too: alibi and dianna never hid it."""
    frame = natural_frame(size)
    labels = region_map(SPECS[kind](tmp_path, size), frame)
    assert labels.dtype == np.int32
    assert labels.shape == size
    count = int(labels.max()) + 1
    assert np.unique(labels).tolist() == list(range(count))
    assert count == {"grid": 25, "grid by default": 64, "file": 5}.get(kind, count)
    assert count >= 2
    assert_each_can_be_hidden(labels, frame)


def assert_each_can_be_hidden(labels: Any, frame: Frame) -> None:
    """Hiding one region changes its pixels, all of them, and no other."""
    # a baseline that differs from the frame everywhere, in every channel
    baseline = np.where(frame < 0.5, frame + 0.25, frame - 0.25).astype(np.float32)
    codes = 1 - np.eye(int(labels.max()) + 1, dtype=np.uint8)
    copies = render(RegionMix(codes, labels, baseline), frame)
    for region, copy in enumerate(copies):
        changed = copy != frame
        expected = np.broadcast_to(labels == region, frame.shape)
        np.testing.assert_array_equal(changed, expected, strict=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spec", ["slic:50", "quickshift"])
def test_frames_that_give_other_numbers_of_regions_than_asked_work(
    size: tuple[int, int], spec: str
) -> None:
    """SLIC keeps its seeds' grid of 54 on a flat frame, and merges noise into a single region."""
    counts = []
    for frame in (np.full((3, *size), 0.5, np.float32), random_frame(size)):
        labels = region_map(spec, frame)
        counts.append(int(labels.max()) + 1)
        assert np.unique(labels).tolist() == list(range(counts[-1]))
        assert_each_can_be_hidden(labels, frame)
    if spec == "slic:50":
        assert counts[0] > 10
        assert counts[1] < 10


@pytest.mark.parametrize(("height", "width"), [(40, 64), (37, 53), (8, 61)])
@pytest.mark.parametrize("cells", [1, 3, 8])
def test_grid_cells_are_even_rectangles_row_by_row(height: int, width: int, cells: int) -> None:
    labels = grid(height, width, cells)
    heights, widths = set(), set()
    corners = []
    for label in range(cells * cells):
        rows, columns = np.nonzero(labels == label)
        box = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
        assert box[0] * box[1] == len(rows)  # a rectangle, and nothing else
        heights.add(int(box[0]))
        widths.add(int(box[1]))
        corners.append((int(rows.min()), int(columns.min())))
    assert corners == sorted(corners)
    assert heights <= {height // cells, -(-height // cells)}
    assert widths <= {width // cells, -(-width // cells)}


def test_relabelling_keeps_the_regions_and_their_order() -> None:
    labels = np.array([[9, -2, 9], [4, 4, -2]])
    assert contiguous(labels).tolist() == [[2, 0, 2], [1, 1, 0]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("slick:50", "unknown regions 'slick:50': did you mean 'slic:N'?"),
        ("quickshft", "unknown regions 'quickshft': did you mean 'quickshift'?"),
        ("SLIC:50", "unknown regions 'SLIC:50': did you mean 'slic:N'?"),
        ("slic:0", "regions: 'slic:0' must give a number of 1 or more after the colon"),
        ("grid:8x8", "regions: 'grid:8x8' must give a number of 1 or more after the colon"),
        ("grid:-3", "regions: 'grid:-3' must give a number of 1 or more after the colon"),
        ("nowhere.npy", "regions: there is no file 'nowhere.npy'"),
        ("grid:41", "a grid of 41×41 cells does not fit 40×64 pixels"),
    ],
)
def test_wrong_specs_are_named(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        region_map(spec, natural_frame((40, 64)))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("spec", ["slic:²", "grid:①"])
def test_digits_that_are_no_numbers_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="must give a number"):
        parse_regions(spec)


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (np.zeros((64, 40), int), "int64 (64, 40)"),
        (np.zeros((40, 64)), "float64 (40, 64)"),
        (np.zeros((40, 64), bool), "bool (40, 64)"),
        (np.zeros((40, 64, 1), np.uint8), "uint8 (40, 64, 1)"),
    ],
)
def test_files_of_the_wrong_shape_or_type_are_refused(
    tmp_path: Path, labels: NDArray[Any], got: str
) -> None:
    path = tmp_path / "labels.npy"
    np.save(path, labels)
    with pytest.raises(UsageError) as caught:
        region_map(str(path), natural_frame((40, 64)))
    assert str(caught.value).endswith(
        f"must hold integers of shape (40, 64), the detector's size; got {got}"
    )


def broken_files(folder: Path) -> dict[str, Path]:
    """Files that end in .npy and are none."""
    files = {name: folder / f"{name}.npy" for name in ("text", "pickle", "cut", "empty", "zip")}
    files["text"].write_text("1 2 3")
    np.save(files["pickle"], np.array([{}, None], object), allow_pickle=True)
    np.save(files["cut"], np.zeros((40, 64), int))
    files["cut"].write_bytes(files["cut"].read_bytes()[:500])
    files["empty"].write_bytes(b"")
    with files["zip"].open("wb") as file:
        np.savez(file, labels=np.zeros((40, 64), int))
    return files


@pytest.mark.parametrize("name", ["text", "pickle", "cut", "empty", "zip"])
def test_files_that_are_no_arrays_are_refused(tmp_path: Path, name: str) -> None:
    path = broken_files(tmp_path)[name]
    with pytest.raises(UsageError, match=r"regions: .*\.npy"):
        region_map(str(path), natural_frame((40, 64)))


def test_region_means_are_means() -> None:
    size = (9, 14)
    labels = contiguous(np.random.default_rng(0).integers(0, 6, size))
    heat = random_frame(size)[0]
    expected = [heat[labels == region].astype(np.float64).mean() for region in range(6)]
    np.testing.assert_allclose(region_means(heat, labels), expected, rtol=1e-12)


def baseline(name: str, frame: Frame, labels: Any = None, seed: int = 0) -> Frame:
    """A baseline with a neutral colour that no other baseline has."""
    labels = np.zeros(frame.shape[1:], np.int32) if labels is None else labels
    made = baseline_image(name, frame, labels, (0.1, 0.2, 0.7), np.random.default_rng(seed))
    assert made.shape == frame.shape
    assert made.dtype == np.float32
    assert made.flags.writeable
    assert not np.shares_memory(made, frame)
    return made


@pytest.mark.parametrize("size", SIZES)
def test_mean_is_the_mean_colour_of_each_region(size: tuple[int, int]) -> None:
    frame = natural_frame(size)
    labels = region_map("slic:20", frame)
    expected = np.empty_like(frame)
    for region in range(int(labels.max()) + 1):
        for channel in range(3):
            inside = frame[channel][labels == region].astype(np.float64)
            expected[channel][labels == region] = inside.mean()
    # one rounding to float32
    np.testing.assert_allclose(baseline("mean", frame, labels), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "color"),
    [("zero", (0.1, 0.2, 0.7)), ("black", (0.0, 0.0, 0.0)), ("gray", (0.5, 0.5, 0.5))],
)
def test_flat_baselines_have_their_colour(name: str, color: tuple[float, float, float]) -> None:
    made = baseline(name, natural_frame((37, 53)))
    for channel, value in zip(made, color, strict=True):
        assert (channel == np.float32(value)).all()


@pytest.mark.parametrize("size", [(8, 14), (13, 6), (1, 5)])
def test_blur_is_the_mean_of_a_box_of_half_the_sides(size: tuple[int, int]) -> None:
    """The box lies as OpenCV lays it; beyond the edge the frame is mirrored, edge not repeated."""
    frame = random_frame(size, 1)
    half = [max(side // 2, 1) for side in size]
    padded = np.pad(
        frame.astype(np.float64),
        [(0, 0)] + [(k // 2, k - 1 - k // 2) for k in half],
        mode="reflect",
    )
    expected = np.empty(frame.shape)
    for y in range(size[0]):
        for x in range(size[1]):
            box = padded[:, y : y + half[0], x : x + half[1]]
            expected[:, y, x] = box.mean(axis=(1, 2))
    # running sums in float32
    np.testing.assert_allclose(baseline("blur", frame), expected, rtol=0, atol=1e-5)


def test_noise_is_uniform_and_comes_from_the_seed() -> None:
    frame = natural_frame((37, 53))
    first, again, other = (baseline("noise", frame, seed=seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert first.min() >= 0
    assert first.max() < 1
    # deciles of 5,883 draws: a standard error of at most ½/√5883 = 0.0065; five of them
    deciles = np.quantile(first, np.arange(1, 10) / 10)
    np.testing.assert_allclose(deciles, np.arange(1, 10) / 10, rtol=0, atol=0.033)


@pytest.mark.parametrize(
    ("name", "nearest"), [("blurr", "blur"), ("grey", "gray"), ("Mean", "mean"), ("nois", "noise")]
)
def test_unknown_baselines_are_named(name: str, nearest: str) -> None:
    start = f"unknown baseline '{name}': did you mean '{nearest}'? Known: mean, zero,"
    with pytest.raises(UsageError) as caught:
        baseline(name, natural_frame((37, 53)))
    assert str(caught.value).startswith(start)
    with pytest.raises(UsageError) as caught:
        check_baseline(name)
    assert str(caught.value).startswith(start)


def test_known_baselines_and_pictures_pass(tmp_path: Path) -> None:
    picture = tmp_path / "average face.png"
    picture.write_bytes(b"")
    for name in ("mean", "zero", "black", "gray", "blur", "noise", "adversarial", str(picture)):
        check_baseline(name)


@pytest.mark.parametrize(
    "values", [(0, 1, 2), (7, 3, 90), (-5, 0, 2), (10**12, -(10**12), 3), (255, 0, 254)]
)
def test_labels_become_numbers_without_gaps_in_their_old_order(values: tuple[int, ...]) -> None:
    """Few labels or far apart ones, signed or not, as NumPy sorts them."""
    which = np.random.default_rng(0).integers(0, 3, (6, 20))
    dtype = np.uint8 if min(values) >= 0 and max(values) < 256 else np.int64
    labels = np.array(values, dtype)[which]
    found = contiguous(labels)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.argsort(np.argsort(values))[which])
    assert contiguous(labels[:1, :1]).tolist() == [[0]]
