"""Stopping early: the confidence in closed form, its spread, and what stays the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame, recorded, scene
from numpy.typing import NDArray
from scipy import stats

from whyfake.explainers import Lime, Rise, Shap, Sobol, region_means
from whyfake.explainers.partition import Tree
from whyfake.explainers.regions import grid
from whyfake.explainers.rise import RegionShares
from whyfake.explainers.shapes import Box
from whyfake.explainers.stopping import looks, pieces, top_confidence
from whyfake.perturbation import GridMix, render

SIZE = (12, 20)
REGIONS = grid(*SIZE, 4)
QUICK = {
    "lime": Lime(samples=600, score="log_odds", design="hadamard"),
    "shap": Shap(samples=600, score="log_odds", nodes_per_round=4),
    "sobol": Sobol(grid=4, design=32, score="log_odds", scramble=True),
    "rise": Rise(masks=1500, grid=4, score="log_odds", sampling="stratified"),
}


@pytest.mark.parametrize("degrees", [3, 10, 10**6])
@pytest.mark.parametrize(("gap", "spread"), [(1.0, 1.0), (3.0, 0.5), (0.0, 1.0)])
def test_confidence_of_two_regions_in_closed_form(gap: float, spread: float, degrees: int) -> None:
    """One of two regions is ahead by `gap`; B questions move the gap by ±spread/√B each."""
    moves = np.zeros((16, 2))
    moves[:, 0] = np.where(np.arange(16) % 2, 1, -1) * spread / 4
    found = top_confidence(
        np.array([gap, 0.0]), moves, 1, np.random.default_rng(0), degrees=degrees
    )
    # the new answer is as uncertain as this one: the gap's spread counts twice, in squares
    expected = stats.t.cdf(gap / spread / 2**0.5, degrees)
    assert abs(found - expected) < 4 * np.sqrt(0.25 / 2000)


def test_confidence_is_about_the_set_not_its_order() -> None:
    moves = np.zeros((8, 4))
    moves[:, 0] = np.tile([1.0, -1.0], 4)  # only the first of the top two is unsure
    args = np.array([10.0, 9.9, 0.0, -1.0]), moves
    rng = np.random.default_rng(0)
    assert top_confidence(*args, 2, rng, degrees=10**6) > 0.95
    assert top_confidence(*args, 1, rng, degrees=10**6) < 0.6
    assert top_confidence(*args, 4, rng, degrees=10**6) == 1
    assert top_confidence(*args, 2, rng, degrees=2) == 0
    assert top_confidence(np.zeros(4), moves * 0, 2, rng, degrees=99) == 0  # a flat map is unsure


def test_looks_are_geometric_and_end_at_the_budget() -> None:
    lime = Lime(confidence=0.9, least=100)
    assert looks(lime, 1000) == (100, 150, 225, 338, 507, 760, 1000)
    assert looks(lime, 90) == (90,)
    assert looks(dataclasses.replace(lime, least=1), 5) == (1, 2, 3, 4, 5)
    assert looks(Lime(), 1000) == ()
    assert pieces(10, (3, 7, 10), 4) == [(0, 3), (3, 4), (4, 7), (7, 8), (8, 10)]
    assert pieces(10, (), 4) == [(0, 4), (4, 8), (8, 10)]


def one_patch(batch: Any) -> NDArray[np.float64]:
    """Reads three places of a white frame over black, and a little of a fourth."""
    shown = render(batch, np.ones((3, *SIZE), np.float32))[:, 0].astype(np.float64)
    cells = [shown[:, 3 * i : 3 * i + 3, 5 * j : 5 * j + 5].mean(axis=(1, 2)) for i, j in
             ((0, 0), (1, 2), (3, 1), (2, 3))]  # fmt: skip
    return np.asarray(4 * cells[0] + 3 * cells[1] + 2.5 * cells[2] + 0.2 * cells[3] * cells[0])


def asked(explainer: Any, game: Any, seed: int = 0) -> tuple[Any, list[Any], int]:
    """A run's result, batches and images."""
    batches: list[Any] = []
    place = scene(SIZE, regions=REGIONS, seed=seed)
    run = explainer.explain(random_frame(SIZE), FAKE, place)
    result, images = play(recorded(run, batches, []), game)
    return result, batches, images


def rows(batches: list[Any]) -> set[bytes]:
    """What was asked, as masks."""
    white = np.ones((3, *SIZE), np.float32)
    return {m.tobytes() for batch in batches for m in render(batch, white)[:, 0]}


