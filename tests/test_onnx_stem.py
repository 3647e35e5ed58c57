"""Where a graph can be cut, and what values there see: told by changing pixels one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.onnx_stem import Window, cuts, split

SIZE = (24, 28)


class Network:
    """Layers one after the other, from PIXELS on; then a mean for each channel, as SCORES."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self.rng = np.random.default_rng(0)
        self.size = size
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.current, self.channels = PIXELS, 3

    def constant(self, values: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def layer(self, op: str, *more: str, source: str = "", **attributes: Any) -> str:
        made = f"{op.lower()}_{len(self.nodes)}"
        inputs = [source or self.current, *more]
        self.nodes.append(helper.make_node(op, inputs, [made], **attributes))
        self.current = made
        return made

    def conv(self, channels: int, kernel: int = 3, **attributes: Any) -> str:
        shape = (channels, self.channels, kernel, kernel)
        weights = self.constant(self.rng.normal(0, 0.5, shape).astype(np.float32))
        self.channels = channels
        return self.layer("Conv", weights, **attributes)

    def model(self, *outputs: str) -> Any:
        self.layer("GlobalAveragePool")
        self.nodes.append(helper.make_node("Flatten", [self.current], [SCORES]))
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "network",
            [info(PIXELS, TensorProto.FLOAT, ["n", 3, *self.size])],
            [info(name, TensorProto.FLOAT, None) for name in (SCORES, *outputs)],
            self.constants,
        )
        opset = helper.make_opsetid("", 17)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def run(content: bytes, values: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options)
    return list(session.run(None, {session.get_inputs()[0].name: values}))


def copied(model: Any) -> Any:
    return onnx.ModelProto.FromString(model.SerializeToString())


def seen(window: Window, count: int, length: int) -> Any:
    """(count, length): whether value i sees pixel j."""
    starts = np.arange(count)[:, None] * window.step + window.first
    pixels = np.arange(length)
    return (pixels >= starts) & (pixels < starts + window.length)


layers = st.one_of(
    st.tuples(
        st.sampled_from(["conv", "MaxPool", "AveragePool"]),
        st.integers(1, 3),
        st.integers(1, 2),
        st.integers(0, 1),
        st.integers(1, 2),
    ),
    st.sampled_from(["Relu", "Sigmoid", "HardSwish"]),
)


