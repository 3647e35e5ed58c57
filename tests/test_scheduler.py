"""The many-frame driver: full batches, bounded memory, failures apart, order within a coroutine."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from toys import make_card

from whyfake.card import DetectorCard
from whyfake.errors import DetectorError, EngineError, UsageError
from whyfake.later import Later
from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.perturbation import FloatArray, Pixels
from whyfake.runtime import Delivered, Detector, Failed, Gate, Job, drive, run
from whyfake.runtime.engine import Engine

SIZE = (16, 24)


class CountingEngine(Engine):
    """An engine whose logit for *fake* is the picture's first pixel; keeps what it ran."""

    name, device = "counting", "cpu"
    inputs = (PIXELS,)

    def __init__(self, batch: int, lanes: int) -> None:
        self.batch, self.lanes = batch, lanes
        self.batches = 0
        self.together = 0
        self._busy = 0
        self._lock = threading.Lock()

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        with self._lock:
            self.batches += 1
            self._busy += 1
            self.together = max(self.together, self._busy)
        first = arrays[PIXELS][:, 0, 0, 0]
        with self._lock:
            self._busy -= 1
        return {SCORES: np.stack([np.zeros_like(first), first], axis=1)}

    def close(self) -> None:
        pass


def detector_of(batch: int, lanes: int) -> tuple[Detector, CountingEngine]:
    engine = CountingEngine(batch, lanes)
    return Detector(engine, DetectorCard.from_dict(make_card(SIZE))), engine


def ask(value: float, rows: int, rounds: int) -> Generator[Any, FloatArray, float]:
    """Asks `rounds` times about `rows` pictures, delivers each sum, and checks each answer."""
    total = 0.0
    for turn in range(rounds):
        images = np.zeros((rows, 3, *SIZE), np.float32)
        images[:, 0, 0, 0] = value + turn + np.arange(rows) / 100
        answer = yield Pixels(images)
        margin = answer[:, 1] - answer[:, 0]
        np.testing.assert_allclose(margin, images[:, 0, 0, 0], atol=1e-5)
        total += float(margin.sum())
        yield ("sum", turn, float(margin.sum()))
    return total


def job(key: int, rows: int, rounds: int) -> Job:
    return Job(key, np.zeros((3, *SIZE), np.float32), ask(float(key), rows, rounds))


@pytest.mark.parametrize(("batch", "lanes"), [(1, 1), (1, 2), (4, 2), (16, 2), (64, 3)])
def test_every_answer_goes_to_who_asked(batch: int, lanes: int) -> None:
    detector, _ = detector_of(batch, lanes)
    events = list(run(detector, (job(key, 7 + key % 3, 3) for key in range(10))))
    assert all(isinstance(event, Delivered) for event in events)
    for key in range(10):
        mine = [e for e in events if e.key == key]
        assert [e.value[1] for e in mine[:-1] if isinstance(e, Delivered)] == [0, 1, 2]
        alone, _ = detector_of(batch, 1)
        expected = drive(ask(float(key), 7 + key % 3, 3), alone, np.zeros((3, *SIZE), np.float32))
        assert isinstance(mine[-1], Delivered)
        assert mine[-1].last
        assert mine[-1].value == expected
    assert detector.images_seen == sum(3 * (7 + key % 3) for key in range(10))


def test_batches_are_filled_from_many_frames() -> None:
    """32 frames stepping together, 9 rows each: far fewer batches than one by one."""

    class Unhurried(CountingEngine):
        """Takes its time, as engines do: else the first frames are done before all have begun."""

        def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            time.sleep(0.003)
            return super()._run(arrays)

    engine = Unhurried(64, 2)
    detector = Detector(engine, DetectorCard.from_dict(make_card(SIZE)))
    list(run(detector, (job(key, 9, 20) for key in range(32)), in_flight=32))
    rows = 32 * 9 * 20
    assert detector.images_seen == rows
    assert rows / 64 <= engine.batches <= 1.35 * rows / 64  # one by one: 640 batches, 7.1 times
    one, single = detector_of(64, 2)
    list(run(one, [job(0, 9, 20)]))
    assert single.batches == 20


def test_lanes_work_at_the_same_time() -> None:
    """With two lanes, one composes or runs while the other does."""
    barrier = threading.Barrier(2, timeout=20)

    class Meeting(CountingEngine):
        def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            barrier.wait()  # passes only if two lanes are inside at once
            return super()._run(arrays)

    engine = Meeting(1, 2)
    detector = Detector(engine, DetectorCard.from_dict(make_card(SIZE)))
    list(run(detector, [job(0, 8, 1)]))
    assert engine.batches == 8


