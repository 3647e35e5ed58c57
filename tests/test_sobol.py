"""SOBOL: total-order indices of functions where they are known, and where the cells lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from games import FAKE, play, random_frame, recorded, scene
from numpy.typing import NDArray

from whyfake.errors import UsageError
from whyfake.explainers import Sobol
from whyfake.explainers.regions import grid
from whyfake.explainers.sobol import (
    HALF_STEPS,
    base_designs,
    half_steps,
    jansen_rows,
    jansen_total_order,
)
from whyfake.runtime.scheduler import drive


def interacting(rows: NDArray[Any]) -> NDArray[np.float64]:
    """A function of the rows (N, inputs): each value depends on its row alone, to the bit."""
    x = rows.astype(np.float64)
    slopes = np.cos(np.arange(x.shape[1]))
    total = (x * slopes).sum(axis=1)
    return np.asarray(total + 2 * x[:, 0] * x[:, -1] + (x[:, 1] - 0.5) ** 2 * total)


def cell_codes(batch: Any) -> NDArray[np.float64]:
    """The score of a batch from its codes."""
    return interacting(batch.codes)


def test_the_default_design_has_390_duplicates() -> None:
    a, b = base_designs(64, 32)
    rows = jansen_rows(a, b)
    assert rows.shape == (2112, 64)
    assert len(np.unique(rows, axis=0)) == 1722
    assert Sobol().images() == 1722
    assert rows.min() >= 0
    assert rows.max() < 1


def test_rows_are_a_then_b_then_a_with_one_column_of_b() -> None:
    a, b = (
        np.arange(12, dtype=np.float32).reshape(4, 3),
        -np.arange(12, dtype=np.float32).reshape(4, 3),
    )
    rows = jansen_rows(a, b)
    assert (rows[:4] == a).all()
    assert (rows[4:8] == b).all()
    for i in range(3):
        mixed = rows[8 + 4 * i : 12 + 4 * i]
        assert (mixed[:, i] == b[:, i]).all()
        others = np.arange(3) != i
        assert (mixed[:, others] == a[:, others]).all()


@pytest.mark.parametrize("count", [2, 5, 32])
def test_designs_are_scipys_unscrambled_sequence(count: int) -> None:
    from scipy.stats import qmc

    a, b = base_designs(6, count)
    power = int(np.ceil(np.log2(count)))
    points = qmc.Sobol(12, scramble=False).random_base2(power)[:count]
    # dyadic fractions: float32 holds them to the bit
    assert (np.hstack([a, b]) == points).all()


def ishigami(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inputs in [0, 1], a = 7, b = 0.1 (Ishigami and Homma 1990)."""
    z = np.pi * (2 * x - 1)
    return np.asarray(np.sin(z[:, 0]) * (1 + 0.1 * z[:, 2] ** 4) + 7 * np.sin(z[:, 1]) ** 2)


G_WEIGHTS = np.array([0.0, 1.0, 4.5, 9.0, 99.0])


