"""Crops: which square of a frame the detector sees, and how heat on it goes back to the frame."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray
from .faces import Face

MIN_CROP = 16


@dataclass(frozen=True)
class Crop:
    """A rectangle of a frame in whole pixels, turned by `angle` degrees about its centre.

    It may reach over the frame's border. A positive angle turns the eyes of a face that leans to
    the right (its right end lower) level.
    """

    left: int
    top: int
    width: int
    height: int
    angle: float = 0.0

    def cut(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop (height, width, 3) of a frame (H, W, 3).

        Beyond the border the border's own pixels are repeated: a black margin would be an edge
        that no face has. An upright crop is exact; a turned one is interpolated bilinearly.
        """
        import cv2

        if self.angle:
            turned = cv2.warpAffine(
                rgb,
                self.matrix(),
                (self.width, self.height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            return np.asarray(turned, np.uint8)
        rows = np.arange(self.top, self.top + self.height).clip(0, rgb.shape[0] - 1)
        columns = np.arange(self.left, self.left + self.width).clip(0, rgb.shape[1] - 1)
        return np.ascontiguousarray(rgb[rows[:, None], columns])

    def matrix(self) -> NDArray[np.float64]:
        """The affine map (2, 3) from pixels of the frame to pixels of the crop."""
        turn = math.radians(self.angle)
        cos, sin = math.cos(turn), math.sin(turn)
        middle = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        rotation = np.array([[cos, sin], [-sin, cos]])
        centre = middle + np.array([self.left, self.top])
        return np.column_stack([rotation, middle - rotation @ centre])

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2), x and y, of the frame in pixels of the crop."""
        matrix = self.matrix()
        return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])

    def placed(
        self, values: FloatArray, size: tuple[int, int]
    ) -> tuple[tuple[slice, slice], FloatArray, NDArray[np.bool_]]:
        """Values on the crop, at any resolution (h, w), brought to a frame of `size` (H, W).

        Returns the part of the frame that the crop covers (rows, columns), the values there, and
        where in that part the crop is. What lies beyond the border is gone. Bilinear.
        """
        import cv2

        right, bottom = self.width - 0.5, self.height - 0.5
        corners = np.array([[-0.5, -0.5], [right, -0.5], [-0.5, bottom], [right, bottom]])
        matrix = self.matrix()
        back = np.linalg.inv(matrix[:, :2])
        seen = (corners - matrix[:, 2]) @ back.T
        low = np.floor(seen.min(axis=0) + 0.5).astype(int).clip(0, [size[1], size[0]])
        high = np.ceil(seen.max(axis=0) + 0.5).astype(int).clip(0, [size[1], size[0]])
        part = slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))
        columns, rows = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        where = self.points(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float64))
        x = where[:, 0].reshape(columns.shape)
        y = where[:, 1].reshape(columns.shape)
        inside = (x > -0.5) & (x < self.width - 0.5) & (y > -0.5) & (y < self.height - 0.5)
        if not columns.size:
            return part, np.zeros(columns.shape, np.float32), inside
        scale_x, scale_y = values.shape[1] / self.width, values.shape[0] / self.height
        mapped = cv2.remap(
            values.astype(np.float32),
            ((x + 0.5) * scale_x - 0.5).astype(np.float32),
            ((y + 0.5) * scale_y - 0.5).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return part, np.asarray(mapped, np.float32), inside

    def padded(self, size: tuple[int, int]) -> float:
        """The share of an upright crop that lies beyond a frame of `size` (H, W), in [0, 1]."""
        rows = min(self.top + self.height, size[0]) - max(self.top, 0)
        columns = min(self.left + self.width, size[1]) - max(self.left, 0)
        return 1 - max(rows, 0) * max(columns, 0) / (self.width * self.height)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def crop_of(face: Face, margin: float, *, align: bool = False) -> Crop:
    """The square around a face: `margin` times the longer side of its box, centred on the box.

    With `align`, turned so that the eyes are level. Raises ValueError where there are no landmarks.
    """
    x, y, width, height = face.box
    side = max(round(margin * max(width, height)), MIN_CROP)
    left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
    angle = 0.0
    if align:
        if face.landmarks is None:
            raise ValueError("crop_of: aligning needs landmarks")
        (x0, y0), (x1, y1) = face.landmarks[:2]
        angle = round(math.degrees(math.atan2(y1 - y0, x1 - x0)), 2)
    return Crop(left, top, side, side, angle)
