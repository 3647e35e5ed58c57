"""Designed questions: closed forms of the designs, and the same answers from fewer questions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame, recorded, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_rise import GAIN, expectation, reading
from test_shap import explained, full_cost, owen_values, random_game

from whyfake.errors import UsageError
from whyfake.explainers import Lime, Rise, Shap, Sobol
from whyfake.explainers.base import CHUNK
from whyfake.explainers.designs import fold_over, hadamard, regroup
from whyfake.explainers.regions import grid

SIZE = (12, 20)


@pytest.mark.parametrize("least", [*range(1, 130), 251, 500])
def test_hadamard_matrices_are_orthogonal(least: int) -> None:
    matrix = hadamard(least).astype(np.int64)
    order = len(matrix)
    assert least <= order < 2 * least or order == least == 1
    assert set(np.unique(matrix)) <= {-1, 1}
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))
    assert (matrix[:, 0] == 1).all()


def test_orders_are_the_smallest_that_the_constructions_give() -> None:
    found = {len(hadamard(least)) for least in range(1, 105)}
    assert found == {1, 2, *range(4, 105, 4)} - {52, 92, 100}


@settings(max_examples=60, deadline=None)
@given(columns=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_main_effects_are_orthogonal_to_each_other_and_to_pairs(columns: int, seed: int) -> None:
    rows = fold_over(columns, np.random.default_rng(seed))
    assert np.array_equal(rows[1::2], 1 - rows[::2])
    signs = rows.astype(np.int64) * 2 - 1
    assert np.array_equal(signs.T @ signs, len(rows) * np.eye(columns))
    assert (signs.sum(axis=0) == 0).all()
    for column in signs.T:  # no interaction of two columns passes for a third
        assert (signs.T @ (signs * column[:, None]) == 0).all()


def test_every_row_alone_is_fair_coins() -> None:
    rng = np.random.default_rng(0)
    blocks = np.stack([fold_over(3, rng) for _ in range(4000)])
    kinds = blocks[:, :2].astype(int) @ [1, 2, 4]
    for row in (0, 1):
        counts = np.bincount(kinds[:, row], minlength=8)
        # 500 expected of each, standard deviation 21: four of them
        assert np.abs(counts - 500).max() < 84


@settings(max_examples=50, deadline=None)
@given(
    blocks=st.lists(st.integers(1, 9), min_size=1), sizes=st.lists(st.integers(1, 9), min_size=1)
)
def test_regrouping_keeps_rows_side_by_side(blocks: list[int], sizes: list[int]) -> None:
    while sum(blocks) < sum(sizes):
        blocks = blocks + blocks
    whole = np.arange(sum(blocks))
    cut = np.split(whole, np.cumsum(blocks)[:-1])
    parts = list(regroup(((part, -part) for part in cut), sizes))
    assert [len(one) for one, _ in parts] == sizes
    assert np.array_equal(np.concatenate([one for one, _ in parts]), whole[: sum(sizes)])
    assert all(np.array_equal(one, -other) for one, other in parts)


def asked(explainer: Any, game: Any, seed: int = 0) -> tuple[Any, list[Any], int]:
    """A run's result, batches and images, on 3×3 regions of a small frame."""
    batches: list[Any] = []
    regions = grid(*SIZE, 3)
    coroutine = explainer.explain(random_frame(SIZE), FAKE, scene(SIZE, regions=regions, seed=seed))
    result, images = play(recorded(coroutine, batches, []), game)
    return result, batches, images


WEIGHTS = np.array([0.0, 1.0, -2.0, 0.5, 3.0, -0.25, 0.1, 0.0, 0.75])


def linear(batch: Any) -> NDArray[np.float64]:
    """A score that regions add to, each its own."""
    return np.asarray(0.3 + batch.codes @ WEIGHTS)


def with_pairs(batch: Any) -> NDArray[np.float64]:
    """The same, and some regions that matter together."""
    shown = batch.codes.astype(np.float64)
    return linear(batch) + 3 * shown[:, 0] * shown[:, 4] - 2 * shown[:, 1] * shown[:, 7]