def test_lanes_stand_still_at_a_closed_gate_and_go_on() -> None:
    """Whatever they had begun is ended first; what they stood is counted, and is no waiting."""
    inside, entered = threading.Lock(), threading.Event()

    class Watched(CountingEngine):
        def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            assert not (inside.locked() and self.stopped), "a lane ran behind a closed gate"
            entered.set()
            time.sleep(0.001)
            return super()._run(arrays)

        stopped = False

    engine, gate = Watched(2, 3), Gate()
    detector = Detector(engine, DetectorCard.from_dict(make_card(SIZE)))
    held = 0.0

    def stop() -> None:
        nonlocal held
        entered.wait()
        for _ in range(5):
            with gate.stopped(), inside:
                engine.stopped, start = True, time.perf_counter()
                ran = engine.batches
                time.sleep(0.08)  # so that standing outweighs what lanes wait on a busy machine
                assert engine.batches == ran
                held += time.perf_counter() - start
                engine.stopped = False
            time.sleep(0.002)

    with ThreadPoolExecutor() as pool:
        stopper = pool.submit(stop)
        events = list(run(detector, (job(key, 9, 30) for key in range(4)), gate=gate))
        stopper.result()
    assert sum(isinstance(event, Delivered) and event.last for event in events) == 4
    assert detector.images_seen == 4 * 9 * 30
    assert gate.stood >= held  # of three lanes, until the run ended
    assert detector.stages.waiting < gate.stood


def test_a_run_may_end_or_fail_at_a_closed_gate() -> None:
    detector, _ = detector_of(4, 2)
    gate = Gate()
    with gate.stopped():  # nobody is at work: it closes at once
        events = run(detector, [job(0, 3, 2)], gate=gate, tick=stop_at_once)
        with pytest.raises(KeyboardInterrupt):
            list(events)
    assert [e.key for e in run(detector, [job(1, 3, 1)], gate=gate)] == [1, 1]


def stop_at_once() -> None:
    raise KeyboardInterrupt


def test_jobs_are_started_lazily_and_at_most_in_flight() -> None:
    detector, _ = detector_of(4, 2)
    started: list[int] = []
    finished: list[int] = []
    most = 0

    def jobs() -> Generator[Job, None, None]:
        nonlocal most
        for key in range(12):
            started.append(key)
            most = max(most, len(started) - len(finished))
            yield job(key, 5, 2)

    for event in run(detector, jobs(), in_flight=3):
        if isinstance(event, Delivered) and event.last:
            finished.append(event.key)
    assert sorted(finished) == list(range(12))
    assert most <= 3 + 3  # three running, and as many finished but not yet handed out


def test_one_failing_frame_does_not_stop_the_others() -> None:
    detector, _ = detector_of(4, 2)

    def bad(value: float) -> Generator[Any, FloatArray, None]:
        images = np.full((3, 3, *SIZE), value, np.float32)
        yield Pixels(images)
        raise DetectorError("does not come here for NaN")

    frame = np.zeros((3, *SIZE), np.float32)
    jobs = [job(0, 5, 3), Job("nan", frame, bad(np.nan)), Job("err", frame, bad(1.0)), job(1, 5, 3)]
    events = list(run(detector, jobs, in_flight=4))
    failed = {e.key: str(e.error) for e in events if isinstance(e, Failed)}
    assert set(failed) == {"nan", "err"}
    assert "NaN or infinite scores for 3 of 3 pictures" in failed["nan"]
    assert {e.key for e in events if isinstance(e, Delivered) and e.last} == {0, 1}


class Failing(CountingEngine):
    """Fails on a batch with a picture brighter than 50, what fills it up included."""

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        if arrays[PIXELS].max() > 50:
            raise EngineError("out of memory")
        return super()._run(arrays)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_an_engine_that_fails_on_a_frame_fails_that_frame(batch: int) -> None:
    """Also where others share its batch."""
    detector = Detector(Failing(batch, 2), DetectorCard.from_dict(make_card(SIZE)))
    events = list(run(detector, [job(1, 5, 2), job(60, 5, 2), job(2, 5, 2)]))
    assert [e.key for e in events if isinstance(e, Failed)] == [60]
    assert {e.key for e in events if isinstance(e, Delivered) and e.last} == {1, 2}


