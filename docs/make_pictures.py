"""Makes the pictures of the README: a forged portrait that may be shown, and its explanations.

    python docs/make_pictures.py DETECTOR.onnx

The portrait is NASA's of Eileen Collins (public domain, shipped with scikit-image). The forgery is
a self-blend: inside a soft ellipse, the face is replaced by a copy of itself that went through a
third of its resolution, the way face-swap networks of low resolution leave their traces.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

import whyfake
from whyfake.files import write_file
from whyfake.report import overlay, png_bytes, strip

SIDE = 256
CENTRE, RADII = (128, 122), (70, 52)  # of the face in the crop: row, column
METHODS = ["lime-adv", "shap-adv", "sobol-adv", "rise-adv"]


def portrait() -> NDArray[np.uint8]:
    """The face of the portrait, uint8 RGB (256, 256, 3)."""
    crop = skimage.data.astronaut()[0:220, 120:340]
    enlarged: NDArray[np.uint8] = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return enlarged


def forge(face: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The face with its inside at a third of its resolution, blended softly."""
    third = cv2.resize(face, (SIDE // 3, SIDE // 3), interpolation=cv2.INTER_AREA)
    smooth = cv2.resize(third, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.indices((SIDE, SIDE))
    radius = np.hypot((rows - CENTRE[0]) / RADII[0], (columns - CENTRE[1]) / RADII[1])
    inside = np.clip(1.6 - 1.28 * radius, 0, 1)[..., None]
    mixed = face * (1 - inside) + smooth * inside
    return np.asarray(mixed.round().clip(0, 255), np.uint8)


def main() -> None:
    """Write portrait, forgery, overlay and strip to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector", type=Path)
    options = parser.parse_args()
    folder = Path(__file__).parent / "images"
    face = portrait()
    write_file(folder / "portrait.png", png_bytes(face))
    write_file(folder / "forged.png", png_bytes(forge(face)))
    with whyfake.load_detector(options.detector, device="cpu") as detector:
        found = list(whyfake.explain_many(detector, [folder / "forged.png"], method=METHODS))
    write_file(folder / "overlay.png", png_bytes(overlay(found[0])))
    write_file(folder / "strip.png", png_bytes(strip(found)))


if __name__ == "__main__":
    main()
