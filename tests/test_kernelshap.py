"""KernelSHAP against Shapley values by enumeration, and against package `shap`."""

from __future__ import annotations

from math import comb, factorial
from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.explainers import KernelShap
from whyfake.explainers.kernelshap import coalitions, constrained_fit

# package `shap` sets its colour maps up with calls that Matplotlib means to remove
pytestmark = pytest.mark.filterwarnings(
    "ignore:The set_(bad|over|under) function:PendingDeprecationWarning"
)

Values = NDArray[np.float64]
SIZE = (10, 16)


def bars(regions: int) -> NDArray[np.int32]:
    """Upright bars of unlike width on SIZE."""
    columns = np.minimum(np.arange(SIZE[1]), regions - 1).astype(np.int32)
    return np.tile(columns, (SIZE[0], 1))


def random_game(regions: int, seed: int = 0) -> Values:
    """A value for each set of regions (its bits are the index): interactions of every order."""
    return np.random.default_rng(seed).normal(0, 1, 1 << regions)


def sets(codes: NDArray[Any]) -> NDArray[np.int64]:
    """Rows of zeros and ones as bit masks."""
    return np.asarray(codes.astype(np.int64) @ (np.int64(1) << np.arange(codes.shape[1])))


def shapley(values: Values, regions: int) -> Values:
    """Σ over sets S without i of |S|!(R − |S| − 1)!/R! · (v(S ∪ i) − v(S))."""
    every = np.arange(len(values))
    sizes = np.array([bin(s).count("1") for s in every])
    weights = np.array(
        [factorial(s) * factorial(regions - s - 1) / factorial(regions) for s in range(regions)]
    )
    found = []
    for i in range(regions):
        without = every[every >> i & 1 == 0]
        rises = values[without | 1 << i] - values[without]
        found.append((weights[sizes[without]] * rises).sum())
    return np.array(found)


def explained(values: Values, regions: int, samples: int, seed: int = 0) -> tuple[Any, int]:
    """The attribution of a game, and the images it took."""
    place = scene(SIZE, seed=seed, regions=bars(regions))
    coroutine = KernelShap(samples=samples, score="log_odds").explain(
        random_frame(SIZE), FAKE, place
    )
    return play(coroutine, lambda batch: values[sets(batch.codes)])


@pytest.mark.parametrize(("regions", "seed"), [(2, 0), (3, 1), (5, 2), (10, 3), (10, 4)])
def test_all_coalitions_give_shapley_values(regions: int, seed: int) -> None:
    values = random_game(regions, seed)
    result, images = explained(values, regions, 2**regions)
    assert images == 2**regions
    expected = shapley(values, regions)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(result.region_scores, expected, rtol=0, atol=1e-12)
    painted = result.region_scores.astype(np.float32)[bars(regions)]
    assert (result.heatmap == painted).all()


def test_one_region_has_all_of_it() -> None:
    result, images = explained(np.array([0.25, 2.0]), 1, 2000)
    assert images == 2
    assert result.region_scores.tolist() == [1.75]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(4, 300), st.integers(0, 5))