@pytest.mark.parametrize("design", ["random", "paired", "hadamard"])
@pytest.mark.parametrize("samples", [40, 77])
def test_lime_is_exact_on_a_linear_score(design: Any, samples: int) -> None:
    lime = Lime(samples=samples, alpha=1e-9, design=design, score="log_odds")
    result, batches, images = asked(lime, linear)
    assert images == samples == lime.images()
    np.testing.assert_allclose(result.region_scores, WEIGHTS, rtol=0, atol=1e-6)
    codes = np.concatenate([batch.codes for batch in batches])
    assert (codes[0] == 1).all()
    if design != "random":
        whole = codes[1 : 1 + (samples - 1) // 2 * 2]
        assert np.array_equal(whole[1::2], 1 - whole[::2])


def test_random_rows_are_what_they_were() -> None:
    """The draws of 0.1.0, to the bit, across chunks."""
    _, batches, _ = asked(Lime(samples=CHUNK + 55), linear)
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 2, (n, 9), np.uint8) for n in (CHUNK, 55))
    first[0] = 1
    assert np.array_equal(np.concatenate([b.codes for b in batches]), np.vstack([first, second]))


def spread(explainer: Any, game: Any, seeds: int) -> float:
    """Mean variance of the region scores, or heat, over seeds."""
    found = [asked(explainer, game, seed)[0] for seed in range(seeds)]
    values = [f.heatmap if f.region_scores is None else f.region_scores for f in found]
    return float(np.var(np.stack(values), axis=0).mean())


def test_designed_rows_vary_less_over_seeds() -> None:
    made = {
        design: spread(Lime(samples=97, design=design, score="log_odds"), with_pairs, 30)  # type: ignore[arg-type]
        for design in ("random", "paired", "hadamard")
    }
    # interactions of two are what varies: both designs cancel them but for the kernel's weights
    assert made["paired"] < 0.7 * made["random"]
    assert made["hadamard"] < 0.6 * made["paired"]


RISE_SIZE, PATCH = (11, 17), (slice(2, 4), slice(10, 13))


@pytest.mark.parametrize("p", [0.5, 0.2])
@pytest.mark.parametrize("sampling", ["paired", "stratified"])
def test_rise_tends_to_the_same_closed_form(sampling: Any, p: float) -> None:
    masks = 12000
    rise = Rise(masks=masks, grid=4, p=p, score="log_odds", sampling=sampling)
    game = reading(PATCH, RISE_SIZE)
    result, images = play(rise.explain(random_frame(RISE_SIZE), FAKE, scene(RISE_SIZE)), game)
    assert images == masks == rise.images()
    expected = expectation(4, p, PATCH, RISE_SIZE)
    # as for random masks, in test_rise
    tolerance = 2 * GAIN / 2 / np.sqrt(p * masks)
    np.testing.assert_allclose(result.heatmap, expected, rtol=0, atol=tolerance)


def test_designed_masks_are_balanced_and_vary_less() -> None:
    game = reading(PATCH, RISE_SIZE)
    variance = {}
    for sampling in ("random", "paired", "stratified"):
        rise = Rise(masks=160, grid=4, score="log_odds", sampling=sampling)  # type: ignore[arg-type]
        heats, last = [], None
        for seed in range(25):
            batches: list[Any] = []
            run = rise.explain(random_frame(RISE_SIZE), FAKE, scene(RISE_SIZE, seed=seed))
            heats.append(play(recorded(run, batches, []), game)[0].heatmap)
            last = batches[0]
        variance[sampling] = float(np.var(np.stack(heats), axis=0).mean())
        assert last is not None
        if sampling != "random":
            assert np.array_equal(last.grids[1::2], 1 - last.grids[::2])
            assert np.array_equal(last.shifts[1::2], last.shifts[::2])
        if sampling == "stratified":  # blocks of 40 masks: Hadamard order 20 for 16 cells
            assert (last.grids.reshape(4, 40, 16).sum(axis=1) == 20).all()
            for axis, cells in enumerate((3, 5)):
                counts = np.bincount(last.shifts[:40:2, axis], minlength=cells)
                assert counts.max() - counts.min() <= 2
    assert variance["paired"] < 0.6 * variance["random"]
    assert variance["stratified"] < 0.8 * variance["paired"]


