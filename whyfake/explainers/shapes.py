"""What a hierarchy of a frame is made of: shapes that halve into shapes."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Shape(Protocol):
    """A part of the frame that is visible or hidden as one, and how it is cut."""

    @property
    def pixels(self) -> Any:
        """An index into arrays (h, w) that gives its pixels."""
        ...

    @property
    def share(self) -> Any:
        """What each pixel gets of the credit of the whole, as `pixels` orders them, or a number."""
        ...

    def halves(self) -> tuple[Shape, Shape] | None:
        """Two shapes without overlap that make up this one; None if it cannot be cut."""
        ...


class Box(NamedTuple):
    """A rectangle, halved along its longer side (rows first in a square), down to single pixels.

    Of an odd side the first half is the larger, as in package `shap`.
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def share(self) -> float:
        """One over its area."""
        return 1 / ((self.bottom - self.top) * (self.right - self.left))

    def halves(self) -> tuple[Box, Box] | None:
        """Its halves; None for a pixel."""
        top, bottom, left, right = self
        height, width = bottom - top, right - left
        if height * width == 1:
            return None
        if height >= width:
            middle = top + (height + 1) // 2
            return Box(top, middle, left, right), Box(middle, bottom, left, right)
        middle = left + (width + 1) // 2
        return Box(top, bottom, left, middle), Box(top, bottom, middle, right)
