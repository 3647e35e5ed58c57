"""Partition SHAP against Owen values by enumeration, and against package `shap`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from games import FAKE, play, random_frame, recorded, scene
from numpy.typing import NDArray

from whyfake.explainers import Shap
from whyfake.explainers.baselines import baseline_image
from whyfake.perturbation import render
from whyfake.runtime.detector import Detector
from whyfake.runtime.scheduler import drive

# package `shap` sets its colour maps up with calls that Matplotlib means to remove
pytestmark = pytest.mark.filterwarnings(
    "ignore:The set_(bad|over|under) function:PendingDeprecationWarning"
)

SetFunction = NDArray[np.float64]
"""The value of each set of pixels, the set's bit mask as its index."""


def random_game(size: tuple[int, int], seed: int = 0) -> SetFunction:
    """A value for each set of pixels, drawn apart: interactions of every order."""
    return np.random.default_rng(seed).normal(0, 1, 1 << (size[0] * size[1]))


def visible_sets(batch: Any) -> NDArray[np.int64]:
    """Which pixels a RegionMix of zeros and ones shows, as a bit mask per copy."""
    shown = batch.codes[:, batch.labels.ravel()]
    assert set(np.unique(shown)) <= {0, 1}
    bits = np.int64(1) << np.arange(shown.shape[1])
    return np.asarray(shown.astype(np.int64) @ bits)


def playing(values: SetFunction) -> Callable[[Any], NDArray[np.float64]]:
    """The game that a coroutine is to explain."""
    return lambda batch: values[visible_sets(batch)]


def orders(top: int, bottom: int, left: int, right: int, width: int) -> NDArray[np.int64]:
    """All orders (n, pixels) in which a rectangle can appear half by half, as pixel indices.

    A rectangle is halved along its longer side, between rows if it is square; of an odd side the
    first half is the larger, as in package `shap`.
    """
    height, breadth = bottom - top, right - left
    if height * breadth == 1:
        return np.array([[top * width + left]])
    if height >= breadth:
        middle = (top + bottom + 1) // 2
        one = orders(top, middle, left, right, width)
        two = orders(middle, bottom, left, right, width)
    else:
        middle = (left + right + 1) // 2
        one = orders(top, bottom, left, middle, width)
        two = orders(top, bottom, middle, right, width)
    one, two = np.repeat(one, len(two), axis=0), np.tile(two, (len(one), 1))
    return np.concatenate([np.hstack([one, two]), np.hstack([two, one])])


def owen_values(values: SetFunction, size: tuple[int, int]) -> NDArray[np.float64]:
    """Each pixel's mean rise over all orders of the hierarchy (h, w)."""
    every = orders(0, size[0], 0, size[1], size[1])
    assert len(every) == 2 ** (size[0] * size[1] - 1)
    after = np.cumsum(np.int64(1) << every, axis=1)
    before = after - (np.int64(1) << every)
    rises = values[after] - values[before]
    sums = np.bincount(every.ravel(), weights=rises.ravel())
    return np.asarray(sums / len(every)).reshape(size)


def explained(
    shap: Shap, values: SetFunction, size: tuple[int, int], seed: int = 0
) -> tuple[NDArray[np.float32], int]:
    """The heat map of a game, and the images it took."""
    result, images = play(
        shap.explain(random_frame(size), FAKE, scene(size, seed=seed)), playing(values)
    )
    return result.heatmap, images


