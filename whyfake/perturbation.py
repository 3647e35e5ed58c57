"""Perturbed copies of one frame, as compact codes instead of pixels.

Every copy is the frame with something hidden, `x' = x + h·(b − x)`: baseline b, hiding mask h in
[0, 1]. Where nothing is hidden the copy equals the frame to the bit. A batch holds only the numbers
that determine the masks; `render` makes pixels, and is the definition that faster paths must equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from . import compiled
from .noise_table import NoiseTable

FloatArray = NDArray[np.float32]

_LUT_PIXELS = 1 << 17
"""At a time: of twice as many OpenCV would make threads of its own, beside ours."""

Composer = Callable[[FloatArray, int, "Scratch"], None]
"""`composer(out, start, scratch)` writes copies start … start + len(out) into `out`."""


class Scratch:
    """Buffers that one thread uses again and again, by name; never shared between threads."""

    def __init__(self) -> None:
        self._arrays: dict[str, FloatArray] = {}

    def get(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """A float32 array of this shape with arbitrary content."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape:
            array = self._arrays[name] = np.empty(shape, np.float32)
        return array


@runtime_checkable
class PerturbationBatch(Protocol):
    """N perturbed copies of one frame."""

    def __len__(self) -> int:
        """How many copies: what asking this batch costs, in images."""
        ...

    def composer(self, frame: FloatArray) -> Composer:
        """Prepare to compose copies of `frame` (3, h, w); the result may run in many threads."""
        ...


def render(
    batch: PerturbationBatch, frame: FloatArray, start: int = 0, stop: int | None = None
) -> FloatArray:
    """Pixels (stop − start, 3, h, w) float32 of copies start … stop of the batch."""
    start, stop, _ = slice(start, stop).indices(len(batch))
    out = np.empty((max(stop - start, 0), *frame.shape), np.float32)
    batch.composer(frame)(out, start, Scratch())
    return out


@dataclass(frozen=True, eq=False)
class RegionMix:
    """One number per region: 1 shows the frame there, 0 the baseline, between mixes them.

    `codes` (N, R) in [0, 1]; `labels` (h, w) integers 0 … R−1; `baseline` (3, h, w).
    """

    codes: NDArray[Any]
    labels: NDArray[np.integer[Any]]
    baseline: FloatArray

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or int(self.labels.max()) >= self.codes.shape[1]:
            raise ValueError(
                f"RegionMix: {int(self.labels.max()) + 1} regions need codes of as many columns, "
                f"got {self.codes.shape}"
            )

    def __len__(self) -> int:
        return len(self.codes)

    def composer(self, frame: FloatArray) -> Composer:
        hidden = 1.0 - self.codes.astype(np.float32)
        fast = compiled.regions(hidden, self.labels, frame, self.baseline)
        if fast is not None:
            return fast
        difference = self.baseline - frame
        paint = painter(hidden, self.labels)

        def compose(out: FloatArray, start: int, scratch: Scratch) -> None:
            mask = scratch.get("mask", self.labels.shape)
            for row, image in enumerate(out, start):
                paint(row, mask)
                np.multiply(difference, mask, out=image)
                image += frame

        return compose


