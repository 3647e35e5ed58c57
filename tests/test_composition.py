"""Copies composed by graphs are those of `render`, whoever runs the graph and however it is cut."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_perturbation import ROUNDING, grid_mix, noise_step, region_mix
from toys import conv_detector, planted_frame

import whyfake
from whyfake.errors import EngineError, UsageError, WhyfakeError
from whyfake.explainers import Nes
from whyfake.perturbation import (
    FloatArray,
    NoiseStep,
    PerturbationBatch,
    Pixels,
    RegionMix,
    Stack,
    render,
)
from whyfake.runtime import Delivered, Job, choosing, run
from whyfake.runtime.composition import OPSET, OUTPUT, feed, fits, graph, parts, shapes
from whyfake.runtime.engine import Engine
from whyfake.runtime.onnxruntime_composition import OrtCanvas, OrtComposition

SIZE = (32, 48)
KINDS = ("regions", "grids", "noise1", "noise3", "masked1", "masked3", "blocks", "pixels")
quick = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda size: size[0] != size[1])
seeds = st.integers(0, 2**32 - 1)


def batch_of(
    kind: str, rng: np.random.Generator, count: int, size: tuple[int, int]
) -> PerturbationBatch:
    """A batch of any kind, with few or many regions or cells."""
    if kind == "regions":
        return region_mix(rng, count, size, int(rng.choice([1, 2, 50])))
    if kind == "grids":
        return grid_mix(rng, count, size, int(rng.integers(1, 6)))
    if kind == "pixels":
        return Pixels(rng.random((count, 3, *size), np.float32))
    if kind == "blocks":  # one value for several pixels: without a graph
        fine = noise_step(rng, count, size, 3, True)
        return dataclasses.replace(fine, cell=2, offsets=fine.offsets // 4)
    return noise_step(rng, count, size, int(kind[-1]), kind.startswith("masked"))


def session(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def sum_of_pixels(size: tuple[int, int]) -> Any:
    """A detector whose scores are the pictures themselves."""
    from onnx import TensorProto, helper

    node = helper.make_node("Flatten", ["x"], ["y"])
    shape = ["n", 3, *size]
    made = helper.make_graph(
        [node],
        "all",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opset = [helper.make_opsetid("", 17)]
    return session(helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString())


def easel(size: tuple[int, int], rows: int) -> tuple[OrtComposition, OrtCanvas, list[int]]:
    """A canvas on the CPU whose run gives the pictures, flat; and the bytes that went up."""
    up: list[int] = []
    composition = OrtComposition(onnxruntime, session, ("cpu", 0), size, up.append)
    detector = sum_of_pixels(size)
    return composition, OrtCanvas(onnxruntime, composition, detector, rows, up.append), up


@quick
@given(kind=st.sampled_from(KINDS), size=sizes, seed=seeds, count=st.integers(1, 9))
def test_graphs_give_what_render_gives(
    kind: str, size: tuple[int, int], seed: int, count: int
) -> None:
    """In batches of four with a tail, every row in its place."""
    rng = np.random.default_rng(seed)
    frame = rng.random((3, *size), np.float32)
    batch = batch_of(kind, rng, count, size)
    composition, canvas, _ = easel(size, 4)
    copies = composition.upload(batch, frame)
    for start in range(0, count, 4):
        stop = min(start + 4, count)
        canvas.compose(copies, start, stop, 0)
        got = canvas.run().reshape(4, 3, *size)[: stop - start]
        np.testing.assert_allclose(got, render(batch, frame, start, stop), rtol=0, atol=ROUNDING)


@quick
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=4), seed=seeds, stack=st.booleans()
)
def test_pieces_of_several_frames_share_a_batch(kinds: list[str], seed: int, stack: bool) -> None:
    """Each from its own frame, cut anywhere, one below the other; a stack counts as one batch."""
    rng = np.random.default_rng(seed)
    size = (5, 7)
    composition, canvas, _ = easel(size, 32)
    row, wanted = 0, []
    for kind in kinds:
        frame = rng.random((3, *size), np.float32)
        batch = batch_of(kind, rng, 5, size)
        if stack:
            batch = Stack([batch, Stack([batch_of("regions", rng, 2, size)])])
        start = int(rng.integers(0, 5))
        stop = int(rng.integers(start + 1, len(batch) + 1))
        canvas.compose(composition.upload(batch, frame), start, stop, row)
        wanted.append(render(batch, frame, start, stop))
        row += stop - start
    got = canvas.run().reshape(32, 3, *size)[:row]
    np.testing.assert_allclose(got, np.concatenate(wanted), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["regions", "grids", "noise3"])
def test_what_is_not_hidden_is_equal_to_the_bit(kind: str) -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((3, 5, 7), np.float32)
    batch: Any = batch_of(kind, rng, 3, (5, 7))
    if kind == "noise3":
        batch.signs[...] = 0
    else:
        (batch.codes if kind == "regions" else batch.grids)[...] = 1
    composition, canvas, _ = easel((5, 7), 3)
    canvas.compose(composition.upload(batch, frame), 0, 3, 0)
    shown = batch.center if kind == "noise3" else frame
    if kind == "grids":  # its weights add up to one only nearly
        np.testing.assert_allclose(canvas.run()[1].reshape(3, 5, 7), shown, atol=ROUNDING)
    else:
        np.testing.assert_array_equal(canvas.run()[1].reshape(3, 5, 7), shown)


# --- what goes up


def test_a_batch_of_codes_is_all_that_goes_up() -> None:
    """Constants when the batch is made ready; then a row of codes a copy, and no pictures."""
    rng = np.random.default_rng(0)
    frame = rng.random((3, 5, 7), np.float32)
    composition, canvas, up = easel((5, 7), 4)
    batch = region_mix(rng, 10, (5, 7), 6)
    copies = composition.upload(batch, frame)
    assert sum(up) == (1 + 3 + 3) * 35 * 4, "labels, frame and baseline"
    up.clear()
    canvas.compose(copies, 3, 6, 0)
    assert sum(up) == 3 * 6 * 4
    up.clear()
    canvas.compose(composition.upload(Pixels(rng.random((2, 3, 5, 7), np.float32)), frame), 0, 2, 0)
    assert sum(up) == 2 * 3 * 35 * 4


def test_the_noise_table_goes_up_once_a_seed() -> None:
    """It cannot be written to; what can be goes up anew with every batch."""
    rng = np.random.default_rng(0)
    frame = rng.random((3, 5, 7), np.float32)
    composition, canvas, up = easel((5, 7), 4)

    def step(table: FloatArray, center: FloatArray) -> NoiseStep:
        return NoiseStep(center, table, np.array([0, 3, 3]), np.array([0, 1, -1]), 0.1, 1)

    table = rng.standard_normal(200, np.float32)
    frozen = table.copy()
    frozen.flags.writeable = False
    sent = []
    for made in (
        step(frozen, frame),
        step(frozen, frame + 1),
        step(table, frame),
        step(table, frame),
    ):
        up.clear()
        copies = composition.upload(made, frame)
        sent.append(sum(up))
        canvas.compose(copies, 0, 3, 0)
        assert sum(up) == sent[-1] + 3 * (4 + 4)
        got = canvas.run()[:3].reshape(3, 3, 5, 7)
        np.testing.assert_allclose(got, render(made, frame), atol=ROUNDING)
    center, mask = 3 * 35 * 4, 35 * 4
    assert sent == [center + 800 + mask, center, center + 800, center + 800]


def test_what_went_up_goes_with_its_array() -> None:
    """Nothing is kept for seeds and frames of the past."""
    composition, _, _ = easel((5, 7), 1)
    for _ in range(5):
        frame = np.zeros((3, 5, 7), np.float32)
        frame.flags.writeable = False
        batch = RegionMix(np.ones((1, 1)), np.zeros((5, 7), int), frame)
        copies = composition.upload(batch, frame)
        assert len(composition._constants._kept) == 1
        del frame, batch, copies
        assert not composition._constants._kept


def test_an_array_that_takes_the_place_of_another_is_not_taken_for_it() -> None:
    """Constants are known by identity, and Python gives a new array the address of a dead one."""
    composition, canvas, _ = easel((5, 7), 1)
    for value in range(50):
        frame = np.full((3, 5, 7), value, np.float32)
        frame.flags.writeable = False
        batch = RegionMix(np.ones((1, 1)), np.zeros((5, 7), int), np.zeros((3, 5, 7), np.float32))
        canvas.compose(composition.upload(batch, frame), 0, 1, 0)
        assert canvas.run()[0, 0] == value
        del frame, batch


# --- the whole way


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conv")
    conv_detector(folder, SIZE).close()
    return folder / "conv.onnx"


@pytest.mark.parametrize("batch", [1, 7])
def test_explanations_are_the_same_wherever_copies_are_composed(model: Path, batch: int) -> None:
    frames = [planted_frame((8, 16, 16, 32), SIZE, seed=seed) for seed in range(3)]
    budget = whyfake.Settings(nes=Nes(steps=2, pairs=6)).with_budget(60)
    found = {}
    for compose in ("host", "device"):
        with whyfake.load_detector(model, device="cpu", batch=batch, compose=compose) as detector:
            made = whyfake.explain_many(detector, frames, method="all", settings=budget)
            found[compose] = sorted(made, key=lambda e: (e.frame.tobytes(), e.method))
            assert detector.engine.composition == compose
            assert detector.images_seen == sum(e.images for e in found[compose])
            moved = detector.engine.bytes_up / (detector.images_seen * 3 * SIZE[0] * SIZE[1] * 4)
            assert moved > 0.99 if compose == "host" else moved < 0.6
    for host, device in zip(found["host"], found["device"], strict=True):
        assert (host.method, host.images) == (device.method, device.images)
        assert (host.detector["composition"], device.detector["composition"]) == ("host", "device")
        np.testing.assert_allclose(device.heatmap, host.heatmap, atol=1e-4)
        np.testing.assert_allclose(device.region_scores, host.region_scores, atol=1e-4)


def test_log_probs_and_asking_alone(model: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((11, 3, *SIZE), np.float32)
    frame, batch = images[0], batch_of("grids", rng, 5, SIZE)
    with (
        whyfake.load_detector(model, device="cpu", batch=4) as host,
        whyfake.load_detector(model, device="cpu", batch=4, compose="device") as device,
    ):
        np.testing.assert_allclose(device.log_probs(images), host.log_probs(images), atol=1e-5)
        np.testing.assert_allclose(device.ask(batch, frame), host.ask(batch, frame), atol=1e-5)
        assert device.images_seen == host.images_seen == 16


@pytest.mark.gpu
def test_a_gpu_composes_as_the_host_does(model: Path) -> None:
    """Through ONNX Runtime's CUDA provider: every kind, with a tail, in float32."""
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    try:
        device = whyfake.load_detector(model, device="cuda", batch=8, compose="device")
    except WhyfakeError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    with device, whyfake.load_detector(model, device="cpu") as host:
        for kind in KINDS:
            batch = batch_of(kind, rng, 19, SIZE)
            np.testing.assert_allclose(device.ask(batch, frame), host.ask(batch, frame), atol=1e-4)


