"""What a coroutine keeps of the stem's values: no more than it may, and what its questions gain."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stems import CELLS, SIZE, behind, opened, pictures, random_codes

from whyfake import Detector
from whyfake.perturbation import RegionMix
from whyfake.runtime import shelves


@pytest.fixture
def detector(tmp_path: Path) -> Any:
    with opened(tmp_path, "auto") as one:
        yield one


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    """The same one, asked whole pictures."""
    with opened(tmp_path, "host") as one:
        yield one


def test_regions_cut_in_parts_take_few_pictures_more(detector: Detector, whole: Detector) -> None:
    frame, baseline = pictures()
    labels, made, memory = CELLS.copy(), [], shelves.Memory()
    for step in range(4):
        regions = int(labels.max()) + 1
        codes = random_codes(200, regions, step)
        batch = RegionMix(codes, labels.copy(), baseline)
        copies = behind(detector, batch, frame, memory)
        made.append([len(values.array) for values in copies._values])
        scores = detector.raw(batch, frame, memory)
        assert scores == pytest.approx(whole.raw(batch, frame), abs=1e-5)
        labels[step * 8 : step * 8 + 8, 4:8] = regions  # half of a cell
    assert [len(kept) for kept in made] == [1, 2, 3, 4]
    assert made[-1][:3] == made[-2]
    anew = behind(detector, batch, frame)
    assert made[-1][-1] < len(anew._values[0].array)


def test_other_regions_are_not_taken_for_parts(detector: Detector, whole: Detector) -> None:
    frame, baseline = pictures()
    memory = shelves.Memory()
    for shift in (0, 3):
        labels = np.roll(CELLS, shift, axis=1)
        batch = RegionMix(random_codes(100, 30), labels, baseline)
        scores = detector.raw(batch, frame, memory)
        assert scores == pytest.approx(whole.raw(batch, frame), abs=1e-5)
    assert len(memory._tables) == 2


@pytest.mark.parametrize("changed", ["frame", "baseline", "labels"])
def test_arrays_may_be_written_to(detector: Detector, whole: Detector, changed: str) -> None:
    frame, baseline = pictures()
    arrays = {"frame": frame, "baseline": baseline, "labels": CELLS.copy()}
    batch = RegionMix(random_codes(100, 30), arrays["labels"], baseline)
    memory = shelves.Memory()
    before = detector.raw(batch, frame, memory)
    arrays[changed][...] = np.flip(arrays[changed], axis=-1).copy()
    after = detector.raw(batch, frame, memory)
    assert after == pytest.approx(whole.raw(batch, frame), abs=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_many_regions_and_windows_that_see_many(detector: Detector) -> None:
    frame, baseline = pictures()
    noise = np.random.default_rng(0).integers(0, 200, SIZE)
    for labels in (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE), noise):
        batch = RegionMix(random_codes(300, int(labels.max()) + 1), labels, baseline)
        assert behind(detector, batch, frame) is None


def test_what_is_kept_is_bounded(
    detector: Detector, whole: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "_BYTES", 150_000)
    memory = shelves.Memory()
    for number in range(5):
        frame, baseline = pictures(number % 2)
        for seed in range(3):
            codes = random_codes(60, 30, 10 * number + seed)
            batch = RegionMix(codes, CELLS, baseline)
            scores = detector.raw(batch, frame, memory)
            assert scores == pytest.approx(whole.raw(batch, frame), abs=1e-5)
            tables = memory._tables
            assert len(tables) == 1 or sum(table.nbytes for table in tables) <= 150_000
            assert all(t._shelf is None or t._shelf.nbytes <= 150_000 for t in tables)


def test_a_full_shelf_is_begun_again(
    detector: Detector, whole: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "_PICTURES", 50)
    frame, baseline = pictures()
    labels, memory, kept = CELLS.copy(), shelves.Memory(), []
    for step in range(5):
        regions = int(labels.max()) + 1
        batch = RegionMix(random_codes(200, regions, step), labels.copy(), baseline)
        scores = detector.raw(batch, frame, memory)
        assert scores == pytest.approx(whole.raw(batch, frame), abs=1e-5)
        kept.append(len(memory._tables[-1]._shelf.codes))
        labels[step * 8 : step * 8 + 8, 4:8] = regions  # half of a cell
    assert max(kept) <= 50
    assert any(later < sooner for sooner, later in pairwise(kept))


def test_a_cut_is_opened_when_it_would_have_paid(detector: Detector) -> None:
    frame, baseline = pictures()
    batch = RegionMix(random_codes(20, 2), CELLS // 15, baseline)
    memory = shelves.Memory()
    found = [behind(detector, batch, frame, memory) is not None for _ in range(4)]
    # nothing is kept before: 16 of 20 pictures are saved each time, less what is behind the cut
    assert found == [False, False, True, True]


def test_after_plans_in_vain_not_every_batch_gets_one(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, turn = [], [0]
    plain = shelves.Table.plan

    def noted(self: shelves.Table, *arguments: Any) -> Any:
        planned.append(turn[0])
        return plain(self, *arguments)

    monkeypatch.setattr(shelves.Table, "plan", noted)
    frame, baseline = pictures()
    noise = np.random.default_rng(0).integers(0, 200, SIZE)
    memory = shelves.Memory()
    for turn[0] in range(40):
        behind(detector, RegionMix(random_codes(16, 200), noise, baseline), frame, memory)
    assert planned == [0, 2, 6, 14, 30]
    for number in range(40, 50):  # what serves is found again, and used then
        batch = RegionMix(random_codes(200, 30), CELLS, baseline)
        served = behind(detector, batch, frame, memory) is not None
        assert served == (number >= 46)


def test_what_others_asked_changes_no_bit(detector: Detector) -> None:
    frame, baseline = pictures()
    batches = [
        RegionMix(random_codes(rows, 30, rows), CELLS, baseline) for rows in (20, 20, 20, 20, 64)
    ]
    found = []
    for _ in range(3):
        memory = shelves.Memory()
        found.append([detector.raw(batch, frame, memory) for batch in batches])
    for again in found[1:]:
        assert all(map(np.array_equal, again, found[0]))


def test_every_run_has_pictures_of_its_own(detector: Detector) -> None:
    frame, baseline = pictures()
    table = shelves.Table(frame, baseline, CELLS)
    codes = random_codes(300, 30)
    for number in (1, 3):
        plan = table.plan(codes, detector.stems._all_cuts(), number)
        assert plan is not None
        assert plan.saved == pytest.approx((300 - number * len(plan.more)) * plan.cut.share)
        assert plan.saved > shelves.WORTH * 300
    assert table.plan(codes, detector.stems._all_cuts(), 100) is None
