"""LIME against package `lime`, and on games whose weights are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from games import FAKE, pixels, play, random_frame, recorded, scene
from numpy.typing import NDArray

from whyfake.explainers import Lime
from whyfake.explainers.base import CHUNK
from whyfake.explainers.lime import RidgeFit, sample_weights
from whyfake.explainers.regions import grid, region_map
from whyfake.runtime.scheduler import drive


def package_weights(
    codes: NDArray[np.uint8], scores: NDArray[np.float64], column: int
) -> NDArray[np.float64]:
    """The weights (R,) of package `lime` with the defaults of its LimeImageExplainer."""
    from lime.lime_image import LimeImageExplainer
    from sklearn.metrics import pairwise_distances

    explainer = LimeImageExplainer(random_state=0)
    distances = pairwise_distances(codes, codes[:1], metric="cosine").ravel()
    _, pairs, _, _ = explainer.base.explain_instance_with_data(
        codes, scores, distances, column, 100000, feature_selection=explainer.feature_selection
    )
    weights = np.full(codes.shape[1], np.nan)
    for region, weight in pairs:
        weights[region] = weight
    return weights


# 4 regions take the package's forward selection, more its highest weights
@pytest.mark.parametrize("spec", ["slic:20", "grid:2"])
def test_weights_are_those_of_package_lime(tmp_path: Path, spec: str) -> None:
    detector = toys.conv_detector(tmp_path)
    frame = random_frame(detector.size, 1)
    regions = region_map(spec, frame)
    place = scene(
        detector.size, regions=regions, baseline=np.full((3, *detector.size), 0.5, np.float32)
    )
    batches: list[Any] = []
    answers: list[Any] = []
    lime = Lime(samples=300)
    result = drive(recorded(lime.explain(frame, FAKE, place), batches, answers), detector, frame)
    codes = np.concatenate([batch.codes for batch in batches])
    scores = np.exp(np.concatenate(answers).astype(np.float64))
    expected = package_weights(codes, scores, column=1)
    assert np.abs(expected).max() > 1e-3  # there is something to agree on
    # both solve the same normal equations in float64
    np.testing.assert_allclose(result.region_scores, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.heatmap, expected[regions], rtol=0, atol=1e-6)
    assert detector.images_seen == lime.images() == 300


def test_rows_that_hide_nothing_or_everything_have_weights_like_the_package() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (40, 7), np.uint8)
    codes[0], codes[1] = 1, 0
    weights = sample_weights(codes, 0.25)
    assert weights[0] == 1
    # all hidden: cosine distance 1, √exp(−1/0.25²) = exp(−8)
    np.testing.assert_allclose(weights[1], np.exp(-8), rtol=1e-12)
    scores = np.stack([1 - codes[:, 0] / 3, rng.random(40)], axis=1)
    fit = RidgeFit(7, 0.25)
    fit.add(codes, scores[:, 1])
    np.testing.assert_allclose(fit.solve(1.0), package_weights(codes, scores, 1), atol=1e-6)


def test_a_fit_fed_in_parts_is_the_fit_fed_at_once() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (500, 11), np.uint8)
    scores = rng.random(500)
    whole, parts = RidgeFit(11, 0.25), RidgeFit(11, 0.25)
    whole.add(codes, scores)
    for start, stop in ((0, 1), (1, 200), (200, 499), (499, 500)):
        parts.add(codes[start:stop], scores[start:stop])
    # sums of 500 float64 terms in another order
    np.testing.assert_allclose(parts.solve(1.0), whole.solve(1.0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("samples", [2, 301, CHUNK, 5000])
def test_samples_are_asked_in_chunks_and_counted(samples: int) -> None:
    size = (12, 20)
    batches: list[Any] = []
    lime = Lime(samples=samples)
    place = scene(size, regions=grid(*size, 3))
    _, images = play(
        recorded(lime.explain(random_frame(size), FAKE, place), batches, []),
        lambda batch: batch.codes[:, 0] * 1.0,
    )
    assert images == lime.images() == samples
    assert max(map(len, batches)) <= CHUNK
    codes = np.concatenate([batch.codes for batch in batches])
    assert (codes[0] == 1).all()
    assert set(np.unique(codes)) <= {0, 1}
    if samples > CHUNK:
        # coins: the share of ones in a column has a standard error of ½/√N; five of them
        np.testing.assert_allclose(codes.mean(axis=0), 0.5, atol=2.5 / samples**0.5)
        # a later chunk is drawn anew, and only the first of all rows is the frame itself
        assert not (codes[1:CHUNK] == codes[CHUNK + 1 : 2 * CHUNK]).all()
        assert not codes[CHUNK].all()


def test_an_additive_game_gives_its_own_weights_back() -> None:
    size = (24, 36)
    regions = grid(*size, 4)
    truth = np.random.default_rng(2).permutation(np.linspace(-1, 1, 16))

    def game(batch: Any) -> NDArray[np.float64]:
        return np.asarray(0.3 + batch.codes @ truth)

    for alpha, exact in ((1e-9, True), (1.0, False)):
        lime = Lime(samples=2000, alpha=alpha, score="log_odds")
        coroutine = lime.explain(random_frame(size), FAKE, scene(size, regions=regions, seed=3))
        result, _ = play(coroutine, game)
        weights = result.region_scores
        if exact:
            # the penalty is nothing beside some 250 units of information a column
            np.testing.assert_allclose(weights, truth, rtol=0, atol=1e-9)
            np.testing.assert_allclose(result.heatmap, truth[regions], rtol=0, atol=1e-6)
        else:
            assert (np.argsort(weights) == np.argsort(truth)).all()
            # about 2000 · ½ · ¼ = 250 units of information a column: shrunk by 1 in 250
            np.testing.assert_allclose(weights, truth, rtol=0, atol=0.01)


@pytest.mark.parametrize(("size", "patch"), toys.SCENES)
def test_regions_that_the_detector_ignores_score_about_nothing(
    tmp_path: Path, size: tuple[int, int], patch: toys.Patch
) -> None:
    detector = toys.planted_detector(tmp_path, patch, size)
    frame = pixels(toys.planted_frame(patch, size))
    regions = grid(*size, 8)
    top, bottom, left, right = patch
    read = np.unique(regions[top:bottom, left:right])
    assert len(read) == 4
    ignored = np.setdiff1d(np.arange(64), read)
    flat = np.full_like(frame, 0.5)
    for score, share in (("log_odds", 0.01), ("probability", 0.1)):
        # The log odds add up over the cells: what is left is the ridge penalty. The probability
        # does not: its residual, some half of a weight, leaks by 1/√(2000·¼) = 4 %, here 2.5 times
        place = scene(size, regions=regions, baseline=flat, seed=4)
        result = drive(Lime(score=score).explain(frame, FAKE, place), detector, frame)
        weights = np.abs(result.region_scores)
        assert weights[read].min() > weights[ignored].max()
        assert weights[ignored].max() < share * weights.max()
