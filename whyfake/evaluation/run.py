"""Evaluates many pictures together, each result in the ledger before it is handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import PictureError, WhyfakeError
from ..evaluate.manifest import Entry
from ..ledger import Ledger, PictureRow, Record, digest
from ..media import fit_to, load_picture
from ..runtime import Delivered, Detector, Failed, Job, run
from .frame import judge_frame
from .plan import Plan
from .state import Task


@dataclass(frozen=True)
class Stored:
    """A result that is in the ledger now."""

    path: str
    record: Record


@dataclass(frozen=True)
class Done:
    """A picture is done (`error` None), or could not be; `resumed` if it was so before this run."""

    path: str
    error: WhyfakeError | None = None
    resumed: bool = False


def detector_facts(detector: Detector) -> dict[str, object]:
    """What the ledger keeps of a detector."""
    card = detector.card
    return {
        "name": card.name,
        "classes": list(card.classes),
        "real": list(card.real),
        "size": list(detector.size),
        "engine": detector.engine.name,
        "device": detector.engine.device,
        "precision": detector.engine.precision,
        **detector.layout_record,
    }


def evaluate(
    detector: Detector,
    entries: Sequence[Entry],
    plan: Plan,
    ledger: Ledger,
    tick: Callable[[], None] | None = None,
) -> Iterator[Stored | Done]:
    """Carry out the plan on all pictures; what the ledger holds already is not asked again.

    Pictures are read when their turn comes. One that cannot be read is Done with its error, and
    tried again by the next run. Raises OutputError when a result cannot be stored.
    """
    ledger.add_detector(detector.sha256, detector_facts(detector))
    left, finished = split_done(detector.sha256, entries, plan, ledger)
    yield from (Done(entry.path, resumed=True) for entry in finished)
    by_path = {entry.path: entry for entry in left}
    hashes: dict[str, str] = {}

    def known_of(path: str, frame: str) -> Mapping[str, Record]:
        hashes[path] = frame
        ledger.add(pictures=[picture_row(detector.sha256, by_path[path], frame)])
        return ledger.of_frame(detector.sha256, frame)

    for event in events(detector, left, plan, known_of, tick):
        if isinstance(event, Stored):
            ledger.add([event.record])
        else:
            row = picture_row(
                detector.sha256,
                by_path[event.path],
                hashes.get(event.path),
                complete=None if event.error else done_mark(plan, by_path[event.path]),
                error=None if event.error is None else str(event.error),
            )
            ledger.add(pictures=[row])
        yield event


def split_done(
    detector: str, entries: Sequence[Entry], plan: Plan, ledger: Ledger
) -> tuple[list[Entry], list[Entry]]:
    """Pictures that are left to do, and those that the ledger says are done with this very plan.

    A picture whose label, group or clip changed counts as left: its results are found again.
    """
    rows = {row.path: row for row in ledger.pictures(detector)}
    left: list[Entry] = []
    finished: list[Entry] = []
    for entry in entries:
        row = rows.get(entry.path)
        same = row is not None and (row.label, row.group, row.clip) == (
            entry.label,
            entry.group,
            entry.clip,
        )
        done = same and row is not None and row.complete == done_mark(plan, entry)
        (finished if done else left).append(entry)
    return left, finished


def done_mark(plan: Plan, entry: Entry) -> str:
    """What a picture's row says when it is done: with this plan, this mask and these landmarks."""
    return digest([plan.digest, entry.mask, entry.landmarks])


def picture_row(
    detector: str,
    entry: Entry,
    frame: str | None,
    complete: str | None = None,
    error: str | None = None,
) -> PictureRow:
    """What the ledger keeps of a manifest's entry."""
    return PictureRow(
        detector, entry.path, frame, entry.label, entry.group, entry.clip, complete, error
    )


def events(
    detector: Detector,
    entries: Iterable[Entry],
    plan: Plan,
    known_of: Callable[[str, str], Mapping[str, Record]],
    tick: Callable[[], None] | None = None,
) -> Iterator[Stored | Done]:
    """Judge pictures on this process's detector; `known_of(path, frame)` says what is known."""
    unread: list[Done] = []

    def jobs() -> Iterator[Job]:
        for entry in entries:
            try:
                task = task_of(entry, detector)
            except PictureError as error:
                unread.append(Done(entry.path, error))
                continue
            known = known_of(entry.path, task.hash)
            yield Job(entry.path, task.frame, judge_frame(task, detector, plan, known))

    for event in run(detector, jobs(), tick=tick):
        yield from unread
        unread.clear()
        if isinstance(event, Failed):
            yield Done(event.key, event.error)
        elif isinstance(event, Delivered) and event.last:
            yield Done(event.key)
        else:
            yield Stored(event.key, replace(event.value, seconds=round(event.seconds, 4)))
    yield from unread


def task_of(entry: Entry, detector: Detector) -> Task:
    """Read a picture, and its mask, at the detector's size. Raises PictureError."""
    picture = load_picture(entry.path)
    mask: NDArray[np.bool_] | None = None
    if entry.mask is not None:
        mask = fit_to(load_picture(entry.mask).rgb, detector.size).max(axis=0) > 0.5
        if not mask.any():
            raise PictureError(f"{entry.path}: its mask {entry.mask} is black: nothing is marked")
    landmarks = None
    if entry.landmarks is not None:
        height, width = picture.size
        landmarks = [((x + 0.5) / width, (y + 0.5) / height) for x, y in entry.landmarks]
    return Task(fit_to(picture.rgb, detector.size), entry.label, mask, landmarks)
