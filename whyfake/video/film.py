"""The third pass: the clip again, with heat, boxes and scores drawn on every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..explanation import Explanation
from ..media import ClipInfo, Crop, read_frames
from ..media.write import ClipWriter
from ..perturbation import FloatArray
from ..report.overlay import heat_of
from ..report.scene import Curve, Marked, Patch, Strip, draw_scene, label_of
from .folder import ClipFolder, lines_of
from .smooth import stored_smooth

HOLD = 2.0
"""Seconds for which a face's last heat stays on it when no later one comes."""


@dataclass
class _Shown:
    """What is known of a track at the moment: where its crop lies in its box, and its heat."""

    time: float
    text: str
    offset: tuple[float, float, float, float, float]
    level: FloatArray | None


def write_film(
    folder: ClipFolder,
    clip: Path,
    info: ClipInfo,
    method: str,
    path: Path,
    *,
    smooth: float = 0.0,
    tick: Callable[[int], None] | None = None,
) -> None:
    """Write the clip as `path` in its own size and times, with the heat of `method` on it.

    Heat belongs to the frames that were asked about; between them the last one's stays on the face
    and moves with it. Costs no images. Raises OutputError, VideoError.
    """
    rows: dict[str, dict[str, Any]] = {}
    curves: dict[int, Curve] = {}
    for row in lines_of(folder.path / "frames.jsonl"):
        if row["track"] is not None:
            rows[row["id"]] = row
            curve = curves.setdefault(row["track"], Curve(row["track"]))
            curve.points.append((row["time"], row["p_fake"], row["explained"]))
    size = (info.height, info.width)
    strip = Strip(size, info.duration, list(curves.values()))
    shown: dict[int, _Shown] = {}
    looks = _pairs(folder)
    before, after = next(looks, (None, None))
    with ClipWriter(path, size, info.rate) as writer:
        for frame in read_frames(info, clip, []):
            while after is not None and after["frame"] <= frame.index:
                before, after = next(looks, (after, None))
            exact = before is not None and before["frame"] == frame.index
            marked, patches = [], []
            for face in _faces_at(before, after, frame.index, frame.time):
                track = face["track"]
                if exact and face.get("id") in rows:
                    shown[track] = _shown(folder, rows[face["id"]], method, smooth)
                last = shown.get(track)
                if last is None or frame.time - last.time > HOLD + 1e-6:
                    text, asked = f"face {track}", False
                else:
                    text, asked = last.text, last.time == (before or {}).get("time") and exact
                    patches += _patch(last, face["box"], size)
                marked.append(Marked(tuple(face["box"]), track, text, asked))
            picture = draw_scene(frame.rgb, patches, marked)
            strip.put(picture, frame.time)
            writer.write(picture, frame.time)
            if tick is not None:
                tick(frame.index)


def _shown(folder: ClipFolder, row: dict[str, Any], method: str, smooth: float) -> _Shown:
    x, y, width, height = row["box"]
    crop = row["crop"]
    scale = max(width, height)
    offset = (
        (crop["left"] + crop["width"] / 2 - x - width / 2) / scale,
        (crop["top"] + crop["height"] / 2 - y - height / 2) / scale,
        crop["width"] / scale,
        crop["height"] / scale,
        crop["angle"],
    )
    level = None
    if row["explained"] and method in row["methods"]:
        smoothed = stored_smooth(folder, row["id"], method) if smooth > 0 else None
        heat = heat_of(Explanation.load(folder.frame(row["id"]) / method), smoothed)
        level = None if heat is None else heat[0]
    text = label_of(row["track"], row["predicted"], row["scores"][row["predicted"]])
    return _Shown(row["time"], text, offset, level)


def _patch(last: _Shown, box: list[float], size: tuple[int, int]) -> list[Patch]:
    """The heat where the face is now."""
    if last.level is None:
        return []
    x, y, width, height = box
    scale = max(width, height)
    across, down, wide, high, angle = last.offset
    wide, high = max(round(wide * scale), 1), max(round(high * scale), 1)
    left = round(x + width / 2 + across * scale - wide / 2)
    top = round(y + height / 2 + down * scale - high / 2)
    return [Patch(*Crop(left, top, wide, high, angle).placed(last.level, size))]


def _pairs(folder: ClipFolder) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Each look with the one after it, beginning before the first."""
    before = None
    for look in folder.looks():
        if "end" not in look:
            yield before, look
            before = look
    yield before, None


def _faces_at(
    before: dict[str, Any] | None, after: dict[str, Any] | None, index: int, time: float
) -> Iterator[dict[str, Any]]:
    """The faces between two looks, their boxes on the way from one to the other.

    A face that is in one of them only is shown at that look and not between.
    """
    if before is None:
        return
    if before["frame"] == index or after is None:
        yield from before["faces"] if before["frame"] == index else ()
        return
    share = (time - before["time"]) / max(after["time"] - before["time"], 1e-9)
    later = {face["track"]: face for face in after["faces"]}
    for face in before["faces"]:
        if face["track"] in later:
            ends = np.array([face["box"], later[face["track"]]["box"]])
            box = ends[0] + min(max(share, 0.0), 1.0) * (ends[1] - ends[0])
            yield {"track": face["track"], "box": [float(v) for v in box]}