# --- which it is


def test_a_cpu_composes_on_the_host_unmeasured(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "composition_rates", lambda *_: pytest.fail("measured"))
    with whyfake.load_detector(model, device="cpu") as detector:
        assert detector.engine.compositions == ("host", "device")
        assert detector.settle_composition() == detector.engine.composition == "host"


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"host": 90.0, "device": 100.0}, "device"),
        ({"host": 104.0, "device": 100.0}, "device"),
        ({"host": 106.0, "device": 100.0}, "host"),
    ],
)
def test_elsewhere_it_is_measured_once_and_the_faster_is_taken(
    model: Path, monkeypatch: pytest.MonkeyPatch, rates: dict[str, float], chosen: str
) -> None:
    asked = []
    monkeypatch.setattr(choosing, "composition_rates", lambda d: asked.append(d) or rates)
    with whyfake.load_detector(model, device="cpu") as detector:
        detector.engine.device = "cuda:0"
        detector.log_probs(np.zeros((2, 3, *SIZE), np.float32))
        detector.log_probs(np.zeros((2, 3, *SIZE), np.float32))
        assert detector.engine.composition == chosen
        assert "device 100 images/s" in detector.engine.composition_why
        assert asked == [detector]


def test_rates_are_of_both_ways_and_cost_nothing(model: Path) -> None:
    with whyfake.load_detector(model, device="cpu", batch=3) as detector:
        rates = choosing.composition_rates(detector, 0.02)
        assert set(rates) == {"host", "device"}
        assert min(rates.values()) > 0
        assert detector.images_seen == 0


