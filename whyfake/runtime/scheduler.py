"""Runs coroutines that ask about perturbed frames: one with `drive`, hundreds at once with `run`.

A coroutine yields a PerturbationBatch and is sent its log-probabilities (N, C). It yields an Ahead
to have a batch run while it goes on, and a DUE to wait for it; a Promise to wait until another
coroutine has kept it, and a Later to have it worked out meanwhile. Anything else that it yields is
a result, and is handed out at once.

`run` works in lanes, one thread each, as many as the engine can serve. A lane takes the next rows
of whichever frames have some, composes them, runs them, and hands the scores to
the frame they belong to; whoever completes a frame's batch resumes its coroutine. So one lane
composes while another runs, engine batches are filled from many frames, and memory is bounded by
the frames in flight.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..ahead import DUE, Ahead, check_order, in_turn
from ..errors import WhyfakeError
from ..later import Later
from ..perturbation import FloatArray, PerturbationBatch
from .detector import Detector
from .gate import Gate
from .jobs import Asking, Delivered, Failed, Job, Promise
from .lane import Lane
from .progress import Asked, Running, State
from .shelves import HaltedError, Memory

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def drive(coroutine: Asking, detector: Detector, frame: FloatArray) -> Any:
    """Run one coroutine to its end in this thread and return what it returns."""
    plain, scores, memory = in_turn(coroutine), None, Memory()
    while True:
        try:
            asked = plain.send(scores)
        except StopIteration as stop:
            return stop.value
        is_batch = isinstance(asked, PerturbationBatch)
        scores = detector.ask(asked, frame, memory) if is_batch else None


_Piece = tuple[Running, Asked, int, int]
"""Rows of a batch: from the third to before the fourth."""


def run(
    detector: Detector,
    jobs: Iterable[Job],
    *,
    in_flight: int | None = None,
    tick: Callable[[], None] | None = None,
    gate: Gate | None = None,
) -> Iterator[Delivered | Failed]:
    """Run all jobs and hand out their results as they come.

    `jobs` may be lazy: at most `in_flight` are started at once (enough to keep the engine full by
    default). `tick` is called in the caller's thread a few times a second; another thread may stop
    the lanes at `gate`. Closing the iterator, or Ctrl-C, ends them after the batch at hand. An
    error in one job is delivered as `Failed`.
    """
    lanes, batch = detector.engine.lanes, detector.engine.batch
    limit = in_flight or 2 + lanes * batch // 64
    gate = gate or Gate()
    state = State(gate, gate.changed)
    threads = [
        threading.Thread(target=_work, args=(state, detector), name=f"lane-{n}", daemon=True)
        for n in range(lanes)
    ]
    waiting: Iterator[Job] | None = iter(jobs)
    # the lanes are the parallelism; NumPy's own threads would only get in their way
    with _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas"):
        try:
            for thread in threads:
                thread.start()
            while True:
                while waiting is not None and len(state.running) < limit:
                    job = next(waiting, None)
                    if job is None:
                        waiting = None
                    else:
                        _admit(state, job)
                with state.changed:
                    if not state.events and state.running and state.crash is None:
                        state.changed.wait(0.1)
                    events = [state.events.popleft() for _ in range(len(state.events))]
                    if state.crash is not None:
                        raise state.crash
                    done = waiting is None and not state.running
                if tick is not None:
                    tick()
                yield from events
                if done:
                    return
        finally:
            with state.changed:
                state.stop = True
                state.changed.notify_all()
            for thread in threads:
                thread.join()
            for left in state.running:
                left.job.coroutine.close()


@functools.lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """The libraries with threads of their own, looked for once for so many modules: a new library
    comes with a new module, and to look through all that is loaded takes as long as a picture.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _admit(state: State, job: Job) -> None:
    running = Running(job)
    with state.changed:
        state.running.append(running)
        state.fresh.append(running)
        state.changed.notify_all()


def _work(state: State, detector: Detector) -> None:
    """A lane: take rows, compose, run, hand back; until told to stop."""
    lane = detector.lane()
    lane.halted = lambda: state.stop
    try:
        while (todo := _next(state, detector, lane)) is not None:
            try:
                _do(state, detector, lane, *todo)
            finally:
                state.gate.end()
    except HaltedError:
        pass
    except BaseException as error:  # noqa: BLE001 - a lane must never die unheard
        with state.changed:
            state.crash = error
            state.stop = True
            state.changed.notify_all()
    finally:
        detector.account(lane)


_Todo = tuple[Running | None, Later[Any] | None, list[_Piece]]


def _next(state: State, detector: Detector, lane: Lane) -> _Todo | None:
    """Wait for a job to start, something to work out or rows, in this order; None: the end."""
    idle = time.perf_counter()
    with state.changed:
        while True:
            if state.stop:
                return None
            if stood := state.gate.stand():
                idle += stood
                continue
            starting = state.fresh.popleft() if state.fresh else None
            later = state.aside.popleft() if state.aside and not starting else None
            pieces = []
            if not starting and not later:
                pieces = _take(state, lane)
            if starting or later or pieces:
                break
            state.changed.wait()
        state.gate.begin()
    lane.stages.waiting += time.perf_counter() - idle
    return starting, later, pieces


def _do(
    state: State,
    detector: Detector,
    lane: Lane,
    starting: Running | None,
    later: Later[Any] | None,
    pieces: list[_Piece],
) -> None:
    """Do that, and resume the coroutines whose answers are complete."""
    finished = [starting] if starting is not None else []
    if pieces:
        finished += _run_pieces(state, detector, lane, pieces)
    resumed = time.perf_counter()
    if later is not None:
        with contextlib.suppress(Exception):  # whoever wants it meets the error
            later.get()
    for running in finished:
        _advance(state, detector, running)
    lane.stages.resuming += time.perf_counter() - resumed


