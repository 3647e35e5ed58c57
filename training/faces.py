"""A folder of real faces with landmarks: split by identity, cropped as a detector sees them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
SPLITS = {"train": 0.75, "validation": 0.10, "test": 0.15}
MARGINS = (1.25, 1.75)  # side of the crop over the side of the face


class FolderError(Exception):
    """A folder that is not of the form that training reads."""


@dataclass(frozen=True)
class Face:
    """One real face: uint8 RGB (H, W, 3), its 68 landmarks (68, 2), and whose it is."""

    name: str
    identity: str
    rgb: Rgb
    landmarks: NDArray[np.float32]


def read_faces(folder: Path, split: str, seed: int) -> list[Face]:
    """The faces of one split, in name order. Identities are shuffled by `seed`, then divided.

    The folder holds pictures named IDENTITY_ANYTHING and landmarks68.csv: file, x0, y0 … x67, y67.
    """
    rows = _rows(folder / "landmarks68.csv")
    identities = sorted({identity_of(name) for name in rows})
    chosen = set(_share(identities, split, seed))
    faces = []
    for name in sorted(rows):
        if identity_of(name) not in chosen:
            continue
        bgr = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        if bgr is None:
            raise FolderError(
                f"{folder / name}: listed in landmarks68.csv, but no readable picture"
            )
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        faces.append(Face(name, identity_of(name), rgb, rows[name]))
    return faces


def identity_of(name: str) -> str:
    """Whose face it is: the file's name up to its first underscore."""
    return name.split("_")[0]


def _share(identities: list[str], split: str, seed: int) -> list[str]:
    order = np.random.default_rng([seed, 68]).permutation(len(identities))
    ends = (np.cumsum(list(SPLITS.values())) * len(identities)).round().astype(int)
    start, stop = dict(zip(SPLITS, zip([0, *ends[:-1]], ends, strict=True), strict=True))[split]
    return [identities[i] for i in order[start:stop]]


def _rows(path: Path) -> dict[str, NDArray[np.float32]]:
    rows: dict[str, NDArray[np.float32]] = {}
    try:
        with open(path, newline="") as stream:
            lines = [line for line in csv.reader(stream) if line][1:]
        for line in lines:
            if line[0] in rows:
                raise FolderError(f"{path}: {line[0]} stands there twice")
            rows[line[0]] = np.array(line[1:], np.float32).reshape(68, 2)
    except (OSError, ValueError) as error:
        after = f" (after {next(reversed(rows))})" if rows else ""
        raise FolderError(
            f"{path}: wanted 'file' and 68 landmarks a line{after}: {error}"
        ) from None
    for name, landmarks in rows.items():
        if not np.isfinite(landmarks).all() or not np.ptp(landmarks, axis=0).min() > 1:
            raise FolderError(f"{path}: the landmarks of {name} span no face")
    if len({identity_of(name) for name in rows}) < 20:
        raise FolderError(f"{path}: wanted faces of 20 identities or more, to split by identity")
    return rows


def crop(
    face: Face, rng: np.random.Generator, sides: tuple[int, int]
) -> tuple[Rgb, NDArray[np.float32]]:
    """A square crop around the face and the landmarks in it; its margin, place and tilt are drawn.

    Its side is drawn too, from `sides`; it comes out at the pixels' own scale or enlarged.
    """
    low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
    extent = float((high - low).max()) * 1.1  # landmarks leave out the brow
    margin = rng.uniform(*MARGINS)
    side = int(rng.integers(sides[0], sides[1] + 1))
    centre = (low + high) / 2 + extent * rng.uniform(-0.08, 0.08, 2) - [0, 0.06 * extent]
    scale = side / (extent * margin)
    matrix = cv2.getRotationMatrix2D(tuple(map(float, centre)), rng.normal(0, 4), scale)
    matrix[:, 2] += side / 2 - centre
    if rng.random() < 0.5:
        matrix = np.array([[-1, 0, side - 1], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
    how = cv2.INTER_AREA if scale < 1 else (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
    rgb = _warp(face.rgb, matrix, side, scale, how)
    return rgb, (face.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def _warp(rgb: Rgb, matrix: Any, side: int, scale: float, how: int) -> Rgb:
    if how == cv2.INTER_AREA:  # warpAffine does not average: shrink first, then turn
        height, width = rgb.shape[:2]
        smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
        factors = np.array([width / smaller[0], height / smaller[1]])
        shift = matrix[:, :2] @ ((factors - 1) / 2)  # the centre of pixel 0 lies at one half
        matrix = np.column_stack([matrix[:, :2] * factors, matrix[:, 2] + shift])
        rgb, how = np.asarray(cv2.resize(rgb, smaller, interpolation=how)), cv2.INTER_LINEAR
    return np.asarray(
        cv2.warpAffine(rgb, matrix, (side, side), flags=how, borderMode=cv2.BORDER_REFLECT_101)
    )
