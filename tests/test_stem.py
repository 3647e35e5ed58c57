"""Copies put together behind a stem get the scores of whole pictures."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from stems import CELLS, SIZE, behind, jobs, opened, pictures, random_codes, saved

from whyfake import Detector, load_detector
from whyfake.errors import EngineError
from whyfake.explainers import Scene, Sobol, Target
from whyfake.onnx_graph import PIXELS
from whyfake.onnx_stem import cuts, split
from whyfake.perturbation import RegionMix, Scratch, render
from whyfake.runtime import Delivered, Failed, drive, run, shelves, stem


@pytest.fixture
def detector(tmp_path: Path) -> Any:
    with opened(tmp_path, "auto") as one:
        yield one


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    """The same one, asked whole pictures."""
    with opened(tmp_path, "host") as one:
        yield one


@given(
    coarse=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    regions=st.integers(1, 30),
    rows=st.integers(1, 90),
    spare=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_scores_of_whole_pictures(
    detector: Detector,
    whole: Detector,
    coarse: tuple[int, int],
    regions: int,
    rows: int,
    spare: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    blocks = [-(-side // count) for side, count in zip(SIZE, coarse, strict=True)]
    labels = np.kron(rng.integers(0, regions, coarse), np.ones(blocks, int))
    labels = labels[: SIZE[0], : SIZE[1]]
    frame, baseline = pictures(seed)
    batch = RegionMix(random_codes(rows, regions + spare, seed), labels, baseline)
    seen = detector.images_seen
    assert detector.raw(batch, frame) == pytest.approx(whole.raw(batch, frame), abs=1e-5)
    assert detector.images_seen - seen == rows


@pytest.mark.parametrize("compiled", [True, False])
def test_it_is_done_for_many_copies(
    detector: Detector, whole: Detector, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("whyfake.compiled.library", lambda: None)
    frame, baseline = pictures()
    batch = RegionMix(random_codes(200, 30), CELLS, baseline)
    copies = behind(detector, batch, frame)
    assert copies is not None
    assert detector.raw(batch, frame) == pytest.approx(whole.raw(batch, frame), abs=1e-5)
    values = np.empty((7, *copies.shape), np.float32)
    copies.fill()
    copies(values, 3, Scratch())
    [parts] = detector.stems._parts.values()
    for value, image in zip(values, render(batch, frame, 3, 10), strict=True):
        [wanted] = parts.stem.run({PIXELS: image[None]}).values()
        assert np.array_equal(value, wanted[0])


def test_few_copies_and_mixed_ones_are_whole_pictures(detector: Detector, whole: Detector) -> None:
    frame, baseline = pictures()
    assert behind(detector, RegionMix(random_codes(3, 30), CELLS, baseline), frame) is None
    mixed = RegionMix(np.random.default_rng(0).random((200, 30)), CELLS, baseline)
    assert behind(detector, mixed, frame) is None
    sure = RegionMix(random_codes(200, 30).astype(np.float64), CELLS, baseline)
    assert behind(detector, sure, frame) is not None
    assert behind(whole, sure, frame) is None


def in_runs(lengths: tuple[int, ...], seed: int = 0) -> Any:
    """Codes of 30 regions, in runs: copies of one, each with one region's value flipped to the
    run's other one.
    """
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths:
        first, second = rng.random((2, 30), np.float32)
        flipped = np.zeros((length, 30), bool)
        flipped[np.arange(length), rng.integers(0, 30, length)] = True
        found.append(np.where(flipped, second, first))
    return np.concatenate(found)


@pytest.mark.parametrize("compiled", [True, False])
def test_mixed_copies_in_runs_have_the_scores_of_whole_pictures(
    detector: Detector, whole: Detector, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(stem.compiled, "library", lambda: None)
    frame, baseline = pictures()
    memory = shelves.Memory()
    for seed in range(2):  # nothing is kept for the second, whose values are others
        batch = RegionMix(in_runs((40, 61, 33), seed), CELLS, baseline)
        copies = behind(detector, batch, frame, memory)
        assert isinstance(copies, stem.StemCopies)
        pictures_of = sum(len(values.array) for values in copies._values)
        assert pictures_of % 3 == 0
        assert 3 * 4 <= pictures_of <= 3 * 8
        scores = detector.raw(batch, frame, memory)
        assert scores == pytest.approx(whole.raw(batch, frame), abs=1e-5)
    assert not memory._tables


def test_runs_that_are_short_are_whole_pictures(detector: Detector) -> None:
    frame, baseline = pictures()
    shuffled = np.random.default_rng(1).permutation(in_runs((40, 61, 33)))
    for codes in (in_runs((8,) * 20), shuffled):
        assert behind(detector, RegionMix(codes, CELLS, baseline), frame) is None


def test_no_more_pictures_than_may_be_kept_for_all_runs(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, baseline = pictures()
    batch = RegionMix(in_runs((40, 61, 33)), CELLS, baseline)
    monkeypatch.setattr(shelves, "_PICTURES", 3 * 4 - 1)  # no run has fewer than four
    assert behind(detector, batch, frame) is None


def test_sobol_finds_the_same(detector: Detector, whole: Detector) -> None:
    frame, baseline = pictures()
    for sobol in (Sobol(), Sobol(design=6, scramble=True, steps="half")):
        found = []
        for one in (detector, whole):
            scene = Scene(baseline, CELLS, np.random.default_rng(0))
            asking = sobol.explain(frame, Target("fake", (1,)), scene)
            found.append(drive(asking, one, frame).heatmap)
        np.testing.assert_allclose(found[0], found[1], atol=1e-4 * np.abs(found[1]).max())
        assert detector.bytes_up < whole.bytes_up


def test_many_frames_in_lanes(detector: Detector, whole: Detector) -> None:
    found = [
        {event.key: event.value for event in run(one, jobs(7), in_flight=4)}
        for one in (detector, whole)
    ]
    assert len(found[0]) == 7
    for key, scores in found[0].items():
        assert scores == pytest.approx(found[1][key], abs=1e-5)


def test_running_the_stem_is_the_engine_s_work(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, baseline = pictures()
    copies = behind(detector, RegionMix(random_codes(99, 30), CELLS, baseline), frame)
    plain = copies.fill

    def slow(halted: Any) -> None:
        time.sleep(0.05)
        plain(halted)

    monkeypatch.setattr(copies, "fill", slow)
    lane = detector.lane()
    lane.compose(copies, 0, 2, 0)
    assert lane.stages.running >= 0.05
    assert lane.stages.composing == -lane.stages.running  # until all of composing is added


def test_a_stem_that_fails_fails_its_frame_alone(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, baseline = pictures()
    assert behind(detector, RegionMix(random_codes(99, 30), CELLS, baseline), frame) is not None
    [parts] = detector.stems._parts.values()
    plain = parts.stem._run
    bad = pictures(2)[0][:, 0, 0]

    def picky(arrays: Any) -> Any:
        [images] = arrays.values()
        if any(np.array_equal(image[:, 0, 0], bad) for image in images):
            raise EngineError("no memory")
        return plain(arrays)

    monkeypatch.setattr(parts.stem, "_run", picky)
    events = list(run(detector, jobs(5), in_flight=5))
    failed = [event for event in events if isinstance(event, Failed)]
    assert [event.key for event in failed] == ["frame 2"]
    assert "no memory" in str(failed[0].error)
    assert sum(isinstance(event, Delivered) for event in events) == 4
    frame, baseline = pictures(2)
    batch, memory = RegionMix(random_codes(99, 30), CELLS, baseline), shelves.Memory()
    with pytest.raises(EngineError):
        detector.raw(batch, frame, memory)
    monkeypatch.setattr(parts.stem, "_run", plain)
    assert detector.raw(batch, frame, memory).shape == (99, 2)
    events = list(run(detector, jobs(3)[2:]))
    assert [type(event) for event in events] == [Delivered]


def test_whoever_stops_does_not_wait_for_a_stem(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, baseline = pictures()
    assert behind(detector, RegionMix(random_codes(99, 30), CELLS, baseline), frame) is not None
    [parts] = detector.stems._parts.values()
    plain, ran = parts.stem._run, threading.Event()
    count = []

    def slow(arrays: Any) -> Any:
        count.append(1)
        ran.set()
        time.sleep(0.3)
        return plain(arrays)

    monkeypatch.setattr(parts.stem, "_run", slow)
    running = run(detector, jobs(1), tick=lambda: ran.is_set() and 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(running)
    assert len(count) <= 4  # of 16 pictures: what the two lanes had at hand
    monkeypatch.setattr(parts.stem, "_run", plain)
    assert [type(event) for event in run(detector, jobs(1))] == [Delivered]


def test_a_file_that_is_gone_or_another_one(tmp_path: Path) -> None:
    frame, baseline = pictures()
    batch = RegionMix(random_codes(99, 30), CELLS, baseline)
    for change in (Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"\x1a\x00")):
        path = saved(tmp_path)
        with load_detector(path, device="cpu") as opened:
            change(path)
            assert behind(opened, batch, frame) is None
            assert opened.raw(batch, frame).shape == (99, 2)


def test_a_model_that_fixes_its_batch_has_no_stem(tmp_path: Path) -> None:
    with load_detector(saved(tmp_path, batch=4), device="cpu") as opened:
        assert opened.stems is None


@pytest.mark.parametrize("wrong", ["windows", "stem", "rest"])
def test_parts_that_do_not_make_the_detector_are_not_used(
    detector: Detector, whole: Detector, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong == "windows":  # a pixel less than values see

        def small(model: Any) -> list[Any]:
            side = [replace(w, length=w.length - 1) for cut in cuts(model) for w in cut.windows[:1]]
            found = zip(cuts(model), side, strict=True)
            return [replace(cut, windows=(one, one)) for cut, one in found]

        monkeypatch.setattr(stem, "cuts", small)
    else:

        def other(model: Any, cut: Any) -> tuple[bytes, bytes]:
            for tensor in model.graph.initializer:
                if tensor.name == ("w0" if wrong == "stem" else "head"):
                    values = numpy_helper.to_array(tensor) * np.float32(1.01)
                    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            return split(model, cut)

        monkeypatch.setattr(stem, "split", other)
    frame, baseline = pictures()
    batch = RegionMix(random_codes(200, 30), CELLS, baseline)
    assert behind(detector, batch, frame) is None
    assert np.array_equal(detector.raw(batch, frame), whole.raw(batch, frame))


def test_a_graph_that_cannot_be_followed(
    detector: Detector, whole: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stem, "cuts", lambda model: 1 // 0)
    frame, baseline = pictures()
    batch = RegionMix(random_codes(200, 30), CELLS, baseline)
    assert behind(detector, batch, frame) is None
    assert np.array_equal(detector.raw(batch, frame), whole.raw(batch, frame))


def test_closing_frees_the_parts(detector: Detector) -> None:
    frame, baseline = pictures()
    batch = RegionMix(random_codes(100, 30), CELLS, baseline)
    wanted = detector.raw(batch, frame)
    up = detector.bytes_up
    assert up > detector.engine.bytes_up
    detector.stems.close()
    assert not detector.stems._parts
    assert np.array_equal(detector.raw(batch, frame), wanted)
