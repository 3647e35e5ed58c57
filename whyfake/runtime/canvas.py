"""One lane's pictures on the device that runs the detector, composed there; back-ends fill it in.

What belongs to a batch goes up once (`OnDevice`), what belongs to its copies when they are drawn.
Copies that no graph says, or that a graph does not fit, are composed on the host and sent up.
"""

from __future__ import annotations

import abc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray, Scratch
from .composition import Part

Handle = TypeVar("Handle")
"""What a back-end has for an array on the device."""


@dataclass(frozen=True, eq=False)
class OnDevice(Generic[Handle]):
    """A part of a batch whose constants are up; without them, the host composes it."""

    part: Part
    constants: dict[str, Handle] | None


class Constants(Generic[Handle]):
    """Arrays that went up. Those that nobody can write to go up once as long as they exist."""

    def __init__(self, send: Callable[[NDArray[Any]], Handle]) -> None:
        self._send = send
        self._kept: dict[int, Handle] = {}
        """By the array's address, which is its own for as long as it lives."""

    def get(self, array: NDArray[Any]) -> Handle:
        """The array on the device; from any thread."""
        key = id(array)
        found = self._kept.get(key)
        if found is not None:
            return found
        handle = self._send(array)
        if _frozen(array):
            self._kept[key] = handle
            weakref.finalize(array, self._kept.pop, key, None).atexit = False
        return handle


def _frozen(array: Any) -> bool:
    """Whether neither it nor what it is a view of can be written to."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None


class Canvas(abc.ABC, Generic[Handle]):
    """One thread's `rows` pictures on the device: `compose` some, then `run` the detector on all.

    `count` is told how many bytes go up.
    """

    def __init__(self, rows: int, size: tuple[int, int], count: Callable[[int], None]) -> None:
        self.rows = rows
        self._shape = (3, *size)
        self._scratch = Scratch()
        self._count = count
        self._staging: FloatArray | None = None

    def compose(self, copies: list[OnDevice[Handle]], start: int, stop: int, row: int) -> None:
        """Draw copies start … stop of a batch at row …."""
        for ready in copies:
            first = ready.part.first
            low, high = max(start, first), min(stop, ready.part.last)
            if low < high:
                self._compose(ready, low - first, high - first, row + low - start)

    def _compose(self, ready: OnDevice[Handle], start: int, stop: int, row: int) -> None:
        feed = ready.part.feed
        if feed is not None and ready.constants is not None and self._can_draw(row):
            codes = {name: array[start:stop] for name, array in feed.codes.items()}
            self._count(sum(array.nbytes for array in codes.values()))
            self._draw(feed.kind, codes, ready.constants, row, stop - start)
            return
        if self._staging is None:
            self._staging = self._host_array((self.rows, *self._shape))
        images = self._staging[row : row + stop - start]
        ready.part.host(images, start, self._scratch)
        self._count(images.nbytes)
        self._show(images, row)

    def _host_array(self, shape: tuple[int, ...]) -> FloatArray:
        """Host memory from which pictures go up fastest."""
        return np.zeros(shape, np.float32)

    def _can_draw(self, row: int) -> bool:
        """Whether a graph may write pictures from that row on."""
        return True

    @abc.abstractmethod
    def _draw(
        self,
        kind: str,
        codes: dict[str, NDArray[Any]],
        constants: dict[str, Handle],
        row: int,
        rows: int,
    ) -> None:
        """Compose `rows` copies at row … with the graph `kind`."""

    @abc.abstractmethod
    def _show(self, images: FloatArray, row: int) -> None:
        """Put pictures, which do not change before the next `run` is over, at row …."""

    @abc.abstractmethod
    def run(self) -> NDArray[np.float32]:
        """The detector's scores for all rows."""
