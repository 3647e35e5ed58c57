"""Batches asked ahead: what the drivers do with them, and that SHAP is the same with them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import pytest
from games import FAKE, answered, play, random_frame, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from toys import make_card

from whyfake.ahead import DUE, Ahead
from whyfake.card import DetectorCard
from whyfake.errors import EngineError
from whyfake.explainers import Shap
from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.perturbation import FloatArray, Pixels
from whyfake.runtime import Delivered, Detector, Failed, Job, drive, run
from whyfake.runtime.engine import Engine

SIZE = (4, 6)
FRAME = np.zeros((3, *SIZE), np.float32)


class First(Engine):
    """An engine whose logit for *fake* is the picture's first pixel; fails above 50."""

    name, device = "first", "cpu"
    inputs = (PIXELS,)

    def __init__(self, batch: int, lanes: int) -> None:
        self.batch, self.lanes = batch, lanes

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        first = arrays[PIXELS][:, 0, 0, 0]
        if first.max() > 50:
            raise EngineError("out of memory")
        return {SCORES: np.stack([np.zeros_like(first), first], axis=1)}

    def close(self) -> None:
        pass


def detector_of(engine: Engine) -> Detector:
    return Detector(engine, DetectorCard.from_dict(make_card(SIZE)))


def pictures(value: float, rows: int) -> Pixels:
    images = np.zeros((rows, 3, *SIZE), np.float32)
    images[:, 0, 0, 0] = value + np.arange(rows) / 100
    return Pixels(images)


def asking(
    rng: np.random.Generator, turns: int, base: float = 0.0
) -> Generator[Any, FloatArray, int]:
    """Asks at random ahead, at once, or for what is due; checks every answer; how much it asked."""
    due: list[Pixels] = []
    rows = 0
    for turn in range(turns):
        if due and rng.random() < 0.5:
            batch, answer = due.pop(0), (yield DUE)
        else:
            batch = pictures(base + turn / 10, int(rng.integers(1, 12)))
            rows += len(batch)
            if due or rng.random() < 0.7:
                assert (yield Ahead(batch)) is None
                due.append(batch)
                continue
            answer = yield batch
        margin = answer[:, 1] - answer[:, 0]
        np.testing.assert_allclose(margin, batch.images[:, 0, 0, 0], atol=1e-5)
    for batch in due:
        answer = yield DUE
        margin = answer[:, 1] - answer[:, 0]
        np.testing.assert_allclose(margin, batch.images[:, 0, 0, 0], atol=1e-5)
    return rows


@pytest.mark.parametrize(("batch", "lanes"), [(1, 1), (1, 3), (4, 2), (16, 2)])
def test_answers_come_in_the_order_of_the_questions(batch: int, lanes: int) -> None:
    detector = detector_of(First(batch, lanes))
    jobs = [Job(n, FRAME, asking(np.random.default_rng(n), 40, n)) for n in range(6)]
    events = list(run(detector, jobs, in_flight=3))
    rows = {event.key: event.value for event in events if isinstance(event, Delivered)}
    alone = detector_of(First(batch, 1))
    for n in range(6):
        assert rows[n] == drive(asking(np.random.default_rng(n), 40, n), alone, FRAME)
    assert detector.images_seen == alone.images_seen == sum(rows.values())


def test_what_is_asked_ahead_runs_while_its_coroutine_goes_on() -> None:
    ran = threading.Event()

    class Noticed(First):
        def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            ran.set()
            return super()._run(arrays)

    def patient() -> Generator[Any, FloatArray, bool]:
        yield Ahead(pictures(1.0, 1))
        beside = ran.wait(20)
        yield DUE
        return beside

    [event] = run(detector_of(Noticed(1, 2)), [Job(0, FRAME, patient())])
    assert isinstance(event, Delivered)
    assert event.value is True


def test_another_batch_runs_while_the_oldest_is_waited_for() -> None:
    """Two lanes meet inside the engine, one with each batch."""
    barrier = threading.Barrier(2, timeout=20)

    class Meeting(First):
        def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
            barrier.wait()
            return super()._run(arrays)

    def two() -> Generator[Any, FloatArray, None]:
        yield Ahead(pictures(1.0, 1))
        yield Ahead(pictures(2.0, 1))
        for value in (1.0, 2.0):
            answer = yield DUE
            assert answer[0, 1] - answer[0, 0] == pytest.approx(value)

    [event] = run(detector_of(Meeting(1, 2)), [Job(0, FRAME, two())])
    assert isinstance(event, Delivered)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_batch_that_fails_ahead_fails_its_frame_alone(batch: int, lanes: int) -> None:
    closed = []

    def failing() -> Generator[Any, FloatArray, None]:
        try:
            yield Ahead(pictures(1.0, 3))
            yield Ahead(pictures(60.0, 3))
            yield Ahead(pictures(2.0, 40))
            for _ in range(3):
                yield DUE
        finally:
            closed.append(True)

    detector = detector_of(First(batch, lanes))
    jobs = [
        Job("good", FRAME, asking(np.random.default_rng(0), 60)),
        Job("bad", FRAME, failing()),
        Job("other", FRAME, asking(np.random.default_rng(1), 60)),
    ]
    events = list(run(detector, jobs, in_flight=3))
    assert [event.key for event in events if isinstance(event, Failed)] == ["bad"]
    assert {event.key for event in events if isinstance(event, Delivered)} == {"good", "other"}
    assert closed == [True]
    with pytest.raises(EngineError, match="out of memory"):
        drive(failing(), detector, FRAME)


