"""Samples that begin with a neighbour's perturbation: inside the ball, checked, order of packing
without effect; and coroutines that wait for one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import toys

from whyfake import Detector, Explanation
from whyfake.errors import DetectorError
from whyfake.explainers import AdversarialSample, Nes
from whyfake.explainers.adversary import STRENGTHS
from whyfake.frame import Link, explain_frame
from whyfake.media import Picture, fit_to
from whyfake.perturbation import FloatArray, Pixels
from whyfake.request import make_request
from whyfake.runtime import Delivered, Failed, Job, Promise, drive, run
from whyfake.settings import Settings


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    folder = tmp_path_factory.mktemp("planted")
    with toys.planted_detector(folder, toys.PATCH, toys.SIZE, threads=2) as planted:
        yield planted


def frame_of(seed: int) -> FloatArray:
    return fit_to(toys.planted_frame(toys.PATCH, toys.SIZE, seed), toys.SIZE)


def attacked(
    detector: Detector, frame: FloatArray, start: FloatArray | None, **changes: Any
) -> AdversarialSample:
    nes = Nes(**changes)
    rng = np.random.default_rng(5)
    seen = detector.images_seen
    sample = drive(nes.attack(frame, detector.real, seed=0, rng=rng, start=start), detector, frame)
    assert detector.images_seen - seen == sample.images
    away = np.abs(sample.image - frame).max()
    assert away <= nes.epsilon + 1e-6
    assert sample.linf == pytest.approx(away)
    assert sample.image.min() >= 0
    assert sample.image.max() <= 1
    log_probs = detector.log_probs(sample.image[None])[0]
    assert sample.flipped == (int(log_probs.argmax()) in detector.real)
    assert sample.score_after == pytest.approx(float(np.exp(log_probs[0])), abs=1e-6)
    before = detector.log_probs(frame[None])[0]
    assert sample.score_before == pytest.approx(float(np.exp(before[0])), abs=1e-6)
    return sample


def test_a_neighbours_perturbation_that_flips_costs_nine_images(detector: Detector) -> None:
    """And it is the weakest of its strengths that flips: brute force over them."""
    first, second = frame_of(1), frame_of(2)
    cold = attacked(detector, first, None)
    assert cold.flipped
    assert cold.images > 81
    added = cold.image - first
    for factor in (0.6, 1.0, 3.0):
        start = np.float32(factor) * added
        warm = attacked(detector, second, start)
        assert (warm.flipped, warm.steps, warm.images) == (True, 0, 9)
        for strength in STRENGTHS:
            tried = np.clip(second + np.float32(strength) * start, 0, 1)
            tried = np.clip(tried, second - np.float32(16 / 255), second + np.float32(16 / 255))
            if int(detector.log_probs(tried[None])[0].argmax()) in detector.real:
                break
        np.testing.assert_allclose(warm.image, tried, atol=1e-6)


def test_one_that_does_not_flip_yet_is_gone_on_from(detector: Detector) -> None:
    """Three tenths of it are not enough, even doubled: fewer steps than from the frame."""
    cold = attacked(detector, frame_of(1), None)
    part = (cold.image - frame_of(1)) * np.float32(0.3)
    warm = attacked(detector, frame_of(2), part)
    alone = attacked(detector, frame_of(2), None)
    assert warm.flipped
    assert 0 < warm.steps < alone.steps
    assert warm.images == 9 + 81 * (warm.steps + 1)


def test_one_that_leads_astray_is_left(detector: Detector) -> None:
    """It makes the frame more fake: the steps are those from the frame itself, to the bit."""
    cold = attacked(detector, frame_of(1), None)
    wrong = frame_of(1) - cold.image
    warm, alone = attacked(detector, frame_of(2), wrong), attacked(detector, frame_of(2), None)
    assert warm.image.tobytes() == alone.image.tobytes()
    assert (warm.steps, warm.images) == (alone.steps, alone.images + 9)


def test_one_from_a_larger_ball_is_brought_into_this_one(detector: Detector) -> None:
    """The perturbation is ten times too large; `attacked` holds the sample to the ball."""
    cold = attacked(detector, frame_of(1), None)
    attacked(detector, frame_of(2), (cold.image - frame_of(1)) * np.float32(10))
    attacked(detector, frame_of(2), np.full((3, *toys.SIZE), 5, np.float32), steps=2)


def test_a_frame_that_is_real_comes_back_unchanged(detector: Detector) -> None:
    frame = np.full((3, *toys.SIZE), 0.5, np.float32)
    rng = np.random.default_rng(0)
    attack = Nes().attack(frame, detector.real, seed=0, rng=rng, start=np.full_like(frame, 0.01))
    sample = drive(attack, detector, frame)
    assert (sample.image == frame).all()
    assert not sample.flipped
    assert sample.images == 9 + 81


def test_a_mask_holds_for_the_start_too(detector: Detector) -> None:
    frame, mask = frame_of(1), np.zeros(toys.SIZE, np.float32)
    mask[:, :32] = 1
    attack = Nes(steps=2).attack(
        frame,
        detector.real,
        seed=0,
        rng=np.random.default_rng(0),
        mask=mask,
        start=np.full_like(frame, 0.05),
    )
    sample = drive(attack, detector, frame)
    assert (sample.image[:, mask == 0] == frame[:, mask == 0]).all()


def chain(
    detector: Detector, frames: list[FloatArray], in_flight: int, methods: str = "lime-adv,rise-adv"
) -> list[list[Explanation]]:
    """A track's frames, each linked to the one before; what comes out for each."""
    settings = Settings().with_budget(40)
    request = make_request(methods, settings=settings)
    jobs, before = [], None
    for index, frame in enumerate(frames):
        link = Link(before, Promise())
        picture = Picture(f"f{index}", np.zeros((*toys.SIZE, 3), np.uint8))
        jobs.append(Job(index, frame, explain_frame(picture, frame, detector, request, link)))
        before = link.after
    found: list[list[Explanation]] = [[] for _ in frames]
    for event in run(detector, iter(jobs), in_flight=in_flight):
        assert isinstance(event, Delivered), event
        if not event.last:
            found[event.key].append(dataclasses.replace(event.value, seconds=0.0))
    return found


