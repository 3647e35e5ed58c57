"""Owen values of regions against enumeration, and against package `shap` with the same tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from games import FAKE, play, random_frame, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.explainers import Owen
from whyfake.explainers.baselines import baseline_image
from whyfake.explainers.owen import Branch, branches, hierarchy
from whyfake.explainers.regions import grid
from whyfake.perturbation import RegionMix, render
from whyfake.runtime.scheduler import drive

# package `shap` sets its colour maps up with calls that Matplotlib means to remove
pytestmark = pytest.mark.filterwarnings(
    "ignore:The set_(bad|over|under) function:PendingDeprecationWarning"
)

Values = NDArray[np.float64]
SIZE = (12, 18)


def patches(count: int, seed: int = 0) -> NDArray[np.int32]:
    """A label map of so many regions of unlike areas, none of them whole."""
    labels = np.random.default_rng(seed).integers(0, count, SIZE).astype(np.int32)
    labels.ravel()[:count] = np.arange(count)
    return labels


def random_game(regions: int, seed: int = 0) -> Values:
    """A value for each set of regions (its bits are the index): interactions of every order."""
    return np.random.default_rng(seed).normal(0, 1, 1 << regions)


def shown(batch: Any, regions: NDArray[np.int32]) -> NDArray[np.int64]:
    """Which regions each copy shows, as a bit mask: read off the pixels, all of each region."""
    pixels = batch.codes[:, batch.labels.ravel()].astype(np.int64)
    areas = np.bincount(regions.ravel())
    visible = np.stack([np.bincount(regions.ravel(), weights=row) for row in pixels]) / areas
    assert set(np.unique(visible)) <= {0.0, 1.0}
    return np.asarray(visible.astype(np.int64) @ (np.int64(1) << np.arange(len(areas))))


def orders(branch: Branch) -> list[tuple[int, ...]]:
    """All orders of the regions in which the halves of every branch appear one after the other."""
    if branch.parts is None:
        return [branch.members]
    one, two = (orders(part) for part in branch.parts)
    return [order for a in one for b in two for order in (a + b, b + a)]


def owen_values(values: Values, root: Branch) -> Values:
    """Each region's mean rise over all orders that the hierarchy allows."""
    every = orders(root)
    assert len(every) == 2 ** (len(root.members) - 1)
    sums = np.zeros(len(root.members))
    for order in every:
        seen = 0
        for region in order:
            sums[region] += values[seen | 1 << region] - values[seen]
            seen |= 1 << region
    return np.asarray(sums / len(every))


def explained(
    owen: Owen, values: Values, regions: NDArray[np.int32], seed: int = 0
) -> tuple[Any, int]:
    """The attribution of a game, and the images it took."""
    place = scene(SIZE, seed=seed, regions=regions)
    return play(
        owen.explain(random_frame(SIZE), FAKE, place), lambda batch: values[shown(batch, regions)]
    )


@pytest.mark.parametrize("count", [2, 3, 5, 8, 9])
@pytest.mark.parametrize("nodes_per_round", [1, 32])
def test_full_budget_gives_owen_values(count: int, nodes_per_round: int) -> None:
    regions, values = patches(count), random_game(count, count)
    owen = Owen(samples=5000, nodes_per_round=nodes_per_round, score="log_odds")
    result, images = explained(owen, values, regions)
    root = branches(regions, hierarchy(random_frame(SIZE), regions))
    expected = owen_values(values, root)
    assert np.ptp(expected) > 0.1
    # the recursion's heat is float32, a pixel at a time
    np.testing.assert_allclose(result.region_scores, expected, rtol=0, atol=1e-6)
    assert (result.heatmap == result.region_scores.astype(np.float32)[regions]).all()
    assert images == 2 + cost(root)


def cost(branch: Branch, depth: int = 0) -> int:
    """Images that split every branch in each of its 2**depth contexts, two for each."""
    if branch.parts is None:
        return 0
    return 2 * 2**depth + sum(cost(part, depth + 1) for part in branch.parts)


def test_one_region_has_all_of_it() -> None:
    regions = np.zeros(SIZE, np.int32)
    result, images = explained(Owen(score="log_odds"), np.array([0.25, 2.0]), regions)
    assert images == 2
    assert result.region_scores == pytest.approx([1.75], rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(4, 150), st.sampled_from([1, 5, 32]), st.integers(0, 5))
