"""Copies composed by graphs are those of `render`, however they are cut; and what goes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from batches import KINDS, ROUNDING, batch_of, grid_mix, region_mix
from hypothesis import given, settings
from hypothesis import strategies as st

import whyfake
from whyfake.noise_table import NoiseTable
from whyfake.perturbation import NoiseStep, Pixels, RegionMix, Stack, render
from whyfake.runtime.composition import OPSET, OUTPUT, feed, fits, graph, parts, shapes
from whyfake.runtime.onnxruntime_composition import OrtCanvas, OrtComposition

quick = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda size: size[0] != size[1])
seeds = st.integers(0, 2**32 - 1)


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


def test_the_noise_table_goes_up_whole_and_once() -> None:
    rng = np.random.default_rng(0)
    frame = rng.random((3, 5, 7), np.float32)
    composition, canvas, up = easel((5, 7), 4)
    table = NoiseTable(0, 200)
    sent = []
    for center in (frame, frame + 1):
        step = NoiseStep(center, table, np.array([0, 3, 3]), np.array([0, 1, -1]), 0.1, 1)
        up.clear()
        copies = composition.upload(step, frame)
        sent.append(sum(up))
        canvas.compose(copies, 0, 3, 0)
        assert sum(up) == sent[-1] + 3 * (4 + 4)
        got = canvas.run()[:3].reshape(3, 3, 5, 7)
        np.testing.assert_allclose(got, render(step, frame), atol=ROUNDING)
    image, mask = 3 * 35 * 4, 35 * 4
    assert sent == [image + 800 + mask, image]


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
