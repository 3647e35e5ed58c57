"""Composition by TensorRT: played by ONNX Runtime on a NumPy device, and built by the real RTX."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import KINDS, ROUNDING, batch_of, region_mix
from test_tensorrt_engine import Machine
from toys import planted_frame

import whyfake
from whyfake.errors import EngineError
from whyfake.explainers import Nes
from whyfake.perturbation import Stack, render
from whyfake.runtime.composition import graph, shapes
from whyfake.runtime.tensorrt_composition import plan_from_graph
from whyfake.tensorrt_api import load_tensorrt

SIZE = (32, 48)  # a picture is a multiple of 256 bytes
ODD = (20, 28)  # and here it is not


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def opened(machine: Machine, compose: str = "device", **options: Any) -> whyfake.Detector:
    machine.device.closed = False
    return whyfake.load_detector(machine.engine, compose=compose, **options)


def cached(machine: Machine) -> list[Path]:
    return sorted((machine.folder / "cache" / "composition").iterdir())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("graphs", [True, False])
def test_scores_are_those_of_the_host(machine: Machine, kind: str, graphs: bool) -> None:
    """Batches of four, tails, all kinds; recorded executions and plain ones."""
    machine.device.graphs = graphs
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    batch = Stack([batch_of(kind, rng, 11, SIZE), batch_of("regions", rng, 2, SIZE)])
    with whyfake.load_detector(machine.onnx, device="cpu") as original:
        wanted = original.ask(batch, frame)
    with opened(machine) as detector:
        np.testing.assert_allclose(detector.ask(batch, frame), wanted, atol=1e-5)
        assert detector.images_seen == 13
        del batch
    gc.collect()
    assert machine.device.allocated == 0


def test_pictures_are_put_together_in_the_detectors_input(machine: Machine) -> None:
    """Of several frames; the canvas's own pictures, read off the device where they are scored."""
    rng = np.random.default_rng(0)
    seen: list[Any] = []
    with opened(machine, batch=16) as detector:
        engine: Any = detector.engine
        lane = detector.lane()
        wanted, row = [], 0
        for kind, rows in (("regions", 3), ("noise1", 5), ("pixels", 2), ("grids", 6)):
            frame = rng.random((3, *SIZE), np.float32)
            batch = batch_of(kind, rng, 9, SIZE)
            lane.compose(detector.prepare(batch, frame), 1, 1 + rows, row)
            wanted.append(render(batch, frame, 1, 1 + rows))
            row += rows
        put = engine._runner._enqueue

        def spy(source: int, sink: int, count: int, stream: int) -> None:
            look = machine.device.floats(source, (count, 3, *SIZE))
            machine.device.put(stream, lambda: seen.append(look.copy()))
            put(source, sink, count, stream)

        engine._runner._enqueue = spy
        lane.run(row)
    np.testing.assert_allclose(seen[0], np.concatenate(wanted), rtol=0, atol=ROUNDING)


