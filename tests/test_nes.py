"""NES: its gradient on linear detectors, its ball, and that a flip holds for what it returns."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from games import pixels, random_frame, recorded
from numpy.typing import NDArray
from onnx import helper

from whyfake import Detector, load_detector
from whyfake.errors import UsageError
from whyfake.explainers import AdversarialSample, Nes, real_margin
from whyfake.explainers.nes import antithetic_gradient, forward_gradient, noise_table
from whyfake.noise_table import NoiseTable
from whyfake.perturbation import NoiseStep
from whyfake.runtime.scheduler import drive

Frame = NDArray[np.float32]


def attacked(
    detector: Detector, frame: Frame, nes: Nes, *, seed: int = 0, mask: Frame | None = None
) -> tuple[AdversarialSample, list[NoiseStep]]:
    """The sample, and the batches that were asked for; the count of images is checked."""
    seen = detector.images_seen
    batches: list[Any] = []
    rng = np.random.default_rng(seed)
    coroutine = nes.attack(frame, detector.real, seed=seed, rng=rng, mask=mask)
    sample = drive(recorded(coroutine, batches, []), detector, frame)
    assert sample.images == detector.images_seen - seen == sum(map(len, batches)) <= nes.images()
    return sample, batches


def assert_holds(detector: Detector, frame: Frame, nes: Nes, sample: AdversarialSample) -> None:
    """The returned image is what the sample says it is: near, in range, and called real or not."""
    log_probs = detector.log_probs(sample.image[None])[0]
    assert (int(log_probs.argmax()) in detector.real) == sample.flipped
    real = np.exp(log_probs[list(detector.real)].astype(np.float64)).sum()
    np.testing.assert_allclose(sample.score_after, real, rtol=1e-6)  # the same float32 scores
    before = np.exp(detector.log_probs(frame[None])[0, list(detector.real)].astype(np.float64))
    np.testing.assert_allclose(sample.score_before, before.sum(), rtol=1e-6)
    assert sample.image.dtype == np.float32
    assert sample.image.shape == frame.shape
    assert sample.linf == float(np.abs(sample.image - frame).max())
    # frame ± ε is rounded to float32 once
    assert sample.linf <= nes.epsilon + 1e-6
    assert sample.image.min() >= 0
    assert sample.image.max() <= 1


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Detector, Frame]:
    """A detector that calls a checkerboard fake, and a frame that has it."""
    detector = toys.planted_detector(tmp_path, toys.PATCH, toys.SIZE, engine_batch=81)
    return detector, pixels(toys.planted_frame(toys.PATCH, toys.SIZE))


@pytest.mark.parametrize(("noise", "pairs"), [("luma", 8000), ("rgb", 24000)])
@pytest.mark.parametrize("size", [(6, 10), (10, 6)])
def test_the_estimate_is_the_analytic_gradient(
    tmp_path: Path, noise: Any, pairs: int, size: tuple[int, int]
) -> None:
    weights = np.random.default_rng(3).normal(0, 1, (3, *size)).astype(np.float32)
    detector = toys.linear_detector(tmp_path, weights, 0.3, engine_batch=1024)
    frame = random_frame(size, 4)
    # log p(real) − log p(fake) = −(Σ weights·x + bias); what moves all channels alike feels the sum
    truth = -weights.sum(axis=0, keepdims=True) if noise == "luma" else -weights
    nes = Nes(pairs=pairs, noise=noise, sigma=0.05, steps=1)
    coroutine = nes.attack(frame, (0,), seed=1, rng=np.random.default_rng(5))
    batch = next(coroutine)
    margins = real_margin(detector.ask(batch, frame), (0,))
    estimate = antithetic_gradient(batch, margins[1:])
    assert estimate.shape == truth.shape
    # The estimate is the truth and noise of its length in each of d directions: with n pairs a
    # cosine of √(n/(n + d)), 0.996 for d = 60 and 180; an n of d·49 would do
    cosine = (estimate * truth).sum() / np.linalg.norm(estimate) / np.linalg.norm(truth)
    assert cosine > 0.99
    # along the truth it is a mean of n squares of normal numbers: standard error √(2/n) < 1.6 %
    np.testing.assert_allclose((estimate * truth).sum() / (truth**2).sum(), 1, rtol=0, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_estimate_follows_its_formula_and_leaves_the_centre_out(channels: int) -> None:
    rng = np.random.default_rng(6)
    size, pairs, sigma = (3, 5), 4, 0.01
    table = NoiseTable(6, 200)
    offsets = rng.integers(0, 100, pairs)
    mask = rng.integers(0, 2, size).astype(np.float32)
    scores = rng.normal(0, 1, 2 * pairs)
    expected = np.zeros((channels, *size))
    for pair in range(pairs):
        length = channels * 15
        u = table.whole[offsets[pair] : offsets[pair] + length].reshape(channels, *size)
        expected += (scores[pair] - scores[pairs + pair]) * u / (2 * pairs * sigma)
    for centre in (0, 77):  # where the centre's unused noise lies must not matter
        batch = NoiseStep(
            center=rng.random((3, *size), np.float32),
            table=table,
            offsets=np.concatenate([[centre], offsets, offsets]),
            signs=np.repeat([0, 1, -1], [1, pairs, pairs]),
            sigma=sigma,
            channels=channels,
            mask=mask,
        )
        gradient = antithetic_gradient(batch, scores)
        # float32 sums of four terms of some hundreds
        np.testing.assert_allclose(gradient, expected * mask, rtol=1e-5, atol=1e-3)
        assert (gradient[:, mask == 0] == 0).all()


def extremes(size: tuple[int, int]) -> Frame:
    """A frame with many pixels at 0 and at 1."""
    frame = random_frame(size, 7) * 3 - 1
    clipped = np.clip(frame, 0, 1)
    assert (clipped == 0).sum() > 100
    assert (clipped == 1).sum() > 100
    return clipped


@pytest.mark.parametrize("noise", ["luma", "rgb"])
@pytest.mark.parametrize(
    "options", [{}, {"alpha": 5 / 255}, {"alpha": 0.3, "epsilon": 0.1}, {"epsilon": 1.0}]
)
def test_the_ball_and_the_range_are_never_left(
    tmp_path: Path, noise: Any, options: dict[str, float]
) -> None:
    size = (12, 20)
    weights = np.random.default_rng(8).normal(0, 1, (3, *size)).astype(np.float32)
    frame = extremes(size)
    # a bias far out of reach: all steps are taken
    detector = toys.linear_detector(tmp_path, weights, 1000.0, engine_batch=21)
    nes = Nes(pairs=10, steps=30, noise=noise, **options)
    sample, batches = attacked(detector, frame, nes)
    assert len(batches) == 31
    assert (batches[0].center == frame).all()
    for batch in batches:
        # frame ± ε is rounded to float32 once
        assert np.abs(batch.center.astype(np.float64) - frame).max() <= nes.epsilon + 1e-6
        assert batch.center.min() >= 0
        assert batch.center.max() <= 1
    for earlier, later in itertools.pairwise(batches):
        moved = np.abs(later.center.astype(np.float64) - earlier.center)
        assert 0 < moved.max() <= nes.alpha + 1e-6
    # and they are reached: steps of one direction, thirty of them
    assert sample.linf > min(nes.epsilon, 5 * nes.alpha) - 1e-6
    assert_holds(detector, frame, nes, sample)


@pytest.mark.parametrize("noise", ["luma", "rgb"])
def test_a_flip_holds_for_the_image_returned(planted: tuple[Detector, Frame], noise: Any) -> None:
    detector, frame = planted
    nes = Nes(noise=noise)
    sample, batches = attacked(detector, frame, nes)
    assert sample.flipped
    assert 1 <= sample.steps < nes.steps
    assert sample.images == 81 * (sample.steps + 1)
    assert sample.score_before < 0.5 < sample.score_after
    assert (sample.image == batches[-1].center).all()
    # it stopped at the first image that is real
    centres = np.stack([batch.center for batch in batches])
    real = detector.log_probs(centres).argmax(axis=1) == 0
    assert real.tolist() == [False] * sample.steps + [True]
    assert_holds(detector, frame, nes, sample)


def test_a_saturated_detector_is_flipped_too(tmp_path: Path) -> None:
    weights = toys.linear_weights(toys.PATCH, toys.SIZE)
    detector = toys.linear_detector(tmp_path, weights, -50 / 255, gain=1e4, engine_batch=81)
    frame = pixels(toys.planted_frame(toys.PATCH, toys.SIZE))
    p = np.exp(detector.log_probs(frame[None])[0])
    assert p.tolist() == [0.0, 1.0]  # no probability in float32 tells the copies apart
    sample, _ = attacked(detector, frame, Nes())
    assert sample.flipped
    assert_holds(detector, frame, Nes(), sample)


@pytest.mark.parametrize("noise", ["luma", "rgb"])
def test_pixels_outside_the_mask_never_move(planted: tuple[Detector, Frame], noise: Any) -> None:
    detector, frame = planted
    mask = np.zeros(toys.SIZE, np.float32)
    top, bottom, left, right = toys.PATCH
    mask[top:bottom, left:right] = 1
    sample, batches = attacked(detector, frame, Nes(noise=noise), mask=mask)
    for batch in batches:
        assert (batch.center[:, mask == 0] == frame[:, mask == 0]).all()
    moved = (sample.image != frame)[:, mask == 1]
    assert moved.mean() > 0.8  # an odd number of steps leaves no pixel where it was
    assert sample.flipped
    assert_holds(detector, frame, Nes(noise=noise), sample)
    # where the detector does not look, nothing can flip it
    blind = Nes(noise=noise, steps=10)
    elsewhere, _ = attacked(detector, frame, blind, mask=1 - mask)
    assert not elsewhere.flipped
    assert (elsewhere.image[:, mask == 1] == frame[:, mask == 1]).all()


def test_a_frame_that_is_real_comes_back_unchanged(planted: tuple[Detector, Frame]) -> None:
    detector, _ = planted
    frame = np.full((3, *toys.SIZE), 0.5, np.float32)
    sample, _ = attacked(detector, frame, Nes())
    assert (sample.image == frame).all()
    assert (sample.flipped, sample.steps, sample.images, sample.linf) == (False, 0, 81, 0.0)
    assert sample.score_before == sample.score_after > 0.5
    shorter, _ = attacked(detector, frame, Nes(pairs=7))
    assert shorter.images == 2 * 7 + 1


def test_a_spent_budget_is_said(planted: tuple[Detector, Frame]) -> None:
    detector, frame = planted
    nes = Nes(steps=3, pairs=9)
    sample, batches = attacked(detector, frame, nes)
    assert not sample.flipped
    assert sample.steps == 3
    assert sample.images == nes.images() == 3 * 19 + 1
    assert [len(batch) for batch in batches] == [19, 19, 19, 1]
    assert 0 < sample.linf <= 3 * nes.alpha + 1e-6
    assert Nes().images() == 80 * 81 + 1
    assert_holds(detector, frame, nes, sample)


BOARD = toys.linear_weights(toys.PATCH, toys.SIZE), 50 / 255
"""Weights that read the checkerboard, and the level above which it is fake."""


def three_classes(folder: Path, reads: tuple[Frame, float] = BOARD) -> Detector:
    """Logits [−3, what is read, 0] of [actor, fake, camera]: both outer ones are real."""
    weights, level = reads
    matrix = np.zeros((weights.size, 3), np.float32)
    matrix[:, 1] = 60 * weights.ravel()
    card = toys.make_card(toys.SIZE, classes=["actor", "fake", "camera"], real=["actor", "camera"])
    path = toys.save_model(
        folder,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["y"]),
        ],
        {"w": matrix, "b": np.array([-3, -60 * level, 0], np.float32)},
        size=toys.SIZE,
        columns=3,
        card=card,
    )
    return load_detector(path, device="cpu", batch=81)


def one_logit(folder: Path, positive: str, reads: tuple[Frame, float] = BOARD) -> Detector:
    """One sigmoid that scores `positive`, fake for what is read either way."""
    sign = 1 if positive == "fake" else -1
    weights, level = reads
    card = toys.make_card(toys.SIZE, output={"activation": "sigmoid", "positive": positive})
    path = toys.save_model(
        folder,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["y"]),
        ],
        {
            "w": (sign * 60 * weights).reshape(-1, 1),
            "b": np.array([-sign * 60 * level], np.float32),
        },
        size=toys.SIZE,
        columns=1,
        card=card,
    )
    return load_detector(path, device="cpu", batch=81)


@pytest.mark.parametrize(
    "make",
    [
        three_classes,
        lambda folder: one_logit(folder, "fake"),
        lambda folder: one_logit(folder, "real"),
    ],
    ids=["three classes", "sigmoid of fake", "sigmoid of real"],
)
def test_several_real_classes_and_one_logit_heads_work(
    tmp_path: Path, make: Callable[[Path], Detector]
) -> None:
    detector = make(tmp_path)
    frame = pixels(toys.planted_frame(toys.PATCH, toys.SIZE))
    assert int(detector.log_probs(frame[None])[0].argmax()) not in detector.real
    sample, _ = attacked(detector, frame, Nes())
    assert sample.flipped
    assert_holds(detector, frame, Nes(), sample)


def test_margin_takes_the_best_of_each_side() -> None:
    log_probs = np.log(np.array([[0.1, 0.3, 0.25, 0.35], [0.4, 0.3, 0.1, 0.2]], np.float32))
    # classes 0 and 2 are real: ln(max(p0, p2) / max(p1, p3)), to float32
    expected = np.log([0.25 / 0.35, 0.4 / 0.3])
    np.testing.assert_allclose(real_margin(log_probs, (0, 2)), expected, rtol=1e-6)


def test_same_seed_same_bits_other_seed_other_bits(planted: tuple[Detector, Frame]) -> None:
    detector, frame = planted
    nes = Nes(steps=3, pairs=5)
    first, again, other = (attacked(detector, frame, nes, seed=seed)[0] for seed in (1, 1, 2))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    # the table and the offsets each matter: another table alone is another sample
    coroutine = nes.attack(frame, detector.real, seed=2, rng=np.random.default_rng(1))
    mixed = drive(coroutine, detector, frame)
    assert mixed.image.tobytes() not in (first.image.tobytes(), other.image.tobytes())


def test_the_noise_table_is_standard_normal_and_nobody_can_write_it() -> None:
    table = noise_table(11, 1 << 16)
    # 65,536 draws: standard errors 0.004 of the mean, 0.003 of the spread; five of them
    assert abs(float(table.whole.mean())) < 0.02
    assert abs(float(table.whole.std()) - 1) < 0.015
    assert noise_table(11, 1 << 16) is table
    with pytest.raises(ValueError, match="read-only"):
        table.whole[0] = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "NES: sigma must be positive, got 0"),
        ({"pairs": 0}, "NES: pairs must be 1 or more, got 0"),
        ({"alpha": -1}, "NES: alpha must be positive, got -1"),
        ({"epsilon": 1.5}, "NES: epsilon must lie in (0, 1], got 1.5"),
        ({"steps": 0}, "NES: steps must be 1 or more, got 0"),
        ({"noise": "gray"}, "NES: noise must be luma or rgb, got gray"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Nes(**options)
    assert str(caught.value) == message


def test_forward_differences_ask_one_side_of_twice_as_many_directions(
    planted: tuple[Detector, Frame],
) -> None:
    detector, frame = planted
    mask = np.zeros(toys.SIZE, np.float32)
    mask[: toys.SIZE[0] // 2] = 1
    nes = Nes(pairs=7, steps=3, differences="forward")
    _, batches = attacked(detector, frame, nes)
    for batch in batches[:-1]:
        assert batch.signs.tolist() == [0] + 14 * [1]
        assert len(set(batch.offsets[1:])) == 14
    batch = dataclasses.replace(batches[0], mask=mask)
    scores = np.random.default_rng(2).normal(0, 1, 15)
    noises = np.stack([batch.noise(row).astype(float) for row in range(1, 15)])
    expected = np.einsum("n,nchw->chw", scores[1:] - scores[0], noises) / (14 * nes.sigma)
    # float32 sums of fourteen terms of some hundreds
    np.testing.assert_allclose(
        forward_gradient(batch, scores), expected * mask, rtol=1e-5, atol=1e-3
    )


def test_forward_differences_find_the_analytic_gradient(tmp_path: Path) -> None:
    """On a linear detector one side says what two say; the cosine is √(n/(n + d)), d = 60."""
    weights = np.random.default_rng(3).normal(0, 1, (3, 6, 10)).astype(np.float32)
    detector = toys.linear_detector(tmp_path, weights, 0.3, engine_batch=1024)
    frame = np.random.default_rng(4).uniform(0.2, 0.8, (3, 6, 10)).astype(np.float32)
    nes = Nes(pairs=2000, sigma=0.05, steps=1, differences="forward")
    batch = next(nes.attack(frame, (0,), seed=1, rng=np.random.default_rng(5)))
    log_probs = detector.ask(batch, frame).astype(float)
    estimate = nes.gradient(batch, log_probs[:, 0] - log_probs[:, 1])
    truth = -weights.sum(axis=0, keepdims=True)
    assert (estimate * truth).sum() > 0.99 * np.linalg.norm(estimate) * np.linalg.norm(truth)
    # a mean of n squares of normal numbers: standard error √(2/n) < 2.3 %
    np.testing.assert_allclose((estimate * truth).sum() / (truth**2).sum(), 1, rtol=0, atol=0.1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("noise", ["luma", "rgb"])
def test_a_gradient_step_is_alpha_in_the_root_mean_square(masked: bool, noise: Any) -> None:
    nes = Nes(move="gradient", noise=noise)
    mask = None
    gradient = np.random.default_rng(1).normal(0, 40, (nes.channels, 6, 10)).astype(np.float32)
    if masked:
        mask = np.zeros((6, 10), np.float32)
        mask[:2] = 1
        gradient *= mask
    step = nes.step(gradient, mask)
    moving = step[:, :2] if masked else step
    np.testing.assert_allclose(np.sqrt((moving**2).mean()), nes.alpha, rtol=1e-5)
    np.testing.assert_allclose(step * gradient.max(), gradient * step.max(), rtol=1e-4)
    assert (nes.step(np.zeros_like(gradient), mask) == 0).all()  # nothing known: nothing moved
    assert np.array_equal(
        Nes(noise=noise).step(gradient, mask), np.sign(gradient) * np.float32(1 / 255)
    )
