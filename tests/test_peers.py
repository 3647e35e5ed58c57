"""The parts of benchmarks/peers.py that are ours: the paper's NES as described, and the tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
    for name in ("paper_nes", "peer_tables", "peer_runs", "peers"):
        sys.modules.pop(name, None)


class Bright:
    """Calls a picture real (class 0) once its mean is above a level; counts calls."""

    def __init__(self, level: float) -> None:
        self.level, self.calls = level, 0
        self.asked: list[NDArray[np.float32]] = []

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float64]:
        assert image.shape == (3, 5, 7)
        assert image.dtype == np.float32
        self.calls += 1
        self.asked.append(image)
        p = 0.5 + image.mean(dtype=np.float64) - self.level
        return np.array([p, 1 - p])


def test_papers_nes_asks_one_image_a_call_and_leaves_the_ball() -> None:
    """A step moves every pixel by α, at most: no step is clipped, and nothing else is."""
    from paper_nes import paper_nes

    frame = np.full((3, 5, 7), 0.98, np.float32)
    detector = Bright(level=2.0)  # never called real
    rng = np.random.RandomState(0)
    sample = paper_nes(frame, detector, (0,), rng, steps=20, pairs=30)
    assert not sample.flipped
    assert (sample.steps, sample.images) == (20, 20 * 61)
    assert detector.calls == sample.images
    check, plus, minus = detector.asked[:3]  # a step's check, and both sides of a direction
    np.testing.assert_allclose(plus + minus, 2 * check, rtol=0, atol=1e-6)
    assert 0.0005 < (plus - minus).std() / 2 < 0.002
    moved = (sample.image - frame) * 255
    # 35 pixels of equal weight and 30 pairs: a sign is right about four times in five
    assert 0.3 < moved.mean() / 20 < 0.95
    assert moved.max() > 16.5  # ε is 16/255
    assert sample.image.max() > 1
    # one noise for all channels; whole steps of 1/255, as many up or down as there were steps
    assert np.ptp(moved, axis=0).max() < 1e-3
    np.testing.assert_allclose(moved, np.rint(moved), rtol=0, atol=1e-3)
    assert set(np.unique(np.rint(moved) % 2)) == {0}


def test_papers_nes_stops_once_called_real() -> None:
    from paper_nes import paper_nes

    frame = np.full((3, 5, 7), 0.5, np.float32)
    rng = np.random.RandomState(1)
    sample = paper_nes(frame, Bright(level=0.5 + 2.5 / 255), (0,), rng, pairs=200)
    assert sample.flipped
    assert sample.image.mean() > 0.5 + 2.5 / 255
    assert 3 <= sample.steps <= 5  # three steps if every sign is right
    assert sample.images == sample.steps * 401 + 1


def test_agreement_ranks_regions_and_correlates_pixels() -> None:
    from peer_tables import agreement

    labels = np.repeat(np.arange(4, dtype=np.int32), 6).reshape(4, 6)
    heat = np.array([1.0, 2.0, 3.0, 4.0])[labels]
    # ranks 1 2 4 3 against 1 2 3 4: Spearman 1 − 6·2/(4·15) = .8; Pearson of 1 2 9 4 is 4/√46.25…
    other = np.array([1.0, 2.0, 9.0, 4.0])[labels]
    found = agreement(heat, other, labels, "x_")
    assert found["x_spearman"] == 0.8
    centred = np.array([1.0, 2.0, 9.0, 4.0]) - 4
    pearson = (centred @ [-1.5, -0.5, 0.5, 1.5]) / np.sqrt((centred @ centred) * 5)
    assert found["x_pearson"] == pytest.approx(pearson, abs=1e-6)
    assert agreement(heat, np.ones((4, 6)), labels) == {"spearman": None, "pearson": None}
    assert agreement(heat, None, labels) == {}


def test_ratios_are_of_the_same_repeat_and_what_is_missed_is_said() -> None:
    from peer_tables import missed, summarise

    def runs(*seconds: float) -> list[dict[str, Any]]:
        return [
            {"repeat": i, "seconds": s, "cpu_seconds": 2 * s, "images": 10, "peak_mb": 1.0}
            for i, s in enumerate(seconds)
        ]

    table = summarise(
        {
            "rise.whyfake": runs(1.0, 10.0, 2.0),
            "rise.dianna": runs(0.9, 9.0, 4.0),
            "rise.dianna-documented": runs(4.9, 60.0, 9.0),
            "rise.xplique": runs(3.0)[:1],
        }
    )
    assert table["rise.whyfake"]["seconds"] == 2.0
    assert table["rise.dianna"]["ratio"] == 0.9  # not 4.0 / 2.0, the ratio of medians
    assert table["rise.dianna-documented"]["ratio"] == 4.9
    assert table["rise.xplique"]["ratio"] == 3.0
    assert [line.partition(":")[0] for line in missed(table)] == [
        "rise.dianna",
        "rise.dianna-documented",
    ]


def test_a_row_that_fails_is_one_line_without_folders() -> None:
    from peer_tables import ROWS, markdown
    from peers import one_line

    trace = "Traceback …\n  File x\nImportError: /usr/lib/a/libx.so: undefined symbol: y\n\n"
    assert one_line(trace) == "ImportError: libx.so: undefined symbol: y"
    assert one_line("") == ""
    entry = {"not_run": {"rise.xplique": "no such module"}, "table": {}, "agreement": {}}
    lines = markdown(entry).splitlines()
    assert lines[2] == "| rise | xplique | not run: no such module ||||||||"
    assert len(lines) == 3
    assert len({row for row, _ in ROWS}) == len(ROWS)