def painter(
    values: FloatArray, labels: NDArray[np.integer[Any]]
) -> Callable[[int, FloatArray], None]:
    """`paint(row, mask)` fills `mask` (h, w) with `values[row]` (N, R), each region with its own.

    Up to 256 regions the labels are bytes, an eighth of the memory to read that NumPy's indices
    are: what composing costs on a CPU is memory. Both ways give the same bits.
    """
    if values.shape[1] > compiled.REGIONS:
        indices = labels.astype(np.intp)

        def take(row: int, mask: FloatArray) -> None:
            # mode="clip" writes straight into `mask`; RegionMix has checked the labels
            np.take(values[row], indices, out=mask, mode="clip")

        return take
    import cv2

    table, small = compiled.as_bytes(values, labels)
    lines = max(1, _LUT_PIXELS // labels.shape[1])

    def look_up(row: int, mask: FloatArray) -> None:
        for top in range(0, len(small), lines):
            cv2.LUT(small[top : top + lines], table[row], mask[top : top + lines])

    return look_up


@dataclass(frozen=True, eq=False)
class GridMix:
    """Coarse random grids, upsampled bilinearly and shifted (RISE).

    `grids` (N, s, s) in [0, 1], 1 shows the frame; `shifts` (N, 2) rows and columns, each below
    the cell size ⌈h/s⌉ or ⌈w/s⌉; `baseline` (3, h, w).
    """

    grids: NDArray[Any]
    shifts: NDArray[np.integer[Any]]
    baseline: FloatArray

    def __len__(self) -> int:
        return len(self.grids)

    def composer(self, frame: FloatArray) -> Composer:
        size = self.grids.shape[1]
        height, width = frame.shape[1:]
        across = bilinear_matrix(size, width).T.copy()
        tops, bottoms, parts = rows = bilinear_rows(size, height)
        hidden = 1.0 - self.grids.astype(np.float32)

        def wide(start: int, count: int) -> FloatArray:
            grids = np.empty((count, *across.shape), np.float32)
            for row, grid in enumerate(grids, start):  # alone: the same bits in any company
                np.matmul(hidden[row], across, out=grid)
            return grids

        fast = compiled.grids(wide, across.shape[1], self.shifts, rows, frame, self.baseline)
        if fast is not None:
            return fast
        difference = self.baseline - frame
        shifts = self.shifts.tolist()

        def compose(out: FloatArray, start: int, scratch: Scratch) -> None:
            mask = scratch.get("mask", (height, width))
            above = scratch.get("above", (height, width))
            for row, image in enumerate(out, start):
                dy, dx = shifts[row]
                [grid] = wide(row, 1)[:, :, dx : dx + width]
                at = slice(dy, dy + height)
                # mode="clip" writes straight into its output; all places are there
                np.take(grid, tops[at], axis=0, out=above, mode="clip")
                np.take(grid, bottoms[at], axis=0, out=mask, mode="clip")
                mask -= above
                mask *= parts[at, None]
                mask += above
                np.multiply(difference, mask, out=image)
                image += frame

        return compose


def bilinear_matrix(size: int, length: int) -> FloatArray:
    """Rows that upsample `size` cells to (size + 1)·⌈length/size⌉ pixels, half-pixel centres.

    Pixels beyond the outermost cell centres repeat the edge. Every row sums to one.
    """
    tops, bottoms, parts = bilinear_rows(size, length)
    matrix = np.zeros((len(tops), size), np.float32)
    rows = np.arange(len(tops))
    matrix[rows, tops] = 1 - parts
    matrix[rows, bottoms] += parts
    return matrix


def bilinear_rows(size: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """The same as the two cells that each pixel lies between, and how far it is from the first."""
    pixels = (size + 1) * cell_size(size, length)
    centre = np.clip((np.arange(pixels) + 0.5) * size / pixels - 0.5, 0, size - 1)
    tops = np.minimum(centre.astype(np.intp), max(size - 2, 0))
    return tops, np.minimum(tops + 1, size - 1), (centre - tops).astype(np.float32)


def shifted_matrices(size: int, length: int) -> NDArray[np.float64]:
    """For each shift, what each pixel gets of each cell (shifts, length, size)."""
    whole = bilinear_matrix(size, length).astype(np.float64)
    return np.stack([whole[s : s + length] for s in range(cell_size(size, length))])


def cell_size(size: int, length: int) -> int:
    """Pixels a cell of RISE's grid spans, ⌈length/size⌉; also the number of distinct shifts."""
    return -(-length // size)


@dataclass(frozen=True, eq=False)
class NoiseStep:
    """Copies of `center` with slices of a shared Gaussian noise table added (NES).

    Copy i is `center + signs[i]·sigma·mask·table[offsets[i] : …]`. Noise of one channel (`channels`
    1) is the same in all three; blocks of `cell` × `cell` pixels share a value. `center` (3, h, w)
    is the sample under attack, not the frame; `mask` (h, w) keeps pixels still where it is zero.
    Sign 0 shows the centre itself. The table is drawn no further than what is composed needs.
    """

    center: FloatArray
    table: NoiseTable
    offsets: NDArray[np.integer[Any]]
    signs: NDArray[Any]
    sigma: float
    channels: int = 3
    mask: FloatArray | None = None
    cell: int = 1

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, ⌈h/cell⌉, ⌈w/cell⌉): a direction's values."""
        height, width = self.center.shape[1:]
        return self.channels, -(-height // self.cell), -(-width // self.cell)

    def values(self, row: int) -> FloatArray:
        """The values of copy `row`'s direction: a view, shaped `shape`, into the table."""
        offset, shape = int(self.offsets[row]), self.shape
        end = offset + math.prod(shape)
        return self.table.upto(end)[offset:end].reshape(shape)

    def spread(self, values: FloatArray) -> FloatArray:
        """Values shaped `shape` as pixels (channels, h, w); where `cell` is 1, the same array."""
        if self.cell == 1:
            return values
        height, width = self.center.shape[1:]
        pixels: FloatArray = values.repeat(self.cell, axis=1).repeat(self.cell, axis=2)
        return np.ascontiguousarray(pixels[:, :height, :width])

    def noise(self, row: int) -> FloatArray:
        """The unmasked direction of copy `row`, (channels, h, w); maybe a view into the table."""
        return self.spread(self.values(row))

    def composer(self, frame: FloatArray) -> Composer:
        steps = self.signs.astype(np.float32) * np.float32(self.sigma)
        if self.cell == 1 and self.mask is None and self.channels in (1, 3):
            fast = compiled.noise(self.center, self.table, self.offsets, steps, self.channels)
            if fast is not None:
                return fast

        def compose(out: FloatArray, start: int, scratch: Scratch) -> None:
            for row, image in enumerate(out, start):
                noise = self.noise(row)
                step = scratch.get("noise", noise.shape)
                np.multiply(noise, steps[row], out=step)
                if self.mask is not None:
                    step *= self.mask
                np.add(self.center, step, out=image)

        return compose


@dataclass(frozen=True, eq=False)
class Pixels:
    """The images themselves, (N, 3, h, w): for whatever the codes above cannot say."""

    images: FloatArray

    def __len__(self) -> int:
        return len(self.images)

    def composer(self, frame: FloatArray) -> Composer:
        def compose(out: FloatArray, start: int, scratch: Scratch) -> None:
            out[...] = self.images[start : start + len(out)]

        return compose


@dataclass(frozen=True, eq=False)
class Stack:
    """The copies of several batches of one frame, one batch after the other."""

    batches: Sequence[PerturbationBatch]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def composer(self, frame: FloatArray) -> Composer:
        composers = [batch.composer(frame) for batch in self.batches]
        ends = np.cumsum([len(batch) for batch in self.batches])

        def compose(out: FloatArray, start: int, scratch: Scratch) -> None:
            row = start
            while row < start + len(out):
                index = int(np.searchsorted(ends, row, side="right"))
                first = int(ends[index]) - len(self.batches[index])
                stop = min(int(ends[index]), start + len(out))
                composers[index](out[row - start : stop - start], row - first, scratch)
                row = stop

        return compose