def full_cost(height: int, width: int, depth: int = 0) -> int:
    """Images that split every node in each of its 2**depth contexts, two for each."""
    if height * width == 1:
        return 0
    long, short = max(height, width), min(height, width)
    halves = full_cost(long // 2, short, depth + 1) + full_cost(long - long // 2, short, depth + 1)
    return 2 * 2**depth + halves


@pytest.mark.parametrize(
    "size",
    [
        (4, 4),
        (2, 4),
        (4, 2),
        (8, 1),
        (2, 3),
        (3, 2),
        (1, 5),
        (3, 5),
    ],
)
@pytest.mark.parametrize("nodes_per_round", [1, 7, 32])
def test_full_budget_gives_owen_values(size: tuple[int, int], nodes_per_round: int) -> None:
    values = random_game(size, seed=1)
    shap = Shap(samples=2000, nodes_per_round=nodes_per_round, score="log_odds")
    heat, images = explained(shap, values, size)
    expected = owen_values(values, size)
    assert np.ptp(expected) > 0.1
    # float64 throughout, but for the heat map itself, which is float32
    np.testing.assert_allclose(heat, expected, rtol=1e-6, atol=1e-7)
    assert images == 2 + full_cost(*size)


@pytest.mark.parametrize("samples", [4, 7, 50, 333])
@pytest.mark.parametrize("nodes_per_round", [1, 5, 32])
@pytest.mark.parametrize("size", [(13, 22), (22, 13)])
def test_heat_adds_up_to_the_rise_at_any_budget(
    samples: int, nodes_per_round: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(2)
    single, pair = rng.normal(0, 1, (2, size[0] * size[1]))

    def game(batch: Any) -> NDArray[np.float64]:
        shown = batch.codes[:, batch.labels.ravel()].astype(np.float64)
        return np.asarray(0.7 + shown @ single + np.sin(shown @ pair) * 5)

    shap = Shap(samples=samples, nodes_per_round=nodes_per_round, score="log_odds")
    result, images = play(shap.explain(random_frame(size), FAKE, scene(size)), game)
    rise = single.sum() + 5 * np.sin(pair.sum())
    # each of 286 pixels is rounded to float32 once
    np.testing.assert_allclose(result.heatmap.sum(dtype=np.float64), rise, rtol=0, atol=1e-5)
    # two images a node: an odd one stays unasked; there are always more nodes to split
    assert images == samples // 2 * 2
    assert shap.images() == samples


def test_ties_break_by_seed() -> None:
    """Two halves of equal gain, one of them can be split: the seed chooses, and only the seed."""
    size = (1, 4)
    weights = np.array([1.0, 3.0, 3.0, 1.0])
    sets = np.arange(16)[:, None] >> np.arange(4) & 1
    values = sets @ weights
    shap = Shap(samples=8, nodes_per_round=1, score="log_odds")
    # the root, then a half in each of its two contexts: alone 1, 3 and 2, 2, and mirrored
    possible = {(1.0, 3.0, 2.0, 2.0), (2.0, 2.0, 3.0, 1.0), (1.5, 2.5, 2.5, 1.5)}
    seen = set()
    for seed in range(20):
        (heat, images), (again, _) = (explained(shap, values, size, seed) for _ in range(2))
        assert heat.tobytes() == again.tobytes()
        assert images == 8
        seen.add(tuple(heat[0].tolist()))
    assert seen == possible


def package_heat(
    detector: Detector, frame: NDArray[np.float32], baseline: NDArray[np.float32], shap: Shap
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Package `shap`'s values summed over the channels (h, w), and the pictures it asked about."""
    from shap.explainers import PartitionExplainer
    from shap.maskers import Image

    asked: list[NDArray[np.float32]] = []

    def probability(pictures: NDArray[np.float32]) -> NDArray[np.float64]:
        images = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
        asked.append(images)
        return FAKE.score(detector.log_probs(images))

    np.random.seed(0)  # noqa: NPY002 - the package breaks ties by NumPy's global generator
    explainer = PartitionExplainer(probability, Image(baseline.transpose(1, 2, 0)))
    values = explainer(
        frame.transpose(1, 2, 0)[None],
        max_evals=shap.samples,
        batch_size=2 * shap.nodes_per_round,
        silent=True,
    ).values
    return values[0].sum(axis=-1), np.concatenate(asked)


def distinct(images: NDArray[np.float32]) -> set[bytes]:
    """Pictures as a set; rounded, since a hidden pixel is frame + 1·(baseline − frame) here."""
    return {image.tobytes() for image in np.rint(images * 1000).astype(np.int16)}


@pytest.mark.parametrize("size", [(16, 32), (32, 16), (32, 32), (24, 40)])
@pytest.mark.parametrize(("samples", "nodes_per_round"), [(400, 1), (500, 8), (1200, 32)])
def test_equals_package_shap_on_a_detector(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    samples: int,
    nodes_per_round: int,
) -> None:
    import numba

    # compiling the package's small loops takes ten times as long as running them
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    detector = toys.conv_detector(tmp_path, size)
    frame = random_frame(size, 5)
    place = scene(size)
    baseline = baseline_image("blur", frame, place.regions, (0, 0, 0), place.rng)
    shap = Shap(samples=samples, nodes_per_round=nodes_per_round, ahead=0)
    expected, asked = package_heat(detector, frame, baseline, shap)
    assert detector.images_seen == len(asked) == samples

    batches: list[Any] = []
    coroutine = shap.explain(frame, FAKE, scene(size, baseline=baseline))
    heat = drive(recorded(coroutine, batches, []), detector, frame).heatmap
    assert detector.images_seen == 2 * samples
    assert max(map(len, batches)) <= 2 * nodes_per_round
    assert np.corrcoef(heat.ravel(), expected.ravel())[0, 1] > 0.999
    # rounding of pixels and of scores to float32 is all that differs, if the questions do not
    np.testing.assert_allclose(heat, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert distinct(np.concatenate([render(batch, frame) for batch in batches])) == distinct(asked)
