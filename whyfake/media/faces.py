"""Finds faces: YuNet where its file is at hand, else scikit-image's cascade, or given boxes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, VideoError
from ..files import cache_root

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]

MODEL_VARIABLE = "WHYFAKE_FACE_MODEL"
MODEL_FILE = "face_detection_yunet_2023mar.onnx"
LANDMARKS = ("right eye", "left eye", "nose", "right mouth corner", "left mouth corner")
"""The five points, in their order: right and left are the person's, so the right eye comes first
from the left of the picture."""


@dataclass(frozen=True)
class Face:
    """A face in a frame: `box` is x, y, width, height in pixels, `confidence` in [0, 1] or None.

    `landmarks` are five points, x and y, in the order of LANDMARKS, where the finder knows them;
    `track` is the track that a file of boxes assigns.
    """

    box: Box
    confidence: float | None = None
    landmarks: Points | None = None
    track: int | None = None


class Finder(Protocol):
    """Finds the faces of a frame."""

    name: str
    """What found them, as it is shown and stored."""
    landmarks: bool
    """Whether its faces have landmarks."""
    trusted: bool
    """Whether each face is real: given by the caller, not found."""
    whole: bool
    """Whether the frame is the crop."""
    digest: str
    """SHA-256 of the file that it works with; empty where there is none."""

    def find(self, rgb: NDArray[np.uint8], index: int) -> list[Face]:
        """The faces in frame `index`, uint8 RGB (H, W, 3)."""
        ...


class YuNet:
    """OpenCV's FaceDetectorYN: boxes and five landmarks. Frames over 1,280 pixels are scaled down.

    Raises VideoError where the file is not a YuNet model.
    """

    name = "yunet"
    landmarks = True
    trusted = False
    whole = False

    def __init__(self, model: str | Path, *, threshold: float = 0.6, longest: int = 1280) -> None:
        import cv2

        self._longest = longest
        self.digest = _digest(model)
        # OpenCV 5 warns on every start that its new engine ignores the target device
        messages = getattr(cv2.utils, "logging", cv2)  # before 4.13 they are set in cv2 itself
        level = messages.getLogLevel()
        messages.setLogLevel(0)
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold, 0.3, 500)
            self._net.setInputSize((64, 64))
            self._net.detect(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error).split())[-160:]
            raise VideoError(
                f"{model}: not a YuNet face model that OpenCV reads: {reason}"
            ) from None
        finally:
            messages.setLogLevel(level)

    def find(self, rgb: NDArray[np.uint8], index: int) -> list[Face]:
        """The faces in a frame, surest first."""
        small, scale = _shrunk(rgb, self._longest)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._net.detect(np.ascontiguousarray(small[..., ::-1]))
        faces = []
        for row in rows if rows is not None else ():
            values = np.round(row.astype(np.float64) * scale, 2)
            x, y, width, height = values[:4].tolist()
            points = values[4:14].reshape(5, 2).tolist()
            faces.append(
                Face(
                    box=(x, y, width, height),
                    confidence=round(float(min(row[14], 1.0)), 4),
                    landmarks=tuple((x, y) for x, y in points),
                )
            )
        return faces


class Cascade:
    """scikit-image's frontal cascade: needs no file, finds upright frontal faces, no landmarks.

    It sees faces where there are none more often than YuNet. Frames over 640 pixels are scaled
    down; faces under an eighth of the shorter side are not looked for.
    """

    name = "cascade"
    landmarks = False
    trusted = False
    whole = False
    digest = ""

    def __init__(self, *, longest: int = 640) -> None:
        import skimage.data
        from skimage.feature import Cascade as SkimageCascade

        self._cascade = SkimageCascade(skimage.data.lbp_frontal_face_cascade_filename())
        self._longest = longest

    def find(self, rgb: NDArray[np.uint8], index: int) -> list[Face]:
        """The faces in a frame."""
        small, scale = _shrunk(rgb, self._longest)
        shorter = min(small.shape[:2])
        if shorter < 24:  # the cascade's own window
            return []
        least = max(24, shorter // 8)
        found = self._cascade.detect_multi_scale(
            img=small,
            scale_factor=1.15,
            step_ratio=1,
            min_size=(least, least),
            max_size=(shorter, shorter),
            min_neighbor_number=6,
        )
        boxes = _merged([(f["c"], f["r"], f["width"], f["height"]) for f in found])
        return [Face(_scaled(box, scale)) for box in boxes]


class WholeFrame:
    """The frame is a face crop already."""

    name = "none: frames are face crops"
    landmarks = False
    trusted = True
    whole = True
    digest = ""

    def find(self, rgb: NDArray[np.uint8], index: int) -> list[Face]:
        """One face, as large as the frame."""
        return [Face(box=(0.0, 0.0, float(rgb.shape[1]), float(rgb.shape[0])), track=1)]


class GivenBoxes:
    """Boxes from a JSON file: `{"120": [[x, y, w, h], …]}`, or a list of objects.

    An object is `{"frame": 120, "box": [x, y, w, h], "track": 1, "landmarks": [[x, y] × 5]}`, the
    last two optional; so the lines of a `frames.jsonl` serve too. Raises UsageError.
    """

    trusted = True
    whole = False

    def __init__(self, path: str | Path) -> None:
        self.digest = _digest(path)
        self.name = f"boxes from {Path(path).name}"
        self._faces: dict[int, list[Face]] = {}
        for number, row in enumerate(_rows(path), 1):
            try:
                frame, face = int(row["frame"]), _given(row)
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(
                    f"{path}: entry {number} is no frame with a box [x, y, width, height]: {error}"
                ) from None
            if face is not None:
                self._faces.setdefault(frame, []).append(face)
        self.landmarks = all(f.landmarks is not None for fs in self._faces.values() for f in fs)

    def find(self, rgb: NDArray[np.uint8], index: int) -> list[Face]:
        """The faces that the file gives for that frame."""
        return self._faces.get(index, [])


def face_model(given: str | Path | None) -> Path | None:
    """Where YuNet's file is: as given, as WHYFAKE_FACE_MODEL says, or in the cache folder.

    None where there is none. Raises UsageError where a file that was named is not there.
    """
    named = given if given is not None else os.environ.get(MODEL_VARIABLE)
    if named:
        if not Path(named).is_file():
            where = "--face-model" if given is not None else MODEL_VARIABLE
            raise UsageError(f"{where}: there is no file {named}")
        return Path(named)
    cached = cache_root() / MODEL_FILE
    return cached if cached.is_file() else None


def make_finder(
    *,
    model: str | Path | None = None,
    boxes: str | Path | None = None,
    whole: bool = False,
) -> Finder:
    """Given boxes, the whole frame, YuNet where its file is found, otherwise the cascade.

    Raises UsageError, VideoError.
    """
    if sum([model is not None, boxes is not None, whole]) > 1:
        raise UsageError("give one of --face-model, --boxes and --no-face")
    if boxes is not None:
        return GivenBoxes(boxes)
    if whole:
        return WholeFrame()
    found = face_model(model)
    return Cascade() if found is None else YuNet(found)


def _digest(path: str | Path) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None


def _shrunk(rgb: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], float]:
    """The frame with no side over `longest`, and what its pixels are to be multiplied by."""
    import cv2

    scale = max(max(rgb.shape[:2]) / longest, 1.0)
    if scale == 1.0:
        return rgb, 1.0
    size = (max(round(rgb.shape[1] / scale), 1), max(round(rgb.shape[0] / scale), 1))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _scaled(box: tuple[int, int, int, int], scale: float) -> Box:
    x, y, width, height = (round(float(value) * scale, 2) for value in box)
    return x, y, width, height


def _merged(boxes: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Without those whose centre lies in a larger one."""
    kept: list[tuple[int, int, int, int]] = []
    for box in sorted(boxes, key=lambda b: -b[2] * b[3]):
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        if not any(b[0] <= x <= b[0] + b[2] and b[1] <= y <= b[1] + b[3] for b in kept):
            kept.append(box)
    return kept


def _rows(path: str | Path) -> list[Mapping[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read the boxes: {error}") from None
    try:
        data = json.loads(text)
    except ValueError:
        try:
            data = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise UsageError(f"{path}: neither JSON nor JSON lines: {error}") from None
    if isinstance(data, dict):
        try:
            return [{"frame": k, "box": box} for k, boxes in data.items() for box in boxes]
        except TypeError:
            data = None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise UsageError(f"{path}: wanted frame numbers with their boxes, or a list of objects")
    return data


def _given(row: Mapping[str, Any]) -> Face | None:
    if row["box"] is None:
        return None
    x, y, width, height = (float(value) for value in row["box"])
    if not np.isfinite([x, y, width, height]).all() or min(width, height) <= 0:
        raise ValueError(f"box {row['box']}")
    points = row.get("landmarks")
    landmarks = None if points is None else tuple((float(x), float(y)) for x, y in points)
    if landmarks is not None and len(landmarks) != 5:
        raise ValueError(f"{len(landmarks)} landmarks, wanted 5")
    track = row.get("track")
    confidence = row.get("confidence")
    return Face(
        (x, y, width, height),
        None if confidence is None else float(confidence),
        landmarks,
        None if track is None else int(track),
    )
