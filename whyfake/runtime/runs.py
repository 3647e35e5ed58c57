"""Copies in runs in which every region has one of two values, as rows of SOBOL's design come."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .views import Codes

_FIRST = 4
"""Runs that may be short before the mean counts against them."""


@dataclass(frozen=True, eq=False)
class Runs:
    """In region r copy i has the value `ends[run[i], choice[i, r], r]`.

    `choice` (N, R) of zeros and ones, `run` (N,), `ends` (G, 2, R).
    """

    choice: Codes
    run: NDArray[np.intp]
    ends: NDArray[Any]

    def pictures(self, choice: Codes) -> NDArray[Any]:
        """Codes (G·Q, R) of copies that choose as `choice` (Q, R) does, in each of the runs."""
        found = np.where(choice, self.ends[:, np.newaxis, 1], self.ends[:, np.newaxis, 0])
        return found.reshape(-1, choice.shape[1])


def runs_of(codes: NDArray[Any], least: int) -> Runs | None:
    """Codes (N, R) as runs, each as long as can be; None if they hold fewer than `least` rows on
    average.
    """
    starts = [0]
    while starts[-1] < len(codes):
        if len(starts) > _FIRST and starts[-1] < least * (len(starts) - 1):
            return None
        starts.append(_end(codes, starts[-1]))
    lengths = np.diff(starts)
    if len(codes) < least * max(len(lengths), 1):
        return None
    firsts = np.repeat(codes[starts[:-1]], lengths, axis=0)
    other = codes != firsts
    ends = [_ends(codes[start:stop]) for start, stop in pairwise(starts)]
    run = np.repeat(np.arange(len(lengths)), lengths)
    return Runs(other.astype(np.uint8), run, np.stack(ends))


def _end(codes: NDArray[Any], start: int) -> int:
    """Where the longest run from a row on ends: by steps twice as long, and then half as long."""
    stop, step = start + 1, 1
    while stop < len(codes):
        further = min(stop + step, len(codes))
        if not _are_two(codes[start:further]):
            break
        stop, step = further, 2 * step
    while step := step // 2:
        further = min(stop + step, len(codes))
        if further > stop and _are_two(codes[start:further]):
            stop = further
    return stop


def _ends(rows: NDArray[Any]) -> NDArray[Any]:
    """The first and, if there is one, the second value of every column (2, R)."""
    second = rows[(rows != rows[0]).argmax(axis=0), np.arange(rows.shape[1])]
    return np.stack([rows[0], second])


def _are_two(rows: NDArray[Any]) -> bool:
    """Whether no column has more than two values."""
    first, second = _ends(rows)
    return bool(((rows == first) | (rows == second)).all())
