"""A convolution that computes pooled windows as channels gives the values of the plain one."""

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

from whyfake.media import fit_to, load_picture
from whyfake.onnx_pooling import pool_first
from whyfake.onnx_windows import windows_as_channels

POOL: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}


def network(
    channels: int = 8,
    kernel: tuple[int, int] = (5, 5),
    conv: dict[str, Any] | None = None,
    pool: dict[str, Any] = POOL,
    act: str = "Relu",
    bias: bool = True,
    opset: int = 17,
    places: bool = False,
) -> Any:
    """A convolution, an activation and a pooling; then a mean for each channel."""
    rng = np.random.default_rng(0)
    conv = {"pads": [2, 2, 2, 2]} if conv is None else conv
    per = 3 // conv.get("group", 1)
    weights = rng.normal(0, 0.1, (channels, per, *kernel)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "weights")]
    if bias:
        constants.append(numpy_helper.from_array(rng.normal(0, 1, channels).astype("f"), "bias"))
    nodes = [
        helper.make_node("Conv", ["x", *(tensor.name for tensor in constants)], ["conv"], **conv),
        helper.make_node(act, ["conv"], ["act"]),
        helper.make_node("MaxPool", ["act"], ["pool", "places"][: 1 + places], **pool),
        helper.make_node("GlobalAveragePool", ["pool"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels]),
            helper.make_tensor_value_info("pool", TensorProto.FLOAT, ["n", channels, "ph", "pw"]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


@given(
    size=st.tuples(st.integers(10, 30), st.integers(10, 30)),
    channels=st.integers(1, 8),
    kernel=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    pads=st.tuples(*[st.integers(0, 4)] * 4),
    bias=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_the_same_values(
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    pads: tuple[int, ...],
    bias: bool,
    seed: int,
) -> None:
    model = network(channels, kernel, {"pads": list(pads)}, bias=bias)
    images = np.random.default_rng(seed).normal(0, 1, (2, 3, *size)).astype(np.float32)
    wanted = run_graph(model, images)
    assert windows_as_channels(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "MaxPool" not in kinds(model)
    for got, want in zip(run_graph(model, images), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 9},
        {"kernel": (3, 5), "conv": {}},
        {"conv": {"strides": [2, 2]}},
        {"conv": {"strides": [1, 2]}},
        {"conv": {"dilations": [2, 2]}},
        {"conv": {"group": 3}, "channels": 6},
        {"conv": {"auto_pad": "SAME_UPPER"}},
        {"act": "Sigmoid"},
        {"pool": POOL | {"strides": [1, 1]}},
        {"pool": {"kernel_shape": [2, 2]}},
        {"pool": POOL | {"kernel_shape": [3, 3]}},
        {"pool": POOL | {"pads": [0, 0, 1, 1]}},
        {"pool": POOL | {"ceil_mode": 1}},
        {"pool": POOL | {"dilations": [2, 2]}},
        {"pool": POOL | {"auto_pad": "SAME_UPPER"}},
        {"places": True},
        {"opset": 12},
    ],
    ids=str,
)
def test_what_is_left_alone(changes: dict[str, Any]) -> None:
    model = network(**changes)
    assert windows_as_channels(model) == 0
    assert model == network(**changes)


def test_what_is_usual_may_be_said() -> None:
    said = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": "NOTSET"}
    usual = {"pads": [0] * 4, "dilations": [1, 1], "ceil_mode": 0}
    model = network(conv={**said, "kernel_shape": [5, 5]}, pool=POOL | usual)
    assert windows_as_channels(model) == 1


@pytest.mark.parametrize("name", ["conv", "act"])
def test_values_that_something_else_reads(name: str) -> None:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    assert windows_as_channels(model) == 0


def test_weights_that_are_no_constants() -> None:
    model = network()
    model.graph.initializer.remove(model.graph.initializer[0])
    model.graph.input.append(helper.make_tensor_value_info("weights", 1, [8, 3, 5, 5]))
    assert windows_as_channels(model) == 0


def test_weights_that_are_read_elsewhere_stay() -> None:
    model = network()
    model.graph.node.append(helper.make_node("ReduceSum", ["weights"], ["sum"]))
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    images = np.zeros((1, 3, 16, 20), np.float32)
    wanted = run_graph(model, images)
    assert windows_as_channels(model) == 1
    for got, want in zip(run_graph(model, images), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-5)
    assert {"bias"}.isdisjoint(tensor.name for tensor in model.graph.initializer)


def test_weights_that_are_listed_as_inputs_too() -> None:
    """As exporters did of old: what the old kernel was called must not be asked for."""
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("weights", 1, [8, 3, 5, 5]))
    images = np.random.default_rng(3).normal(0, 1, (1, 3, 16, 20)).astype(np.float32)
    wanted = run_graph(model, images)
    assert windows_as_channels(model) == 1
    for got, want in zip(run_graph(model, images), wanted, strict=True):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-5)


def test_a_detector_runs_so_and_scores_the_same(tmp_path: Path, graphs_run: list[Any]) -> None:
    model = network()
    del model.graph.output[1]
    check_a_detector_scores_as(model, tmp_path / "network.onnx")
    [graph] = graphs_run
    assert "MaxPool" not in kinds(graph)


@pytest.mark.shared_data
def test_mesonet_on_real_frames(shared: Path) -> None:
    model = onnx.load(shared / "detectors/meso4_df.onnx")
    [port] = model.graph.input
    port.name, was = "x", port.name
    for node in model.graph.node:
        node.input[:] = ["x" if name == was else name for name in node.input]
    frames = sorted((shared / "ffpp_pairs/Deepfakes/fake").glob("*.png"))[:20]
    images = np.stack([fit_to(load_picture(path).rgb, (256, 256)) for path in frames])
    [wanted] = run_graph(model, images)
    assert windows_as_channels(model) == 0  # normalised before pooling
    assert pool_first(model) == 4
    assert windows_as_channels(model) == 1
    [got] = run_graph(model, images)
    assert wanted.std() > 0.01  # they differ
    assert got == pytest.approx(wanted, abs=1e-6)
