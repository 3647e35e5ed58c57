"""Graphs rewritten for fp16, bf16 and int8, and what a CPU says of them before a GPU can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from toys import conv_detector

from whyfake.card import find_card
from whyfake.errors import DetectorError, UsageError
from whyfake.export.adopt import canonical
from whyfake.export.emulate import emulated_graph
from whyfake.export.precision import graph_with_precision
from whyfake.export.quantize import quantized_graph
from whyfake.onnx_graph import PIXELS, SCORES, describe, load_graph
from whyfake.runtime.onnxruntime_engine import OnnxRuntimeEngine

SIZE = (32, 48)


def canonical_toy(folder: Path) -> onnx.ModelProto:
    conv_detector(folder, SIZE).close()
    graph, info = load_graph(folder / "conv.onnx")
    card, _ = find_card(folder / "conv.onnx", info.metadata)
    return canonical(graph, info, card, "conv.onnx")[0]


def run(model: onnx.ModelProto, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (N, C) as whyfake's own engine gives them, on every processor the same."""
    with OnnxRuntimeEngine(model.SerializeToString(), device="cpu") as engine:
        if engine.free_batch:
            engine.batch = len(pictures)
        scores: NDArray[np.float32] = engine.run({PIXELS: pictures})[SCORES]
        return scores


def types(model: onnx.ModelProto) -> dict[str, str]:
    """Tensor → type, of everything in the graph."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    name = TensorProto.DataType.Name
    found = {t.name: name(t.data_type) for t in inferred.initializer}
    for item in (*inferred.input, *inferred.value_info, *inferred.output):
        found[item.name] = name(item.type.tensor_type.elem_type)
    return found


def graph_of(nodes: list[Any], constants: dict[str, NDArray[Any]], opset: int = 17) -> Any:
    """A graph from PIXELS (n, 3, 4, 6) to SCORES."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["n", 3, 4, 6])],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, ["n", "c", "y", "x"])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


# --- fp16 and bf16


