"""HSIC against its definition by whole matrices, and where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from games import FAKE, play, random_frame, recorded, scene
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.explainers import Hsic
from whyfake.explainers import hsic as module
from whyfake.explainers.hsic import (
    bandwidth,
    dependence,
    factorial,
    fitted_dependence,
    linear_dependence,
)
from whyfake.explainers.regions import grid

Matrix = NDArray[np.float64]


def by_definition(kernel: Matrix, scores: Matrix) -> float:
    """tr(K H L H) / (N − 1)², every matrix whole; L's bandwidth is the median distance."""
    count = len(scores)
    distances = np.abs(scores[:, None] - scores)
    width = np.median(distances[distances > 0])
    gram = np.exp(-(distances**2) / (2 * width**2))
    centre = np.eye(count) - 1 / count
    return float(np.trace(kernel @ centre @ gram @ centre)) / (count - 1) ** 2


def dirac(column: NDArray[np.uint8]) -> Matrix:
    """1 where two copies agree on a cell, else 0."""
    return (column[:, None] == column).astype(np.float64)


def drawn(count: int, inputs: int, seed: int = 0) -> tuple[NDArray[np.uint8], Matrix]:
    """Rows, and scores in which the first cell and a pair of others matter."""
    rng = np.random.default_rng(seed)
    codes = factorial(count, inputs, rng)
    scores = codes[:, 0] + 0.5 * codes[:, 1] * codes[:, 2] + rng.normal(0, 0.1, count)
    return codes, scores


@pytest.mark.parametrize("count", [4, 37, 250])
def test_equals_the_definition(count: int) -> None:
    codes, scores = drawn(count, 6)
    found = dependence(codes, scores)
    for index, value in enumerate(found):
        expected = by_definition(dirac(codes[:, index]), scores)
        assert value == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_many_copies_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, scores = drawn(101, 5)
    whole = dependence(codes, scores)
    monkeypatch.setattr(module, "PAIRS", 707)  # 7 rows at a time
    shapes: list[int] = []
    exp = np.exp
    monkeypatch.setattr(np, "exp", lambda x: (shapes.append(len(x)), exp(x))[1])
    np.testing.assert_allclose(dependence(codes, scores), whole, rtol=1e-12)
    assert shapes == [7] * 14 + [3]


def test_dependence_of_a_pair_is_the_sum_of_its_parts() -> None:
    """ANOVA: (1 + k₀)(1 + k₁) − 1 splits into both cells and what only the pair explains."""
    codes, _ = drawn(200, 3)
    either = (codes[:, 1] ^ codes[:, 2]).astype(np.float64)  # the pair alone matters
    scores = either + np.random.default_rng(1).normal(0, 0.05, 200)
    one, two = (dirac(codes[:, i]) - 0.5 for i in (1, 2))
    joint = by_definition((1 + one) * (1 + two) - 1, scores)
    alone = dependence(codes, scores)[1:].sum()
    together = by_definition(one * two, scores)
    assert joint == pytest.approx(alone + together, rel=1e-10)
    assert together > 10 * alone


@pytest.mark.parametrize("count", [16, 512])
def test_one_cell_alone_has_its_closed_form(count: int) -> None:
    """Score = visible or not: L is 1 or e^(−½), and tr(K H L H) is N²·(1 − e^(−½)) / 4."""
    codes = factorial(count, 8, np.random.default_rng(0))
    found = dependence(codes, 3.0 * codes[:, 2] - 1)
    expected = (1 - np.exp(-0.5)) / 4 * count**2 / (count - 1) ** 2
    assert found[2] == pytest.approx(expected, rel=1e-12)
    assert np.abs(np.delete(found, 2)).max() < 1e-15  # nor does any other cell look like it


def test_scale_and_offset_of_the_score_change_nothing() -> None:
    codes, scores = drawn(120, 4)
    np.testing.assert_allclose(
        dependence(codes, 1e-6 * scores - 3), dependence(codes, scores), rtol=1e-6
    )


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3])
def test_a_constant_score_gives_zeros(value: float) -> None:
    size = (16, 24)
    result, images = play(
        Hsic(grid=3, samples=21, score="log_odds").explain(random_frame(size), FAKE, scene(size)),
        lambda batch: np.full(len(batch), value),
    )
    assert images == 21
    assert (result.heatmap == 0).all()


def test_a_score_that_hardly_ever_differs_still_says_where() -> None:
    """The median of all distances is zero then; that of those that differ is not."""
    codes = factorial(64, 5, np.random.default_rng(3))
    scores = np.where((codes[:, :3] == 1).all(axis=1), 1.0, 0.0)
    assert (scores == 0).mean() > 0.75
    assert bandwidth(scores) == 1.0
    found = dependence(codes, scores)
    assert found[:3].min() > 3 * found[3:].max()


@pytest.mark.parametrize(("count", "inputs"), [(2, 1), (16, 8), (64, 25), (512, 64)])
def test_no_cell_passes_for_another_nor_for_a_pair(count: int, inputs: int) -> None:
    """In a whole design: balanced, uncorrelated, and no product of two columns is a third."""
    codes = factorial(count, inputs, np.random.default_rng(0))
    assert codes.dtype == np.uint8
    signs = codes.astype(int) * 2 - 1
    assert (signs.sum(axis=0) == 0).all()
    assert (signs.T @ signs == count * np.eye(inputs)).all()
    assert not np.einsum("ni,nj,nk->ijk", signs, signs, signs, optimize=True).any()
    assert len(np.unique(codes, axis=0)) == min(count, len(codes))


