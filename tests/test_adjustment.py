"""RISE by regression: the model's own part by enumeration, and what is left is still sampled."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame, scene
from numpy.typing import NDArray

from whyfake.explainers import Rise, adjustment
from whyfake.explainers.adjustment import Adjustment, ridge
from whyfake.perturbation import GridMix, cell_size, render

SIZE, CELLS = (7, 11), 2


def every_mask(size: tuple[int, int], p: float) -> tuple[GridMix, NDArray[np.float64]]:
    """All masks of 2 × 2 cells under all shifts, and the chance of each."""
    shifts = list(product(*(range(cell_size(CELLS, side)) for side in size)))
    coins = np.array(list(product((0, 1), repeat=CELLS**2)), np.uint8)
    chance = np.prod(np.where(coins, p, 1 - p), axis=1) / len(shifts)
    batch = GridMix(
        np.tile(coins.reshape(-1, CELLS, CELLS), (len(shifts), 1, 1)),
        np.repeat(np.array(shifts), len(coins), axis=0),
        np.zeros((3, *size), np.float32),
    )
    return batch, np.tile(chance, len(shifts))


def shown(batch: GridMix, size: tuple[int, int]) -> NDArray[np.float64]:
    """The masks themselves (N, h, w)."""
    return render(batch, np.ones((3, *size), np.float32))[:, 0].astype(np.float64)


def saliency(scores: Any, batch: GridMix, chance: Any, size: tuple[int, int]) -> Any:
    """E[score · mask] / E[mask] by enumeration."""
    masks = shown(batch, size)
    return np.einsum("n,nyx->yx", chance * scores, masks) / np.einsum("n,nyx->yx", chance, masks)


def two_together(batch: GridMix) -> NDArray[np.float64]:
    """What two patches show, multiplied, and one of them alone: nothing linear says all of it."""
    masks = shown(batch, SIZE)
    one, other = masks[:, 1:3, 2:4].mean(axis=(1, 2)), masks[:, 4:7, 6:9].mean(axis=(1, 2))
    return np.asarray(0.1 + 2 * one * other + one**2)


@pytest.mark.parametrize("p", [0.5, 0.3])
@pytest.mark.parametrize("size", [SIZE, (11, 7), (4, 9)])
def test_the_models_saliency_is_that_of_all_masks(size: tuple[int, int], p: float) -> None:
    batch, chance = every_mask(size, p)
    masks = shown(batch, size)
    rng = np.random.default_rng(0)
    scores = np.einsum("nyx,yx->n", masks, rng.normal(0, 0.3, size)) + rng.normal(
        0, 0.1, len(batch)
    )
    model = Adjustment(CELLS, p, *size, paired=False)
    half = len(batch) // 2
    for part in (slice(0, half), slice(half, None)):
        model.add(dataclasses.replace(batch, grids=batch.grids[part], shifts=batch.shifts[part]))
    fit = model.fit(scores)
    said = scores - fit.residuals
    assert said.std() > 3 * fit.residuals.std()
    # masks are float32
    np.testing.assert_allclose(fit.saliency, saliency(said, batch, chance, size), atol=1e-6)
    assert abs(fit.mean - chance @ said) < 1e-6


def test_the_model_is_linear_in_the_blocks_a_mask_shows() -> None:
    """A score that is one reads back without error, whichever masks were asked."""
    batch, chance = every_mask(SIZE, 0.4)
    masks = shown(batch, SIZE)
    # four blocks a side of 7 × 11 pixels
    scores = 0.3 + masks[:, 1:3, 5:8].mean(axis=(1, 2)) - 2 * masks[:, 5:7, 0:2].mean(axis=(1, 2))
    asked = np.random.default_rng(1).permutation(len(batch))[:60]
    model = Adjustment(CELLS, 0.4, *SIZE, paired=False)
    model.add(dataclasses.replace(batch, grids=batch.grids[asked], shifts=batch.shifts[asked]))
    fit = model.fit(scores[asked])
    truth = saliency(scores, batch, chance, SIZE)
    # the smallest penalty that is tried, and masks in float32
    np.testing.assert_allclose(fit.saliency, truth, rtol=0, atol=2e-3 * np.ptp(truth))
    assert 0 < fit.unused < 1


def asked(rise: Rise, game: Any, seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """The heat of a run."""
    result, images = play(rise.explain(random_frame(size), FAKE, scene(size, seed=seed)), game)
    assert images == rise.images()
    return result.heatmap


@pytest.mark.parametrize("model", ["fitted", "wrong"])
@pytest.mark.parametrize("sampling", ["random", "paired", "stratified"])
def test_whatever_the_model_the_saliency_tends_to_the_same(
    sampling: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, masks = 0.3, 24000
    bad = np.random.default_rng(3).normal(0, 0.2, 16)
    if model == "wrong":
        monkeypatch.setattr(adjustment, "ridge", lambda shares, scores, lost: (bad, 16.0))
    batch, chance = every_mask(SIZE, p)
    truth = saliency(two_together(batch), batch, chance, SIZE)
    rise = Rise(masks=masks, grid=CELLS, p=p, score="log_odds", sampling=sampling, adjusted=True)
    heat = asked(rise, two_together, seed=0)
    # The error is the mean of residual · m/p over the masks. √(E m²)/p is at most 1/√p, and a pair
    # may say no more than one mask: four standard errors of what the wrong model leaves
    shares = Adjustment(CELLS, p, *SIZE, paired=False)
    shares.add(batch)
    wrong = two_together(batch) - np.concatenate(shares._shares) @ bad
    spread = np.sqrt(chance @ wrong**2 - (chance @ wrong) ** 2)
    tolerance = 4 * spread / np.sqrt(p * masks / 2)
    assert tolerance < 0.1 * np.ptp(truth)
    np.testing.assert_allclose(heat, truth, rtol=0, atol=tolerance)
    debiased = asked(dataclasses.replace(rise, debiased=True), two_together, seed=0)
    mean = chance @ two_together(batch)
    np.testing.assert_allclose(debiased, truth - mean, rtol=0, atol=2 * tolerance)


@pytest.mark.parametrize(("sampling", "gain"), [("random", 4), ("paired", 3)])
def test_errors_are_smaller_over_seeds(sampling: Any, gain: float) -> None:
    batch, chance = every_mask(SIZE, 0.5)
    truth = saliency(two_together(batch), batch, chance, SIZE)
    errors = {}
    for adjusted in (False, True):
        rise = Rise(masks=200, grid=CELLS, score="log_odds", sampling=sampling, adjusted=adjusted)
        heats = np.stack([asked(rise, two_together, seed) for seed in range(25)])
        # what all pixels have in common moves no rank
        apart = heats - truth
        errors[adjusted] = float((apart - apart.mean(axis=(1, 2), keepdims=True)).var())
    assert gain * errors[True] < errors[False]


@pytest.mark.parametrize("masks", [1, 2, 7])
@pytest.mark.parametrize("sampling", ["random", "paired"])
def test_a_flat_score_and_few_masks(masks: int, sampling: Any) -> None:
    rise = Rise(masks=masks, grid=3, score="log_odds", sampling=sampling, adjusted=True)
    heat = asked(rise, lambda batch: np.full(len(batch), 0.7), 0, (8, 13))
    np.testing.assert_allclose(heat, 0.7, rtol=0, atol=1e-6)
    heat = asked(
        dataclasses.replace(rise, confidence=0.9, least=masks),
        lambda b: np.ones(len(b)),
        0,
        (8, 13),
    )
    np.testing.assert_allclose(heat, 1, rtol=0, atol=1e-6)


def test_ridge_is_least_squares_where_nothing_is_noise() -> None:
    rng = np.random.default_rng(5)
    shares = rng.normal(0, 1, (50, 6))
    truth = np.arange(6.0)
    weights, used = ridge(shares, shares @ truth, lost=0)
    np.testing.assert_allclose(weights, truth, rtol=0, atol=1e-3)
    assert abs(used - 6) < 1e-3
    weights, used = ridge(shares, rng.normal(0, 1, 50), lost=0)
    assert used < 3  # no weight is worth its degree
    assert np.abs(weights).max() < 0.3
    assert ridge(np.zeros((4, 3)), np.arange(4.0), lost=1)[1] == 0


@pytest.mark.parametrize(("count", "unknowns"), [(9, 30), (30, 9)])
def test_ridge_by_its_definition(count: int, unknowns: int) -> None:
    """Fewer scores than unknowns, and more: the normal equations, and the least of all GCV."""
    rng = np.random.default_rng(7)
    shares, scores = rng.normal(0, 1, (count, unknowns)), rng.normal(0, 1, count)
    scatter = shares.T @ shares
    tried = []
    for penalty in adjustment.PENALTIES * np.trace(scatter) / unknowns:
        inverse = np.linalg.inv(scatter + penalty * np.eye(unknowns))
        weights, used = inverse @ shares.T @ scores, np.trace(inverse @ scatter)
        misfit = ((scores - shares @ weights) ** 2).sum()
        tried.append((misfit / (count - 1 - used) ** 2, used, weights))
    _, used, weights = min(tried, key=lambda one: one[0])
    found = ridge(shares, scores, lost=1)
    np.testing.assert_allclose(found[0], weights, rtol=1e-7, atol=1e-10)
    assert found[1] == pytest.approx(used, rel=1e-7)