def test_values_add_up_and_the_budget_holds(
    count: int, samples: int, nodes_per_round: int, seed: int
) -> None:
    regions, values = patches(count, seed), random_game(count, seed)
    owen = Owen(samples=samples, nodes_per_round=nodes_per_round, score="log_odds")
    result, images = explained(owen, values, regions, seed)
    assert images <= samples
    assert result.region_scores.sum() == pytest.approx(values[-1] - values[0], abs=2e-6)


def test_the_hierarchy_joins_what_is_near_and_alike() -> None:
    """A dark and a bright half, cut into a 4 × 4 grid: halves first, then their neighbours."""
    size = (32, 48)
    frame = np.zeros((3, *size), np.float32)
    frame[:, :, 24:] = 1
    regions = grid(*size, 4)
    root = branches(regions, hierarchy(frame, regions))
    assert root.parts is not None
    left = {label for label in range(16) if label % 4 < 2}
    assert {frozenset(part.members) for part in root.parts} == {
        frozenset(left),
        frozenset(range(16)) - left,
    }
    # colour aside, neighbours: a pair of cells shares an edge
    plain = hierarchy(np.full((3, *size), 0.5, np.float32), regions)
    for one, two in plain[:8, :2].astype(int):
        assert abs(one % 4 - two % 4) + abs(one // 4 - two // 4) == 1


@pytest.mark.parametrize("count", [2, 7, 30])
def test_branches_are_a_tree_of_all_regions(count: int) -> None:
    regions = patches(count)
    frame = random_frame(SIZE)
    root = branches(regions, hierarchy(frame, regions))
    assert sorted(root.members) == list(range(count))
    waiting, leaves = [root], 0
    while waiting:
        branch = waiting.pop()
        where = branch.pixels
        assert (where == np.isin(regions, branch.members)).all()
        # each region gets the same, each pixel of a region the same
        shares = np.bincount(regions[where], weights=branch.share, minlength=count)
        members = np.isin(np.arange(count), branch.members)
        np.testing.assert_allclose(shares, members / len(branch.members), rtol=1e-12)
        parts = branch.halves()
        if parts is None:
            leaves += 1
        else:
            assert sorted(parts[0].members + parts[1].members) == sorted(branch.members)
            waiting += parts
    assert leaves == count
    assert (hierarchy(frame, regions) == hierarchy(frame.copy(), regions)).all()


@pytest.mark.parametrize("size", [(24, 40), (40, 24)])
@pytest.mark.parametrize(("samples", "nodes_per_round"), [(100, 1), (120, 8), (3000, 8)])
@pytest.mark.usefixtures("uncompiled")
def test_equals_package_shap_over_the_same_tree(
    tmp_path: Path,
    size: tuple[int, int],
    samples: int,
    nodes_per_round: int,
) -> None:
    """Its Partition explainer, told of our hierarchy, on a real graph; a region is a feature."""
    from shap.explainers import PartitionExplainer
    from shap.maskers import Partition

    detector = toys.conv_detector(tmp_path, size)
    frame = random_frame(size, 5)
    regions = np.minimum(grid(*size, 4), 13)  # the last of 14 is three cells large
    count = 14
    place = scene(size, regions=regions)
    baseline = baseline_image("blur", frame, regions, (0, 0, 0), place.rng)

    def probability(codes: NDArray[Any]) -> Values:
        batch = RegionMix(codes.astype(np.uint8), regions, baseline)
        return FAKE.score(detector.log_probs(render(batch, frame)))

    np.random.seed(0)  # noqa: NPY002 - the package breaks ties by NumPy's global generator
    masker = Partition(np.zeros((1, count)), clustering=hierarchy(frame, regions))
    expected = PartitionExplainer(probability, masker)(
        np.ones((1, count)), max_evals=samples, batch_size=2 * nodes_per_round, silent=True
    ).values[0]
    asked = detector.images_seen

    owen = Owen(samples=samples, nodes_per_round=nodes_per_round)
    place = scene(size, regions=regions, baseline=baseline)
    found = drive(owen.explain(frame, FAKE, place), detector, frame).region_scores
    assert found is not None
    assert detector.images_seen == 2 * asked
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_wrong_options_are_named() -> None:
    with pytest.raises(UsageError, match="OWEN: samples must be 4 or more, got 3"):
        Owen(samples=3)
    with pytest.raises(UsageError, match="OWEN: nodes_per_round must be 1 or more, got 0"):
        Owen(nodes_per_round=0)
