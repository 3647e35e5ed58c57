"""Follows faces from frame to frame: by where they should be by now, and by how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .faces import Box, Face

Vector = NDArray[np.float64]

PATIENCE = 2.0
"""Seconds for which a lost face may come back as itself."""
CONFIRMED = 3
"""Looks in which a face must be seen before it is believed; a shorter track is a false alarm."""
_TOO_FAR = 1e6


@dataclass
class Track:
    """One face over time."""

    number: int
    box: Box
    time: float
    look: Vector
    seen: int = 1
    missed: int = 0
    velocity: Vector = field(default_factory=lambda: np.zeros(2))

    def predicted(self, time: float) -> Box:
        """Where its box should be at that time; a lost face is followed for half a second."""
        x, y, width, height = self.box
        dx, dy = self.velocity * min(time - self.time, 0.5)
        return (x + dx, y + dy, width, height)


class Tracker:
    """Assigns the faces of each look to tracks, the best assignment over all of them (Hungarian).

    `update` is called with rising times. `trusted` faces need no confirmation.
    """

    def __init__(self, *, trusted: bool = False) -> None:
        self._trusted = trusted
        self._tracks: list[Track] = []
        self._next = 1
        self.dropped = 0

    def update(self, faces: Sequence[Face], rgb: NDArray[np.uint8], time: float) -> list[int]:
        """The track number of each face in this frame; a new one where no track fits."""
        self._tracks = [t for t in self._tracks if time - t.time <= PATIENCE]
        looks = [appearance(rgb, face.box) for face in faces]
        numbers = [0] * len(faces)
        free = list(range(len(faces)))
        if self._tracks and faces:
            from scipy.optimize import linear_sum_assignment

            costs = np.array(
                [
                    [
                        _cost(track, face, look, time)
                        for face, look in zip(faces, looks, strict=True)
                    ]
                    for track in self._tracks
                ]
            )
            for row, column in zip(*linear_sum_assignment(costs), strict=True):
                if costs[row, column] < _TOO_FAR:
                    self._move(self._tracks[row], faces[column], looks[column], time)
                    numbers[column] = self._tracks[row].number
                    free.remove(column)
        for index in free:
            numbers[index] = self._start(faces[index], looks[index], time)
        for track in self._tracks:
            track.missed = 0 if track.number in numbers else track.missed + 1
        return numbers

    def fleeting(self) -> set[int]:
        """Tracks lost before they were confirmed: these were no faces. Each is named once."""
        if self._trusted:
            return set()
        gone = [t for t in self._tracks if t.missed and t.seen < CONFIRMED]
        self._tracks = [t for t in self._tracks if t not in gone]
        self.dropped += len(gone)
        return {track.number for track in gone}

    def unsure(self) -> set[int]:
        """Tracks that are not confirmed yet."""
        if self._trusted:
            return set()
        return {t.number for t in self._tracks if t.seen < CONFIRMED}

    def _start(self, face: Face, look: Vector, time: float) -> int:
        number = self._next if face.track is None else face.track
        self._next = max(self._next, number) + 1 if face.track is None else self._next
        self._tracks.append(Track(number, face.box, time, look))
        return number

    def _move(self, track: Track, face: Face, look: Vector, time: float) -> None:
        elapsed = max(time - track.time, 1e-3)
        moved = (_centre(face.box) - _centre(track.box)) / elapsed
        track.velocity = moved if track.seen == 1 else 0.5 * track.velocity + 0.5 * moved
        track.look = 0.8 * track.look + 0.2 * look
        track.box, track.time, track.seen = face.box, time, track.seen + 1


def _cost(track: Track, face: Face, look: Vector, time: float) -> float:
    """What speaks against this face being that track: distance in face sizes, and looks."""
    if face.track is not None:
        return 0.0 if face.track == track.number else 2 * _TOO_FAR
    expected = track.predicted(time)
    size = (max(track.box[2:]) + max(face.box[2:])) / 2
    away = float(np.hypot(*(_centre(face.box) - _centre(expected)))) / size
    ratio = max(track.box[3] / face.box[3], face.box[3] / track.box[3])
    unlike = 1 - float(np.sqrt(track.look * look).sum())  # Hellinger: 0 alike, 1 nothing shared
    reach = 1.0 + 1.5 * min(time - track.time, 1.0)
    if away > reach or ratio > 2 or unlike > 0.6:
        return 2 * _TOO_FAR
    return away + 3 * unlike + 0.5 * (ratio - 1)


def _centre(box: Box) -> Vector:
    return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])


def appearance(rgb: NDArray[np.uint8], box: Box) -> Vector:
    """How the inner three quarters of a box look: shares of 4×4×4 colours, summing to 1.

    A little of every colour is mixed in, so that two faces always share something.
    """
    x, y, width, height = box
    top, bottom = (np.clip([y + height / 8, y + height * 7 / 8], 0, rgb.shape[0])).astype(int)
    left, right = (np.clip([x + width / 8, x + width * 7 / 8], 0, rgb.shape[1])).astype(int)
    patch = rgb[top : max(bottom, top + 1), left : max(right, left + 1)].reshape(-1, 3)[::7]
    codes = (patch >> 6).astype(np.int64) @ np.array([16, 4, 1])
    counts = np.bincount(codes, minlength=64).astype(np.float64) + 0.01
    return np.asarray(counts / counts.sum())
