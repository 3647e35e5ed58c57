"""Metrics of the bundled detector: by brute force, in closed form, and their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("av")
from training.metrics import accuracy, auc, false_alarms, found, interval

pytestmark = pytest.mark.training


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({fake for _, fake in rows}) == 2
    )
)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    fake = np.array([label for _, label in rows])
    pairs = [(f > r) + 0.5 * (f == r) for f in scores[fake] for r in scores[~fake]]
    assert auc(scores, fake) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_metrics_in_closed_form() -> None:
    scores = np.array([-2.0, 3.0, 0.0, 0.0, 4.0, 0.5, -0.5, 0.0])
    fake = np.array([False, False, False, False, True, True, True, True])
    assert auc(scores, fake) == 10 / 16
    assert accuracy(scores, fake) == 5 / 8  # 0 is not above 0: called real
    assert false_alarms(scores, fake) == 1 / 4
    assert found(scores, fake) == 2 / 4


@pytest.mark.parametrize("label", [False, True])
def test_one_class_has_no_auc(label: bool) -> None:
    scores, fake = np.array([-1.0, 1.0, 2.0]), np.full(3, label)
    assert np.isnan(auc(scores, fake))
    assert np.isnan(false_alarms(scores, fake)) == label
    assert np.isnan(found(scores, fake)) != label
    assert accuracy(scores, fake) == (2 / 3 if label else 1 / 3)


def grouped(groups: int, each: int) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Half of the groups called right throughout, half wrong; each has as many fakes as reals."""
    fake = np.tile(np.arange(each) % 2 == 1, groups)
    right = np.repeat(np.arange(groups) % 2 == 0, each)
    names = [f"person {index // each}" for index in range(groups * each)]
    return np.where(fake == right, 1.0, -1.0), fake, names


def test_interval_draws_whole_groups() -> None:
    """Ten groups, five of them right: the count of right ones is binomial, 2 to 8 in 95 %.

    Had it drawn pictures, 500 of them would seem to say five times as much.
    """
    scores, fake, names = grouped(10, 50)
    assert interval(accuracy, scores, fake, names) == pytest.approx((0.2, 0.8))
    alone = interval(accuracy, scores, fake, [str(n) for n in range(len(scores))])
    assert alone is not None
    assert alone[1] - alone[0] == pytest.approx(4 * 0.5 / np.sqrt(500), rel=0.1)


def test_interval_narrows_with_groups_and_holds_the_estimate() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for groups in (10, 40, 160):
        fake = np.tile([False, True], groups * 2)
        scores = rng.normal(size=groups * 4) + np.repeat(rng.normal(size=groups), 4) + fake
        names = [str(index // 4) for index in range(groups * 4)]
        for metric in (auc, accuracy, false_alarms, found):
            bounds = interval(metric, scores, fake, names, draws=500)
            assert bounds is not None
            assert bounds[0] < metric(scores, fake) < bounds[1]
            widths.append(bounds[1] - bounds[0])
        assert interval(auc, scores, fake, names, 50) == interval(auc, scores, fake, names, 50)
    table = np.array(widths).reshape(3, 4)
    assert (np.diff(table, axis=0) < 0).all()


def test_a_handful_of_groups_has_no_interval() -> None:
    scores, fake, names = grouped(9, 10)
    assert interval(accuracy, scores, fake, names) is None
    scores, fake, names = grouped(10, 10)
    assert interval(accuracy, scores, fake, names) is not None


def test_groups_of_one_class_do_not_spoil_an_interval() -> None:
    """Draws without a single fake have no AUC and are left out, not counted as 0 or NaN."""
    fake = np.arange(12) == 0
    names = [str(index) for index in range(12)]
    assert interval(auc, fake.astype(np.float64), fake, names) == (1.0, 1.0)
