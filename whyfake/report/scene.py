"""Draws on a whole frame of a clip: heat where the crop was, boxes, and a strip of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray
from .overlay import INK, PAPER, Colour, Rgb, _blended, _font, percent

TRACKS: tuple[Colour, ...] = (
    (255, 159, 67),
    (84, 190, 255),
    (120, 214, 120),
    (240, 120, 200),
    (200, 180, 255),
    (230, 220, 90),
)
"""One colour a track, in turn; all are bright on dark."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Heat on a part of a frame: levels in [0, 1], and where in that part there are any."""

    part: tuple[slice, slice]
    level: FloatArray
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Marked:
    """A face to mark: box (x, y, width, height), track, words; `asked` at this very frame."""

    box: tuple[float, float, float, float]
    track: int
    text: str
    asked: bool


@dataclass
class Curve:
    """A track's P(fake) over time: (time, score, explained) in the order of time."""

    track: int
    points: list[tuple[float, float, bool]] = field(default_factory=list)


def track_colour(track: int) -> Colour:
    """The colour of a track."""
    return TRACKS[(track - 1) % len(TRACKS)]


def draw_scene(rgb: Rgb, patches: Sequence[Patch], faces: Sequence[Marked]) -> Rgb:
    """The frame (H, W, 3) with heat blended in and faces marked. The frame itself stays as it is.

    A face that was asked about at this very frame has a whole box, others a box of corners.
    """
    import cv2

    out: Rgb = rgb.copy()
    for patch in patches:
        piece = out[patch.part]
        if piece.size:
            level = np.where(patch.inside, patch.level, 0).astype(np.float32)
            out[patch.part] = _blended(piece, level)
    unit = max(min(rgb.shape[:2]) / 480, 0.4)
    for face in faces:
        x, y, width, height = face.box
        colour = track_colour(face.track)
        corners = ((round(x), round(y)), (round(x + width), round(y + height)))
        for shade, thickness in ((PAPER, round(4 * unit)), (colour, round(2 * unit))):
            if face.asked:
                cv2.rectangle(out, *corners, shade, max(thickness, 1), cv2.LINE_AA)
            else:
                _corners(out, corners, shade, max(thickness, 1))
    for face in faces:
        _label(out, face, unit)
    return out


def _corners(
    out: Rgb, corners: tuple[tuple[int, int], tuple[int, int]], shade: Colour, thick: int
) -> None:
    import cv2

    (left, top), (right, bottom) = corners
    reach = max(min(right - left, bottom - top) // 5, 2)
    for x, step in ((left, reach), (right, -reach)):
        for y, rise in ((top, reach), (bottom, -reach)):
            cv2.line(out, (x, y), (x + step, y), shade, thick, cv2.LINE_AA)
            cv2.line(out, (x, y), (x, y + rise), shade, thick, cv2.LINE_AA)


def _label(out: Rgb, face: Marked, unit: float) -> None:
    """The words of a face on a plate above its box, or inside it where there is no room above."""
    plate = _plate(face.text, round(15 * unit), track_colour(face.track))
    x = int(np.clip(round(face.box[0]), 0, max(out.shape[1] - plate.shape[1], 0)))
    y = round(face.box[1]) - plate.shape[0] - round(3 * unit)
    y = int(np.clip(y, 0, max(out.shape[0] - plate.shape[0], 0)))
    piece = out[y : y + plate.shape[0], x : x + plate.shape[1]]
    piece[...] = plate[: piece.shape[0], : piece.shape[1]]


def _plate(text: str, size: int, colour: Colour) -> Rgb:
    from PIL import Image, ImageDraw

    font = _font(max(size, 8))
    width = round(font.getlength(text)) + size
    image = Image.new("RGB", (width, round(size * 1.5)), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((size / 2, size * 0.75), text, colour, font, "lm")
    return np.asarray(image, np.uint8)


class Strip:
    """The strip of scores along the bottom of a frame: P(fake) of each track over the whole clip.

    Drawn once; a frame then costs a copy and the line that says where it is.
    """

    def __init__(self, size: tuple[int, int], duration: float, curves: Sequence[Curve]) -> None:
        self._width = size[1]
        self._height = min(max(round(size[0] / 9), 18), size[0] // 2)
        self._duration = max(duration, 1e-6)
        self._unit = max(size[0] / 480, 1.0)
        self._plain = self._drawn(curves)

    def _drawn(self, curves: Sequence[Curve]) -> Rgb:
        from PIL import Image, ImageDraw

        # small ones are drawn large and brought down: Pillow's lines are not smooth
        scale = 3 if self._width < 2000 else 1
        unit = self._unit * scale
        image = Image.new("RGB", (self._width * scale, self._height * scale), PAPER)
        draw = ImageDraw.Draw(image)
        for share, shade in ((0.0, (60, 64, 72)), (0.5, (110, 116, 126)), (1.0, (60, 64, 72))):
            y = self._y(share) * scale
            draw.line((0, y, image.width, y), shade, round(unit))
        for curve in curves:
            colour = track_colour(curve.track)
            spots = [(self._x(t) * scale, self._y(p) * scale) for t, p, _ in curve.points]
            if len(spots) > 1:
                draw.line(spots, colour, round(2 * unit), joint="curve")
            for (x, y), (_, _, explained) in zip(spots, curve.points, strict=True):
                radius = (2.5 if explained else 1.5) * unit
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
        image = image.resize((self._width, self._height), Image.Resampling.LANCZOS)
        draw = ImageDraw.Draw(image)
        if self._height >= 36:
            draw.text((4, 2), "P(fake)", (200, 204, 210), _font(11 * self._unit))
        return np.array(image)

    def _x(self, time: float) -> float:
        return 3 + min(time / self._duration, 1.0) * (self._width - 7)

    def _y(self, share: float) -> float:
        return 4 + (1 - share) * (self._height - 9)

    def put(self, rgb: Rgb, time: float) -> None:
        """Lay the strip over the bottom of a frame, with its line at `time` seconds."""
        band = rgb[rgb.shape[0] - self._height :]
        mixed = np.float32(0.22) * band + np.float32(0.78) * self._plain
        band[...] = np.rint(mixed).astype(np.uint8)
        x, half = round(self._x(time)), round(self._unit)
        band[:, max(x - half, 0) : x + half] = INK


def label_of(track: int, predicted: str, p: float) -> str:
    """The words over a face: `face 1  fake 97.2 %`."""
    return f"face {track}  {predicted} {percent(p)}"
