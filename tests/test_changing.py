"""Copies made one of another by what differs: the same bits, and nothing else is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from batches import noise_step
from games import random_frame, recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from whyfake import Detector, compiled
from whyfake.compiled import FEW, Changing
from whyfake.explainers import Scene, Sobol, Target
from whyfake.perturbation import RegionMix, render
from whyfake.runtime.scheduler import drive

Images = NDArray[np.float32]
needs_library = pytest.mark.skipif(compiled.library() is None, reason="needs what is compiled")


def near_batch(
    rng: np.random.Generator, count: int, regions: int, size: tuple[int, int]
) -> tuple[RegionMix, Images]:
    """Copies each with one region's value changed from the one before, and their frame."""
    codes = np.tile(rng.random(regions, np.float32), (count, 1))
    for row in range(1, count):
        codes[row:, rng.integers(regions)] = rng.random()
    frame, baseline = rng.random((2, 3, *size), np.float32)
    return RegionMix(codes, rng.integers(0, regions, size), baseline), frame


def changing(batch: RegionMix, frame: Images) -> Changing:
    """How the batch is composed, which must be by changes."""
    composer = batch.composer(frame)
    assert isinstance(composer, Changing)
    return composer


@needs_library
@given(
    seed=st.integers(0, 10_000),
    regions=st.integers(8, 256),
    size=st.tuples(st.integers(1, 20), st.integers(1, 70)) | st.just((3, 4500)),
    far=st.booleans(),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_the_same_bits_as_composed_anew(
    seed: int, regions: int, size: tuple[int, int], far: bool, data: st.DataObject
) -> None:
    rng, count = np.random.default_rng(seed), 20
    batch, frame = near_batch(rng, count, regions, size)
    if far:  # one copy of twenty has nothing in common with any other
        batch.codes[count // 2] = rng.random(regions)
    composer = changing(batch, frame)
    out, held = np.full((3, *size), np.nan, np.float32), -1
    for row in data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6)):
        composer.change(out.ctypes.data, held, row)
        held = row
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "library", lambda: None)
            assert np.array_equal(out, render(batch, frame, row, row + 1)[0])
    if far:
        return
    assert np.array_equal(render(batch, frame, 2, 5), render(batch, frame)[2:5])  # as any composer


@needs_library
def test_only_what_differs_is_written_where_that_is_little() -> None:
    regions, size = 16, (12, 20)
    rng = np.random.default_rng(0)
    codes = np.tile(rng.random(regions, np.float32), (40, 1))
    few = int(FEW * regions)
    codes[1, :few] += 1 / 8
    codes[2, : few + 1] += 1 / 8
    frame, baseline = rng.random((2, 3, *size), np.float32)
    batch = RegionMix(codes, rng.integers(0, regions, size), baseline)
    composer, wanted = changing(batch, frame), render(batch, frame)
    for row, most in ((0, 0), (1, few), (2, regions)):
        out = np.full((3, *size), np.nan, np.float32)  # not what copy 0 is: what stays is seen
        composer.change(out.ctypes.data, 0, row)
        written = ~np.isnan(out)
        assert (written == (batch.labels < most)).all()
        assert np.array_equal(out[written], wanted[row][written])


@needs_library
def test_copies_that_differ_in_much_or_are_alone_are_composed_anew() -> None:
    rng = np.random.default_rng(0)
    batch, frame = near_batch(rng, 9, 16, (6, 7))
    batch.codes[1::2] = rng.random(16)  # every other one
    assert not isinstance(batch.composer(frame), Changing)
    for count in (0, 1):
        alone = RegionMix(batch.codes[:count], batch.labels, batch.baseline)
        assert not isinstance(alone.composer(frame), Changing)


@needs_library
@pytest.mark.parametrize(("held", "row"), [(-1, 9), (9, 0), (0, -1)])
def test_rows_that_a_batch_has_not(held: int, row: int) -> None:
    batch, frame = near_batch(np.random.default_rng(0), 9, 16, (6, 7))
    out = np.zeros((3, 6, 7), np.float32)
    with pytest.raises(IndexError, match="of 9"):
        changing(batch, frame).change(out.ctypes.data, held, row)
    assert not out.any()