def test_what_is_in_flight_changes_nothing(detector: Detector) -> None:
    """One at a time, two, or all at once: the same bits; and each began with its neighbour's."""
    frames = [frame_of(seed) for seed in range(6)]
    one, two, many = (chain(detector, frames, in_flight) for in_flight in (1, 2, 6))
    assert one == two == many
    firsts = [explanations[0] for explanations in one]
    assert all(e.adversary is not None and e.adversary.flipped for e in firsts)
    costs = [e.image_counts["adversary"] for e in firsts]
    assert costs[0] > 81
    assert max(costs[1:]) < costs[0]
    assert sum(costs[1:]) < 5 * costs[0] / 2


def test_a_neighbour_that_fails_lets_the_next_begin_at_its_frame(detector: Detector) -> None:
    """And nobody waits for ever."""

    def failing(link: Link) -> Any:
        try:
            yield Pixels(frame_of(0)[None])
            raise DetectorError("planted")
        finally:
            link.after.keep(None)

    request = make_request("lime-adv", settings=Settings().with_budget(40))
    first, second = Link(None, Promise()), Link(None, Promise())
    second = Link(first.after, Promise())
    picture = Picture("next", np.zeros((*toys.SIZE, 3), np.uint8))
    jobs = [
        Job(0, frame_of(0), failing(first)),
        Job(1, frame_of(1), explain_frame(picture, frame_of(1), detector, request, second)),
    ]
    events = list(run(detector, jobs, in_flight=2))
    assert [event.key for event in events if isinstance(event, Failed)] == [0]
    (found,) = [e.value for e in events if isinstance(e, Delivered) and not e.last]
    ((alone,),) = chain(detector, [frame_of(1)], 1, "lime-adv")
    assert dataclasses.replace(found, seconds=0.0, source="f0") == alone


@pytest.mark.parametrize("in_flight", [2, 5])
def test_many_may_wait_for_one(detector: Detector, in_flight: int) -> None:
    """The waiting ones take no turn from it; each gets the value; none starts before it is kept."""
    promise, order = Promise(), []

    def giver() -> Any:
        for _ in range(4):
            yield Pixels(frame_of(0)[None])
        order.append("kept")
        promise.keep(42)
        yield Pixels(frame_of(0)[None])
        return "giver"

    def taker(name: int) -> Any:
        yield promise
        order.append(f"taker {name}")
        yield Pixels(frame_of(0)[None])
        return promise.value

    jobs = [Job("giver", frame_of(0), giver())]
    jobs += [Job(n, frame_of(0), taker(n)) for n in range(4)]
    values = {e.key: e.value for e in run(detector, jobs, in_flight=in_flight)}
    assert values == {"giver": "giver", **dict.fromkeys(range(4), 42)}
    assert order[0] == "kept"
    assert len(order) == 5


def test_a_promise_is_kept_once() -> None:
    promise = Promise()
    promise.keep(1)
    promise.keep(None)
    assert promise.value == 1