def test_values_add_up_and_the_budget_holds(regions: int, samples: int, seed: int) -> None:
    values = random_game(regions, seed)
    result, images = explained(values, regions, samples, seed)
    assert 2 <= images <= min(samples, 2**regions)
    rise = values[-1] - values[0]
    assert result.region_scores.sum() == pytest.approx(rise, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("regions", [4, 11, 50])
def test_additive_games_are_exact_with_few_coalitions(regions: int) -> None:
    """As soon as the coalitions tell regions apart: a linear fit of a linear game."""
    weights = np.random.default_rng(5).normal(0, 1, regions)
    place = scene((4, 60), regions=np.minimum(np.indices((4, 60))[1], regions - 1).astype(np.int32))
    coroutine = KernelShap(samples=4 * regions, score="log_odds").explain(
        random_frame((4, 60)), FAKE, place
    )
    result, _ = play(coroutine, lambda batch: 0.7 + batch.codes @ weights)
    np.testing.assert_allclose(result.region_scores, weights, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("regions", "budget"), [(9, 18), (9, 60), (12, 500), (30, 998), (50, 1998)]
)
def test_coalitions_are_distinct_paired_and_weighted_by_the_kernel(
    regions: int, budget: int
) -> None:
    codes, weights = coalitions(regions, budget, np.random.default_rng(0))
    assert 0.9 * min(budget, 2**regions - 2) <= len(codes) <= budget
    assert len(np.unique(codes, axis=0)) == len(codes)
    keys = {row.tobytes() for row in codes}
    assert all((1 - row).tobytes() in keys for row in codes)
    sizes = codes.sum(axis=1)
    assert 0 < sizes.min() <= sizes.max() < regions
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    every = np.arange(1, regions)
    kernel = 1 / (every * (regions - every))
    kernel /= kernel.sum()
    for size in every:
        share = weights[sizes == size].sum()
        whole = (sizes == size).sum() == comb(regions, int(size))
        # sizes asked whole weigh exactly; of those drawn, as drawing has it
        assert share == pytest.approx(kernel[size - 1], rel=1e-9 if whole else 0.6, abs=5e-3)


@pytest.mark.usefixtures("uncompiled")
def test_sizes_are_asked_whole_exactly_where_package_shap_asks_them_whole() -> None:
    for regions, budget in [(8, 40), (12, 500), (16, 998), (50, 1998)]:
        codes, _ = coalitions(regions, budget, np.random.default_rng(0))
        theirs = package(random_game(4), regions, budget).maskMatrix[:budget]
        for size in range(1, regions):
            mine = (codes.sum(axis=1) == size).sum() == comb(regions, size)
            assert mine == ((theirs.sum(axis=1) == size).sum() == comb(regions, size))


def package(values: Values, regions: int, budget: int) -> Any:
    """Package `shap`'s explainer after it has explained a game on `budget` coalitions."""
    import shap

    np.random.seed(0)  # noqa: NPY002 - the package draws by NumPy's global generator
    explainer = shap.KernelExplainer(
        lambda rows: values[sets(rows) % len(values)], np.zeros((1, regions))
    )
    explainer.whyfake_values = explainer.shap_values(
        np.ones((1, regions)), nsamples=budget, l1_reg=False, silent=True
    )
    return explainer


@pytest.mark.parametrize(("regions", "budget"), [(7, 126), (10, 300), (16, 500), (16, 120)])
@pytest.mark.usefixtures("uncompiled")
def test_equals_package_shap_on_its_own_coalitions(regions: int, budget: int) -> None:
    values = random_game(regions, 7)
    theirs = package(values, regions, budget)
    count = theirs.nsamplesAdded
    codes = theirs.maskMatrix[:count].astype(np.uint8)
    found = constrained_fit(
        codes, theirs.kernelWeights[:count], values[sets(codes)] - values[0], values[-1] - values[0]
    )
    expected = np.ravel(theirs.whyfake_values)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_too_few_coalitions_leave_the_rest_even() -> None:
    """Two coalitions of ten regions: those that no coalition tells apart get the same."""
    codes = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]], np.uint8)
    found = constrained_fit(codes, np.ones(2), np.array([4.0, 6.0]), 10.0)
    np.testing.assert_allclose(found, [2.0] * 2 + [0.75] * 8, rtol=1e-12)


def two_by_two(regions: int) -> Values:
    """A game in which regions matter alone and in pairs."""
    rng = np.random.default_rng(8)
    single, pair = rng.normal(0, 1, regions), np.triu(rng.normal(0, 1, (regions, regions)), 1)
    every = np.arange(1 << regions)[:, None] >> np.arange(regions) & 1
    return np.asarray(every @ single + ((every @ pair) * every).sum(axis=1))


def test_complements_make_games_of_pairs_exact() -> None:
    """What a set and its complement say of a pair cancels (Covert and Lee 2021)."""
    values = two_by_two(14)
    result, images = explained(values, 14, 100)
    assert images == 100
    np.testing.assert_allclose(result.region_scores, shapley(values, 14), rtol=0, atol=1e-9)


def test_the_error_falls_with_the_budget() -> None:
    values = two_by_two(14) + random_game(14, 9)
    truth = shapley(values, 14)
    errors = [
        np.mean([np.abs(explained(values, 14, n, s)[0].region_scores - truth) for s in range(6)])
        for n in (60, 600, 6000)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_same_seed_same_bits_other_seed_other_coalitions() -> None:
    values = random_game(12)
    one, again, other = (explained(values, 12, 200, s)[0].region_scores for s in (1, 1, 2))
    assert one.tobytes() == again.tobytes() != other.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 3}, "KernelSHAP: samples must be 4 or more, got 3"),
        ({"score": "log_ods"}, "KernelSHAP: unknown score 'log_ods': did you mean 'log_odds'?"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        KernelShap(**options)
    assert str(caught.value).startswith(message)
