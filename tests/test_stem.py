"""Copies put together behind a stem get the scores of whole pictures."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from toys import make_card, save_model

from whyfake import Detector, load_detector
from whyfake.errors import EngineError
from whyfake.onnx_graph import PIXELS
from whyfake.onnx_stem import cuts, split
from whyfake.perturbation import RegionMix, Scratch, render
from whyfake.runtime import Delivered, Failed, Job, run, shelves, stem

SIZE = (40, 48)
CELLS = np.kron(np.arange(30).reshape(5, 6), np.ones((8, 8), int))


def saved(folder: Path, batch: int | str = "n", name: str = "toy") -> Path:
    """Two convolutions with poolings, a third one, and a head: three places to cut."""
    rng = np.random.default_rng(0)
    nodes, constants, current, channels = [], {}, "x", 3
    for number, more in enumerate((4, 6, 8)):
        weights = rng.normal(0, 0.4, (more, channels, 3, 3))
        constants[f"w{number}"] = weights.astype(np.float32)
        made = [f"{op}{number}" for op in ("conv", "relu", "pool")]
        nodes += [
            helper.make_node("Conv", [current, f"w{number}"], made[:1], pads=[1] * 4),
            helper.make_node("Relu", made[:1], made[1:2]),
            helper.make_node("MaxPool", made[1:2], made[2:], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        current, channels = made[2], more
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    constants["head"] = rng.normal(0, 1, (channels, 2)).astype(np.float32)
    card = make_card(SIZE)
    return save_model(
        folder, nodes, constants, size=SIZE, columns=2, card=card, batch=batch, name=name
    )


@pytest.fixture
def detector(tmp_path: Path) -> Any:
    with load_detector(saved(tmp_path), device="cpu", threads=2) as opened:
        yield opened


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    """The same one, asked whole pictures."""
    path = saved(tmp_path, name="whole")
    with load_detector(path, device="cpu", threads=2, compose="host") as opened:
        yield opened


def pictures(seed: int = 0) -> Any:
    """A frame and a baseline."""
    return np.random.default_rng(seed).random((2, 3, *SIZE), np.float32)


def random_codes(rows: int, regions: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2, (rows, regions), np.uint8)


def behind(
    detector: Detector, batch: RegionMix, frame: Any, memory: shelves.Memory | None = None
) -> Any:
    """How it is put together; None as whole pictures."""
    found = detector.prepare(batch, frame, memory)
    return found if isinstance(found, stem.StemCopies) else None


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
    mixed = RegionMix(random_codes(200, 30) * np.float32(0.5), CELLS, baseline)
    assert behind(detector, mixed, frame) is None
    sure = RegionMix(random_codes(200, 30).astype(np.float64), CELLS, baseline)
    assert behind(detector, sure, frame) is not None
    assert behind(whole, sure, frame) is None


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


def asking(batches: list[RegionMix]) -> Any:
    """A coroutine that asks these, and returns all scores."""
    answers = []
    for batch in batches:
        answers.append((yield batch))
    return np.concatenate(answers)


def jobs(count: int, sizes: tuple[int, ...] = (90, 37, 3)) -> list[Job]:
    found = []
    for number in range(count):
        frame, baseline = pictures(number)
        batches = [
            RegionMix(random_codes(rows, 30, number), CELLS, baseline)
            for rows in sizes[: 1 + number % len(sizes)]
        ]
        found.append(Job(f"frame {number}", frame, asking(batches)))
    return found


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

    def noted(self: shelves.Table, codes: Any, found: Any) -> Any:
        planned.append(turn[0])
        return plain(self, codes, found)

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


def test_closing_frees_the_parts(detector: Detector) -> None:
    frame, baseline = pictures()
    batch = RegionMix(random_codes(100, 30), CELLS, baseline)
    wanted = detector.raw(batch, frame)
    up = detector.bytes_up
    assert up > detector.engine.bytes_up
    detector.stems.close()
    assert not detector.stems._parts
    assert np.array_equal(detector.raw(batch, frame), wanted)