def sobol_g(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Π (|4x − 2| + a)/(1 + a) (Saltelli and Sobol' 1995)."""
    return np.asarray(((np.abs(4 * x - 2) + G_WEIGHTS) / (1 + G_WEIGHTS)).prod(axis=1))


def g_total() -> NDArray[np.float64]:
    """Its total-order indices: with Vᵢ = 1/(3(1 + aᵢ)²), Vᵢ Π_{j≠i}(1 + Vⱼ) / (Π(1 + Vⱼ) − 1)."""
    v = 1 / (3 * (1 + G_WEIGHTS) ** 2)
    product = (1 + v).prod()
    return np.asarray(v / (1 + v) * product / (product - 1))


@pytest.mark.parametrize(
    ("function", "truth"),
    [(ishigami, np.array([0.5576, 0.4424, 0.2437])), (sobol_g, g_total())],
    ids=["ishigami", "g"],
)
@pytest.mark.parametrize("drawn", ["sobol", "random"])
def test_total_order_indices_are_the_analytic_ones(function: Any, truth: Any, drawn: str) -> None:
    count, inputs = 4096, len(truth)
    if drawn == "sobol":
        a, b = base_designs(inputs, count)
    else:
        a, b = np.random.default_rng(0).random((2, count, inputs), np.float32)
    indices = jansen_total_order(function(jansen_rows(a, b).astype(np.float64)), count)
    # One standard error at random, over 50 seeds, is 0.018 at the most (squares that spread by
    # twice their mean: 2/√4096 = 3 % of the index); three of them. Quasi-random: a tenth of that
    np.testing.assert_allclose(indices, truth, rtol=0, atol=0.005 if drawn == "sobol" else 0.055)


def product(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Π (1 + wᵢ(2xᵢ − 1)): affine in each input, with interactions of every order."""
    return np.asarray((1 + PRODUCT_WEIGHTS * (2 * x - 1)).prod(axis=1))


PRODUCT_WEIGHTS = np.array([0.9, -0.7, 0.5, 0.2])


def product_total() -> NDArray[np.float64]:
    """As for the g-function, with Vᵢ = wᵢ²/3."""
    v = PRODUCT_WEIGHTS**2 / 3
    whole = (1 + v).prod()
    return np.asarray(v / (1 + v) * whole / (whole - 1))


def test_half_steps_are_half_the_range_and_as_uniform() -> None:
    a, _ = base_designs(5, 64, np.random.default_rng(0))
    b = half_steps(a)
    assert b.dtype == np.float32
    np.testing.assert_allclose(np.abs(a.astype(np.float64) - b), 0.5, rtol=0, atol=1e-7)
    assert ((b > a).mean(axis=0) == 0.5).all()  # 64 rows of the sequence, in halves of the range


def test_half_steps_give_the_total_order_index_where_each_input_is_affine() -> None:
    a, _ = base_designs(4, 4096, np.random.default_rng(0))
    rows = jansen_rows(a, half_steps(a)).astype(np.float64)
    indices = HALF_STEPS * jansen_total_order(product(rows), 4096)
    # as for the quasi-random designs above
    np.testing.assert_allclose(indices, product_total(), rtol=0, atol=0.005)
    # a wave of one odd frequency has 4/3 of its index, of one even frequency none
    for frequency, expected in ((1, 4 / 3), (2, 0.0), (3, 4 / 3)):
        wave = np.cos(2 * np.pi * frequency * rows[:, 0])
        found = HALF_STEPS * jansen_total_order(wave, 4096)
        np.testing.assert_allclose(found, [expected, 0, 0, 0], rtol=0, atol=1e-3)


def test_half_steps_vary_less_and_cost_the_same() -> None:
    """Six rows of a score with interactions: the spread of the indices' logarithms over seeds."""
    size, spread = (16, 24), {}
    slopes = np.linspace(0.3, 1, 16)

    def game(batch: Any) -> NDArray[np.float64]:
        x = batch.codes.astype(np.float64) - 0.5
        return np.asarray(x @ slopes + x[:, 0] * x[:, 1])

    for steps in ("free", "half"):
        sobol = Sobol(grid=4, design=6, scramble=True, steps=steps, score="log_odds")  # type: ignore[arg-type]
        found = []
        for seed in range(20):
            place = scene(size, seed=seed)
            result, images = play(sobol.explain(random_frame(size), FAKE, place), game)
            assert images == sobol.images() == 6 * 17
            found.append(np.log(result.heatmap[::4, ::6].ravel()))
        logs = np.stack(found)
        # the variance of six scores is in all of them, and moves no rank
        spread[steps] = (logs - logs.mean(axis=1, keepdims=True)).std(axis=0).mean()
    assert spread["half"] < 0.2 * spread["free"]


def test_jansen_equals_its_formula_input_by_input() -> None:
    rng = np.random.default_rng(1)
    count, inputs = 16, 5
    a, b = rng.random((2, count, inputs), np.float32)
    indices = jansen_total_order(interacting(jansen_rows(a, b)), count)
    of_a = interacting(a)
    variance = ((of_a - of_a.mean()) ** 2).sum() / (count - 1)
    for i in range(inputs):
        mixed = a.copy()
        mixed[:, i] = b[:, i]
        expected = ((of_a - interacting(mixed)) ** 2).sum() / (2 * count * variance)
        np.testing.assert_allclose(indices[i], expected, rtol=1e-12)  # sums in float64


@pytest.mark.parametrize(("cells", "design"), [(8, 32), (3, 8), (2, 5)])
def test_asking_each_row_once_changes_nothing(cells: int, design: int) -> None:
    size = (24, 40)
    sobol = Sobol(grid=cells, design=design, score="log_odds")
    rows = jansen_rows(*base_designs(cells**2, design))
    full = jansen_total_order(interacting(rows), design)
    batches: list[Any] = []
    result, images = play(
        recorded(sobol.explain(random_frame(size), FAKE, scene(size)), batches, []), cell_codes
    )
    asked = np.concatenate([batch.codes for batch in batches])
    assert images == sobol.images() == len(np.unique(asked, axis=0)) < len(rows)
    # the same scores in the same places: equal to the bit, in the float32 of the heat map
    expected = full.astype(np.float32)[grid(*size, cells)]
    assert (result.heatmap == expected).all()
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize(
    ("size", "cell"), [((24, 40), (1, 3)), ((40, 24), (3, 1)), ((26, 43), (3, 0))]
)
def test_heat_lies_on_the_one_cell_that_is_read(
    tmp_path: Path, size: tuple[int, int], cell: tuple[int, int]
) -> None:
    edges = [
        [(side * i + cells - 1) // cells for i in range(cells + 1)]
        for side, cells in ((size[0], 4), (size[1], 4))
    ]
    box = tuple(
        slice(edge[index], edge[index + 1]) for edge, index in zip(edges, cell, strict=True)
    )
    weights = np.zeros((3, *size), np.float32)
    weights[(slice(None), *box)] = 1 / (
        3 * (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    )
    detector = toys.linear_detector(tmp_path, weights, -0.25, gain=2.0)
    sobol = Sobol(grid=4, design=32, score="log_odds")
    coroutine = sobol.explain(np.full((3, *size), 0.5, np.float32), FAKE, scene(size))
    heat = drive(coroutine, detector, np.full((3, *size), 0.5, np.float32)).heatmap
    read = weights[0] > 0
    assert detector.images_seen == sobol.images()
    assert (heat[~read] == 0).all()
    # Linear in one input: Jansen's formula on that input's own columns, whatever the gain. Scores
    # are float32, near one
    a, b = (design[:, cell[0] * 4 + cell[1]] for design in base_designs(16, 32))
    expected = ((a - b) ** 2).sum() / (2 * 32 * a.var(ddof=1))
    np.testing.assert_allclose(heat[read], expected, rtol=1e-4)


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3])
def test_a_constant_score_gives_zeros(value: float) -> None:
    size = (16, 24)
    sobol = Sobol(grid=3, design=7, score="log_odds")
    result, _ = play(
        sobol.explain(random_frame(size), FAKE, scene(size)),
        lambda batch: np.full(len(batch), value),
    )
    assert (result.heatmap == 0).all()


def test_budgets_give_the_largest_design_that_fits() -> None:
    for images, design in ((2112, 32), (2111, 31), (2177, 32), (2178, 33), (132, 2), (10, 2)):
        sobol = Sobol().with_budget(images)
        assert sobol.design == design
        assert sobol.images() <= max(images, 132)
    small = Sobol(grid=3, score="log_odds").with_budget(40)
    assert (small.grid, small.design, small.score) == (3, 3, "log_odds")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "SOBOL: grid must lie in 1 … 100, got 0"),
        ({"design": 1}, "SOBOL: design must be 2 or more, got 1"),
        ({"steps": "halve"}, "SOBOL: unknown steps 'halve': did you mean 'half'?"),
        ({"score": "log_ods"}, "SOBOL: unknown score 'log_ods': did you mean 'log_odds'?"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Sobol(**options)
    assert str(caught.value).startswith(message)
