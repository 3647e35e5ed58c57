"""Clips made on the spot: a portrait moving over a plain background, at any times."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper
from toys import make_card, save_model

from whyfake import Detector, load_detector
from whyfake.explainers import Lime, Nes, Rise
from whyfake.settings import Settings

Rgb = NDArray[np.uint8]
SIZE = (180, 240)
FAST = Settings(
    nes=Nes(pairs=16, alpha=4 / 255), lime=Lime(samples=40), rise=Rise(masks=40), regions="grid:6"
)
"""Quick settings for clips."""
SECONDS = re.compile(r'"seconds": [0-9.e+-]+')


def write_clip(
    path: Path,
    frames: Iterable[Rgb],
    *,
    rate: Fraction | int = 25,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Frames as a clip, evenly or at `times` in seconds; near lossless."""
    import av

    fast = {"preset": "ultrafast", "crf": "4"} if codec == "libx264" else {"crf": "4", "b": "9M"}
    fast = {} if codec == "mjpeg" else fast
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=fast)
        stream.codec_context.time_base = Fraction(1, 90_000) if times else 1 / Fraction(rate)
        for index, rgb in enumerate(frames):
            if index == 0:
                stream.height, stream.width = rgb.shape[:2]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = index if times is None else round(times[index] * 90_000)
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(count: int, size: tuple[int, int] = (64, 96)) -> list[Rgb]:
    """Frames whose number can be read back from their brightness, four steps apart."""
    return [np.full((*size, 3), 8 + 4 * (index % 60), np.uint8) for index in range(count)]


def number_of(rgb: Rgb) -> int:
    """What `numbered` wrote, from the middle of the frame."""
    height, width = rgb.shape[:2]
    middle = rgb[height // 4 : -height // 4, width // 4 : -width // 4]
    return round((float(middle.mean()) - 8) / 4)


@lru_cache(maxsize=8)
def portrait(side: int = 96, *, other: bool = False) -> Rgb:
    """A face (side, side, 3), public domain; `other` is mirrored and tinted, to be told apart."""
    import cv2
    import skimage.data

    face = skimage.data.astronaut()[10:220, 120:330]
    face = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    if other:
        tint = np.array([0.55, 0.8, 1.0])
        face = np.clip(face[:, ::-1] * tint, 0, 255).astype(np.uint8)
    face.flags.writeable = False
    return face


def scene(places: Sequence[tuple[int, int, bool]], size: tuple[int, int] = SIZE) -> Rgb:
    """A frame with a portrait at each (left, top, other); later ones lie over earlier ones."""
    rows = np.linspace(60, 110, size[0])[:, None, None]
    rgb = np.broadcast_to(rows, (*size, 3)).astype(np.uint8)
    for left, top, other in places:
        face = portrait(other=other)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + 96, size[1]), min(top + 96, size[0])
        if x1 > x0 and y1 > y0:
            rgb[y0:y1, x0:x1] = face[y0 - top : y1 - top, x0 - left : x1 - left]
    return rgb


def walking(count: int, *, step: float = 1.0) -> list[Rgb]:
    """A face that walks to the right by `step` pixels a frame."""
    return [scene([(20 + round(step * index), 40, False)]) for index in range(count)]


def away_and_back() -> list[Rgb]:
    """A face that walks, is away from 0.8 s to 1.6 s, and walks on: 60 frames at 25 a second."""
    frames = walking(60)
    for index in range(20, 40):
        frames[index] = scene([])
    return frames


def brightness_detector(
    folder: Path, threshold: float, size: tuple[int, int] = (32, 32), gain: float = 40.0
) -> Detector:
    """Calls a crop fake where the mean of its middle is over `threshold`; reads nothing else."""
    weights = np.zeros((3, *size), np.float32)
    rows, columns = slice(size[0] // 4, -size[0] // 4), slice(size[1] // 4, -size[1] // 4)
    weights[:, rows, columns] = 1 / weights[:, rows, columns].size
    matrix = np.zeros((weights.size, 2), np.float32)
    matrix[:, 1] = weights.ravel() * gain
    card: dict[str, Any] = make_card(size, crop_margin=1.2)
    path = save_model(
        folder,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["y"]),
        ],
        {"w": matrix, "b": np.array([0, -threshold * gain], np.float32)},
        size=size,
        columns=2,
        card=card,
        name="brightness",
    )
    return load_detector(path, device="cpu", threads=2)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What a run wrote of each frame."""
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def without_seconds(folder: Path) -> str:
    """The same as text, less how long each took."""
    return SECONDS.sub('"seconds": 0', (folder / "frames.jsonl").read_text())