@pytest.mark.parametrize("engine_batch", [1, 2, 3, 16])
def test_a_lane_runs_the_pictures_that_are_asked_about(
    tmp_path: Path, engine_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it composed before: changed copies, others', and other kinds."""
    size = (6, 10)
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 1, (3, *size)).astype(np.float32)
    detector = toys.linear_detector(tmp_path, weights, 0.3, engine_batch=engine_batch)
    seen: list[Images] = []
    run = detector.engine.run

    def spy(arrays: dict[str, Images]) -> Any:
        seen.extend(next(iter(arrays.values())).copy())
        return run(arrays)

    monkeypatch.setattr(detector.engine, "run", spy)
    batches = [near_batch(rng, 30, 16, size), near_batch(rng, 30, 16, size)]
    noise = noise_step(rng, 30, size, 1, masked=False), random_frame(size, 2)
    made = [(detector.prepare(*batch), *batch) for batch in (*batches, noise)]
    lane = detector.lane()
    most = lane.most(detector.engine)
    for pieces in (
        [(0, 0, most)],
        [(0, 7, 7 + most)],
        [(0, 5, 6)],
        [(1, 0, most)],
        [(0, 3, 3 + most)],
        [(2, 0, most)],
        [(0, 1, 1 + most)],
        [(0, 9, 9 + most // 2), (1, 4, 4 + most - most // 2)],
        [(0, 9, 8 + most)],
        [(0, 29, 30)],
        [(0, 0, 2)],
    ):
        seen.clear()
        pictures = [(made[n], start, min(start + stop - start, 30)) for n, start, stop in pieces]
        scores = lane.ask([(copies, start, stop) for (copies, *_), start, stop in pictures])
        wanted = np.concatenate([render(*own, a, b) for (_, *own), a, b in pictures])
        assert np.array_equal(np.stack(seen)[: len(wanted)], wanted)
        assert scores.shape == (len(wanted), 2)
        np.testing.assert_allclose(detector.decode(scores), detector.log_probs(wanted), atol=1e-6)
    assert lane.stages.composing > 0
    assert lane.stages.running > 0


@needs_library
@pytest.mark.parametrize("engine_batch", [1, 3])
def test_a_lane_makes_each_batch_of_the_one_before(
    tmp_path: Path, engine_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, _ = toys_detector(tmp_path, engine_batch)
    batch, frame = near_batch(np.random.default_rng(5), 30, 16, (16, 24))
    plain, made = Changing.change, []

    def spy(self: Changing, out: int, held: int, row: int) -> None:
        made.append((held, row))
        plain(self, out, held, row)

    monkeypatch.setattr(Changing, "change", spy)
    detector.ask(batch, frame)
    assert made == [(max(row - engine_batch, -1), row) for row in range(30)]


def test_sobol_asks_in_an_order_in_which_little_differs(tmp_path: Path) -> None:
    detector, frame = toys_detector(tmp_path)
    batches: list[Any] = []
    scene = Scene(np.zeros_like(frame), np.zeros(frame.shape[1:], int), np.random.default_rng(0))
    for sobol in (Sobol(), Sobol(scramble=True, steps="half")):
        batches.clear()
        asking = sobol.explain(frame, Target("fake", (1,)), scene)
        drive(recorded(asking, batches, []), detector, frame)
        codes = np.concatenate([batch.codes for batch in batches])
        assert len(np.unique(codes, axis=0)) == len(codes) == sobol.images()
        differing = (np.diff(codes, axis=0) != 0).sum(axis=1)
        assert np.mean(differing <= 2) > 0.9


def toys_detector(folder: Path, engine_batch: int = 64) -> tuple[Detector, Images]:
    """A linear detector and a frame for it."""
    weights = np.random.default_rng(3).normal(0, 1, (3, 16, 24)).astype(np.float32)
    detector = toys.linear_detector(folder, weights, 0.1, engine_batch=engine_batch)
    return detector, random_frame((16, 24), 4)


@needs_library
def test_a_frame_that_fails_leaves_the_others_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a lane holds is what it made last, also where composing broke off."""
    detector, _ = toys_detector(tmp_path)
    batch, frame = near_batch(np.random.default_rng(5), 30, 16, (16, 24))
    copies, lane = detector.prepare(batch, frame), detector.lane()
    plain, calls = Changing.change, iter([None, IndexError])

    def breaks(self: Changing, out: int, held: int, row: int) -> None:
        if error := next(calls, None):
            raise error
        plain(self, out, held, row)

    wanted = lane.ask([(copies, 0, 30)])
    monkeypatch.setattr(Changing, "change", breaks)
    with pytest.raises(IndexError):
        lane.ask([(copies, 2, 12)])
    # the first picture is copy 2, the others are what they were: taken for copy 3, the second one
    # would get no more than what makes a copy 4 of that
    assert np.array_equal(lane.ask([(copies, 3, 30)]), wanted[3:])
