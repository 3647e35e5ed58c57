"""A clip from its file to a folder: survey, explanations, tables, overlay, page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import UsageError, VideoError, unknown
from ..media import ClipInfo, Finder, printable, probe
from ..media.write import FORMATS
from ..request import check_request
from ..runtime import Detector
from .explain import (
    FaceDone,
    FaceFailed,
    Sampled,
    chosen_faces,
    explain_faces,
    sampled_faces,
    stored_record,
    unfinished,
)
from .film import write_film
from .folder import ClipFolder
from .page import write_page
from .plan import Plan
from .record import face_record, no_face_record
from .smooth import smooth_heat
from .summary import summarise
from .survey import survey


class Watcher(Protocol):
    """Is told how a run goes: `whyfake.terminal.video` draws it."""

    def stage(self, name: str, total: int) -> None:
        """A pass begins; `total` is its steps, 0 where that is not known."""

    def step(self, done: int) -> None:
        """So many steps of it are done."""

    def tick(self) -> None:
        """A few times a second while the detector is asked."""

    def show(self, event: FaceDone | FaceFailed) -> None:
        """A face is explained, or could not be."""


class Silent:
    """Watches and says nothing."""

    def stage(self, name: str, total: int) -> None:
        """Nothing."""

    def step(self, done: int) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""

    def show(self, event: FaceDone | FaceFailed) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Output:
    """What is made beside the explanations: `overlay` is webm, mp4 or None.

    `smooth` is the spread in seconds over which heat is smoothed along a track; 0 leaves it raw.
    Raises UsageError.
    """

    overlay: str | None = "webm"
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if self.overlay is not None and self.overlay not in FORMATS:
            raise UsageError(unknown("overlay", self.overlay, (*FORMATS, "none")))
        if not 0 <= self.smooth < float("inf"):
            raise UsageError(f"smooth must be 0 seconds or more, got {self.smooth}")


@dataclass(frozen=True)
class ClipResult:
    """Where a clip's results are, what summary.json holds, and what failed."""

    folder: Path
    summary: dict[str, Any]
    failures: tuple[FaceFailed, ...]


def explain_clip(
    detector: Detector,
    clip: str | Path,
    out: str | Path,
    plan: Plan,
    finder: Finder,
    *,
    output: Output | None = None,
    watcher: Watcher | None = None,
) -> ClipResult:
    """Explain a clip into the folder `out`; what an earlier run has finished there is not redone.

    Costs one image a sampled face and `Explanation.images` an explained one. A face that fails is
    left out and named; the rest goes on. Raises VideoError, UsageError, OutputError, DetectorError,
    EngineError, MissingExtraError.
    """
    clip, output, watcher = Path(clip), output or Output(), watcher or Silent()
    check_request(plan.request, detector)
    watcher.stage("reading", 0)
    info = probe(clip)
    with ClipFolder(out).open(plan.record(detector, clip, finder)) as folder:
        watcher.stage("looking for faces", info.frames)
        survey(detector, folder, clip, info, plan, finder, watcher.step)
        faces = chosen_faces(sampled_faces(folder, detector.card.real), plan.choice)
        watcher.stage("explaining", len(unfinished(folder, faces)))
        failures = []
        for event in explain_faces(
            detector, folder, printable(clip.name), faces, plan, watcher.tick
        ):
            watcher.show(event)
            if isinstance(event, FaceFailed):
                failures.append(event)
        failed = {event.face.identity: str(event.error) for event in failures}
        folder.write_lines("frames.jsonl", records(folder, detector.card.real, failed))
        summary = summarise(folder, info, detector, failed)
        summary["smooth"] = output.smooth
        if folder.read_json("summary.json") != json.loads(json.dumps(summary)):
            for kind in FORMATS:  # of another summary: to be drawn again
                (folder.path / f"overlay.{kind}").unlink(missing_ok=True)
        folder.write_json("summary.json", summary)
        finish(folder, clip, info, summary, output, watcher)
    return ClipResult(folder.path, summary, tuple(failures))


def finish(
    folder: ClipFolder,
    clip: Path,
    info: ClipInfo,
    summary: dict[str, Any],
    output: Output,
    watcher: Watcher,
) -> None:
    """Smooth the heat, draw the overlay and write the page, from what stands in the folder.

    An overlay that stands there already was drawn from the same summary.
    """
    methods = summary["run"]["methods"]
    if output.smooth > 0:
        smooth_heat(folder, methods, output.smooth)
    path = folder.path / f"overlay.{output.overlay}"
    if output.overlay is not None and not path.exists():
        watcher.stage("drawing", info.frames)
        write_film(folder, clip, info, methods[0], path, smooth=output.smooth, tick=watcher.step)
    watcher.stage("writing the page", 0)
    write_page(folder)


def records(
    folder: ClipFolder, real: tuple[str, ...], failed: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The lines of frames.jsonl, in the order of time and track.

    Raises VideoError if the survey is not finished.
    """
    ended = False
    known = {face.identity: face for face in sampled_faces(folder, real)}
    for look in folder.looks():
        ended = "end" in look
        if not look.get("sampled"):
            continue
        if not look["faces"]:
            yield no_face_record(look["frame"], look["time"])
        for row in look["faces"]:
            yield _record(folder, known[row["id"]], row, failed.get(row["id"]))
    if not ended:
        raise VideoError(f"{folder.path}: the clip has not been seen to its end: run again")


def _record(
    folder: ClipFolder, face: Sampled, row: dict[str, Any], error: str | None
) -> dict[str, Any]:
    record = stored_record(folder, face.identity) or face_record(face, row)
    if error is not None:
        record["flags"] = [*record["flags"], "failed"]
        record["error"] = error
    return record