@pytest.mark.parametrize(("count", "inputs"), [(500, 64), (100, 64), (60, 400), (700, 2500)])
def test_few_rows_of_a_design_are_like_coins(count: int, inputs: int) -> None:
    codes = factorial(count, inputs, np.random.default_rng(1))
    assert codes.shape == (count, inputs)
    assert len(np.unique(codes, axis=1)[0]) == inputs  # no two cells are always shown together
    # a sum of N coins of ±1 has σ = √N; six of them
    assert np.abs(codes.sum(axis=0) - count / 2).max() < 6 * np.sqrt(count) / 2
    other = factorial(count, inputs, np.random.default_rng(2))
    assert not np.array_equal(codes, other)


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (26, 43)])
def test_heat_lies_on_the_cell_that_is_read(size: tuple[int, int]) -> None:
    batches: list[Any] = []
    hsic = Hsic(grid=4, samples=4096, score="log_odds")
    coroutine = recorded(hsic.explain(random_frame(size), FAKE, scene(size)), batches, [])
    result, images = play(coroutine, lambda batch: batch.codes[:, 7].astype(np.float64))
    assert images == 4096
    assert max(map(len, batches)) < 4096  # asked in parts
    cells = grid(*size, 4)
    assert all((batch.labels == cells).all() for batch in batches)
    read = cells == 7
    assert np.ptp(result.heatmap[read]) == 0
    assert result.heatmap[read][0] == pytest.approx((1 - np.exp(-0.5)) / 4, rel=1e-3)
    assert np.abs(result.heatmap[~read]).max() < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "HSIC: grid must lie in 1 … 100, got 0"),
        ({"samples": 3}, "HSIC: samples must be 4 or more, got 3"),
        ({"score": "log_ods"}, "HSIC: unknown score 'log_ods': did you mean 'log_odds'?"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Hsic(**options)
    assert str(caught.value).startswith(message)


def every_row(inputs: int) -> NDArray[np.uint8]:
    """All rows of zeros and ones: means over them are expectations."""
    return (np.arange(2**inputs)[:, None] >> np.arange(inputs) & 1).astype(np.uint8)


@pytest.mark.parametrize("inputs", [1, 2, 7])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_the_closed_form_of_a_linear_score(inputs: int, scale: float) -> None:
    weights = scale * np.random.default_rng(inputs).normal(0, 1, inputs)
    weights[0] *= 5  # far apart: many turns of the cosine
    weights[-1] *= 0.01
    codes = every_row(inputs)
    scores = (2.0 * codes - 1) @ weights
    count, width = len(codes), bandwidth(scores)
    expected = dependence(codes, scores) * (count - 1) ** 2 / count**2
    found = linear_dependence(weights, 0.0, width)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    # the fit has nothing to guess: all rows are there, and nothing is left over
    np.testing.assert_allclose(fitted_dependence(codes, scores), expected, rtol=1e-3, atol=1e-9)


def test_noise_counts_as_what_depends_on_nothing() -> None:
    """As noise three hundred small coins more, whose sum is nearly normal."""
    weights, extra = np.array([0.7, -0.2, 0.4]), np.full(300, 0.05)
    whole = linear_dependence(np.concatenate([weights, extra]), 0.0, 1.3)[:3]
    found = linear_dependence(weights, float((extra**2).sum()), 1.3)
    np.testing.assert_allclose(found, whole, rtol=2e-3)
    assert (found < linear_dependence(weights, 0.0, 1.3)).all()


@pytest.mark.parametrize("count", [60, 125])
def test_fitted_a_linear_score_is_read_as_a_long_run_reads_it(count: int) -> None:
    """Fewer copies than unknowns, and twice as many."""
    size, weights = (32, 40), np.random.default_rng(4).normal(0, 1, 64)

    def asked(hsic: Hsic, seed: int = 0) -> Matrix:
        result, images = play(
            hsic.explain(random_frame(size), FAKE, scene(size, seed=seed)),
            lambda batch: batch.codes.astype(float) @ weights,
        )
        assert images == hsic.samples
        cells = grid(*size, 8)
        return np.array([result.heatmap[cells == cell][0] for cell in range(64)], np.float64)

    # the scores are nearly normal: half of their distances are below .6745·√2 deviations
    truth = linear_dependence(weights / 2, 0.0, 0.954 * float(np.linalg.norm(weights / 2)))

    def near(fitted: bool) -> float:
        made = Hsic(samples=count, score="log_odds", fitted=fitted)
        return float(np.mean([np.corrcoef(asked(made, seed), truth)[0, 1] for seed in range(5)]))

    assert near(fitted=True) > near(fitted=False) + 0.05
    assert near(fitted=True) > 0.999 or count < 64


def test_fitted_what_cells_do_only_together_is_not_seen() -> None:
    codes = factorial(512, 8, np.random.default_rng(0))
    together = (codes[:, 0] ^ codes[:, 1]).astype(np.float64)
    found = fitted_dependence(codes, together + codes[:, 2])
    assert found[2] > 1000 * np.delete(found, 2).max()


@pytest.mark.parametrize("samples", [4, 5])
@pytest.mark.parametrize("constant", [False, True])
def test_fitted_to_next_to_nothing(samples: int, constant: bool) -> None:
    size = (16, 24)
    result, _ = play(
        Hsic(samples=samples, fitted=True, score="log_odds").explain(
            random_frame(size), FAKE, scene(size)
        ),
        lambda batch: np.zeros(len(batch)) if constant else batch.codes[:, 0].astype(float),
    )
    assert np.isfinite(result.heatmap).all()
    assert (result.heatmap == 0).all() == constant
