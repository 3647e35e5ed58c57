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

LIBRARY = Path(__file__).with_name("_composing.so")
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


def regions(
    table: FloatArray, labels: NDArray[np.uint8], frame: FloatArray, difference: FloatArray
) -> Compose | None:
    """`table` (N, 256), what is hidden of each region; `labels` (h, w)."""
    found = library()
    if found is None:
        return None
    arrays = _whole(frame, difference, labels, table)
    shown = _addresses(arrays[:3])
    rows = _Rows(arrays[3])

    def draw(out: int, start: int, count: int) -> None:
        found.whyfake_regions(out, *shown, rows.at(start, count), count, labels.size)

    return _composer(draw, arrays)


def grids(
    wide: Callable[[int, int], FloatArray],
    shifts: NDArray[np.integer[Any]],
    rows: tuple[NDArray[np.intp], NDArray[np.intp], FloatArray],
    frame: FloatArray,
    difference: FloatArray,
) -> Compose | None:
    """`wide(start, count)` (count, s, length), grids as wide as pictures and shifts; `rows`, for
    each row of a picture and its shifts, two of the grid's and how far it lies between them.
    """
    found = library()
    if found is None:
        return None
    tops, bottoms, parts = rows
    moved = _Rows(shifts.astype(np.int64))
    fixed = _whole(tops.astype(np.int64), bottoms.astype(np.int64), parts, frame, difference)
    *between, shown, hidden = _addresses(fixed)
    height, width = frame.shape[1:]

    def draw(out: int, start: int, count: int) -> None:
        grid = wide(start, count)
        found.whyfake_grids(
            *(out, shown, hidden, grid.ctypes.data, moved.at(start, count), *between),
            *(count, *grid.shape[1:], height, width),
        )

    return _composer(draw, fixed)


def noise(
    center: FloatArray,
    table: FloatArray,
    offsets: NDArray[np.integer[Any]],
    steps: FloatArray,
    channels: int,
) -> Compose | None:
    """`center` (3, h, w); `offsets` (N,) into `table`, `steps` (N,) of it; channels: 1 or 3."""
    found = library()
    pixels = center[0].size
    last = table.size - channels * pixels
    if found is None or not len(offsets) or offsets.min() < 0 or offsets.max() > last:
        return None
    arrays = _whole(center, table)
    fixed = _addresses(arrays)
    starts, sizes = _Rows(offsets.astype(np.int64)), _Rows(steps)

    def draw(out: int, start: int, count: int) -> None:
        own = starts.at(start, count), sizes.at(start, count)
        found.whyfake_noise(out, *fixed, *own, count, channels, pixels)

    return _composer(draw, arrays)


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


def _whole(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """The arrays without gaps."""
    return [np.ascontiguousarray(array) for array in arrays]


def _addresses(arrays: list[NDArray[Any]]) -> list[int]:
    return [array.ctypes.data for array in arrays]


def _composer(draw: Callable[[int, int, int], None], kept: list[NDArray[Any]]) -> Compose:
    """`draw(address, start, count)` as a composer; `kept` are arrays whose addresses it has."""

    def compose(out: FloatArray, start: int, scratch: Any, kept: Any = kept) -> None:
        whole = np.ascontiguousarray(out)  # itself where it has no gaps
        draw(whole.ctypes.data, start, len(whole))
        if whole is not out:
            out[...] = whole

    return compose
