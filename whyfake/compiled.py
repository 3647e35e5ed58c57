"""What is compiled where the installation found a C compiler: composed copies, superpixels.

perturbation.py and scikit-image define what is computed, and compute the same bits without it;
composing.c and superpixels.c do it. The functions here prepare it, and give None where the library
cannot serve.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise_table import NoiseTable

FloatArray = NDArray[np.float32]
Compose = Callable[[FloatArray, int, Any], None]
"""perturbation.Composer, which this cannot import."""

LIBRARY = Path(__file__).with_name("compiled.so.1")
"""No module of Python's, which would be found by its name if that ended in `.so`."""
REGIONS = 256
"""Labels are bytes."""
FEW = 0.25
"""Up to which share of the regions it is faster to write those that differ than the whole copy."""
_ABI = 3
_COMPACTNESS, _ROUNDS = 10, 10  # of SLIC, as scikit-image has them
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = {  # pointers, counts
    "whyfake_regions": (5, 2),
    "whyfake_change": (2, 2),
    "whyfake_grids": (8, 5),
    "whyfake_noise": (5, 3),
    "whyfake_cells": (4, 4),
    "whyfake_cluster": (5, 7),
    "whyfake_connect": (3, 4),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library; None where none was made, or another version of whyfake made it."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
        found.whyfake_abi.restype = _COUNT
        if found.whyfake_abi() != _ABI:
            return None
        for name, (pointers, counts) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.argtypes = [_POINTER] * pointers + [_COUNT] * counts
            function.restype = None
    except (OSError, AttributeError):
        return None
    return found


def as_bytes(
    values: FloatArray, labels: NDArray[np.integer[Any]]
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """`values` (N, R ≤ 256) with a column for every byte, and the labels as bytes."""
    table = np.zeros((len(values), REGIONS), np.float32)
    table[:, : values.shape[1]] = values
    return table, labels.astype(np.uint8)


def regions(
    hidden: FloatArray, labels: NDArray[np.integer[Any]], frame: FloatArray, baseline: FloatArray
) -> Compose | None:
    """`hidden` (N, R), how much of each region; `labels` (h, w)."""
    found, shape = library(), (3, *labels.shape)
    if found is None or hidden.shape[1] > REGIONS or not _are(shape, frame, baseline):
        return None
    table, small = as_bytes(hidden, labels)
    fixed, rows = _Fixed(frame, baseline, small), _Rows(table)

    def draw(out: int, start: int, count: int) -> None:
        found.whyfake_regions(out, *fixed.at, rows.at(start, count), count, small.size)

    anew = _composer(draw, shape)
    if not np.count_nonzero(hidden[1:] != hidden[:-1]) < FEW * hidden[1:].size:
        return anew
    return Changing(found, table, small, frame, baseline, int(FEW * hidden.shape[1]), anew)


class _Regions(ctypes.Structure):
    """As composing.c has it."""

    _fields_ = [
        *((name, _POINTER) for name in ("frame", "baseline", "values", "labels", "runs", "begins")),
        *((name, _COUNT) for name in ("pixels", "few")),
    ]


class Changing:
    """A composer of copies that differ little from one to the next: it can make one of another.

    Only regions that are to look otherwise are written then, in a picture that stays in the
    processor's caches. `few`: the most regions for which that is worth it.
    """

    def __init__(
        self,
        found: ctypes.CDLL,
        values: FloatArray,
        labels: NDArray[np.uint8],
        frame: FloatArray,
        baseline: FloatArray,
        few: int,
        anew: Compose,
    ) -> None:
        self._change, self._anew, self._count = found.whyfake_change, anew, len(values)
        self._arrays = _Fixed(frame, baseline, values, labels, *_runs(labels))
        self._regions = _Regions(*self._arrays.at, labels.size, few)
        self._address = ctypes.addressof(self._regions)

    def __call__(self, out: FloatArray, start: int, scratch: Any) -> None:
        """Compose copies start … as any composer does."""
        self._anew(out, start, scratch)

    def change(self, out: int, held: int, row: int) -> None:
        """Make what lies at the address `out`, which is copy `held` (−1: none), copy `row`.

        It is a picture (3, h, w) float32 without gaps. Called for each picture right before it is
        run, when nothing is in the caches: hence so little of Python.
        """
        if not (held < self._count > row >= 0):
            raise IndexError(f"copies {held} and {row} of {self._count}")
        self._change(self._address, out, held, row)


def _runs(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where a label stands (runs, 2), first pixel and how many, label after label, and where those
    of each begin (257,).
    """
    flat = labels.ravel()
    first = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    count = np.diff(np.append(first, flat.size))
    order = np.argsort(flat[first], kind="stable")
    begins = np.searchsorted(flat[first][order], np.arange(REGIONS + 1))
    runs = np.stack([first, count], axis=1)[order]
    return runs.astype(np.int32), begins.astype(np.int32)


def grids(
    wide: Callable[[int, int], FloatArray],
    length: int,
    shifts: NDArray[np.integer[Any]],
    rows: tuple[NDArray[np.intp], NDArray[np.intp], FloatArray],
    frame: FloatArray,
    baseline: FloatArray,
) -> Compose | None:
    """`wide(start, count)` (count, s, length), grids as wide as pictures and shifts; `rows`, for
    each row of a picture and its shifts, two of the grid's and how far it lies between them.
    """
    found, shape = library(), frame.shape
    if found is None or not _are((3, *shape[1:]), frame, baseline) or not len(shifts):
        return None
    height, width = shape[1:]
    tops, bottoms, parts = rows
    rest = np.array([len(parts) - height, length - width])
    if shifts.min() < 0 or np.any(shifts.max(axis=0) > rest):
        return None
    fixed, moved = _Fixed(frame, baseline), _Rows(shifts.astype(np.int64))
    between = _Fixed(tops.astype(np.int64), bottoms.astype(np.int64), parts)

    def draw(out: int, start: int, count: int) -> None:
        places = moved.at(start, count)
        grid = wide(start, count)
        found.whyfake_grids(
            *(out, *fixed.at, grid.ctypes.data, places, *between.at),
            *(count, *grid.shape[1:], height, width),
        )

    return _composer(draw, shape)


def noise(
    center: FloatArray,
    table: NoiseTable,
    offsets: NDArray[np.integer[Any]],
    steps: FloatArray,
    channels: int,
) -> Compose | None:
    """`center` (3, h, w); `offsets` (N,) into `table`, `steps` (N,) of it; channels: 1 or 3."""
    found, shape, values = library(), center.shape, table.upto(0)
    if found is None or not _are((3, *shape[1:]), center) or not _are(values.shape, values):
        return None
    pixels = center[0].size
    length = channels * pixels
    if not len(offsets) or offsets.min() < 0 or offsets.max() > len(table) - length:
        return None
    fixed, sizes = _Fixed(center, values), _Rows(steps)
    starts = _Rows(offsets.astype(np.int64))

    def draw(out: int, start: int, count: int) -> None:
        own = starts.at(start, count), sizes.at(start, count)
        table.upto(int(offsets[start : start + count].max(initial=0)) + length)
        found.whyfake_noise(out, *fixed.at, *own, count, channels, pixels)

    return _composer(draw, shape)


def cells(
    values: Sequence[FloatArray],
    pictures: NDArray[np.int16],
    of: NDArray[np.int32],
    shape: tuple[int, int, int],
) -> Compose | None:
    """Copies shaped `shape` (C, H, W): at each of the places, of class `of` (H·W), the values of
    the picture that `pictures` (N, K) says for the class, out of `values`, each (P, C, H·W).
    """
    found = library()
    sizes = shape[0], shape[1] * shape[2]
    if found is None or not all(_are((len(array), *sizes), array) for array in values):
        return None
    if not all(array.flags.c_contiguous for array in values):
        return None
    starts = [
        address + row * array.strides[0]
        for array in values
        for address in [array.ctypes.data]
        for row in range(len(array))
    ]
    if not pictures.size or pictures.min() < 0 or pictures.max() >= len(starts):
        return None
    if of.shape != sizes[1:] or of.min() < 0 or of.max() >= pictures.shape[1]:
        return None
    rows, fixed = _Rows(pictures), _Fixed(np.array(starts, np.uint64), of, *values)

    def draw(out: int, start: int, count: int) -> None:
        pointers, classes = fixed.at[:2]
        places = rows.at(start, count)
        found.whyfake_cells(out, pointers, places, classes, count, *sizes, pictures.shape[1])

    return _composer(draw, shape)


def superpixels(frame: FloatArray, count: int) -> NDArray[np.int32] | None:
    """The labels (h, w) of `skimage.segmentation.slic(…, n_segments=count, start_label=0)`."""
    found, size = library(), frame.shape[1:]
    if found is None or not _are((3, *size), frame) or not np.isfinite(frame).all():
        return None
    from skimage.color import rgb2lab
    from skimage.util import regular_grid

    image = frame.transpose(1, 2, 0)[np.newaxis] - frame.min()
    image /= image.max() or np.float32(1)
    colors = rgb2lab(image)[0].transpose(2, 0, 1) * np.float32(1 / _COMPACTNESS)
    box = image.shape[:3]
    ticks = regular_grid(box, count)
    places = [np.arange(side)[tick] for side, tick in zip(size, ticks[1:], strict=True)]
    centers = np.zeros((len(places[0]) * len(places[1]), 5), np.float32)
    centers[:, :2] = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2)
    labels = np.zeros(size, np.int32)
    distance, counts = np.empty(size, np.float32), np.empty(len(centers), np.int32)
    arrays = _Fixed(colors, centers, labels, distance, counts)
    step = max(tick.step or 1 for tick in ticks)
    _, down, across = (tick.step or 1 for tick in regular_grid(box, len(centers)))
    shape = (len(centers), *size, down, across)
    found.whyfake_cluster(*arrays.at, *shape, step, _ROUNDS)
    mean = labels.size / len(centers)
    return connected(found, labels, int(mean / 2), int(mean * 3))


def connected(
    found: ctypes.CDLL, labels: NDArray[np.int32], least: int, most: int
) -> NDArray[np.int32]:
    """Parts of one label (h, w), numbered: `least` to `most` pixels, or joined to one beside."""
    parts, queue = np.full_like(labels, -1), np.empty_like(labels)
    found.whyfake_connect(*_Fixed(labels, parts, queue).at, *labels.shape, least, most)
    return parts


def _are(shape: tuple[int, ...], *arrays: NDArray[Any]) -> bool:
    """Whether all are float32 of that shape: the library believes what it is told."""
    return all(array.shape == shape and array.dtype == np.float32 for array in arrays)


class _Fixed:
    """Arrays kept without gaps, themselves where they have none, and where they lie in memory."""

    def __init__(self, *arrays: NDArray[Any]) -> None:
        self._arrays = [np.ascontiguousarray(array) for array in arrays]
        self.at = [array.ctypes.data for array in self._arrays]


class _Rows:
    """An array of a row a copy, and where rows of it lie in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = np.ascontiguousarray(array)
        self._address, self._step = self._array.ctypes.data, self._array.strides[0]

    def at(self, start: int, count: int) -> int:
        """The address of row `start`. Raises IndexError where there are not `count` from it on."""
        if start < 0 or start + count > len(self._array):
            raise IndexError(f"copies {start} … {start + count} of {len(self._array)}")
        return self._address + start * self._step


def _composer(draw: Callable[[int, int, int], None], shape: tuple[int, ...]) -> Compose:
    """`draw(address, start, count)` as a composer of pictures of that shape.

    Raises ValueError where what it is to fill is of another shape or type.
    """

    def compose(out: FloatArray, start: int, scratch: Any) -> None:
        if not _are((len(out), *shape), out):
            raise ValueError(f"copies {shape} float32 do not fit {out.shape} {out.dtype}")
        whole = np.ascontiguousarray(out)  # itself where it has no gaps
        draw(whole.ctypes.data, start, len(whole))
        if whole is not out:
            out[...] = whole

    return compose