@given(chain=st.lists(layers, min_size=1, max_size=3), seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_windows_hold_all_that_changes(chain: list[Any], seed: int) -> None:
    size = (60, 64)
    network = Network(size)
    network.conv(2, 1)
    for layer in chain:
        if isinstance(layer, str):
            network.layer(layer)
            continue
        op, kernel, stride, pad, dilation = layer
        said: dict[str, Any] = {"strides": [stride] * 2, "pads": [min(pad, kernel // 2)] * 4}
        if op != "AveragePool":
            said["dilations"] = [dilation] * 2
        if op == "conv":
            network.conv(2, kernel, **said)
        else:
            network.layer(op, kernel_shape=[kernel] * 2, **said)
    last = network.current
    network.conv(4, 1)
    model = network.model(last)
    [cut] = [cut for cut in cuts(copied(model)) if cut.name == last]
    rng = np.random.default_rng(seed)
    changed = np.repeat(rng.random((1, 3, *size), np.float32), 2, axis=0)
    at = rng.integers(0, size)
    changed[1, :, at[0], at[1]] += 1
    values = run(model.SerializeToString(), changed)[1]
    assert values.shape[1:] == cut.shape
    rows, columns = (
        seen(window, count, length)[:, place]
        for window, count, length, place in zip(cut.windows, cut.shape[1:], size, at, strict=True)
    )
    different = (values[0] != values[1]).any(axis=0)
    assert not (different & ~(rows[:, None] & columns)).any()


def test_windows_are_no_larger_than_they_need_be() -> None:
    network = Network((40, 40))
    network.conv(4, 3, pads=[1] * 4)
    network.layer("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    network.conv(4, 5, pads=[2] * 4)
    network.layer("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    network.conv(4)
    first, second, *_ = cuts(network.model())
    assert first.windows == (Window(2, -1, 4),) * 2
    assert second.windows == (Window(4, -5, 14),) * 2
    assert (first.shape, second.shape) == ((4, 20, 20), (4, 10, 10))
    # 3·3·3·4·40² and 5·5·4·4·20² multiply-adds, and 3·3·4·4·8²
    costs = np.array([172_800, 160_000, 9_216])
    assert [first.share, second.share] == pytest.approx(np.cumsum(costs)[:2] / costs.sum())


def residual(strided: bool = False) -> Network:
    network = Network()
    network.conv(2)
    start = network.layer("Relu")
    network.conv(2, pads=[1] * 4)
    network.layer("Relu")
    inner = network.conv(2, pads=[1] * 4)
    if strided:
        network.layer("MaxPool", source=start, kernel_shape=[1, 1], strides=[1, 1])
        start = network.layer("Pad", network.constant(np.zeros(8, np.int64)))
    network.layer("Add", start, source=inner)
    network.conv(4)
    return network


def test_branches_are_cut_where_they_meet() -> None:
    found = cuts(residual().model())
    assert [cut.name.partition("_")[0] for cut in found] == ["relu", "add", "conv"]
    assert found[1].windows == (Window(1, -2, 7),) * 2


def test_what_is_not_known_ends_the_stem() -> None:
    found = cuts(residual(strided=True).model())
    assert [cut.name.partition("_")[0] for cut in found] == ["relu"]


@pytest.mark.parametrize("name", ["GlobalAveragePool", "Transpose", "Softmax"])
def test_layers_that_see_all(name: str) -> None:
    network = Network((24, 24))
    network.conv(2)
    said = {"Transpose": {"perm": [0, 1, 3, 2]}, "Softmax": {"axis": 2}}.get(name, {})
    network.layer(name, **said)
    network.conv(4, 1)
    assert [cut.name for cut in cuts(network.model())] == ["conv_0"]


def test_channels_may_be_taken_apart_and_put_together() -> None:
    network = Network()
    network.layer("Gather", network.constant(np.array([2, 1, 0])), axis=1)
    network.layer("Sub", network.constant(np.full((1, 3, 1, 1), 0.5, np.float32)))
    whole = network.conv(2)
    network.nodes.append(helper.make_node("Split", [whole], ["one", "two"], axis=1))
    network.layer("Max", "two", source="one")
    network.layer("Concat", "two", axis=1)
    last = network.current
    network.conv(4)
    assert cuts(network.model())[0].name == last


@pytest.mark.parametrize(
    "break_it",
    [
        lambda n: n.layer("Add", n.constant(np.ones((2, 1, 1, 1), np.float32))),  # more rows
        lambda n: n.layer("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        lambda n: n.layer("Concat", n.current, axis=2),
    ],
)
def test_layers_that_are_refused(break_it: Any) -> None:
    network = Network()
    first = network.conv(1)
    break_it(network)
    network.conv(4)
    assert [cut.name for cut in cuts(network.model())] == [first]


def test_tensors_larger_than_a_picture_are_not_cut() -> None:
    network = Network()
    network.conv(16)
    network.conv(2)
    network.conv(2)
    found = cuts(network.model())
    assert [cut.shape[0] for cut in found] == [2, 2]


def test_what_the_scores_need_besides() -> None:
    network = Network()
    first = network.conv(3, pads=[1] * 4)
    network.conv(3, pads=[1] * 4)
    network.layer("GlobalAveragePool")
    network.layer("Mul", PIXELS)  # of all pixels
    assert cuts(network.model()) == []
    assert first == "conv_0"


def test_shapes_that_cannot_be_told() -> None:
    network = Network()
    network.conv(2)
    network.conv(2)
    model = network.model()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    assert cuts(model) == []


def test_both_parts_together_are_the_whole() -> None:
    model = residual().model()
    images = np.random.default_rng(1).random((5, 3, *SIZE), np.float32)
    [wanted] = run(model.SerializeToString(), images)
    for cut in cuts(copied(model)):
        stem, rest = split(model, cut)
        [values] = run(stem, images)
        assert values.shape == (5, *cut.shape)
        assert values.nbytes == 5 * cut.nbytes
        [got] = run(rest, values)
        assert got == pytest.approx(wanted, rel=1e-6, abs=1e-6)
