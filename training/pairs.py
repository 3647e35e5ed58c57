"""Pairs of one face, real and forged, that differ in nothing but the forgery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from whyfake.evaluate.forge import Forgery, SelfBlend, landmark_mask

from .degrade import Treatment, draw_treatment, resize_to
from .faces import Face, Rgb, crop

SIDES = (128, 208)
PLACE = 8  # pixels a side of the places that the network marks
PARTS = {"face": 0.40, "centre": 0.25, "inner": 0.20, "eyes": 0.05, "mouth": 0.05, "nose": 0.05}
WHOLE = ("face", "centre", "inner")


@dataclass(frozen=True)
class Pair:
    """`real` and `fake` uint8 (3, size, size); `mask` float32 (size/8, size/8), share forged."""

    real: Rgb
    fake: Rgb
    mask: NDArray[np.float32]


def make_plain_pair(face: Face, key: Sequence[int], size: int, how: SelfBlend) -> Pair:
    """A pair to test on: a whole-face forgery, and no treatment but the resize."""
    rng = np.random.default_rng(key)
    rgb, landmarks = crop(face, rng, SIDES)
    mask = landmark_mask(landmarks, rgb.shape[:2], str(rng.choice(WHOLE)))
    return _pair(how.forge(rgb, mask, rng), resize_to(size))


def make_pair(face: Face, key: Sequence[int], size: int, how: SelfBlend) -> Pair:
    """The pair of a face; the same key gives the same bits."""
    rng = np.random.default_rng(key)
    rgb, landmarks = crop(face, rng, SIDES)
    part = str(rng.choice(list(PARTS), p=list(PARTS.values())))
    mask = landmark_mask(landmarks, rgb.shape[:2], part)
    if not (mask > 0.5).any():  # a crop that tilts a tiny part out of the picture
        mask = landmark_mask(landmarks, rgb.shape[:2], "face")
    return _pair(how.forge(rgb, mask, rng), draw_treatment(rng, size))


def _pair(forgery: Forgery, treat: Treatment) -> Pair:
    real, fake = (treat(side).transpose(2, 0, 1) for side in (forgery.original, forgery.image))
    places = (real.shape[2] // PLACE, real.shape[1] // PLACE)
    cells = cv2.resize(forgery.mask, places, interpolation=cv2.INTER_AREA)
    return Pair(
        np.ascontiguousarray(real),
        np.ascontiguousarray(fake),
        np.minimum(cells, np.float32(1)),  # averages of ones may round above one
    )
