"""A line of frames.jsonl: what is known of one face in one sampled frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..media import Crop

UNSURE = 0.6
"""Below this probability of its class, a decision is marked as close."""


@dataclass(frozen=True)
class Sampled:
    """A face in a sampled frame, as the survey has it."""

    identity: str
    frame: int
    time: float
    track: int
    p_fake: float
    called_real: bool


def face_record(face: Sampled, row: dict[str, Any]) -> dict[str, Any]:
    """A face that was scored: `row` is what the survey has of it."""
    scores = row["scores"]
    predicted = max(scores, key=scores.get)
    flags = []
    if scores[predicted] < UNSURE:
        flags.append("close decision")
    if row["confidence"] is not None and row["confidence"] < 0.8:
        flags.append("low face confidence")
    if row["padded"] > 0.1:
        flags.append("crop reaches over the border")
    return {
        "id": face.identity,
        "frame": face.frame,
        "time": face.time,
        "track": face.track,
        "box": row["box"],
        "confidence": row["confidence"],
        "landmarks": row["landmarks"],
        "crop": row["crop"],
        "predicted": predicted,
        "p_fake": face.p_fake,
        "scores": scores,
        "explained": False,
        "flags": flags,
        "images": 1,
        "files": {"crop": f"frames/{face.identity}/crop.png"},
    }


def no_face_record(frame: int, time: float) -> dict[str, Any]:
    """A sampled frame in which there was no face."""
    return {
        "id": f"{frame:06d}",
        "frame": frame,
        "time": time,
        "track": None,
        "box": None,
        "explained": False,
        "flags": ["no face"],
        "images": 0,
        "files": {},
    }


def explained_record(
    face: Sampled, row: dict[str, Any], methods: dict[str, Any], start: str | None
) -> dict[str, Any]:
    """A face that was explained: `methods` has a `method_record` for each.

    `start` is the neighbour with whose perturbation its adversarial sample began.
    """
    record = face_record(face, row)
    flags = list(record["flags"])
    if any(m["flipped"] is False for m in methods.values()):
        flags.append("not flipped")
    record.update(
        explained=True,
        start=start,
        flags=flags,
        methods=methods,
        images=1 + sum(m["images"] for m in methods.values()),
        seconds=round(sum(m["seconds"] for m in methods.values()), 4),
    )
    return record


def landmarks_in_crop(row: dict[str, Any], size: tuple[int, ...]) -> NDArray[np.float64] | None:
    """The landmarks (5, 2) in pixels of the detector's frame of `size` (h, w)."""
    if row["landmarks"] is None:
        return None
    crop = Crop(**row["crop"])
    points = crop.points(np.array(row["landmarks"], np.float64))
    return np.asarray((points + 0.5) * [size[1] / crop.width, size[0] / crop.height] - 0.5)