def test_scrambled_sobol_asks_less_and_ranks_cells_that_the_sequence_hides() -> None:
    plain, scrambled = Sobol(grid=3, design=8), Sobol(grid=3, design=8, scramble=True)

    def game(batch: Any) -> NDArray[np.float64]:
        return np.asarray(batch.codes @ np.arange(1.0, 10.0))

    heats = []
    for seed in range(40):
        result, _, images = asked(dataclasses.replace(scrambled, score="log_odds"), game, seed)
        assert images == scrambled.images() == 8 * 10
        heats.append(result.heatmap)
    assert not np.array_equal(heats[0], heats[1])
    _, _, images = asked(plain, game)
    assert images == plain.images()
    # of a linear score the total-order index is the share of the variance: i² / Σ i²
    truth = np.arange(1.0, 10.0) ** 2 / 285
    mean = np.mean([[h[grid(*SIZE, 3) == i][0] for i in range(9)] for h in heats], axis=0)
    # a variance of eight scores is in the denominator: the ratios are unbiased, not the scale
    np.testing.assert_allclose(mean / mean.sum(), truth, rtol=0.15, atol=0.003)
    assert scrambled.with_budget(100).images() == 100


@pytest.mark.parametrize("pairs", [1, 3])
def test_paired_shap_is_exact_where_parts_interact_by_twos(pairs: int) -> None:
    size = (3, 4)
    rng = np.random.default_rng(5)
    single, both = rng.normal(0, 1, 12), rng.normal(0, 1, (12, 12))
    shown = (np.arange(1 << 12)[:, None] >> np.arange(12) & 1).astype(float)
    values = shown @ single + np.einsum("ni,ij,nj->n", shown, both, shown)
    shap = Shap(contexts="paired", pairs=pairs, nodes_per_round=3, score="log_odds")
    heat, images = explained(shap, values, size)
    assert images == 2 + 11 * 2 * pairs  # eleven halvings make twelve pixels
    assert images < 2 + full_cost(*size)
    np.testing.assert_allclose(heat, owen_values(values, size), rtol=1e-5, atol=1e-5)


def test_paired_shap_tends_to_owen_values_and_adds_up() -> None:
    size = (2, 4)
    values = random_game(size, seed=3)
    shap = Shap(contexts="paired", pairs=8, score="log_odds")
    heats = np.stack([explained(shap, values, size, seed)[0] for seed in range(60)])
    expected = owen_values(values, size)
    error = heats.std(axis=0) / np.sqrt(len(heats))
    assert (np.abs(heats.mean(axis=0) - expected) < 4 * error + 1e-6).all()
    assert error.max() < 0.1 * np.ptp(expected)
    np.testing.assert_allclose(heats.sum(axis=(1, 2)), values[-1] - values[0], atol=1e-5)
    short, images = explained(dataclasses.replace(shap, samples=40), values, size)
    assert images == 2 + 2 * 16
    np.testing.assert_allclose(short.sum(), values[-1] - values[0], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lime(design="hadamart"), "LIME: .*'hadamart'.*hadamard"),  # type: ignore[arg-type]
        (lambda: Rise(sampling="latin"), "RISE: .*'latin'"),  # type: ignore[arg-type]
        (lambda: Shap(contexts="some"), "SHAP: .*'some'"),  # type: ignore[arg-type]
        (lambda: Shap(pairs=0), "SHAP: pairs must be 1 or more, got 0"),
        (lambda: Lime(confidence=1.0), r"LIME: confidence must lie in \[0, 1\), got 1.0"),
        (lambda: Sobol(top=0), "SOBOL: top must be 1 or more, got 0"),
        (lambda: Rise(least=0), "RISE: least must be 1 or more, got 0"),
    ],
)
def test_wrong_options_are_named(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