def test_a_device_that_fails_is_not_chosen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise EngineError("no builder here")

    with whyfake.load_detector(model, device="cpu") as detector:
        detector.engine.device = "cuda:0"
        monkeypatch.setattr(detector.engine, "upload", fail)
        assert detector.settle_composition() == "host"
        assert detector.engine.composition_why == "the device could not: no builder here"
        assert np.isfinite(detector.log_probs(np.zeros((1, 3, *SIZE), np.float32))).all()


def test_a_failing_composition_fails_its_frame_alone(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtCanvas._show

    def show(self: OrtCanvas, images: FloatArray, row: int) -> None:
        if images.max() > 5:
            raise EngineError("the device is gone")
        real(self, images, row)

    monkeypatch.setattr(OrtCanvas, "_show", show)

    def ask(value: float) -> Generator[Any, Any, float]:
        answer = yield Pixels(np.full((4, 3, *SIZE), value, np.float32))
        return float(answer.sum())

    frame = np.zeros((3, *SIZE), np.float32)
    with whyfake.load_detector(model, device="cpu", batch=2, compose="device") as detector:
        jobs = [Job(value, frame, ask(value)) for value in (0.5, 9.0, 0.25)]
        events = {event.key: event for event in run(detector, jobs)}
    assert [isinstance(events[key], Delivered) for key in (0.5, 9.0, 0.25)] == [True, False, True]


def test_where_it_may_not_be(model: Path) -> None:
    with pytest.raises(UsageError, match="unknown compose 'gpu'"):
        whyfake.load_detector(model, compose="gpu")

    class Plain(Engine):
        name, device, batch, lanes, inputs = "plain", "cpu", 1, 1, ()

        def _run(self, arrays: Any) -> Any:
            return {}

        def close(self) -> None:
            pass

    with whyfake.load_detector(model, device="cpu") as detector:
        with pytest.raises(UsageError, match="host"):
            whyfake.Detector(Plain(), detector.card, compose="device")
        with pytest.raises(EngineError, match="cannot compose on its device"):
            Plain().canvas()


# --- what back-ends are promised


@pytest.mark.parametrize("kind", ["regions", "grids", "noise1", "noise3"])
def test_graphs_are_plain_and_their_shapes_are_told(kind: str) -> None:
    """Operators that every TensorRT takes, and for each input the shapes that it may have."""
    import onnx

    model = onnx.load_model_from_string(graph(kind, (20, 30)))
    taken = {"Gather", "Mul", "Add", "Sub", "MatMul", "Unsqueeze", "Reshape", "Transpose"}
    assert {node.op_type for node in model.graph.node} <= taken
    assert model.opset_import[0].version == OPSET <= 20
    told = shapes(kind, (20, 30), 8)
    assert [item.name for item in model.graph.output] == [OUTPUT]
    assert {item.name for item in model.graph.input} == set(told)
    for item in model.graph.input:
        for shape in told[item.name]:
            dims = item.type.tensor_type.shape.dim
            fixed = [(dim.dim_value, n) for dim, n in zip(dims, shape, strict=True)]
            assert all(value in (0, n) for value, n in fixed)
        for low, likely, high in zip(*told[item.name], strict=True):
            assert low <= likely <= high


def test_what_is_too_much_does_not_fit() -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((3, 40, 50), np.float32)
    for regions, wanted in ((1, True), (1024, True), (1025, False)):
        made = feed(region_mix(rng, 3, (40, 50), regions), frame)
        assert made is not None
        assert fits(made, (40, 50), 2) is wanted
    for cells, wanted in ((1, True), (8, True), (32, True), (33, False)):
        made = feed(grid_mix(rng, 3, (40, 50), cells), frame)
        assert made is not None
        assert fits(made, (40, 50), 2) is wanted


def test_unknown_kinds_have_no_graph_and_are_composed_on_the_host() -> None:
    class Other(RegionMix):
        """A subclass may compose as it likes."""

    rng = np.random.default_rng(0)
    frame = rng.random((3, 5, 7), np.float32)
    plain = region_mix(rng, 4, (5, 7))
    other = Other(plain.codes, plain.labels, plain.baseline)
    assert feed(other, frame) is None
    composition, canvas, up = easel((5, 7), 4)
    canvas.compose(composition.upload(other, frame), 0, 4, 0)
    assert sum(up) == 4 * 3 * 35 * 4
    got = canvas.run().reshape(4, 3, 5, 7)
    np.testing.assert_array_equal(got, render(plain, frame))
    assert [(p.first, p.last) for p in parts(Stack([plain, other]), frame)] == [(0, 4), (4, 8)]


def test_the_schema_knows_the_field() -> None:
    path = Path(whyfake.__file__).parent / "schema" / "explanation.schema.json"
    assert '"composition"' in json.dumps(json.loads(path.read_text()))
