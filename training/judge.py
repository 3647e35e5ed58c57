"""Measures a finished detector as users meet it: the ONNX file, through whyfake's own runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from whyfake.evaluate.forge import SelfBlend
from whyfake.media import fit_to, load_picture
from whyfake.runtime import Detector, load_detector

from .faces import Face, FolderError, Rgb, read_faces
from .fit import Recipe
from .metrics import accuracy, auc, false_alarms, found, interval
from .pairs import make_pair, make_plain_pair

METRICS = {"auc": auc, "accuracy": accuracy, "false_alarms": false_alarms, "found": found}
TEST_ROUND = 3_000_000  # a key that no training round has
VIDEO_STEP = 15  # frames
SMALL, LARGE = 130, 180  # sides of the pictures that faces are cropped from, in pixels


@dataclass(frozen=True)
class Labelled:
    """Pictures of any size, uint8 (h, w, 3), which of them are fake, and whose they are."""

    name: str
    pictures: list[Rgb]
    fake: list[bool]
    groups: list[str]


def judge(model: Path, faces: Path, data: Path | None, recipe: Recipe) -> list[dict[str, Any]]:
    """One row of figures for each set: unseen identities, and what `data` holds, where given."""
    with load_detector(model, device="cpu") as detector:
        sets = self_blends(faces, recipe)
        if data is not None:
            pairs = [ffpp(data / "ffpp_pairs" / kind) for kind in ("Deepfakes", "FaceSwap")]
            sets += [*pairs, together("FF++ pairs together", pairs)]
            sets += videos(data, detector.card.crop_margin or 1.5)
        return [row(detector, labelled) for labelled in sets]


def row(detector: Detector, labelled: Labelled) -> dict[str, Any]:
    """Figures of one set, each with its interval where there are identities enough for one."""
    frames = np.stack([fit_to(picture, detector.size) for picture in labelled.pictures])
    log_probs = detector.log_probs(frames).astype(np.float64)
    real, fake_column = (detector.card.classes.index(name) for name in ("real", "fake"))
    scores = log_probs[:, fake_column] - log_probs[:, real]
    fake = np.array(labelled.fake)
    figures: dict[str, Any] = {
        "set": labelled.name,
        "real": int((~fake).sum()),
        "fake": int(fake.sum()),
        "groups": len(set(labelled.groups)),
    }
    for name, metric in METRICS.items():
        value = metric(scores, fake)
        if np.isnan(value):
            continue
        bounds = interval(metric, scores, fake, labelled.groups)
        figures[name] = round(value, 4)
        if bounds is not None:
            figures[f"{name}_95"] = [round(bound, 4) for bound in bounds]
    return figures


def self_blends(folder: Path, recipe: Recipe) -> list[Labelled]:
    """Self-blends of the people that neither training nor calibration saw, easy and hard ones.

    And, to show what was learnt by heart, of those that were trained on.
    """
    test = read_faces(folder, "test", recipe.seed)
    small = [face for face in test if max(face.rgb.shape) < SMALL]
    large = [face for face in test if max(face.rgb.shape) >= LARGE]
    seen = read_faces(folder, "train", recipe.seed)[::5]
    full, half = SelfBlend(ratios=(1.0,)), SelfBlend(ratios=(0.5,))
    sets = {
        "unseen people, plain": (test, SelfBlend(), False),
        "unseen people, full weight": (test, full, False),
        "unseen people, half weight": (test, half, False),
        f"unseen people, pictures under {SMALL} pixels": (small, SelfBlend(), False),
        f"unseen people, pictures of {LARGE} pixels or more": (large, SelfBlend(), False),
        "unseen people, degraded": (test, SelfBlend(), True),
        "people that were trained on, plain": (seen, SelfBlend(), False),
    }
    return [
        blended(f"self-blends: {name}", faces, recipe, how, hard=hard)
        for name, (faces, how, hard) in sets.items()
        if faces
    ]


def blended(
    name: str, faces: Sequence[Face], recipe: Recipe, how: SelfBlend, *, hard: bool
) -> Labelled:
    """Two pairs of each face.

    `hard` forges single parts too and treats the pair as training does: light, grain, codecs.
    """
    make = make_pair if hard else make_plain_pair
    turns = range(TEST_ROUND, TEST_ROUND + 2)
    keys = [[recipe.seed, turn, i] for turn in turns for i in range(len(faces))]
    pairs = [make(faces[key[-1]], key, recipe.size, how) for key in keys]
    sides = [p.real for p in pairs] + [p.fake for p in pairs]
    return Labelled(
        name,
        [side.transpose(1, 2, 0) for side in sides],
        [index >= len(pairs) for index in range(len(sides))],
        [faces[key[-1]].identity for key in keys] * 2,
    )


def ffpp(folder: Path) -> Labelled:
    """A folder with `real/` and `fake/` pictures, all of one clip."""
    paths = [
        (path, side) for side in ("real", "fake") for path in sorted((folder / side).glob("*"))
    ]
    if not paths:
        raise FolderError(f"{folder}: wanted pictures in real/ and fake/")
    return Labelled(
        f"FF++ {folder.name} pairs",
        [load_picture(path).rgb for path, _ in paths],
        [side == "fake" for _, side in paths],
        [folder.name] * len(paths),
    )


def together(name: str, sets: Sequence[Labelled]) -> Labelled:
    """Several sets as one."""
    return Labelled(
        name,
        [picture for part in sets for picture in part.pictures],
        [fake for part in sets for fake in part.fake],
        [group for part in sets for group in part.groups],
    )


def videos(data: Path, margin: float) -> list[Labelled]:
    """Every 15th frame of each clip: its largest face, cropped at the detector's margin."""
    finder = cv2.FaceDetectorYN.create(
        str(data / "face_detector" / "face_detection_yunet_2023mar.onnx"), "", (320, 320)
    )
    sets = []
    for path in sorted((data / "videos").glob("*.mp4")):
        crops = list(_faces_of(path, finder, margin))
        if not crops:
            raise FolderError(f"{path}: no face was found in it")
        fake = path.name.startswith("deepfakes")
        sets.append(Labelled(path.name, crops, [fake] * len(crops), [path.stem] * len(crops)))
    return sets


def _faces_of(path: Path, finder: Any, margin: float) -> Any:
    clip = cv2.VideoCapture(str(path))
    number = 0
    while True:
        there, bgr = clip.read()
        if not there:
            break
        number += 1
        if number % VIDEO_STEP != 1:
            continue
        finder.setInputSize(bgr.shape[1::-1])
        _, faces = finder.detect(bgr)
        if faces is None:
            continue
        x, y, w, h = max(faces, key=lambda face: face[2] * face[3])[:4]
        side = round(max(w, h) * margin)
        left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
        padded = cv2.copyMakeBorder(bgr, *[side] * 4, cv2.BORDER_REPLICATE)
        crop = padded[top + side : top + 2 * side, left + side : left + 2 * side]
        yield np.ascontiguousarray(crop[..., ::-1])
    clip.release()
