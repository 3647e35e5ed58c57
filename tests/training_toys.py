"""What tests of the training learn from: synthetic faces, and a recipe for a quick run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("av")
import torch

from training.faces import Face, read_faces
from training.fit import Recipe
from training.judge import Labelled, blended
from whyfake.evaluate.forge import SelfBlend

Rgb = NDArray[np.uint8]
IDENTITIES, EACH = 24, 2


def layout() -> NDArray[np.float32]:
    """68 landmarks (68, 2) of an upright face in iBUG 300-W order, x and y in [0, 1]."""
    turn = np.pi * np.arange(17) / 16
    jaw = np.stack([0.5 - 0.5 * np.cos(turn), 0.25 + 0.75 * np.sin(turn)], axis=1)
    brow = np.stack([np.linspace(0.12, 0.42, 5), 0.12 - 0.05 * np.sin(np.pi * np.arange(5) / 4)], 1)
    bridge = np.stack([np.full(4, 0.5), np.linspace(0.25, 0.5, 4)], axis=1)
    nostrils = np.stack([np.linspace(0.4, 0.6, 5), [0.55, 0.57, 0.58, 0.57, 0.55]], axis=1)
    eye = ring(6, (0.28, 0.27), (0.08, 0.03))
    mouth, lips = ring(12, (0.5, 0.75), (0.17, 0.07)), ring(8, (0.5, 0.75), (0.11, 0.03))
    right_brow, right_eye = (
        part * [-1, 1] + [1, 0] for part in (brow[::-1], eye[[3, 2, 1, 0, 5, 4]])
    )
    parts = [jaw, brow, right_brow, bridge, nostrils, eye, right_eye, mouth, lips]
    return np.concatenate(parts).astype(np.float32)


def ring(count: int, centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[Any]:
    angle = np.pi + 2 * np.pi * np.arange(count) / count
    return np.array(centre) + np.array(radii) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def synthetic_face(seed: int, identity: str = "id00") -> Face:
    """Smooth blobs with grain, taller than wide, with landmarks inside."""
    rng = np.random.default_rng([seed, 1])
    height, width = int(rng.integers(140, 161)), int(rng.integers(120, 137))
    coarse = rng.integers(60, 200, (7, 6, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = smooth + rng.normal(0, 5, smooth.shape)
    corner, extent = rng.uniform([22, 34], [28, 40]), rng.uniform([66, 78], [76, 90])
    landmarks = (corner + extent * layout()).astype(np.float32)
    rgb = np.clip(grain, 0, 255).astype(np.uint8)
    return Face(f"{identity}_{seed}.jpg", identity, rgb, landmarks)


def synthetic_folder(folder: Path, identities: int = IDENTITIES) -> Path:
    """`identities` people, two pictures each, with landmarks68.csv."""
    folder.mkdir(parents=True)
    columns = [f"{axis}{index}" for index in range(68) for axis in "xy"]
    lines = [",".join(["file", *columns])]
    for number in range(identities * EACH):
        face = synthetic_face(number, f"id{number // EACH:02d}")
        bgr = np.ascontiguousarray(face.rgb[..., ::-1])
        assert cv2.imwrite(str(folder / face.name), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
        lines.append(",".join([face.name, *(f"{v:.2f}" for v in face.landmarks.ravel())]))
    (folder / "landmarks68.csv").write_text("\n".join(lines) + "\n")
    return folder


RECIPE = Recipe(seed=1, size=64, rounds=2, batch=4)


def as_images(labelled: Labelled) -> Any:
    return torch.from_numpy(np.stack(labelled.pictures)).permute(0, 3, 1, 2).contiguous()


def strict_json(path: Path) -> Any:
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def unseen(folder: Path, recipe: Recipe, *, hard: bool) -> Labelled:
    faces = read_faces(folder, "test", recipe.seed)
    return blended("unseen", faces, recipe, SelfBlend(), hard=hard)