def test_who_ends_with_answers_due_leaves_nothing_behind() -> None:
    def hasty() -> Generator[Any, FloatArray, str]:
        for _ in range(3):
            yield Ahead(pictures(1.0, 9))
        return "done"

    detector = detector_of(First(4, 2))
    jobs = [Job(n, FRAME, hasty()) for n in range(5)]
    jobs.append(Job("last", FRAME, asking(np.random.default_rng(2), 50)))
    events = list(run(detector, jobs, in_flight=2))
    assert sorted(str(event.key) for event in events) == ["0", "1", "2", "3", "4", "last"]
    assert all(isinstance(event, Delivered) for event in events)


def test_to_ask_at_once_while_answers_are_due_is_a_bug_that_is_heard() -> None:
    def muddled() -> Generator[Any, FloatArray, None]:
        yield Ahead(pictures(1.0, 3))
        yield pictures(2.0, 3)

    detector = detector_of(First(1, 2))
    with pytest.raises(RuntimeError, match="while others were due"):
        drive(muddled(), detector, FRAME)
    with pytest.raises(RuntimeError, match="while others were due"):
        list(run(detector, [Job(0, FRAME, muddled())]))


def tame(size: tuple[int, int], seed: int) -> Any:
    """A game of smooth weights with a little interaction: parts shrink as they are split."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    centre = rng.random(2) * size
    weights = np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * 9.0)).ravel()
    weights += rng.normal(0, 0.01, weights.shape)

    def game(batch: Any) -> NDArray[np.float64]:
        shown = batch.codes[:, batch.labels.ravel()].astype(np.float64)
        total = shown @ weights
        return np.asarray(total + 0.02 * total**2)

    return game


def explained(
    shap: Shap, size: tuple[int, int], seed: int
) -> tuple[NDArray[np.float32], int, set[bytes]]:
    """The heat of a tame game, the images it took, and the pictures that were asked about."""
    asked: set[bytes] = set()
    game = tame(size, seed)

    def noted(batch: Any) -> NDArray[np.float64]:
        shown = np.packbits(batch.codes[:, batch.labels.ravel()], axis=1)
        asked.update(row.tobytes() for row in shown)
        return np.asarray(game(batch))

    coroutine = shap.explain(random_frame(size), FAKE, scene(size, seed=seed))
    found, images = play(coroutine, noted)
    return found.heatmap, images, asked


@pytest.mark.parametrize("seed", range(8))
def test_shap_is_the_same_to_the_bit_whatever_it_asks_ahead(seed: int) -> None:
    """Where parts shrink as they are split, all that is asked ahead is split in the end."""
    shap = Shap(samples=1002, score="log_odds", ahead=0)
    plain, images, asked = explained(shap, (24, 40), seed)
    for ahead in (3, 16):
        early = dataclasses.replace(shap, ahead=ahead)
        heat, more, also = explained(early, (24, 40), seed)
        assert heat.tobytes() == plain.tobytes()
        assert (more, also) == (images, asked)


def test_shap_never_waits_for_a_round_alone() -> None:
    """Once it has many parts, and until images run out, another batch is under way when it waits.

    Not so where what it asks draws something, or where it may stop.
    """

    def alone(shap: Shap) -> list[bool]:
        under_way: list[int] = []
        game = tame((24, 40), 0)

        def told(batch: Any) -> NDArray[np.float64]:
            values = game(batch)
            return np.stack([np.zeros(len(values)), values], axis=1)

        asking = shap.explain(random_frame((24, 40)), FAKE, scene((24, 40)))
        answered(asking, told, under_way)
        return [count == 1 for count in under_way]

    shap = Shap(samples=1002, score="log_odds")
    found = alone(shap)
    assert len(found) > 25
    assert found[:5] + found[-2:] == [True] * 7  # there is little to ask yet, or no longer
    assert not any(found[5:-2])
    assert all(alone(dataclasses.replace(shap, ahead=0)))
    assert all(alone(dataclasses.replace(shap, contexts="paired")))
    assert all(alone(dataclasses.replace(shap, confidence=0.9)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([(13, 22), (24, 24), (1, 90), (5, 3)]),
    samples=st.integers(4, 900),
    most=st.sampled_from([1, 2, 5, 16, 32]),
    ahead=st.integers(1, 40),
)
def test_whatever_is_asked_ahead_the_budget_holds_and_heat_adds_up(
    seed: int, size: tuple[int, int], samples: int, most: int, ahead: int
) -> None:
    shap = Shap(samples=samples, nodes_per_round=most, score="log_odds", ahead=0)
    plain, images, asked = explained(shap, size, seed)
    heat, more, also = explained(dataclasses.replace(shap, ahead=ahead), size, seed)
    assert more == images <= samples
    np.testing.assert_allclose(heat.sum(), plain.sum(), rtol=1e-4, atol=1e-4)
    if most == 1 or asked == also:
        assert heat.tobytes() == plain.tobytes()
