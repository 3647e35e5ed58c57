"""The second pass: explain the chosen faces, many at once, each from its neighbour's sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError, WhyfakeError
from ..explanation import Explanation
from ..frame import Link
from ..index import method_record
from ..media import Picture, load_picture
from ..perturbation import FloatArray
from ..pipeline import Linked, explain_events
from ..report import overlay, png_bytes
from ..runtime import Detector, Promise
from .folder import ClipFolder
from .parts import parts_of_regions
from .plan import Choice, Plan
from .record import Sampled, explained_record, landmarks_in_crop


@dataclass(frozen=True)
class FaceDone:
    """A face is explained by all methods; `record` is its line in frames.jsonl."""

    face: Sampled
    record: dict[str, Any]


@dataclass(frozen=True)
class FaceFailed:
    """A face that could not be explained."""

    face: Sampled
    error: WhyfakeError


def sampled_faces(folder: ClipFolder, real: tuple[str, ...]) -> Iterator[Sampled]:
    """The sampled faces in the survey, in the order of time and track."""
    for look in folder.looks():
        for face in look.get("faces", ()):
            if "id" in face:
                scores = face["scores"]
                yield Sampled(
                    face["id"],
                    look["frame"],
                    look["time"],
                    face["track"],
                    sum(p for name, p in scores.items() if name not in real),
                    max(scores, key=scores.get) in real,
                )


def chosen_faces(faces: Iterable[Sampled], choice: Choice) -> list[Sampled]:
    """Those that are to be explained, in the order of time; equal scores: the earlier ones."""
    if choice.kind == "fake":
        return [face for face in faces if not face.called_real]
    if choice.kind == "all":
        return list(faces)
    every = list(faces)
    best = sorted(every, key=lambda f: (-f.p_fake, f.frame, f.track))[: choice.top]
    return sorted(best, key=lambda f: (f.frame, f.track))


def unfinished(folder: ClipFolder, faces: list[Sampled]) -> list[Sampled]:
    """Those that have not been explained to their end."""
    return [face for face in faces if stored_record(folder, face.identity) is None]


def explain_faces(
    detector: Detector,
    folder: ClipFolder,
    source: str,
    faces: list[Sampled],
    plan: Plan,
    tick: Callable[[], None] | None = None,
) -> Iterator[FaceDone | FaceFailed]:
    """Explain the faces that are not explained yet; each is saved the moment it is there.

    Raises OutputError as soon as a result cannot be written.
    """
    work = _Work(folder, source, plan, unfinished(folder, faces))
    survey = {
        face["id"]: face
        for look in folder.looks()
        for face in look.get("faces", ())
        if "id" in face
    }
    for outcome in explain_events(detector, work.pictures(faces), plan.request, tick):
        face = work.todo[outcome.index]
        if isinstance(outcome.value, WhyfakeError):
            yield FaceFailed(face, outcome.value)
            continue
        if outcome.value is not None:
            work.save(face, outcome.value, survey[face.identity])
        if outcome.last:
            record = explained_record(
                face,
                survey[face.identity],
                work.done.pop(face.identity),
                work.starts.pop(face.identity, None),
            )
            folder.write_json(f"frames/{face.identity}/frame.json", record)
            yield FaceDone(face, record)


@dataclass
class _Work:
    """What is still to do, and how the faces of a track hang together."""

    folder: ClipFolder
    source: str
    plan: Plan
    todo: list[Sampled]
    starts: dict[str, str] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def pictures(self, faces: list[Sampled]) -> Iterator[Linked]:
        """The crops to explain, each with its link; read one after the other."""
        warm = self.plan.warm and self.plan.request.adversarial
        latest: dict[int, tuple[str, Promise | None]] = {}
        waiting = {face.identity for face in self.todo}
        for face in faces:
            before = latest.get(face.track) if warm and not face.called_real else None
            promise = None
            if face.identity in waiting:
                if before is None:
                    link = Link(None, Promise())
                else:
                    link = Link(self._promised(before), Promise(), before[0])
                promise = link.after
                picture = load_picture(self.folder.frame(face.identity) / "crop.png")
                yield Linked(Picture(f"{self.source}#{face.identity}", picture.rgb), link)
            if not face.called_real:
                latest[face.track] = face.identity, promise

    def _promised(self, before: tuple[str, Promise | None]) -> Promise:
        """The neighbour's perturbation: promised, or read back where an earlier run made it."""
        identity, promise = before
        if promise is None:
            promise = Promise()
            promise.keep(stored_perturbation(self.folder.frame(identity)))
        return promise

    def save(self, face: Sampled, explanation: Explanation, row: dict[str, Any]) -> None:
        """Write one explanation, and keep what its line in frames.jsonl will say."""
        name = f"frames/{face.identity}/{explanation.method}"
        explanation.save(self.folder.path / name, {"overlay.png": png_bytes(overlay(explanation))})
        landmarks = landmarks_in_crop(row, explanation.region_map.shape)
        parts = parts_of_regions(explanation.region_map, landmarks)
        methods = self.done.setdefault(face.identity, {})
        if "start" in explanation.settings:
            self.starts[face.identity] = explanation.settings["start"]
        methods[explanation.method] = method_record(explanation.to_dict(), name, parts)


def stored_perturbation(frame: Path) -> FloatArray | None:
    """What was added to a face's crop to make it *real* (3, h, w); None where nothing was."""
    for place in sorted(frame.glob("*/explanation.json")):
        explanation = Explanation.load(place.parent)
        if explanation.adversarial is not None:
            return np.asarray(explanation.adversarial - explanation.frame)
    return None


def stored_record(folder: ClipFolder, identity: str) -> dict[str, Any] | None:
    """The line of an explained face. Raises OutputError where it cannot be read."""
    record = folder.read_json(f"frames/{identity}/frame.json")
    if record is not None and record.get("id") != identity:
        raise OutputError(f"{folder.frame(identity)}: frame.json is another frame's")
    return record
