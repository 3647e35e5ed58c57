"""The same evaluation on many machines: Ray actors judge frames, this process keeps the ledger.

Results are those of a local run: a frame's draws depend on the frame alone. A worker that dies is
replaced, and what it was at is done again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EngineError, PictureError, UsageError, WhyfakeError, one_line, require
from ..evaluate.manifest import Entry
from ..ledger import Ledger, Record
from ..runtime import Detector
from .crew import Opening, open_detector
from .plan import Plan
from .run import Done, Stored, detector_facts, done_mark, events, picture_row, split_done

CHUNK = 2
"""Frames a worker is given at a time: two keep its lanes busy, and a kill loses no more."""
ATTEMPTS = 3


@dataclass(frozen=True)
class Answer:
    """What became of one picture of a chunk."""

    path: str
    frame: str | None
    records: tuple[Record, ...]
    error: str | None


class Worker:
    """One actor: a detector, and the coroutines of the frames that it is given."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._opened: Detector | None = None

    @property
    def _detector(self) -> Detector:
        """Opened by the first who asks: an error here is an answer, in `__init__` it is a death."""
        if self._opened is None:
            opening = self._opening
            # not tuned: workers may stand on unlike machines, and must give the same bits
            self._opened = open_detector(opening, threads=opening.threads or 1, tune=False)
        return self._opened

    def facts(self) -> tuple[str, dict[str, Any], str] | WhyfakeError:
        """The detector's hash, what the ledger keeps of it, its card's notice; or what is wrong."""
        try:
            detector = self._detector
        except WhyfakeError as error:
            return error
        return detector.sha256, detector_facts(detector), detector.card.notice or ""

    def judge(
        self, entries: Sequence[Entry], plan: Plan, known: dict[str, dict[str, Record]]
    ) -> list[Answer]:
        """Judge pictures; `known` are results that the ledger has, by path."""
        frames: dict[str, str] = {}
        records: dict[str, list[Record]] = {entry.path: [] for entry in entries}
        errors: dict[str, str | None] = {}

        def known_of(path: str, frame: str) -> dict[str, Record]:
            frames[path] = frame
            return known.get(path, {})

        for event in events(self._detector, entries, plan, known_of):
            if isinstance(event, Stored):
                records[event.path].append(event.record)
            else:
                errors[event.path] = None if event.error is None else str(event.error)
        return [
            Answer(e.path, frames.get(e.path), tuple(records[e.path]), errors[e.path])
            for e in entries
        ]


@dataclass
class _Crewman:
    """An actor and the chunks that it was given, oldest first."""

    actor: Any
    tasks: deque[tuple[Any, list[Entry], int]] = field(default_factory=deque)


class Crew:
    """Workers on a Ray cluster (`address`), or on this machine (`local`); ends with the block.

    `workers`: how many; by default one for each GPU, or for each `threads` cores
    (one by default), of the cluster.
    Raises MissingExtraError, EngineError, UsageError.
    """

    def __init__(self, address: str, opening: Opening, workers: int | None = None) -> None:
        self._ray: Any = require("ray", extra="ray", purpose="--ray")
        self._opening = opening
        self._own = not self._ray.is_initialized()
        if self._own:
            self._start(address)
        try:
            self._crew = [_Crewman(self._hire()) for _ in range(workers or self._places())]
            self.sha256, self.facts, self.notice = self._first(self._crew[0].actor.facts.remote())
        except BaseException:
            self.close()
            raise

    def _start(self, address: str) -> None:
        import logging

        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address != "local":
            options["address"] = address
        else:
            options["include_dashboard"] = False
        try:
            self._ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise EngineError(f"--ray {address}: no Ray cluster there: {one_line(error)}") from None

    def _places(self) -> int:
        """How many workers the cluster has room for."""
        resources = self._ray.cluster_resources()
        opening = self._opening
        wanted, each = ("GPU", 1) if opening.on_gpu else ("CPU", opening.threads or 1)
        places = int(resources.get(wanted, 0) // each)
        if not places:
            raise UsageError(
                f"--ray: a worker wants {each} {wanted}, the cluster has "
                f"{resources.get(wanted, 0):g}"
            )
        return places

    def _hire(self) -> Any:
        opening = self._opening
        options = {"num_gpus": 1} if opening.on_gpu else {"num_cpus": opening.threads or 1}
        return self._ray.remote(Worker).options(**options).remote(opening)

    def _first(self, reference: Any) -> Any:
        """A first answer: errors of opening the detector come out as what they are."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"--ray: a worker could not start: {one_line(error)}") from None
        if isinstance(answer, WhyfakeError):
            raise answer
        return answer

    def evaluate(
        self,
        entries: Sequence[Entry],
        plan: Plan,
        ledger: Ledger,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[Stored | Done]:
        """As `whyfake.evaluation.evaluate`, on the crew. A worker has two chunks at the most.

        Raises EngineError where a chunk's worker died three times, OutputError.
        """
        ledger.add_detector(self.sha256, self.facts)
        left, finished = split_done(self.sha256, entries, plan, ledger)
        yield from (Done(entry.path, resumed=True) for entry in finished)
        frames = {row.path: row.frame for row in ledger.pictures(self.sha256)}
        chunks = deque((left[at : at + CHUNK], 0) for at in range(0, len(left), CHUNK))
        while chunks or any(one.tasks for one in self._crew):
            for one in self._crew:
                while chunks and len(one.tasks) < 2:
                    chunk, attempts = chunks.popleft()
                    known = {
                        e.path: ledger.of_frame(self.sha256, frames[e.path] or "")
                        for e in chunk
                        if frames.get(e.path)
                    }
                    task = one.actor.judge.remote(chunk, plan, known)
                    one.tasks.append((task, chunk, attempts))
            # an actor does its tasks in order: waiting for its first is enough
            ready, _ = self._ray.wait([c.tasks[0][0] for c in self._crew if c.tasks], timeout=0.2)
            if tick is not None:
                tick()
            for one in self._crew:
                if one.tasks and one.tasks[0][0] in ready:
                    yield from self._collect(one, chunks, plan, ledger)

    def _collect(
        self,
        one: _Crewman,
        chunks: deque[tuple[list[Entry], int]],
        plan: Plan,
        ledger: Ledger,
    ) -> Iterator[Stored | Done]:
        """Store what a worker's first task gave; replace a worker that died."""
        task, chunk, attempts = one.tasks[0]
        try:
            answers: list[Answer] = self._ray.get(task)
        except self._ray.exceptions.RayActorError as error:
            if attempts + 1 >= ATTEMPTS:
                names = ", ".join(Path(entry.path).name for entry in chunk)
                raise EngineError(
                    f"--ray: workers died {ATTEMPTS} times at {names}: {one_line(error)}"
                ) from None
            chunks.extendleft((c, a) for _, c, a in reversed(list(one.tasks)[1:]))
            chunks.appendleft((chunk, attempts + 1))
            one.tasks.clear()
            one.actor = self._hire()
            return
        one.tasks.popleft()
        by_path = {entry.path: entry for entry in chunk}
        for answer in answers:
            entry = by_path[answer.path]
            row = picture_row(
                self.sha256,
                entry,
                answer.frame,
                complete=None if answer.error else done_mark(plan, entry),
                error=answer.error,
            )
            ledger.add(answer.records, [row])
            yield from (Stored(answer.path, record) for record in answer.records)
            yield Done(answer.path, None if answer.error is None else PictureError(answer.error))

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        for one in getattr(self, "_crew", []):
            self._ray.kill(one.actor)
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
