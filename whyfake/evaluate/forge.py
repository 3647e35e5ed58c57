"""Forges faces with a known mask: a face is blended with a changed copy of itself.

After the self-blended images of Shiohara and Yamasaki 2022 (arXiv 2204.08376): the copy differs in
colour, detail and place, as a swapped face would, and no second person is needed. What was changed
is known to the pixel, so a forgery can train a detector, test one, and judge an explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, unknown
from ..perturbation import FloatArray

Rgb = NDArray[np.uint8]

PARTS: dict[str, tuple[int, ...]] = {
    "face": tuple(range(27)),
    "inner": tuple(range(17, 68)),
    "centre": (*range(17, 36), *range(36, 48), *range(48, 60), 3, 5, 11, 13),
    "eyes": (*range(17, 27), *range(36, 48)),
    "nose": tuple(range(27, 36)),
    "mouth": tuple(range(48, 68)),
}
"""Which of the 68 landmarks (iBUG 300-W order) span the hull of a part of the face."""


@dataclass(frozen=True)
class Forgery:
    """A forged face and what is true of it.

    `image` and `original` are uint8 RGB (H, W, 3), equal to the bit where `mask` is 0; `mask` is
    float32 (H, W), the share of each pixel that comes from the changed copy.
    """

    image: Rgb
    original: Rgb
    mask: FloatArray

    @property
    def region(self) -> NDArray[np.bool_]:
        """Where the mask is at least half of its peak: the true region (H, W) of an evaluation."""
        return self.mask >= max(float(self.mask.max()) / 2, 1e-6)


@dataclass(frozen=True)
class SelfBlend:
    """How far the copy may differ from the face; each difference is drawn evenly from its range.

    One side of the blend is recoloured, and squeezed through a lower resolution or sharpened.

    `colour` is the largest shift of a channel in 0 … 255; `contrast` of gain and saturation, as a
    share; `scale` and `shift` of the copy's place, as shares of its size and of the mask's width;
    `detail` the lowest share of its resolution that a copy is squeezed through; `ratios` the
    weights it is blended with; `blur` the softness of the mask's edge, as shares of its width;
    `warp` the elastic displacement of the mask's outline, as a share of its width; `side` is the
    chance that the face around, and not the copy, is the one that is recoloured and resampled.
    """

    colour: float = 20.0
    contrast: float = 0.2
    scale: float = 0.05
    shift: float = 0.04
    detail: float = 0.25
    ratios: tuple[float, ...] = (0.5, 0.75, 1.0, 1.0, 1.0)
    blur: tuple[float, float] = (0.02, 0.12)
    warp: float = 0.06
    side: float = 0.5

    def __post_init__(self) -> None:
        limits = {"colour": 255, "contrast": 1, "scale": 0.5, "shift": 1, "warp": 1, "side": 1}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                got = getattr(self, name)
                raise UsageError(f"SelfBlend: {name} must lie in [0, {most}], got {got}")
        if not 0 < self.detail <= 1:
            raise UsageError(f"SelfBlend: detail must lie in (0, 1], got {self.detail}")
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise UsageError(f"SelfBlend: ratios must lie in (0, 1], got {self.ratios}")
        if len(self.blur) != 2 or not 0 <= self.blur[0] <= self.blur[1] <= 1:
            raise UsageError(f"SelfBlend: blur must be a rising range in [0, 1], got {self.blur}")

    def forge(self, face: Rgb, mask: FloatArray, rng: np.random.Generator) -> Forgery:
        """Blend `face`, uint8 RGB (H, W, 3), with a changed copy of itself under `mask` (H, W).

        The mask, 0 to 1, is roughened, softened and weakened by a drawn ratio; the one returned is
        the one that was used. The same generator state gives the same forgery. Raises UsageError
        for shapes that do not fit, and for a mask that is empty or was moved off the face.
        """
        mask = np.asarray(mask, np.float32)
        _check(face, mask)
        width = float(np.sqrt((mask > 0.5).sum()))
        soft = _something(self._soften(mask, width, rng))
        copy, around = face, face
        if rng.random() < self.side:
            around = self._recolour(self._resample(face, rng), rng)
        else:
            copy = self._recolour(self._resample(face, rng), rng)
        copy, soft = self._move(copy, soft, width, rng)
        soft = (_something(soft) * rng.choice(self.ratios)).astype(np.float32)
        return Forgery(_mix(around, copy, soft), around.copy(), soft)

    def _soften(self, mask: FloatArray, width: float, rng: np.random.Generator) -> FloatArray:
        """The mask with a wavy outline and a soft edge."""
        import cv2

        rows, columns = mask.shape
        knots = rng.uniform(-1, 1, (2, 5, 5)).astype(np.float32) * np.float32(self.warp * width)
        across = cv2.resize(knots[0], (columns, rows), interpolation=cv2.INTER_CUBIC)
        down = cv2.resize(knots[1], (columns, rows), interpolation=cv2.INTER_CUBIC)
        grid_x, grid_y = np.meshgrid(
            np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)
        )
        wavy = cv2.remap(mask, grid_x + across, grid_y + down, cv2.INTER_LINEAR)
        sigma = max(rng.uniform(*self.blur) * width, 0.3)
        soft = cv2.GaussianBlur(wavy, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        # tails of the Gaussian below a 255th change nothing but would blur what is true
        return np.where(soft < 1 / 255, 0, np.clip(soft, 0, 1)).astype(np.float32)

    def _resample(self, face: Rgb, rng: np.random.Generator) -> Rgb:
        """The face squeezed through a lower resolution, or sharpened."""
        import cv2

        if rng.random() < 0.6:
            share = rng.uniform(self.detail, max(self.detail, 0.7))
            rows, columns = (max(8, round(side * share)) for side in face.shape[:2])
            small = cv2.resize(face, (columns, rows), interpolation=cv2.INTER_AREA)
            how = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
            return np.asarray(cv2.resize(small, face.shape[1::-1], interpolation=how))
        blurred = cv2.GaussianBlur(face, (0, 0), rng.uniform(0.8, 1.6))
        amount = rng.uniform(0.3, 1.0)
        return np.asarray(cv2.addWeighted(face, 1 + amount, blurred, -amount, 0))

    def _recolour(self, face: Rgb, rng: np.random.Generator) -> Rgb:
        """The face with its channels shifted, its contrast and its saturation changed."""
        import cv2

        saturation, gain = 1 + self.contrast * rng.uniform(-1, 1, 2)
        shift = self.colour * rng.uniform(-1, 1, 3)
        # gain·(grey + (pixel − grey)·saturation − mean) + mean + shift, as one matrix
        matrix = gain * (np.eye(3) * saturation + (1 - saturation) / 3)
        offset = shift + (1 - gain) * np.mean(cv2.mean(face)[:3])
        return np.asarray(cv2.transform(face, np.column_stack([matrix, offset])))

    def _move(
        self, copy: Rgb, mask: FloatArray, width: float, rng: np.random.Generator
    ) -> tuple[Rgb, FloatArray]:
        """The copy, and the mask with it, a little out of place and out of scale."""
        import cv2

        rows, columns = mask.shape
        centre = _centre(mask)
        scale = 1 + self.scale * rng.uniform(-1, 1)
        across, down = self.shift * width * rng.uniform(-1, 1, 2)
        matrix = np.array(
            [
                [scale, 0, centre[0] * (1 - scale) + across],
                [0, scale, centre[1] * (1 - scale) + down],
            ]
        )
        moved = cv2.warpAffine(
            copy, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        moved_mask = cv2.warpAffine(mask, matrix, (columns, rows), flags=cv2.INTER_LINEAR)
        return np.asarray(moved), np.asarray(moved_mask)


def landmark_mask(
    landmarks: NDArray[np.floating[Any]], size: tuple[int, int], part: str = "face"
) -> FloatArray:
    """The hull of a part of the face, float32 (h, w), 1 inside.

    `landmarks` is (68, 2), x and y in pixels, in iBUG 300-W order; `part` is one of `PARTS`.
    Raises UsageError.
    """
    import cv2

    points = np.asarray(landmarks, np.float64)
    if points.shape != (68, 2) or not (np.abs(points) < 1e6).all():
        raise UsageError(f"wanted 68 finite landmarks (68, 2) in pixels, got {points.shape}")
    if part not in PARTS:
        raise UsageError(unknown("part of a face", part, PARTS))
    chosen = points[list(PARTS[part])]
    if part == "face":  # the hull of jaw and brows, raised over the brows by a part of their height
        brows, chin = points[17:27], points[8]
        chosen = np.concatenate([chosen, brows + 0.25 * (brows - chin) * [0, 1]])
    elif part in ("eyes", "nose", "mouth"):  # a swap takes the skin around them too
        centre = chosen.mean(axis=0)
        chosen = centre + 1.4 * (chosen - centre)
    mask = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(chosen.round().astype(np.int32)), 1)
    return mask.astype(np.float32)


def ellipse_mask(
    size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]
) -> FloatArray:
    """An ellipse, float32 (h, w), 1 inside; `centre` and `radii` as (row, column) in pixels.

    Raises UsageError for a centre or radii that are not finite, or radii that are not positive.
    """
    if not (min(radii) > 0 and np.isfinite([*centre, *radii]).all()):
        raise UsageError(
            f"an ellipse needs a finite centre and positive radii, got {centre}, {radii}"
        )
    rows, columns = np.indices(size)
    inside = np.hypot((rows - centre[0]) / radii[0], (columns - centre[1]) / radii[1]) <= 1
    return np.asarray(inside, np.float32)


def self_blend(
    face: Rgb,
    where: FloatArray | NDArray[np.floating[Any]],
    *,
    seed: int | Sequence[int] = 0,
    part: str = "face",
    how: SelfBlend | None = None,
) -> Forgery:
    """Forge a face: blend it with a changed copy of itself.

    `face` is uint8 RGB (H, W, 3); `where` its 68 landmarks (68, 2), or a mask (H, W) in [0, 1] such
    as `ellipse_mask` makes; `part` picks the hull among landmarks. The same seed gives the same
    bits. Costs no images. Raises UsageError.
    """
    if part not in PARTS:
        raise UsageError(unknown("part of a face", part, PARTS))
    if np.min(seed) < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    array = np.asarray(where, np.float32)
    mask = landmark_mask(array, face.shape[:2], part) if array.shape == (68, 2) else array
    return (how or SelfBlend()).forge(face, mask, np.random.default_rng(seed))


def _check(face: Rgb, mask: FloatArray) -> None:
    if face.ndim != 3 or face.shape[2] != 3 or face.dtype != np.uint8:
        raise UsageError(f"wanted a face as uint8 RGB (H, W, 3), got {face.dtype} {face.shape}")
    if mask.shape != face.shape[:2]:
        raise UsageError(
            f"wanted 68 landmarks (68, 2) or a mask of the face's shape {face.shape[:2]}, "
            f"got {mask.shape}"
        )
    if not (mask > 0.5).any():
        raise UsageError("the mask is empty: nothing would be forged")
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise UsageError("a mask must lie in [0, 1]")


def _something(mask: FloatArray) -> FloatArray:
    """The mask, if warp and shift have left anything of it on the face."""
    if not mask.any():
        raise UsageError("the mask lies at the edge and was moved off the face: nothing was forged")
    return mask


def _mix(around: Rgb, copy: Rgb, mask: FloatArray) -> Rgb:
    """Copy over around; the same bits as around where the mask is 0."""
    low = around.astype(np.float32)
    return _to_bytes(low + (copy.astype(np.float32) - low) * mask[..., None])


def _centre(mask: FloatArray) -> tuple[float, float]:
    """The mask's centre of mass as x, y."""
    total = float(mask.sum())
    columns = float(mask.sum(axis=0) @ np.arange(mask.shape[1])) / total
    rows = float(mask.sum(axis=1) @ np.arange(mask.shape[0])) / total
    return columns, rows


def _to_bytes(pixels: NDArray[np.floating[Any]]) -> Rgb:
    return np.asarray(np.rint(np.clip(pixels, 0, 255)), np.uint8)