def test_a_frame_after_one_that_fails_is_not_blamed_for_its_pictures() -> None:
    """They still lie where the next frame's single picture does not fill the batch."""
    detector = Detector(Failing(4, 1), DetectorCard.from_dict(make_card(SIZE)))
    events = list(run(detector, [job(60, 4, 1), job(1, 1, 1)], in_flight=1))
    assert [e.key for e in events if isinstance(e, Failed)] == [60]
    assert [e.key for e in events if isinstance(e, Delivered) and e.last] == [1]


def test_a_bug_in_a_coroutine_is_raised_and_lanes_end() -> None:
    detector, _ = detector_of(1, 2)

    def broken() -> Generator[Any, FloatArray, None]:
        yield Pixels(np.zeros((2, 3, *SIZE), np.float32))
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(run(detector, [Job(0, np.zeros((3, *SIZE), np.float32), broken())]))
    assert threading.active_count() == before


def test_closing_the_iterator_stops_the_lanes_and_closes_the_coroutines() -> None:
    detector, engine = detector_of(1, 2)
    closed = []

    def endless() -> Generator[Any, FloatArray, None]:
        try:
            while True:
                yield Pixels(np.zeros((4, 3, *SIZE), np.float32))
                yield "round"
        finally:
            closed.append(True)

    before = threading.active_count()
    events = run(detector, [Job(0, np.zeros((3, *SIZE), np.float32), endless())])
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert closed == [True]
    ran = engine.batches
    assert engine.batches == ran


def test_seconds_add_up_to_no_more_than_the_run(tmp_path: Path) -> None:
    import time

    detector, _ = detector_of(2, 2)
    start = time.perf_counter()
    events = list(run(detector, (job(key, 50, 4) for key in range(6))))
    wall = time.perf_counter() - start
    seconds = [e.seconds for e in events if isinstance(e, Delivered)]
    assert all(s >= 0 for s in seconds)
    assert 0 < sum(seconds) < 2 * wall  # resuming counts in full while the other lane works


def test_another_lane_works_something_out_while_a_coroutine_asks() -> None:
    """It has begun before it is wanted, and the questions do not wait for it."""
    begun, answered = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return answered.wait(20)

    def asking() -> Generator[Any, FloatArray, tuple[bool, bool]]:
        later = Later(work)
        yield later
        for _ in range(3):
            yield Pixels(np.zeros((2, 3, *SIZE), np.float32))
        beside = begun.wait(20)
        answered.set()
        return beside, later.get()

    detector, _ = detector_of(1, 2)
    [event] = run(detector, [Job("a", np.zeros((3, *SIZE), np.float32), asking())])
    assert isinstance(event, Delivered)
    assert event.value == (True, True)


@pytest.mark.parametrize("lanes", [0, 1, 2])
def test_what_fails_beside_fails_only_who_wants_it(lanes: int) -> None:
    """Without lanes: driven alone."""

    def work() -> int:
        raise UsageError("no regions")

    def asking(wants: bool) -> Generator[Any, FloatArray, int]:
        later = Later(work)
        yield later
        answer = yield Pixels(np.zeros((2, 3, *SIZE), np.float32))
        return later.get() if wants else len(answer)

    frame = np.zeros((3, *SIZE), np.float32)
    detector, _ = detector_of(1, max(lanes, 1))
    if not lanes:
        assert drive(asking(False), detector, frame) == 2
        with pytest.raises(UsageError, match="no regions"):
            drive(asking(True), detector, frame)
        return
    jobs = [Job(wants, frame, asking(wants)) for wants in (False, True)]
    events = {event.key: event for event in run(detector, jobs)}
    assert isinstance(events[False], Delivered)
    assert events[False].value == 2
    failed = events[True]
    assert isinstance(failed, Failed)
    assert "no regions" in str(failed.error)


def test_numpys_threads_stand_still_while_lanes_run() -> None:
    """Once and again: the libraries are looked for once, what they are set to is not kept."""
    pools = ThreadpoolController().select(user_api="blas")

    def threads() -> set[int]:
        return {library["num_threads"] for library in pools.info()}

    def looks() -> Generator[Any, FloatArray, Any]:
        seen = [threads()]
        yield Pixels(np.zeros((1, 3, *SIZE), np.float32))
        return [*seen, threads()]

    detector, _ = detector_of(2, 2)
    for usual in (2, 1, 2):
        with pools.limit(limits=usual):
            before = threads()
            assert usual in before  # some builds have one thread whatever they are told
            [event] = run(detector, [Job(0, np.zeros((3, *SIZE), np.float32), looks())])
            assert isinstance(event, Delivered)
            assert event.value == [{1}, {1}]
            assert threads() == before
