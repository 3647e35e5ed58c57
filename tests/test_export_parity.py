"""What parity measures: differences, flips, effects of the batch; and on which pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from whyfake.errors import DetectorError
from whyfake.export.parity import decisions, measure_parity, parity_inputs, require_independence

Array = NDArray[Any]
INPUTS = np.random.default_rng(0).random((10, 3, 4, 6), np.float32)


def means(images: Array) -> Array:
    """Three scores an image: the mean of each channel."""
    return np.asarray(images.mean(axis=(2, 3)))


def test_differences_are_those_of_the_scores() -> None:
    """Off by 0.25 in one class of three: a maximum of 0.25, a mean of a third of that."""

    def off(images: Array) -> Array:
        return means(images) + np.array([0, 0.25, 0])

    found = measure_parity(means, off, INPUTS, (1, 3))
    assert found.max_abs == pytest.approx(0.25, abs=1e-6)
    assert found.mean_abs == pytest.approx(0.25 / 3, abs=1e-6)
    assert found.batch_effect == pytest.approx(0, abs=1e-6)
    spread = means(INPUTS).std(axis=0).mean()
    assert found.spread == pytest.approx(spread, rel=1e-5)
    changed = means(INPUTS).argmax(axis=1) != off(INPUTS).argmax(axis=1)
    assert 0 < changed.sum() < 10
    assert found.flips == changed.sum()
    assert found.to_dict() == {
        "inputs": 10,
        "batches": [1, 3],
        "max_abs": found.max_abs,
        "mean_abs": found.mean_abs,
        "flips": found.flips,
        "batch_effect": found.batch_effect,
        "spread": found.spread,
    }


def test_the_reference_sees_each_picture_alone_and_the_candidate_each_batch() -> None:
    asked: dict[str, list[int]] = {"reference": [], "candidate": []}

    def counted(name: str) -> Any:
        def scorer(images: Array) -> Array:
            asked[name].append(len(images))
            return means(images)

        return scorer

    ticks: list[int] = []
    found = measure_parity(
        counted("reference"), counted("candidate"), INPUTS, (1, 7, 4), ticks.append
    )
    assert asked["reference"] == [1] * 10
    assert asked["candidate"] == [1] * 10 + [7, 3] + [4, 4, 2]
    assert sum(ticks) == 40
    assert found.max_abs < 1e-6  # the rows found their way back to their pictures


def test_a_candidate_that_mixes_its_batch_is_found() -> None:
    def mixing(images: Array) -> Array:
        scores = means(images)
        return np.asarray(scores - 0.1 * scores.mean(axis=0))

    found = measure_parity(means, mixing, INPUTS, (1, 5))
    assert found.batch_effect > 1e-3
    with pytest.raises(DetectorError, match="x: a picture's scores depend on the others in its ba"):
        require_independence(mixing, INPUTS, 1e-4, "x")


def test_a_model_that_draws_is_found() -> None:
    rng = np.random.default_rng(0)

    def drawing(images: Array) -> Array:
        return means(images) + rng.normal(0, 0.1, (len(images), 3))

    with pytest.raises(DetectorError, match="x gives the same picture other scores when it is"):
        require_independence(drawing, INPUTS, 1e-4, "x")
    require_independence(means, INPUTS, 1e-6, "x")


def test_one_column_decides_by_its_sign() -> None:
    assert decisions(np.array([[-1.0], [0.0], [2.0]])).tolist() == [0, 0, 1]
    assert decisions(np.array([[-1.0, -2.0], [0.0, 3.0]])).tolist() == [0, 1]

    def logit(images: Array) -> Array:
        return np.asarray(images.mean(axis=(1, 2, 3))[:, None] - 0.5)

    found = measure_parity(logit, lambda images: -logit(images), INPUTS, (2,))
    assert found.flips == 10
    assert found.max_abs == pytest.approx(2 * np.abs(logit(INPUTS)).max(), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    def broken(images: Array) -> Array:
        return np.where(images[:, :, 0, 0] > 0.9, bad, 1.0)

    count = int((INPUTS[:, :, 0, 0] > 0.9).any(axis=1).sum())
    assert 0 < count < 10
    said = f"the model gave NaN or infinite scores for {count} of 10 pictures"
    with pytest.raises(DetectorError, match=said):
        measure_parity(means, broken, INPUTS, (1, 3))
    with pytest.raises(DetectorError, match=f"the reference gave NaN .* {count} of 10"):
        measure_parity(broken, means, INPUTS, (1, 3))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(DetectorError, match="gives 2 scores an image, its reference 3"):
        measure_parity(means, lambda images: means(images)[:, :2], INPUTS, (5,))
    with pytest.raises(DetectorError, match=r"gave scores \(1, 3\) for 5 pictures"):
        measure_parity(means, lambda images: means(images)[:1], INPUTS, (5,))


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (5, 7), (300, 200)])
def test_inputs_are_pictures_and_noise(size: tuple[int, int]) -> None:
    inputs = parity_inputs(size, 24, seed=3)
    assert inputs.shape == (24, 3, *size)
    assert inputs.dtype == np.float32
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    assert np.array_equal(inputs, parity_inputs(size, 24, seed=3))
    assert not np.array_equal(inputs, parity_inputs(size, 24, seed=4))
    flat = inputs.reshape(24, -1)
    assert len(np.unique(flat, axis=0)) == 24
    # every second one is a photograph, in 8 bits; the others are not
    levels = flat * 255
    eight_bits = np.abs(levels - np.rint(levels)).max(axis=1) < 1e-3
    assert eight_bits.tolist() == [True, False] * 12


def test_photographs_are_not_stretched() -> None:
    """A crop keeps its shape: grain is as fine in both directions, in wide frames and in tall."""
    for size in ((80, 160), (160, 80)):
        crops = parity_inputs(size, 60)[::2]
        down = np.abs(np.diff(crops, axis=2)).mean()
        across = np.abs(np.diff(crops, axis=3)).mean()
        assert 0.6 < down / across < 1.6
