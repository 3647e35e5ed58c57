"""The first pass: decode, find faces, follow them, cut crops, and ask for each one's score."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError, UsageError, VideoError
from ..files import write_file
from ..media import (
    ClipFrame,
    ClipInfo,
    Crop,
    Face,
    Finder,
    Tracker,
    crop_of,
    fit_to,
    read_frames,
)
from ..report import png_bytes
from ..runtime import Detector
from .folder import ClipFolder, SurveyWriter
from .plan import Plan

LOOK_EVERY = 0.2
"""Seconds between looks for faces: enough to follow them, however rarely frames are sampled."""
_TOGETHER = 32  # crops that are scored, and lost by a kill, together
_MOST_BYTES = 64 << 20


@dataclass
class _Look:
    """A frame that was looked at, its faces by track, and their crops if it was sampled."""

    frame: int
    time: float
    sampled: bool
    faces: dict[int, Face]
    crops: dict[int, tuple[Crop, NDArray[np.uint8]]] = field(default_factory=dict)


class _Survey:
    """The state of a survey under way."""

    def __init__(
        self, detector: Detector, folder: ClipFolder, plan: Plan, finder: Finder, info: ClipInfo
    ) -> None:
        self.detector, self.folder, self.plan, self.finder = detector, folder, plan, finder
        self.size = (info.height, info.width)
        self.tracker = Tracker(trusted=finder.trusted)
        self.known: dict[str, Any] = {}
        self.lines = 0
        for line in folder.looks():
            self.lines += 1
            self.known.update({f["id"]: f["scores"] for f in line.get("faces", ()) if "id" in f})
        self.written = 0
        self.writer = SurveyWriter(folder)
        self.open: deque[_Look] = deque()
        self.ready: list[_Look] = []

    def look(self, frame: ClipFrame, *, sampled: bool) -> None:
        """Find and follow the faces of a frame, and cut them out where it is sampled."""
        faces = self.finder.find(frame.rgb, frame.index)
        if self.plan.faces == "largest" and faces:
            faces = [max(faces, key=lambda face: face.box[2] * face.box[3])]
        numbers = self.tracker.update(faces, frame.rgb, frame.time)
        look = _Look(frame.index, frame.time, sampled, dict(zip(numbers, faces, strict=True)))
        for number, face in look.faces.items():
            crop = self._crop(face, frame)
            if sampled:
                look.crops[number] = crop, crop.cut(frame.rgb)
        self.open.append(look)
        for gone in self.tracker.fleeting():
            for held in self.open:
                held.faces.pop(gone, None)
                held.crops.pop(gone, None)
        self._release(self.tracker.unsure())

    def _crop(self, face: Face, frame: ClipFrame) -> Crop:
        if self.finder.whole:
            return Crop(0, 0, frame.rgb.shape[1], frame.rgb.shape[0])
        if self.plan.align and face.landmarks is None:
            raise UsageError(
                f"--align needs eyes, and {self.finder.name} gives none: use YuNet (--face-model)"
            )
        crop = crop_of(face, self.plan.margin_for(self.detector), align=self.plan.align)
        if crop.padded(self.size) > 0.75:
            raise VideoError(
                f"frame {frame.index}: the face box {list(face.box)} lies outside the frame, "
                f"which is {self.size[1]}×{self.size[0]}"
            )
        return crop

    def _release(self, unsure: set[int]) -> None:
        """Pass on the looks whose faces are all believed; they wait a few looks at the most."""
        while self.open and not unsure & set(self.open[0].faces):
            self.ready.append(self.open.popleft())
        crops = [pixels for look in self.ready for _, pixels in look.crops.values()]
        if len(crops) >= _TOGETHER or sum(c.nbytes for c in crops) > _MOST_BYTES:
            self.commit()

    def commit(self) -> None:
        """Score the crops at hand, save them, and write their looks down."""
        wanted = [
            (identity(look.frame, track), pixels)
            for look in self.ready
            for track, (_, pixels) in look.crops.items()
        ]
        fresh = [(name, pixels) for name, pixels in wanted if name not in self.known]
        if fresh:
            frames = np.stack([fit_to(pixels, self.detector.size) for _, pixels in fresh])
            for (name, _), row in zip(fresh, self.detector.log_probs(frames), strict=True):
                self.known[name] = _scores(row, self.detector)
        for name, pixels in wanted:
            path = self.folder.frame(name) / "crop.png"
            if not path.exists():
                write_file(path, png_bytes(pixels))
        rows = [self._line(look) for look in self.ready]
        self.ready = []
        # a survey that was cut off is made again up to there; its lines stand already
        self.writer.write(rows[max(self.lines - self.written, 0) :])
        self.written += len(rows)

    def _line(self, look: _Look) -> Mapping[str, Any]:
        faces = []
        for track, face in look.faces.items():
            row: dict[str, Any] = {
                "track": track,
                "box": list(face.box),
                "confidence": face.confidence,
                "landmarks": None if face.landmarks is None else [list(p) for p in face.landmarks],
            }
            if look.sampled:
                name = identity(look.frame, track)
                crop = look.crops[track][0]
                row["id"] = name
                row["crop"] = crop.to_dict()
                row["padded"] = round(crop.padded(self.size), 4)
                row["scores"] = self.known.pop(name)
            faces.append(row)
        return {
            "frame": look.frame,
            "time": round(look.time, 6),
            "sampled": look.sampled,
            "faces": sorted(faces, key=lambda f: f["track"]),
        }

    def end(self, frames: int, notes: list[str]) -> None:
        """Write down what is still held back, and that the clip has been seen to its end."""
        self._release(set())
        self.commit()
        if self.tracker.dropped:
            notes.append(
                f"{self.tracker.dropped} passing finds, seen in fewer than 3 looks in a row, were "
                "taken for false alarms and left out"
            )
        self.writer.write([{"end": {"frames": frames, "notes": notes}}])


def survey(
    detector: Detector,
    folder: ClipFolder,
    clip: Path,
    info: ClipInfo,
    plan: Plan,
    finder: Finder,
    tick: Callable[[int], None] | None = None,
) -> None:
    """Look through the clip and write survey.jsonl and the crops.

    Costs one image per sampled face; faces in the survey of an earlier run are not asked again.
    `tick(frame)` is called for every frame. Raises VideoError, UsageError, OutputError,
    DetectorError.
    """
    if end_of(folder) is not None:
        return
    try:
        state = _Survey(detector, folder, plan, finder, info)
    except OSError as error:
        raise OutputError(f"{folder.survey_path}: cannot write: {error}") from None
    wanted = iter(plan.sampling.indices(info))
    sample, next_look, frames = next(wanted, None), 0.0, 0
    notes: list[str] = []
    try:
        for frame in read_frames(info, clip, notes):
            frames = frame.index + 1
            sampled = frame.index == sample
            if sampled:
                sample = next(wanted, None)
            if sampled or (not finder.whole and frame.time >= next_look - 1e-6):
                state.look(frame, sampled=sampled)
                next_look = frame.time + LOOK_EVERY
            if tick is not None:
                tick(frame.index)
        state.end(frames, notes)
    finally:
        state.writer.close()


def end_of(folder: ClipFolder) -> dict[str, Any] | None:
    """What a finished survey says at its end; None where it is not finished."""
    end = None
    for line in folder.looks():
        end = line.get("end")
    return end


def identity(frame: int, track: int) -> str:
    """The name of a sampled face: `000120-t1`."""
    return f"{frame:06d}-t{track}"


def _scores(log_probs: NDArray[np.float32], detector: Detector) -> dict[str, float]:
    return {
        name: float(np.exp(np.float64(value)))
        for name, value in zip(detector.card.classes, log_probs, strict=True)
    }