@pytest.mark.parametrize("name", QUICK)
def test_a_stopped_run_asks_the_first_questions_of_a_whole_one(name: str) -> None:
    whole = QUICK[name]
    wanted = 0.6 if name == "rise" else 0.8  # RISE never is surer here
    sure = dataclasses.replace(whole, confidence=wanted, least=64)  # type: ignore[type-var]
    full, all_batches, all_images = asked(whole, one_patch)
    result, batches, images = asked(sure, one_patch)
    assert full.confidence is None
    assert all_images <= whole.images()
    assert result.confidence is not None
    assert wanted <= result.confidence <= 1
    assert 64 <= images < all_images
    assert rows(batches) <= rows(all_batches)
    truth = {0, 4 + 2, 12 + 1}
    scores = result.region_scores
    scores = region_means(result.heatmap, REGIONS) if scores is None else scores
    best = np.argsort(-scores)[:3].tolist()
    assert 0 in best
    if name != "rise":  # RISE blurs the first region into its neighbours
        assert set(best) == truth


@pytest.mark.parametrize("name", QUICK)
def test_what_cannot_be_sure_spends_the_budget_and_says_so(name: str) -> None:
    never = dataclasses.replace(QUICK[name], confidence=0.99)  # type: ignore[type-var]
    whole, _, all_images = asked(QUICK[name], lambda batch: np.full(len(batch), 0.7))
    result, _, images = asked(never, lambda batch: np.full(len(batch), 0.7))
    assert images == all_images
    # LIME sums in other parts: weights of nothing at all differ by rounding
    np.testing.assert_allclose(result.heatmap, whole.heatmap, rtol=0, atol=1e-12)
    assert result.confidence is not None
    assert result.confidence < 0.5


@pytest.mark.parametrize(
    "explainer",
    [
        Lime(samples=200, score="log_odds"),
        Lime(samples=200, score="log_odds", design="paired"),
        Rise(masks=200, grid=4, score="log_odds"),
        Rise(masks=200, grid=4, score="log_odds", sampling="paired"),
        Rise(masks=200, grid=4, score="log_odds", sampling="paired", adjusted=True),
    ],
)
def test_influences_give_the_spread_over_seeds(
    explainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jackknife's variance of a run is that of runs under other seeds, on average."""
    told: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def watch(scores: Any, influences: Any, *rest: Any, **options: Any) -> float:
        told.append((scores, influences))
        return 0.0

    monkeypatch.setattr("whyfake.explainers.stopping.top_confidence", watch)
    explainer = dataclasses.replace(explainer, confidence=0.5, least=200)

    def noisy(batch: Any) -> NDArray[np.float64]:
        codes = batch.codes if hasattr(batch, "codes") else batch.grids.reshape(len(batch), -1)
        return one_patch(batch) + 2 * np.cos(7 * codes @ np.arange(1.0, codes.shape[1] + 1))

    for seed in range(60):
        asked(explainer, noisy, seed)
    assert len(told) == 60
    # what moves all regions alike moves no rank
    scores, moves = (
        [item[k] - item[k].mean(axis=-1, keepdims=True) for item in told] for k in (0, 1)
    )
    actual = np.var(np.stack(scores), axis=0, ddof=1).mean()
    stated = np.mean([(m**2).sum(axis=0).mean() for m in moves])
    # 60 seeds and 16 regions, which are not independent
    assert 0.8 < stated / actual < 1.35


@pytest.mark.parametrize("size", [(13, 22), (22, 13)])
def test_region_shares_are_the_means_of_the_masks(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    regions = rng.integers(0, 6, size).astype(np.int32)
    shifts = rng.integers(0, [-(-side // 5) for side in size], (40, 2))
    masks = GridMix(
        rng.integers(0, 2, (40, 5, 5), np.uint8), shifts, np.zeros((3, *size), np.float32)
    )
    shares = RegionShares(5, regions)
    for part in (slice(0, 7), slice(7, 40)):
        shares.add(dataclasses.replace(masks, grids=masks.grids[part], shifts=shifts[part]))
    shown = render(masks, np.ones((3, *size), np.float32))[:, 0]
    expected = np.stack([shown[:, regions == r].mean(axis=1) for r in range(6)], axis=1)
    np.testing.assert_allclose(shares.shares(), expected, rtol=0, atol=1e-5)


def test_moving_credit_between_halves() -> None:
    tree = Tree(Box(0, 4, 0, 6), 4, 6)
    assert tree.split(0)  # along the longer side: columns 0–2 and 3–5
    regions = np.zeros((4, 6), np.int32)
    regions[:, 2:4] = 1
    regions[0, 5] = 2
    np.testing.assert_allclose(
        tree.transfer(0, regions), [8 / 12 - 7 / 12, 0, -1 / 12], rtol=0, atol=1e-12
    )
