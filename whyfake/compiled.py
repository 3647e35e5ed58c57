"""Composes copies in one pass over memory, where the installation found a C compiler.

perturbation.py defines what it computes, and computes the same bits without it; composing.c does
it. The functions here prepare a batch, and give None where the library cannot serve it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Compose = Callable[[FloatArray, int, Any], None]
"""perturbation.Composer, which this cannot import."""

LIBRARY = Path(__file__).with_name("composing.so.1")
"""No module of Python's, which would be found by its name if that ended in `.so`."""
REGIONS = 256
"""Labels are bytes."""
_ABI = 1
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = {  # pointers, counts
    "whyfake_regions": (5, 2),
    "whyfake_grids": (8, 5),
    "whyfake_noise": (5, 3),
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
    hidden: FloatArray, labels: NDArray[np.integer[Any]], frame: FloatArray, difference: FloatArray
) -> Compose | None:
    """`hidden` (N, R), how much of each region; `labels` (h, w)."""
    found, shape = library(), (3, *labels.shape)
    if found is None or hidden.shape[1] > REGIONS or not _are(shape, frame, difference):
        return None
    table, small = as_bytes(hidden, labels)
    fixed, rows = _Fixed(frame, difference, small), _Rows(table)

    def draw(out: int, start: int, count: int) -> None:
        found.whyfake_regions(out, *fixed.at, rows.at(start, count), count, small.size)

    return _composer(draw, shape)


def grids(
    wide: Callable[[int, int], FloatArray],
    length: int,
    shifts: NDArray[np.integer[Any]],
    rows: tuple[NDArray[np.intp], NDArray[np.intp], FloatArray],
    frame: FloatArray,
    difference: FloatArray,
) -> Compose | None:
    """`wide(start, count)` (count, s, length), grids as wide as pictures and shifts; `rows`, for
    each row of a picture and its shifts, two of the grid's and how far it lies between them.
    """
    found, shape = library(), frame.shape
    if found is None or not _are((3, *shape[1:]), frame, difference) or not len(shifts):
        return None
    height, width = shape[1:]
    tops, bottoms, parts = rows
    rest = np.array([len(parts) - height, length - width])
    if shifts.min() < 0 or np.any(shifts.max(axis=0) > rest):
        return None
    fixed, moved = _Fixed(frame, difference), _Rows(shifts.astype(np.int64))
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
    table: FloatArray,
    offsets: NDArray[np.integer[Any]],
    steps: FloatArray,
    channels: int,
) -> Compose | None:
    """`center` (3, h, w); `offsets` (N,) into `table`, `steps` (N,) of it; channels: 1 or 3."""
    found, shape = library(), center.shape
    if found is None or not _are((3, *shape[1:]), center) or not _are(table.shape, table):
        return None
    pixels = center[0].size
    last = table.size - channels * pixels
    if not len(offsets) or offsets.min() < 0 or offsets.max() > last:
        return None
    fixed, sizes = _Fixed(center, table), _Rows(steps)
    starts = _Rows(offsets.astype(np.int64))

    def draw(out: int, start: int, count: int) -> None:
        own = starts.at(start, count), sizes.at(start, count)
        found.whyfake_noise(out, *fixed.at, *own, count, channels, pixels)

    return _composer(draw, shape)


def _are(shape: tuple[int, ...], *arrays: NDArray[Any]) -> bool:
    """Whether all are float32 of that shape: the library believes what it is told."""
    return all(array.shape == shape and array.dtype == np.float32 for array in arrays)


class _Fixed:
    """Arrays that all copies share, kept without gaps, and where they lie in memory."""

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
