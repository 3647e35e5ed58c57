"""Each metric of an evaluation in closed form or by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from whyfake.evaluate.bootstrap import mean_interval
from whyfake.evaluate.controls import centred_gaussian, face_parts, random_heat
from whyfake.evaluate.deletion import area_under, deletion, heat_parts, insertion
from whyfake.evaluate.flip_rate import images_to_flip
from whyfake.evaluate.localisation import overlap, pointing_game, top_regions_precision
from whyfake.evaluate.radius import (
    RADII,
    accuracy_over_radii,
    area_under_radii,
    smallest_radius,
    within,
)
from whyfake.evaluate.stability import mean_over_pairs, spearman, top_overlap
from whyfake.evaluate.top_regions import moving_pixels, top_regions
from whyfake.evaluate.verdict import Case, Verdict, judge
from whyfake.explainers import Nes, Square
from whyfake.explainers.regions import grid
from whyfake.explainers.square import square_side
from whyfake.perturbation import NoiseStep, RegionMix, render

SIZE = (12, 20)


def game_case(frame: np.ndarray, fake_margin: float = 1.0, seed: int = 0) -> Case:
    """A frame of two classes [real, fake] whose regions are a 4×4 grid."""
    log_probs = np.array([0.0, fake_margin], np.float32) - np.float32(np.logaddexp(0, fake_margin))
    return Case(frame, grid(*frame.shape[1:], 4), log_probs, FAKE, (0,), (1,), seed)


def normalised(coroutine: Any) -> Generator[Any, Any, Any]:
    """The coroutine, told log-probabilities as a detector gives them; `play` answers [0, value]."""
    answer = None
    while True:
        try:
            batch = coroutine.send(answer)
        except StopIteration as stop:
            return stop.value
        raw = yield batch
        answer = raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)


# --- top regions


def test_top_regions_rank_by_score_then_label_and_leave_out_what_speaks_against() -> None:
    scores = np.array([0.2, -1.0, 0.5, 0.2, 1e-15])
    assert top_regions(scores, 3, signed=True) == [2, 0, 3]
    assert top_regions(scores, 5, signed=True) == [2, 0, 3]
    assert top_regions(scores, 5, signed=False) == [2, 0, 3, 4, 1]
    assert top_regions(-np.ones(4), 2, signed=True) == []


def test_moving_pixels_are_those_of_the_regions() -> None:
    regions = grid(*SIZE, 2)
    assert np.array_equal(moving_pixels(regions, [1]), np.pad(np.ones((6, 10)), ((0, 6), (10, 0))))
    assert not moving_pixels(regions, []).any()


# --- radius


def verdict(flipped: bool, linf: float) -> Verdict:
    return Verdict((0,), flipped, not flipped, 3, 243, linf, 0.9, 0.4)


def test_area_under_radii_in_closed_form() -> None:
    radii = (0.25, 0.5, 1.0)
    assert area_under_radii(None, radii) == 1.0
    assert area_under_radii(0.25, radii) == pytest.approx(0.25 / 2)  # falls from 1 to 0 by .25
    assert area_under_radii(0.5, radii) == pytest.approx(0.25 + 0.25 / 2)
    assert area_under_radii(1.0, radii) == pytest.approx(0.5 + 0.5 / 2)
    curve = accuracy_over_radii([0.25, 0.5, None, 0.5], radii)
    assert curve.tolist() == [1.0, 0.75, 0.25, 0.25]
    each = np.mean([area_under_radii(s, radii) for s in (0.25, 0.5, None, 0.5)])
    whole = np.trapezoid(curve, (0, *radii)) if hasattr(np, "trapezoid") else each
    assert each == pytest.approx(whole)


@pytest.mark.parametrize(
    ("needed", "wanted"), [(1.5, 2), (3.0, 4), (5.0, 8), (8.5, 16), (16.5, None)]
)
def test_the_smallest_radius_of_a_detector_that_reads_one_pixel(
    needed: float, wanted: float | None
) -> None:
    """The decision turns when the pixel has moved by `needed`/255, so the answer is known."""
    frame = np.full((3, *SIZE), 0.5, np.float32)

    def game(batch: NoiseStep) -> np.ndarray:
        moved = 0.5 - render(batch, frame)[:, :, 0, 0].astype(np.float64).mean(axis=1)
        return 1 - moved * 255 / needed

    case = game_case(frame)
    nes = Nes(steps=20, sigma=0.01, pairs=5)
    labels = (0,)
    first, asked = play(normalised(judge(nes, case, labels, np.random.default_rng(0))), game)
    # the score is that of the image itself, not of a copy that looks around it
    margin = 1 - first.linf * 255 / needed
    assert first.score_after == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-5)
    assert first.flipped == (wanted is not None)
    assert asked == first.images
    rng = np.random.default_rng(1)
    (smallest, more), images = play(smallest_radius(nes, case, first, rng), game)
    assert images == more
    assert smallest == (None if wanted is None else wanted / 255)
    assert (more == 0) == (wanted is None or wanted == 2)


def test_a_smaller_ball_takes_fewer_steps() -> None:
    """Steps of 1/255: eight reach the edge of 8/255."""
    assert within(Nes(steps=50), 8 / 255) == Nes(steps=20, epsilon=8 / 255)
    assert within(Nes(steps=10), 8 / 255).steps == 10


def test_a_lucky_small_step_answers_for_all_radii_above_it() -> None:
    case = game_case(random_frame(SIZE))
    asking = smallest_radius(Nes(), case, verdict(True, 1.9 / 255), np.random.default_rng(0))
    (smallest, more), _ = play(asking, lambda batch: pytest.fail("nothing is left to ask"))
    assert (smallest, more) == (RADII[0], 0)


# --- attacks


def test_an_attack_on_no_regions_costs_nothing_and_changes_nothing() -> None:
    case = game_case(random_frame(SIZE))
    found, images = play(judge(Nes(), case, (), np.random.default_rng(0)), lambda batch: None)  # type: ignore[arg-type, return-value]
    assert images == 0
    assert (found.flipped, found.correct, found.images) == (False, True, 0)
    assert found.score_after == found.score_before == pytest.approx(1 / (1 + np.exp(-1)))
    assert images_to_flip(found.flipped, found.images, 4051) == 4051
    assert images_to_flip(True, 163, 4051) == 163


@pytest.mark.parametrize("attack", [Nes(steps=6, pairs=4), Square(queries=600, share=1.0)])
def test_only_the_regions_move_and_the_verdict_is_of_the_last_image(attack: Nes | Square) -> None:
    """A linear game over all pixels; what was asked is kept, so the verdict can be recomputed."""
    frame = random_frame(SIZE, 3)
    weights = 0.2 * np.random.default_rng(1).normal(size=frame.shape)  # too flat to flip it
    offset = float((weights * frame).sum()) - 1.0
    asked: list[np.ndarray] = []

    def game(batch: Any) -> np.ndarray:
        images = render(batch, frame)
        asked.append(images)
        return (weights * images).sum(axis=(1, 2, 3)) - offset

    case = game_case(frame, 1.0)
    judging = judge(attack, case, (5, 6), np.random.default_rng(0))
    found, images = play(normalised(judging), game)
    assert images == found.images == attack.images()
    still = np.isin(case.regions, [5, 6], invert=True)
    everything = np.concatenate(asked)
    slack = 0 if isinstance(attack, Square) else 6 * attack.sigma  # NES looks around its image
    assert (everything == frame)[:, :, still].all()
    assert np.abs(everything - frame).max() <= attack.epsilon + slack + 1e-6
    values = (weights * everything).sum(axis=(1, 2, 3)) - offset
    after = 1 / (1 + np.exp(-values))
    assert np.abs(after - found.score_after).min() < 1e-5
    assert found.score_before == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-5)
    assert found.score_after < found.score_before - 0.005
    assert found.correct == (found.score_after > 0.5) == (not found.flipped)


def test_square_keeps_the_best_that_it_found() -> None:
    """What it returns is the lowest score of fake among all it asked about, to the bit."""
    frame = random_frame(SIZE, 5)
    weights = np.random.default_rng(2).normal(size=frame.shape)
    seen: list[float] = []

    def game(batch: Any) -> np.ndarray:
        values = 50 + (weights * (render(batch, frame) - frame)).sum(axis=(1, 2, 3))
        seen.extend(values)
        return values

    attack = Square(queries=200)
    sample, images = play(attack.attack(frame, (0,), seed=0, rng=np.random.default_rng(0)), game)
    assert images == sample.images == 201
    assert not sample.flipped
    assert sample.log_probs[1] == min(seen)
    assert (weights * (sample.image - frame)).sum() + 50 == pytest.approx(min(seen), abs=1e-9)
    assert sample.linf <= attack.epsilon + 1e-6
    # ±ε everywhere could go so far; 200 squares go a fifth of the way and more
    assert 50 - min(seen) > attack.epsilon * np.abs(weights).sum() / 5


def test_squares_shrink_as_published() -> None:
    """p halves at .1, .5, 2, 5, 10, 20, 40, 60 and 80 % of the queries; the side is √(p·area)."""
    sides = [square_side(progress, 0.1, 100_000, 1000) for progress in (0.0005, 0.003, 0.9)]
    assert sides == [100, round((0.05 * 100_000) ** 0.5), round((0.1 / 2**9 * 100_000) ** 0.5)]
    assert square_side(0.0005, 1.0, 10_000, 12) == 12
    assert square_side(0.9, 0.1, 4, 12) == 1


def test_a_frame_that_is_called_real_is_left_alone() -> None:
    frame = random_frame(SIZE)
    asking = Square().attack(frame, (0,), seed=0, rng=np.random.default_rng(0))
    sample, images = play(asking, lambda batch: -np.ones(len(batch)))
    assert images == 2
    assert not sample.flipped
    assert np.array_equal(sample.image, frame)


# --- deletion and insertion


def test_deletion_and_insertion_of_a_detector_that_adds_pixels_up() -> None:
    """The score is the share of ones left, so both curves are straight whatever the heat."""
    frame, black = np.ones((3, *SIZE), np.float32), np.zeros((3, *SIZE), np.float32)
    heat = random_frame(SIZE)[0]
    labels = heat_parts(heat, 8, np.random.default_rng(0))

    def game(batch: RegionMix) -> np.ndarray:
        share = np.clip(
            render(batch, frame).mean(axis=(1, 2, 3)).astype(np.float64), 1e-9, 1 - 1e-9
        )
        return np.log(share / (1 - share))  # the probability of fake is the share

    falling, images = play(normalised(deletion(FAKE, labels, black)), game)
    assert images == 9
    np.testing.assert_allclose(falling, np.linspace(1, 0, 9), atol=1e-6)
    rising, _ = play(normalised(insertion(FAKE, labels, black)), game)
    np.testing.assert_allclose(rising, np.linspace(0, 1, 9), atol=1e-6)
    assert area_under(falling) == pytest.approx(0.5, abs=1e-6)
    assert area_under(np.array([1.0, 0.0, 0.0, 0.0, 0.0])) == pytest.approx(1 / 8)


def test_parts_are_equal_hottest_first_and_ties_have_no_place() -> None:
    heat = np.arange(240, dtype=np.float32).reshape(SIZE)
    labels = heat_parts(heat, 7, np.random.default_rng(0))
    sizes = np.bincount(labels.ravel())
    assert len(sizes) == 7
    assert sizes.max() - sizes.min() <= 1
    for part in range(6):
        assert heat[labels == part].min() > heat[labels == part + 1].max()
    flat = heat_parts(np.zeros(SIZE, np.float32), 2, np.random.default_rng(0))
    assert 0.3 < flat[:6].mean() < 0.7  # half of each part, not the upper half first


# --- localisation


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**32), st.integers(1, 6))
def test_overlap_and_pointing_by_brute_force(
    rows: int, columns: int, seed: int, levels: int
) -> None:
    """The expectation over all orders of ties, from many random ones on small maps."""
    rng = np.random.default_rng(seed)
    heat = rng.integers(0, levels, (rows, columns)).astype(np.float32)
    mask = rng.random((rows, columns)) < 0.5
    mask.flat[rng.integers(mask.size)] = True
    hottest = [m for h, m in zip(heat.ravel(), mask.ravel(), strict=True) if h == heat.max()]
    assert pointing_game(heat, mask) == pytest.approx(np.mean(hottest))
    count = int(mask.sum())
    common = []
    for _ in range(300):
        order = np.lexsort((rng.random(heat.size), -heat.ravel()))[:count]
        common.append(mask.ravel()[order].sum())
    expected = np.mean(common)
    assert overlap(heat, mask) == pytest.approx(expected / (2 * count - expected), abs=0.12)
    if levels == 1:  # all tied: the expectation in closed form
        expected = count * count / mask.size
        assert overlap(heat, mask) == pytest.approx(expected / (2 * count - expected), rel=1e-12)


def test_precision_of_several_regions_counts_pixels() -> None:
    regions = np.repeat([[0, 1, 1, 2]], 4, axis=0)
    mask = np.zeros((4, 4), bool)
    mask[:, 1] = mask[0, 0] = True
    assert top_regions_precision(regions, [0, 1], mask) == pytest.approx(5 / 12)
    assert np.isnan(top_regions_precision(regions, [], mask))


# --- stability and intervals


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(3, 30), st.integers(0, 2**32), st.integers(2, 9))
def test_spearman_is_scipys(count: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, levels, (2, count))
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_overlap_of_the_top_and_means_over_pairs() -> None:
    assert top_overlap([1, 2, 3], [3, 4, 1]) == pytest.approx(2 / 3)
    assert top_overlap([1], [1, 2]) == 0.5
    assert np.isnan(top_overlap([], []))
    assert mean_over_pairs([1, 4, 6], lambda a, b: b - a) == pytest.approx((3 + 5 + 2) / 3)
    assert np.isnan(mean_over_pairs([1], lambda a, b: 0.0))


def test_intervals_of_a_coin_are_the_binomials() -> None:
    """Exact: 60 of 100 heads; the percentile interval is that of Binomial(100, .6)/100."""
    values = np.repeat([1.0, 0.0], [60, 40])
    found = mean_interval(values, draws=20_000)
    assert (found.mean, found.count) == (0.6, 100)
    assert found.low == pytest.approx(0.50, abs=0.011)
    assert found.high == pytest.approx(0.69, abs=0.011)
    assert mean_interval(values) == mean_interval(values)


def test_frames_of_one_clip_do_not_count_as_many() -> None:
    """Ten equal frames of each of four clips: exactly as sure as four frames."""
    clips = np.repeat(list("abcd"), 10)
    found = mean_interval(np.repeat([0.0, 0.0, 1.0, 1.0], 10), clips, draws=20_000)
    every = sorted(np.mean(d) for d in itertools.product((0, 0, 1, 1), repeat=4))
    assert found.low == every[int(0.025 * len(every))]
    assert found.high == every[int(0.975 * len(every))]
    one = mean_interval([1.0, 2.0], ["a", "a"])
    assert one.mean == 1.5
    assert np.isnan(one.low)
    assert mean_interval([1.0, float("nan")], ["a", "b"]).count == 1
    assert mean_interval([]).count == 0


# --- controls


def test_controls_in_closed_form() -> None:
    gaussian = centred_gaussian(13, 21)
    assert np.unravel_index(gaussian.argmax(), gaussian.shape) == (6, 10)
    assert gaussian.max() == 1
    assert gaussian[6, 10 + 3] == pytest.approx(np.exp(-0.5 * (3 / (21 / 6)) ** 2))
    assert np.array_equal(gaussian, gaussian[::-1, ::-1])
    marks = [(0.25, 0.25), (0.75, 0.25), (0.5, 0.5), (0.4, 0.8), (0.6, 0.8)]
    heat = face_parts(64, 128, marks)
    for x, y in ((32, 16), (96, 16), (64, 51)):  # right eye, left eye, middle of the mouth
        near = heat[y - 3 : y + 3, x - 3 : x + 3].max()
        assert near > 0.95
    assert heat[32, 64] < 0.1  # the nose is not one of them
    regions = grid(12, 20, 4)
    heat = random_heat(regions, np.random.default_rng(0))
    assert sorted({float(heat[regions == r].max()) for r in range(16)}) == pytest.approx(
        [(i + 1) / 16 for i in range(16)]
    )
