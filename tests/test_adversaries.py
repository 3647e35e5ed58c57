"""Adversarial samples other than by plain NES: ball and budgets, boundary, blocks, momentum."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_nes
import toys
from games import pixels, play, random_frame, recorded
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from toys import BRIGHT, bright_detector, bright_picture

from whyfake import Detector
from whyfake.explainers import AdversarialSample, Bisect, Nes, Square, SquareBisect, SquareNes
from whyfake.explainers.adversary import STRENGTHS, ball
from whyfake.explainers.nes import antithetic_gradient, forward_gradient
from whyfake.noise_table import NoiseTable
from whyfake.perturbation import FloatArray, NoiseStep, render
from whyfake.runtime import drive

SMALL = Nes(pairs=6, steps=40, momentum=0.5)
ATTACKS = {
    "nes, momentum": SMALL,
    "nes, forward": Nes(pairs=6, steps=40, differences="forward", move="gradient"),
    "square": Square(queries=300),
    "square, 5 candidates": Square(queries=300, candidates=5),
    "square-bisect": SquareBisect(Square(queries=300), Bisect(cuts=3, rounds=2)),
    "square-nes": SquareNes(Square(queries=300), Bisect(cuts=4), SMALL, steps=3),
}
HEADS: dict[str, Callable[[Path], Detector]] = {
    "three classes": lambda folder: test_nes.three_classes(folder, BRIGHT),
    "sigmoid of fake": lambda folder: test_nes.one_logit(folder, "fake", BRIGHT),
    "sigmoid of real": lambda folder: test_nes.one_logit(folder, "real", BRIGHT),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    folder = tmp_path_factory.mktemp("bright")
    with bright_detector(folder) as detector:
        yield detector


def frame_of(seed: int = 0) -> FloatArray:
    return pixels(bright_picture(seed))


def attacked(
    detector: Detector, frame: FloatArray, attack: Any, *, seed: int = 0, **given: Any
) -> tuple[AdversarialSample, list[Any]]:
    """The sample and its batches: counted, in the ball and [0, 1], and told what is true of it."""
    seen = detector.images_seen
    batches: list[Any] = []
    rng = np.random.default_rng(seed)
    asking = attack.attack(frame, detector.real, seed=seed, rng=rng, **given)
    sample = drive(recorded(asking, batches, []), detector, frame)
    assert sample.images == detector.images_seen - seen == sum(map(len, batches))
    assert sample.images <= attack.images() + (9 if "start" in given else 0)
    epsilon = getattr(attack, "square", attack).epsilon
    assert sample.image.dtype == np.float32
    assert np.abs(sample.image.astype(float) - frame).max() <= epsilon + 1e-6
    assert sample.linf == float(np.abs(sample.image - frame).max())
    assert 0 <= sample.image.min() <= sample.image.max() <= 1
    again = detector.log_probs(sample.image[None])[0]
    np.testing.assert_allclose(sample.log_probs, again, atol=1e-6)
    assert (int(again.argmax()) in detector.real) == (sample.flipped or sample.score_before > 0.5)
    before = np.exp(detector.log_probs(frame[None])[0, list(detector.real)].astype(float)).sum()
    after = np.exp(again[list(detector.real)].astype(float)).sum()
    assert sample.score_before == pytest.approx(before, abs=1e-6)
    assert sample.score_after == pytest.approx(after, abs=1e-6)
    assert sample.method == attack.name
    return sample, batches


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_flipped_and_the_flip_holds(tmp_path: Path, name: str, head: str) -> None:
    with HEADS[head](tmp_path) as detector:
        sample, _ = attacked(detector, frame_of(), ATTACKS[name])
        assert sample.flipped


@pytest.mark.parametrize("name", ATTACKS)
def test_same_seed_same_bits_other_draws_other_bits(planted: Detector, name: str) -> None:
    one, again, other = (
        attacked(planted, frame_of(), ATTACKS[name], seed=seed)[0] for seed in (1, 1, 2)
    )
    assert one.image.tobytes() == again.image.tobytes()
    assert (one.images, one.steps) == (again.images, again.steps)
    assert one.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("name", ATTACKS)
def test_only_the_mask_moves_and_real_frames_stay(planted: Detector, name: str) -> None:
    frame, mask = frame_of(), np.zeros(toys.SIZE, np.float32)
    top, bottom, left, right = toys.PATCH
    mask[top:bottom, left : (left + right) // 2] = 1
    start = np.full_like(frame, 0.02)
    for given_start in ({}, {"start": start}):
        sample, batches = attacked(planted, frame, ATTACKS[name], mask=mask, **given_start)
        for batch in batches:
            assert (render(batch, frame)[:, :, mask == 0] == frame[:, mask == 0]).all()
        assert (sample.image[:, mask == 1] != frame[:, mask == 1]).any()
    grey = np.full((3, *toys.SIZE), 0.4, np.float32)
    sample, _ = attacked(planted, grey, ATTACKS[name])
    assert (sample.image == grey).all()
    assert (sample.flipped, sample.steps, sample.linf) == (False, 0, 0.0)


@pytest.mark.parametrize("name", [name for name in ATTACKS if not name.startswith("nes")])
def test_a_neighbours_perturbation_is_tried_first(planted: Detector, name: str) -> None:
    """One that flips is the sample in its first batch; the weakest strength of it that does."""
    attack = ATTACKS[name]
    cold, _ = attacked(planted, frame_of(1), Nes())
    start = (cold.image - frame_of(1)) * np.float32(1.1)
    warm, batches = attacked(planted, frame_of(2), attack, start=start)
    assert warm.flipped
    square = getattr(attack, "square", attack)
    assert len(batches[0]) == 1 + len(STRENGTHS) + square.candidates
    first = render(batches[0], frame_of(2))
    real = planted.log_probs(first).argmax(axis=1) == 0
    for row, strength in enumerate(STRENGTHS, 1):
        wanted = np.clip(frame_of(2) + np.float32(strength) * start, 0, 1)
        bound = np.float32(16 / 255)
        wanted = np.clip(wanted, frame_of(2) - bound, frame_of(2) + bound)
        np.testing.assert_allclose(first[row], wanted, atol=1e-6)
    if isinstance(attack, Square):
        assert len(batches) == 1
        np.testing.assert_array_equal(warm.image, first[int(np.argmax(real))])
    # one that leads astray is left for what else was tried
    wrong, _ = attacked(planted, frame_of(2), attack, start=-start)
    assert wrong.flipped


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(ATTACKS)),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    epsilon=st.floats(0.002, 1.0),
    seed=st.integers(0, 1000),
    gain=st.floats(0.01, 30),
)
def test_ball_and_range_hold_for_all_that_is_returned(
    name: str, height: int, width: int, epsilon: float, seed: int, gain: float
) -> None:
    """A linear game with many pixels at 0 and 1; some flip, some never do."""
    rng = np.random.default_rng(seed)
    frame = np.clip(rng.random((3, height, width), np.float32) * 3 - 1, 0, 1)
    weights = gain * rng.normal(size=frame.shape)
    attack: Any = ATTACKS[name]
    changes: dict[str, Any] = {"epsilon": epsilon}
    if isinstance(attack, Nes):
        attack = dataclasses.replace(attack, cell=1 + seed % 3, **changes)
    elif isinstance(attack, Square):
        attack = dataclasses.replace(attack, **changes)
    else:
        square = dataclasses.replace(attack.square, queries=30, **changes)
        attack = dataclasses.replace(attack, square=square)

    def game(batch: Any) -> np.ndarray:
        values = (weights * (render(batch, frame) - frame)).sum(axis=(1, 2, 3))
        return np.stack([values - 1, np.zeros(len(batch))], axis=1).astype(np.float32)

    asking = attack.attack(frame, (0,), seed=seed, rng=rng)
    answer, asked = None, 0
    while True:
        try:
            batch = asking.send(answer)
        except StopIteration as stop:
            sample = stop.value
            break
        asked, answer = asked + len(batch), game(batch)
    assert sample.images == asked <= attack.images()
    assert np.abs(sample.image.astype(float) - frame).max() <= epsilon + 1e-6
    assert 0 <= sample.image.min() <= sample.image.max() <= 1
    value = float((weights * (sample.image - frame)).sum()) - 1
    assert sample.flipped == (value > 0) or abs(value) < 1e-4  # float32 sums
    assert float(sample.log_probs[0]) == pytest.approx(value, abs=1e-4)


# --- bisection


@hypothesis_settings(max_examples=60, deadline=None)
@given(boundary=st.floats(0.001, 0.999), cuts=st.integers(1, 9), rounds=st.integers(1, 4))
def test_bisection_brackets_the_boundary(boundary: float, cuts: int, rounds: int) -> None:
    """A detector that is real from a known share of the perturbation on."""
    frame, end = np.zeros((3, 2, 3), np.float32), np.full((3, 2, 3), 0.5, np.float32)
    asked: list[float] = []

    def answers(batch: Any) -> FloatArray:
        strengths = render(batch, frame).mean(axis=(1, 2, 3)) / 0.5
        asked.extend(strengths.tolist())
        return np.stack([strengths - boundary, np.zeros(len(batch))], 1).astype(np.float32)

    start = AdversarialSample(
        image=end, log_probs=np.zeros(2, np.float32), flipped=True, steps=3, images=7, linf=0.5,
        score_before=0.1, score_after=0.9,
    )  # fmt: skip
    asking = Bisect(cuts, rounds).towards(frame, start, (0,))
    answer = None
    batches = 0
    while True:
        try:
            answer = answers(asking.send(answer))
            batches += 1
        except StopIteration as stop:
            sample = stop.value
            break
    assert batches == rounds
    assert len(asked) == cuts * rounds == sample.images - 7
    strength = float(sample.image.mean()) / 0.5
    width = 1 / (cuts + 1) ** rounds
    assert boundary - 1e-5 <= strength <= boundary + width + 1e-5
    assert sample.linf == pytest.approx(strength / 2, abs=1e-6)
    # nothing weaker that was asked about is real
    assert all(s <= boundary + 1e-6 for s in asked if s < strength - 1e-6)


def test_what_did_not_flip_is_not_bisected(planted: Detector) -> None:
    frame = frame_of()
    attack = SquareBisect(Square(queries=3, epsilon=0.002))
    sample, batches = attacked(planted, frame, attack)
    assert not sample.flipped
    assert [len(batch) for batch in batches] == [2, 1, 1]
    refined = SquareNes(Square(queries=3, epsilon=0.002))
    assert attacked(planted, frame, refined)[0].images == 4


def test_bisection_and_nes_steps_bring_the_sample_nearer(planted: Detector) -> None:
    """By L2; the draws of the squares are the same."""
    square, bisect = Square(queries=300), Bisect(cuts=6, rounds=2)
    nes = Nes(pairs=40)
    distances = [
        float(np.linalg.norm(attacked(planted, frame_of(3), attack)[0].image - frame_of(3)))
        for attack in (square, SquareBisect(square, bisect), SquareNes(square, bisect, nes, 3))
    ]
    assert distances[0] > distances[1] > distances[2]


# --- many squares at once


def test_candidates_fill_a_batch_and_the_best_is_kept() -> None:
    frame = random_frame((12, 20), 5)
    weights = 1 + np.random.default_rng(2).random(frame.shape)  # darker is better everywhere
    sizes: list[int] = []
    best: list[float] = []

    def game(batch: Any) -> np.ndarray:
        images = render(batch, frame)
        values = 50 + (weights * (images - frame)).sum(axis=(1, 2, 3))
        sizes.append(len(batch))
        best.append(float(values[1:].min() if len(sizes) == 1 else values.min()))
        return values

    attack = Square(queries=22, candidates=8)
    sample, images = play(attack.attack(frame, (0,), seed=0, rng=np.random.default_rng(0)), game)
    assert sizes == [9, 8, 6]  # the frame and its stripes; what is left of the queries
    assert images == sample.images == attack.images() == 23
    assert sample.steps == 22
    assert best[0] > best[1] > best[2]  # squares help here, so keeping another is seen
    value = 50 + float((weights * (sample.image - frame)).sum())
    assert value == pytest.approx(min(best), abs=1e-9)


# --- NES with blocks and momentum


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cell", [2, 3])
def test_blocks_share_a_value_and_the_estimate_follows_its_formula(
    cell: int, channels: int
) -> None:
    size, pairs, sigma = (5, 8), 4, 0.01
    rng = np.random.default_rng(6)
    rows, columns = -(-5 // cell), -(-8 // cell)
    length = channels * rows * columns
    offsets = rng.integers(0, 100, pairs)
    batch = NoiseStep(
        center=rng.random((3, *size), np.float32),
        table=NoiseTable(6, 300),
        offsets=np.concatenate([[0], offsets, offsets]),
        signs=np.repeat([0, 1, -1], [1, pairs, pairs]),
        sigma=sigma,
        channels=channels,
        mask=rng.integers(0, 2, size).astype(np.float32),
        cell=cell,
    )
    assert batch.mask is not None
    scores = rng.normal(0, 1, 2 * pairs)
    images = render(batch, batch.center)
    expected = np.zeros((channels, *size))
    for pair in range(pairs):
        small = batch.table.whole[offsets[pair] : offsets[pair] + length].reshape(
            channels, rows, columns
        )
        u = np.zeros((channels, *size))
        for y in range(5):
            for x in range(8):
                u[:, y, x] = small[:, y // cell, x // cell]
        np.testing.assert_allclose(
            images[1 + pair], batch.center + sigma * u * batch.mask, atol=1e-6
        )
        np.testing.assert_allclose(
            images[1 + pairs + pair], batch.center - sigma * u * batch.mask, atol=1e-6
        )
        expected += (scores[pair] - scores[pairs + pair]) * u / (2 * pairs * sigma)
    np.testing.assert_allclose(
        antithetic_gradient(batch, scores), expected * batch.mask, rtol=1e-5, atol=1e-3
    )


def test_momentum_adds_up_gradients_of_equal_weight(planted: Detector) -> None:
    """Each step follows g/mean|g| plus the share of what was followed before."""
    frame = frame_of()
    nes = Nes(pairs=5, steps=4, momentum=0.6)
    _, batches = attacked(planted, frame, nes)
    velocity = np.zeros((1, *toys.SIZE))
    for batch, following in itertools.pairwise(batches):
        log_probs = planted.ask(batch, frame).astype(float)
        margins = (log_probs[:, 0] - log_probs[:, 1])[1:]
        gradient = antithetic_gradient(batch, margins).astype(float)
        velocity = 0.6 * velocity + gradient / np.abs(gradient).mean()
        sure = np.abs(velocity) > 1e-3  # elsewhere float32 decides the sign
        assert sure.mean() > 0.95
        moved = np.clip(batch.center + np.sign(velocity) / 255, frame - 16 / 255, frame + 16 / 255)
        where = np.broadcast_to(sure, moved.shape)
        np.testing.assert_allclose(following.center[where], np.clip(moved, 0, 1)[where], atol=1e-6)
    plain = attacked(planted, frame, Nes(pairs=5, steps=4))[1]
    assert not np.array_equal(plain[3].center, batches[3].center)


def test_square_nes_takes_the_differences_and_steps_of_its_nes(planted: Detector) -> None:
    nes = Nes(pairs=6, differences="forward", move="gradient")
    attack = SquareNes(Square(queries=300), Bisect(cuts=4), nes, steps=2)
    sample, batches = attacked(planted, frame_of(), attack)
    assert sample.flipped
    index = next(i for i, batch in enumerate(batches) if isinstance(batch, NoiseStep))
    batch, tried = batches[index], batches[index + 1].images[0]
    assert batch.signs.tolist() == [0] + 12 * [1]
    log_probs = planted.ask(batch, frame_of()).astype(float)
    gradient = forward_gradient(batch, log_probs[:, 0] - log_probs[:, 1])
    low, high = ball(frame_of(), nes.epsilon)
    np.testing.assert_allclose(
        tried, np.clip(batch.center + nes.step(gradient, None), low, high), atol=1e-6
    )