def test_the_body_is_fp16_and_its_ends_are_float32(tmp_path: Path) -> None:
    converted = graph_with_precision(canonical_toy(tmp_path), "fp16")
    onnx.checker.check_model(converted, full_check=True)
    kinds = types(converted)
    convolutions = [n for n in converted.graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        assert {kinds[name] for name in (*node.input, *node.output)} == {"FLOAT16"}
    [product] = [n for n in converted.graph.node if n.op_type == "MatMul"]
    [pool] = [n for n in converted.graph.node if n.op_type == "AveragePool"]
    for node in (product, pool):
        assert {kinds[name] for name in (*node.input, *node.output)} == {"FLOAT"}
    assert kinds[PIXELS] == kinds[SCORES] == "FLOAT"
    assert sum(n.op_type == "Cast" for n in converted.graph.node) <= 3, "one each way, and a no-op"
    assert describe(converted, "").precision == "fp16"


def test_fp16_scores_are_near_and_not_the_same(tmp_path: Path) -> None:
    """Run by ONNX's reference evaluator, which computes fp16 in fp16."""
    model = canonical_toy(tmp_path)
    pictures = np.random.default_rng(0).random((3, 3, *SIZE), np.float32)
    exact = run(model, pictures)
    [half] = ReferenceEvaluator(graph_with_precision(model, "fp16")).run(None, {PIXELS: pictures})
    apart = np.abs(half - exact).max()
    assert 1e-6 < apart < 2e-2
    assert half.dtype == np.float32


def test_the_original_is_left_as_it_was(tmp_path: Path) -> None:
    model = canonical_toy(tmp_path)
    before = model.SerializeToString()
    graph_with_precision(model, "bf16")
    assert model.SerializeToString() == before


def test_weights_that_fp16_cannot_hold_keep_their_layer_in_float32() -> None:
    conv = {"w": np.full((2, 3, 1, 1), 1e5, np.float32), "v": np.ones((2, 2, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", [PIXELS, "w"], ["a"]),
        helper.make_node("Conv", ["a", "v"], ["b"]),
        helper.make_node("Conv", ["b", "v"], [SCORES]),
    ]
    model = graph_of(nodes, conv)
    kinds = types(graph_with_precision(model, "fp16"))
    assert kinds["w"] == "FLOAT"
    assert kinds["a"] == "FLOAT"
    assert kinds["b"] == "FLOAT16"
    assert types(graph_with_precision(model, "bf16"))["a"] == "BFLOAT16", "whose range is float32's"


def test_inputs_that_are_always_float32_stay_so() -> None:
    """Resize's scales are float32 by definition, whatever its picture is."""
    constants = {
        "w": np.ones((2, 3, 1, 1), np.float32),
        "v": np.ones((2, 2, 1, 1), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Conv", [PIXELS, "w"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="nearest"),
        helper.make_node("Conv", ["b", "v"], [SCORES]),
    ]
    converted = graph_with_precision(graph_of(nodes, constants), "fp16")
    onnx.checker.check_model(converted)
    kinds = types(converted)
    assert (kinds["a"], kinds["b"], kinds["scales"]) == ("FLOAT16", "FLOAT16", "FLOAT")


def test_a_constant_that_both_sides_read_exists_in_both_types() -> None:
    w = np.ones((3, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(w, "c")),
        helper.make_node("Conv", [PIXELS, "c"], ["a"]),
        helper.make_node("Conv", ["a", "c"], [SCORES]),
    ]
    converted = graph_with_precision(graph_of(nodes, {}), "fp16")
    pictures = np.random.default_rng(0).random((1, 3, 4, 6), np.float32)
    [scores] = ReferenceEvaluator(converted).run(None, {PIXELS: pictures})
    np.testing.assert_allclose(scores, run(graph_of(nodes, {}), pictures), rtol=2e-3)
    held = [t for t in converted.graph.initializer if t.name.startswith("c")]
    assert {t.data_type for t in held} == {TensorProto.FLOAT, TensorProto.FLOAT16}


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", [PIXELS], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [helper.make_node("If", ["yes"], [SCORES], then_branch=branch, else_branch=branch)]
    model = graph_of(nodes, {"yes": np.array(True)})
    with pytest.raises(DetectorError, match=r"control flow \(If\).*--precision fp32 or tf32"):
        graph_with_precision(model, "fp16")


# --- emulation


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-3.5, 3.5))
@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)]
)
def test_emulated_arithmetic_is_that_of_the_type(
    precision: str, dtype: Any, seed: int, size: float
) -> None:
    """Every sum and product is rounded as the type would, to the bit, in the type's normal range.

    Only the last product is in float32: the head.
    """
    rng = np.random.default_rng(seed)
    constants = {
        "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "k": rng.uniform(0.5, 2, (3, 1, 1)).astype(np.float32),
        "m": np.eye(6, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Conv", [PIXELS, "w"], ["a"]),
        helper.make_node("Mul", ["a", "k"], ["b"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("MatMul", ["c", "m"], [SCORES]),
    ]
    model = graph_of(nodes, constants)
    emulated = emulated_graph(graph_with_precision(model, precision), precision)
    pictures = (rng.uniform(0.5, 1, (2, 3, 4, 6)) * 10**size).astype(np.float32)
    a, k = pictures.astype(dtype), constants["k"].astype(dtype)
    b = (a.astype(np.float32) * k.astype(np.float32)).astype(dtype)
    c = (b.astype(np.float32) + a.astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(run(emulated, pictures), c.astype(np.float32))


def test_onnxruntime_itself_would_not_show_the_rounding(tmp_path: Path) -> None:
    """Why emulation is needed: on a CPU it computes fp16 graphs in float32, but for the weights."""
    model = canonical_toy(tmp_path)
    pictures = np.random.default_rng(0).random((64, 3, *SIZE), np.float32)
    converted = graph_with_precision(model, "bf16")
    exact = run(model, pictures)
    rounded = run(emulated_graph(converted, "bf16"), pictures)
    assert 1e-4 < np.abs(rounded - exact).max() < 0.3


# --- int8


def test_int8_is_symmetric_per_channel_and_leaves_the_head(tmp_path: Path) -> None:
    model = canonical_toy(tmp_path)
    pictures = np.random.default_rng(0).random((16, 3, *SIZE), np.float32)
    quantized = quantized_graph(model, pictures)
    assert describe(quantized, "").precision == "int8"
    held = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    pairs = [n for n in quantized.graph.node if n.op_type == "QuantizeLinear"]
    assert pairs
    for node in quantized.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not held[node.input[2]].any(), "TensorRT wants zero points of zero"
    makers = {name: n for n in quantized.graph.node for name in n.output}
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            weights = makers[node.input[1]]
            assert weights.op_type == "DequantizeLinear"
            assert held[weights.input[1]].ndim == 1, "a scale a channel"
        if node.op_type == "MatMul":
            assert "DequantizeLinear" not in {makers[i].op_type for i in node.input if i in makers}
    apart = np.abs(run(quantized, pictures) - run(model, pictures))
    assert 1e-5 < apart.max() < 0.5


def test_int8_wants_pictures_and_something_to_quantise(tmp_path: Path) -> None:
    model = canonical_toy(tmp_path)
    with pytest.raises(UsageError, match="16 calibration pictures or more, got 15"):
        quantized_graph(model, np.zeros((15, 3, *SIZE), np.float32))
    nodes = [helper.make_node("Relu", [PIXELS], [SCORES])]
    with pytest.raises(DetectorError, match="no convolution or product"):
        quantized_graph(graph_of(nodes, {}), np.zeros((16, 3, 4, 6), np.float32))
