"""What windows see of a map of regions, and pictures that show them all that is wanted."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..onnx_stem import Window, Windows
from ..perturbation import FloatArray

_CROWD = 8
"""Regions that a window may see at most: what it is shown of them is a byte."""
_CLASSES = 4096
"""So many at most: each is held against each."""
_WORD = 64
Bits = NDArray[np.uint64]
Codes = NDArray[np.uint8]


class View:
    """Windows (H, W) on `labels` (h, w) of regions 0 … R−1, and the classes 0 … K−1 of those that
    see the same regions.

    `of` (H·W) int32: each window's class. `members` (K, R) float32: 1 where a class sees a region.
    """

    def __init__(
        self, labels: NDArray[np.integer[Any]], windows: Windows, shape: tuple[int, int]
    ) -> None:
        regions = int(labels.max()) + 1
        rows, columns = windows
        seen = _over(_bits(labels, regions), rows, shape[0])
        seen = _over(seen.swapaxes(0, 1), columns, shape[1]).swapaxes(0, 1)
        sets, self.of = _distinct(seen.reshape(-1, seen.shape[-1]))
        little = sets.astype("<u8").view(np.uint8)
        bits = np.unpackbits(little, axis=1, count=regions, bitorder="little")
        self.members: FloatArray = bits.astype(np.float32)
        self.crowd = int(bits.sum(axis=1, dtype=np.intp).max())
        """The most regions that one sees."""

    @property
    def simple(self) -> bool:
        """Whether the methods below serve. If not, nor do they where regions are cut in parts."""
        return self.crowd <= _CROWD and len(self.members) <= _CLASSES

    @functools.cached_property
    def _powers(self) -> FloatArray:
        """(R, K): what a region adds to the byte that says what a class is shown."""
        places = np.cumsum(self.members, axis=1) - 1
        powers: FloatArray = (self.members * 2**places).T.astype(np.float32)
        return powers

    @functools.cached_property
    def largest(self) -> NDArray[np.intp]:
        """The classes that see all that no other class sees as well and more."""
        sizes = self.members.sum(axis=1)
        within = self.members @ self.members.T == sizes[:, np.newaxis]
        np.fill_diagonal(within, False)  # no two classes see the same
        return np.flatnonzero(~within.any(axis=1))

    def shown(self, codes: Codes) -> Codes:
        """For codes (N, R or more), 0 or 1, what each class is shown (N, K)."""
        own = codes[:, : self.members.shape[1]].astype(np.float32)
        numbers: FloatArray = own @ self._powers  # below 256: exact
        return numbers.astype(np.uint8)

    def found(self, codes: Codes) -> NDArray[np.int16]:
        """(K, 256): which of the pictures with codes (P, R) shows a class that; −1 for none."""
        table = np.full((len(self.members), 256), -1, np.int16)
        classes = np.arange(len(self.members))
        table[classes, self.shown(codes)] = np.arange(len(codes))[:, np.newaxis]
        return table

    def more(self, codes: Codes, wanted: Codes, most: int) -> Codes | None:
        """Codes (Q, R) of pictures that show, beside those of `codes` (P, R), each class all that
        `wanted` (N, R) do; Q is small, not the smallest. None for more than `most`.
        """
        largest = self.largest  # what the others are shown is part of what these are
        missing = np.zeros((len(largest), 256), bool)
        missing[np.arange(len(largest)), self.shown(wanted)[:, largest]] = True
        missing &= self.found(codes)[largest] < 0
        wide = np.argsort(-self.members[largest].sum(axis=1), kind="stable")  # hardest to place
        made = np.full((most, self.members.shape[1]), -1, np.int8)
        count = 0
        for number in wide[missing[wide].any(axis=1)].tolist():
            regions = np.flatnonzero(self.members[largest[number]])
            places = np.arange(len(regions))
            for value in np.flatnonzero(missing[number]).tolist():
                bits = value >> places & 1
                there = made[:count, regions]
                fits = ((there < 0) | (there == bits)).all(axis=1)
                row = int(fits.argmax()) if fits.any() else count
                if row == most:
                    return None
                count = max(count, row + 1)
                made[row, regions] = bits
        return made[:count].clip(0).astype(np.uint8)


def _bits(labels: NDArray[np.integer[Any]], regions: int) -> Bits:
    """Each pixel's region as one bit of a few words (h, w, words)."""
    numbers = np.arange(regions)
    table = np.zeros((regions, -(-regions // _WORD)), np.uint64)
    table[numbers, numbers // _WORD] = np.uint64(1) << (numbers % _WORD).astype(np.uint64)
    bits: Bits = table[labels]
    return bits


def _over(bits: Bits, window: Window, count: int) -> Bits:
    """All bits in each of `count` windows along the first axis."""
    before = max(0, -window.first)
    end = window.first + (count - 1) * window.step + window.length
    after = max(0, end - len(bits))
    wide = np.zeros((before + len(bits) + after, *bits.shape[1:]), np.uint64)
    wide[before : before + len(bits)] = bits
    length = 1
    while 2 * length <= window.length:  # twice as long a window is two, one after the other
        wide = wide[:-length] | wide[length:]
        length *= 2
    first = before + window.first
    found: Bits = wide[first :: window.step][:count].copy()
    found |= wide[first + window.length - length :: window.step][:count]
    return found


def _distinct(rows: Bits) -> tuple[Bits, NDArray[np.int32]]:
    """The distinct rows, and which of them each row is."""
    starts = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]).any(axis=1)])  # few to sort
    if rows.shape[1] == 1:
        plain, numbers = np.unique(rows[starts, 0], return_inverse=True)
        sets = plain[:, np.newaxis]
    else:
        sets, numbers = np.unique(rows[starts], axis=0, return_inverse=True)
    lengths = np.diff(np.r_[starts, len(rows)])
    return sets, np.repeat(numbers.ravel().astype(np.int32), lengths)