def test_rows_that_tensorrt_cannot_write_to_are_composed_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in refuses a pointer that is not aligned, as TensorRT demands."""
    machine = Machine(tmp_path, monkeypatch, ODD)
    rng = np.random.default_rng(0)
    frame = rng.random((3, *ODD), np.float32)
    batch = Stack([region_mix(rng, 3, ODD), region_mix(rng, 6, ODD)])
    with whyfake.load_detector(machine.onnx, device="cpu") as original:
        wanted = original.ask(batch, frame)
    with opened(machine) as detector:
        np.testing.assert_allclose(detector.ask(batch, frame), wanted, atol=1e-5)
        picture = 3 * 20 * 28 * 4
        constants, codes = 2 * (2 * picture + 20 * 28 * 4), 4 * 4
        assert detector.engine.bytes_up == constants + 8 * codes + picture


def test_codes_go_up_and_constants_once(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    with opened(machine) as detector:
        detector.ask(region_mix(rng, 10, SIZE, 6), frame)
        plane = SIZE[0] * SIZE[1] * 4
        assert detector.engine.bytes_up == 7 * plane + 10 * 6 * 4
    with opened(machine, "host") as detector:
        detector.ask(region_mix(rng, 10, SIZE, 6), frame)
        assert detector.engine.bytes_up == 12 * 3 * plane, "three batches of four"


def test_memory_is_used_again(machine: Machine) -> None:
    """As many steps as one likes need no more than two."""
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    with opened(machine) as detector:
        allocated = []
        for _ in range(6):
            detector.ask(batch_of("masked3", rng, 7, SIZE), frame)
            allocated.append(machine.device.allocated)
        assert len(set(allocated[1:])) == 1


@pytest.mark.parametrize("method", ["lime", "rise", "shap-adv"])
def test_explanations_are_those_of_the_graph(machine: Machine, method: str) -> None:
    """Several frames at once, in several lanes."""
    frames = [planted_frame((8, 16, 16, 32), SIZE, seed=seed) for seed in range(3)]
    budget = whyfake.Settings(nes=Nes(steps=2, pairs=6)).with_budget(60)
    found = []
    for path, options in (
        (machine.onnx, {"device": "cpu"}),
        (machine.engine, {"compose": "device"}),
    ):
        with whyfake.load_detector(path, **options) as detector:  # type: ignore[arg-type]
            made = whyfake.explain_many(detector, frames, method=method, settings=budget)
            found.append(sorted(made, key=lambda e: e.frame.tobytes()))
            assert detector.images_seen == sum(e.images for e in found[-1])
    for wanted, got in zip(*found, strict=True):
        np.testing.assert_allclose(got.region_scores, wanted.region_scores, atol=1e-4)
        assert got.detector["composition"] == "device"


def test_what_was_drawn_and_never_run_is_forgotten(machine: Machine) -> None:
    """A piece that fails ends its batch; the next one begins at row 0."""
    rng = np.random.default_rng(0)
    frame, batch = rng.random((3, *SIZE), np.float32), region_mix(rng, 4, SIZE)
    with opened(machine) as detector:
        lane, copies = detector.lane(), detector.prepare(batch, frame)
        lane.compose(copies, 0, 2, 0)
        lane.compose(copies, 2, 3, 2)
        lane.compose(copies, 3, 4, 0)
        runner: Any = detector.engine._runner  # type: ignore[attr-defined]
        run, counts = runner.run_pieces, []
        runner.run_pieces = lambda pieces, rows: counts.append(len(pieces)) or run(pieces, rows)
        lane.run(1)
        assert counts == [1]


# --- the engines that compose


def test_they_are_built_when_first_wanted_and_kept(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    with opened(machine) as detector:
        assert machine.trt.built == []
        for kind in ("regions", "regions", "noise1", "pixels"):
            detector.ask(batch_of(kind, rng, 3, SIZE), frame)
    assert machine.trt.built == ["whyfake_regions", "whyfake_noise1"]
    assert [path.name.rpartition("-")[0] for path in cached(machine)] == [
        "noise1-32x48",
        "regions-32x48",
    ]
    with opened(machine) as detector:
        detector.ask(batch_of("regions", rng, 3, SIZE), frame)
    assert len(machine.trt.built) == 2, "found in the cache"
    with opened(machine, batch=8) as detector:
        detector.ask(batch_of("regions", rng, 3, SIZE), frame)
    assert len(machine.trt.built) == 3, "for another batch"
    monkey_name, machine.device.name = machine.device.name, "Another GPU"
    with opened(machine) as detector:
        detector.ask(batch_of("regions", rng, 3, SIZE), frame)
    machine.device.name = monkey_name
    assert len(machine.trt.built) == 4, "for another GPU"


def test_one_that_is_spoiled_is_built_anew(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    frame, batch = rng.random((3, *SIZE), np.float32), region_mix(rng, 3, SIZE)
    with opened(machine) as detector:
        wanted = detector.ask(batch, frame)
    [path] = cached(machine)
    good = path.read_bytes()
    path.write_bytes(b"half a file")
    with opened(machine) as detector:
        np.testing.assert_array_equal(detector.ask(batch, frame), wanted)
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_a_build_and_no_more(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.folder / "file").write_text("")
    monkeypatch.setenv("WHYFAKE_CACHE", str(machine.folder / "file"))
    rng = np.random.default_rng(0)
    with opened(machine) as detector:
        answer = detector.ask(region_mix(rng, 3, SIZE), rng.random((3, *SIZE), np.float32))
        assert np.isfinite(answer).all()


def test_tensorrt_without_a_builder_composes_on_the_host_unless_told(machine: Machine) -> None:
    machine.trt.builds = False
    rng = np.random.default_rng(0)
    frame, batch = rng.random((3, *SIZE), np.float32), region_mix(rng, 3, SIZE)
    with opened(machine, "auto") as detector:
        detector.ask(batch, frame)
        assert detector.engine.composition == "host"
    with (
        opened(machine) as detector,
        pytest.raises(EngineError, match="built no engine to compose"),
    ):
        detector.ask(batch, frame)


def test_auto_measures_both(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    with opened(machine, "auto") as detector:
        detector.ask(region_mix(rng, 3, SIZE), rng.random((3, *SIZE), np.float32))
        assert detector.engine.composition in ("host", "device")
        assert detector.images_seen == 3
    assert machine.trt.built == ["whyfake_regions"]


def test_a_failure_on_the_device_leaves_the_engine_usable(machine: Machine) -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    first, second = region_mix(rng, 4, SIZE), region_mix(rng, 4, SIZE)
    with opened(machine) as detector:
        wanted = detector.ask(second, frame)
        composition: Any = detector.engine._composition  # type: ignore[attr-defined]
        enqueue, composition.enqueue = composition.enqueue, None

        def fail(*_: Any) -> None:
            raise EngineError("failed to compose")

        composition.enqueue = fail
        with pytest.raises(EngineError, match="failed to compose"):
            detector.ask(first, frame)
        composition.enqueue = enqueue
        np.testing.assert_array_equal(detector.ask(second, frame), wanted)
    assert machine.device.allocated == 0


def test_a_closed_engine_says_so(machine: Machine) -> None:
    detector = opened(machine)
    detector.close()
    rng = np.random.default_rng(0)
    with pytest.raises(EngineError, match="the engine is closed"):
        detector.ask(region_mix(rng, 3, SIZE), rng.random((3, *SIZE), np.float32))


# --- the real TensorRT for RTX, which builds without a GPU


@pytest.mark.trt
@pytest.mark.parametrize("size", [(224, 224), (37, 21)])
@pytest.mark.parametrize("kind", ["regions", "grids", "noise1", "noise3"])
def test_tensorrt_takes_the_graphs(kind: str, size: tuple[int, int]) -> None:
    pytest.importorskip("tensorrt_rtx")
    tensorrt = load_tensorrt("rtx", "a test")
    plan = plan_from_graph(tensorrt, graph(kind, size), shapes(kind, size, 64))
    assert len(plan) > 1000


@pytest.mark.trt
def test_tensorrt_says_what_it_cannot_take() -> None:
    pytest.importorskip("tensorrt_rtx")
    tensorrt = load_tensorrt("rtx", "a test")
    with pytest.raises(EngineError, match="cannot take the graph that composes"):
        plan_from_graph(tensorrt, b"no graph", {})
    wanted = shapes("regions", (8, 9), 4)
    wanted["hidden"] = ((2, 2), (1, 1), (3, 3))
    with pytest.raises(EngineError, match="refuses the shapes to compose"):
        plan_from_graph(tensorrt, graph("regions", (8, 9)), wanted)
