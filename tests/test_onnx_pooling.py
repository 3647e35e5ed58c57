"""Normalising after max pooling gives the values that normalising before it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from toys import check_a_detector_scores_as, run_graph

from whyfake.onnx_pooling import pool_first

CHANNELS = 8
POOL: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}


def network(
    before: str = "Relu",
    scale: Any = None,
    pool: dict[str, Any] = POOL,
    norm: dict[str, Any] | None = None,
    second_reader: bool = False,
    opset: int = 17,
) -> Any:
    """A convolution, `before`, a normalisation, a pooling, twice; then a mean for each channel."""
    rng = np.random.default_rng(0)
    nodes, constants, current, width = [], {}, "x", 3
    for block in range(2):
        kernel = rng.normal(0, 1 / np.sqrt(9 * width), (CHANNELS, width, 3, 3))
        values = {"k": kernel, "g": rng.uniform(0.1, 2, CHANNELS) if scale is None else scale}
        values |= {"b": rng.normal(0, 1, CHANNELS), "m": rng.normal(0, 1, CHANNELS)}
        values |= {"v": rng.uniform(0.1, 2, CHANNELS)}
        constants |= {f"{key}{block}": v for key, v in values.items()}
        names = [f"{key}{block}" for key in "gbmv"]
        step = [f"{name}{block}" for name in ("conv", "act", "norm", "pool")]
        nodes += [
            helper.make_node("Conv", [current, f"k{block}"], [step[0]], pads=[1, 1, 1, 1]),
            helper.make_node(before, [step[0]], [step[1]]),
            helper.make_node("BatchNormalization", [step[1], *names], [step[2]], **(norm or {})),
            helper.make_node("MaxPool", [step[2]], [step[3]], **pool),
        ]
        current, width = step[3], CHANNELS
    nodes.append(helper.make_node("GlobalAveragePool", [current], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["y"]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS])]
    if second_reader:
        outputs.append(helper.make_tensor_value_info("norm0", TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        outputs,
        [numpy_helper.from_array(np.float32(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def order(model: Any) -> list[str]:
    return [n.op_type for n in model.graph.node if n.op_type in ("BatchNormalization", "MaxPool")]


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    kernel=st.integers(2, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    ceil=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_the_same_values(
    height: int, width: int, kernel: int, stride: int, padding: int, ceil: bool, seed: int
) -> None:
    pool = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
    model = onnx.shape_inference.infer_shapes(network(pool=pool | {"ceil_mode": int(ceil)}))
    images = np.random.default_rng(seed).normal(0, 1, (2, 3, height, width)).astype(np.float32)
    wanted = run_graph(model, images)
    assert pool_first(model) == 2
    onnx.checker.check_model(model, full_check=True)
    assert order(model) == ["MaxPool", "BatchNormalization"] * 2
    for got, want in zip(run_graph(model, images), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-6)


NEGATIVE = np.array([1, 1, 1, -0.5, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scale": NEGATIVE}, "a channel's order is reversed"),
        ({"scale": np.where(NEGATIVE < 0, 0, 1)}, "infinity times zero is no number"),
        ({"before": "LeakyRelu"}, None),
        ({"before": "Identity"}, "a runtime takes it out, then folds into the convolution"),
        ({"second_reader": True}, "the graph gives what the first one computes"),
    ],
    ids=["negative", "zero", "leaky", "identity", "read twice"],
)
def test_what_is_left_alone(changes: dict[str, Any], why: str | None) -> None:
    model = network(**changes)
    images = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 20)).astype(np.float32)
    wanted = run_graph(model, images)
    swapped = pool_first(model)
    assert swapped == (2 if why is None else 1 if "second_reader" in changes else 0)
    for got, want in zip(run_graph(model, images), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_a_runtime_folds_it_into_the_convolution_right_before_it() -> None:
    model = network()
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.input[0] = node.input[0].replace("act", "conv")
    assert pool_first(model) == 0


@pytest.mark.parametrize("norm", [{"training_mode": 1}, {"spatial": 0}], ids=str)
def test_normalisations_of_another_kind(norm: dict[str, Any]) -> None:
    assert pool_first(network(norm=norm)) == 0


def test_factors_that_are_no_constants() -> None:
    model = network()
    for tensor in list(model.graph.initializer):
        if tensor.name == "g0":
            model.graph.initializer.remove(tensor)
            model.graph.input.append(helper.make_tensor_value_info("g0", 1, [CHANNELS]))
    assert pool_first(model) == 1


def test_a_pooling_whose_places_are_read() -> None:
    model = network()
    for node in model.graph.node:
        if node.op_type == "MaxPool":
            node.output.append(f"{node.output[0]}_places")
    assert pool_first(model) == 0


def test_a_branch_that_reads_the_normalised_values() -> None:
    model = network()
    branch = helper.make_graph(
        [helper.make_node("ReduceMax", ["norm0"], ["peak"], keepdims=0)],
        "branch",
        [],
        [helper.make_tensor_value_info("peak", TensorProto.FLOAT, [])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["found"], then_branch=branch, else_branch=branch)
    )
    assert pool_first(model) == 1


def test_a_detector_runs_so_and_scores_the_same(tmp_path: Path, graphs_run: list[Any]) -> None:
    model = network()
    check_a_detector_scores_as(model, tmp_path / "network.onnx")
    assert [order(each) for each in graphs_run] == [["MaxPool", "BatchNormalization"] * 2]