def _take(state: State, lane: Lane) -> list[_Piece]:
    """Claim whole engine batches of rows, as many as a lane composes at the most, oldest frame
    first; all for one engine.

    A batch that is not full is worth running only if no frame is about to ask for more: waiting for
    that costs less than an engine batch of padding. Near the end of what can be asked, lanes claim
    less, so that they end together.
    """
    waiting = [(r, batch) for r in state.running for batch in r.batches if batch.untaken]
    soon = any(r.advancing or r.stalled for r in state.running)
    for engine in dict.fromkeys(batch.engine for _, batch in waiting):
        mine = [(r, batch) for r, batch in waiting if batch.engine is engine]
        available = sum(batch.untaken for _, batch in mine)
        if available >= engine.batch or not soon:
            fair = available // (engine.lanes * engine.batch) * engine.batch
            return _claim(mine, min(lane.most(engine), max(engine.batch, fair)))
    return []


def _claim(waiting: list[tuple[Running, Asked]], room: int) -> list[_Piece]:
    """The first `room` rows that no lane has taken."""
    pieces: list[_Piece] = []
    for running, batch in waiting:
        count = min(batch.untaken, room)
        pieces.append((running, batch, batch.taken, batch.taken + count))
        batch.taken += count
        room -= count
        if not room:
            break
    return pieces


def _run_pieces(
    state: State, detector: Detector, lane: Lane, pieces: list[_Piece]
) -> list[Running]:
    """Compose and run what was claimed, and hand back; the jobs whose answer is now complete."""
    started = time.perf_counter()
    asked = sum(stop - start for _, _, start, stop in pieces)
    answers: list[NDArray[np.float32] | WhyfakeError]
    try:
        scores = lane.ask([(batch.copies, start, stop) for _, batch, start, stop in pieces])
        ends = np.cumsum([stop - start for _, _, start, stop in pieces])
        answers = [*np.split(scores, ends[:-1])]
    except WhyfakeError as error:
        # whose fault it is shows when each asks alone; what fills up a batch is left from another
        whole = pieces[0][1].engine.batch
        shared = len(pieces) > 1 or asked % whole
        answers = [_alone(lane, piece, whole) if shared else error for piece in pieces]
    ran = time.perf_counter()
    spent = (ran - started) / asked
    complete = []
    with state.changed:
        for (running, batch, start, stop), answer in zip(pieces, answers, strict=True):
            count = stop - start
            if isinstance(answer, WhyfakeError):
                running.fail(answer)
            else:
                if batch.scores is None:
                    batch.scores = np.empty((batch.rows, answer.shape[1]), np.float32)
                batch.scores[start:stop] = answer
            batch.pending -= count
            running.seconds += spent * count / detector.engine.lanes
            if running.ready and not running.advancing:
                running.advancing = True
                complete.append(running)
    lane.stages.handing_back += time.perf_counter() - ran
    return complete


def _alone(lane: Lane, piece: _Piece, whole: int) -> NDArray[np.float32] | WhyfakeError:
    """A piece's scores, or what becomes of it with nothing of the others in its batches."""
    _, batch, start, stop = piece
    rows = stop - start
    try:
        lane.compose(batch.copies, start, stop, 0)
        for row in range(rows, rows + -rows % whole):
            lane.compose(batch.copies, start, start + 1, row)
        return lane.run(rows)
    except WhyfakeError as error:
        return error


def _advance(state: State, detector: Detector, running: Running) -> None:
    """Resume a coroutine with its scores, up to its next batch or its end."""
    started = time.perf_counter()
    coroutine, name = running.job.coroutine, running.job.key
    events: list[Delivered | Failed] = []
    aside: list[Later[Any]] = []
    ended = False

    def spent() -> float:
        nonlocal started
        with state.changed:  # another lane may be at a batch that was asked ahead
            now = time.perf_counter()
            seconds, started = running.seconds + now - started, now
            running.seconds = 0.0
        return seconds

    try:
        with state.changed:
            raw = running.resume()
        asked = coroutine.send(None if raw is None else detector.decode(raw))  # type: ignore[arg-type]
        while asked is not DUE:
            if isinstance(asked, Ahead):
                _ask(state, detector, running, asked.batch)
            elif isinstance(asked, Promise):
                if not asked.kept:
                    break
            elif isinstance(asked, Later):
                aside.append(asked)
            elif isinstance(asked, PerturbationBatch):  # last: it looks a protocol up, slowly
                check_order(running.batches)
                _ask(state, detector, running, asked)
                break
            else:
                events.append(Delivered(name, asked, spent(), last=False))
            asked = next(coroutine)
    except StopIteration as stop:
        ended = True
        events.append(Delivered(name, stop.value, spent(), last=True))
    except WhyfakeError as error:
        ended = True
        coroutine.close()
        events.append(Failed(name, error))
    with state.changed:
        running.advancing = False
        if ended:
            state.running.remove(running)
        elif isinstance(asked, Promise):
            running.awaits = asked
        else:
            running.waits = True
        if not ended:
            running.seconds += time.perf_counter() - started
        state.wake()
        state.aside.extend(aside)
        state.events.extend(events)
        state.changed.notify_all()


def _ask(state: State, detector: Detector, running: Running, batch: PerturbationBatch) -> None:
    """Give a batch to the lanes."""
    copies, rows = detector.prepare(batch, running.job.frame, running.memory), len(batch)
    asked = Asked(copies, detector.engine_of(copies), rows, rows)
    with state.changed:
        running.batches.append(asked)
        state.changed.notify_all()
