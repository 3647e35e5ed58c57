"""Graphs of every kind, folded into pixels → scores: each must give what NumPy gives in float64.

The heads are linear over the pixels, so that the answer is known; frames are not square.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from toys import make_card

from whyfake import Detector, load_detector
from whyfake.card import DetectorCard
from whyfake.errors import CardError, DetectorError, EngineError
from whyfake.inspection import inspect_model
from whyfake.onnx_graph import load_graph

SIZE = (5, 7)
NAMES = ("real", "df", "f2f", "fs")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Toy:
    """logits = (graph input, flat) · weights + bias, then `tail` from `z` to `y`."""

    classes: int = 2
    columns: int | None = None  # of the linear layer; as many as classes by default
    gain: float = 3.0
    scale: float = 1.0  # divides the weights, for inputs of 0–255
    bias: tuple[float, ...] = ()
    layout: str = "NCHW"
    dtype: int = TensorProto.FLOAT
    batch: int | str = "n"
    size: tuple[int, int] = SIZE
    tail: tuple[tuple[Any, ...], ...] = ()
    """Nodes as (op, attributes, *constants): each takes the one before it as its first input."""
    output_shape: tuple[int | str | None, ...] | None = None
    opset: int = 17
    ir_version: int = 9

    def weights(self) -> NDArray[np.float32]:
        """Of the linear layer, in the graph's own layout; sums are of the size of `gain`."""
        count = 3 * self.size[0] * self.size[1]
        columns = self.columns or self.classes
        rng = np.random.default_rng(columns)
        spread = self.gain / self.scale / np.sqrt(count)
        return rng.normal(0, spread, (count, columns)).astype(np.float32)

    def constants(self) -> NDArray[np.float32]:
        columns = self.columns or self.classes
        return np.array(self.bias or np.linspace(-0.5, 0.7, columns), np.float32)

    def model(self) -> Any:
        floats = [helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT)]
        nodes = [
            *(floats if self.dtype != TensorProto.FLOAT else []),
            helper.make_node("Flatten", ["float" if floats and self.dtype != 1 else "x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["z"]),
        ]
        constants = {"w": self.weights(), "b": self.constants()}
        current = "z"
        for index, (op, attributes, *values) in enumerate(self.tail):
            names = [f"c{index}_{position}" for position in range(len(values))]
            constants.update(zip(names, values, strict=True))
            nodes.append(helper.make_node(op, [current, *names], [f"t{index}"], **attributes))
            current = f"t{index}"
        nodes.append(helper.make_node("Identity", [current], ["y"]))
        shape = [self.batch, 3, *self.size]
        if self.layout == "NHWC":
            shape = [self.batch, *self.size, 3]
        output = self.output_shape or (self.batch, self.columns or self.classes)
        graph = helper.make_graph(
            nodes,
            "toy",
            [helper.make_tensor_value_info("x", self.dtype, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)

    def card(self, **changes: Any) -> dict[str, Any]:
        changes.setdefault("classes", list(NAMES[: self.classes]))
        return make_card(self.size, **changes)

    def logits(self, images: NDArray[np.float32], card: dict[str, Any]) -> Array:
        """What the graph's linear layer gives, in float64, read off the card's definition."""
        spec = card["input"]
        x = images.astype(np.float64)
        if spec.get("color") == "BGR":
            x = x[:, ::-1]
        low, high = spec.get("range", (0, 1))
        mean = np.reshape(spec.get("mean", (0, 0, 0)), (1, 3, 1, 1))
        std = np.reshape(spec.get("std", (1, 1, 1)), (1, 3, 1, 1))
        x = (x * (high - low) + low - mean) / std
        if self.dtype == TensorProto.UINT8:
            x = np.rint(x)
        if self.dtype == TensorProto.FLOAT16:
            x = x.astype(np.float16).astype(np.float64)
        if self.layout == "NHWC":
            x = x.transpose(0, 2, 3, 1)
        weights = self.weights().astype(np.float64)
        answer: Array = x.reshape(len(x), len(weights)) @ weights
        return answer + self.constants().astype(np.float64)


def opened(folder: Path, toy: Toy, card: dict[str, Any], **options: Any) -> Detector:
    """Write the toy with its card, and load it."""
    model = toy.model()
    onnx.checker.check_model(model)
    return opened_model(folder, model, card, **options)


def opened_model(folder: Path, model: Any, card: dict[str, Any], **options: Any) -> Detector:
    path = folder / "toy.onnx"
    onnx.save(model, path)
    path.with_suffix(".card.json").write_text(json.dumps(card))
    return load_detector(path, device="cpu", **{"threads": 1, **options})


def frames(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> NDArray[np.float32]:
    """Pictures (N, 3, h, w) with all the values that 8 bits can hold."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, *size))
    return pixels.astype(np.float32) / np.float32(255)


def log_softmax(z: Array) -> Array:
    answer: Array = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
    return answer


def log_sigmoid(z: Array) -> Array:
    return np.asarray(-np.logaddexp(0, -z))


def assert_scores(got: NDArray[np.float32], wanted: Array) -> None:
    """Equal but for float32's rounding of sums of a hundred products."""
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-6)


SOFTMAX = ("Softmax", {"axis": -1})
LOG_SOFTMAX = ("LogSoftmax", {"axis": -1})
SIGMOID = ("Sigmoid", {})
CLIP = ("Clip", {}, np.array(-1e9, np.float32), np.array(1e9, np.float32))


def reshape(*shape: int) -> tuple[Any, ...]:
    return ("Reshape", {}, np.array(shape, np.int64))


# --- heads


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize(
    ("activation", "tail"),
    [
        ("logits", ()),
        ("softmax", (SOFTMAX,)),
        ("softmax", (("Softmax", {}),)),
        ("softmax", (("Softmax", {"axis": 1}), ("Identity", {}))),
        ("softmax", (SOFTMAX, ("Cast", {"to": TensorProto.FLOAT}))),
        ("softmax", (SOFTMAX, ("Cast", {"to": TensorProto.DOUBLE}), ("Cast", {"to": 1}))),
        ("softmax", (SOFTMAX, ("Unsqueeze", {}, np.array([2])), ("Squeeze", {}, np.array([2])))),
        ("log_softmax", (LOG_SOFTMAX,)),
        ("log_softmax", (LOG_SOFTMAX, ("Identity", {}))),
    ],
    ids=lambda value: "+".join(n[0] for n in value) or "none" if isinstance(value, tuple) else None,
)
def test_heads_over_classes(
    tmp_path: Path, classes: int, activation: str, tail: tuple[tuple[Any, ...], ...]
) -> None:
    toy = Toy(classes=classes, tail=tail)
    card = toy.card(output={"activation": activation})
    images = frames(5)
    with opened(tmp_path, toy, card) as detector:
        got = detector.log_probs(images)
    assert got.shape == (5, classes)
    assert_scores(got, log_softmax(toy.logits(images, card)))
    np.testing.assert_allclose(np.exp(got.astype(np.float64)).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("reshaped", [(-1, 2), (0, -1), (-1, 2, 1, 1)])
def test_reshapes_after_a_softmax(tmp_path: Path, reshaped: tuple[int, ...]) -> None:
    shape = ("n", 2, 1, 1) if len(reshaped) == 4 else ("n", 2)
    toy = Toy(tail=(SOFTMAX, reshape(*reshaped)), output_shape=shape)
    card = toy.card(output={"activation": "softmax"})
    images = frames(3)
    with opened(tmp_path, toy, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


@pytest.mark.parametrize("positive", ["real", "df"])
@pytest.mark.parametrize("tail", [(), (SIGMOID,), (SIGMOID, CLIP)], ids=["logit", "end", "middle"])
@pytest.mark.parametrize("flat", [False, True], ids=["(n,1)", "(n,)"])
def test_one_logit_heads(
    tmp_path: Path, positive: str, tail: tuple[tuple[Any, ...], ...], flat: bool
) -> None:
    shape: tuple[Any, ...] = ("n", 1)
    if flat:
        tail, shape = (*tail, reshape(-1)), ("n",)
    toy = Toy(columns=1, tail=tail, output_shape=shape)
    activation = "sigmoid" if SIGMOID in tail else "logits"
    card = toy.card(output={"activation": activation, "positive": positive})
    images = frames(4)
    z = toy.logits(images, card)
    wanted = np.concatenate([log_sigmoid(z), log_sigmoid(-z)], axis=1)
    if positive == "df":
        wanted = wanted[:, ::-1]
    for batch in (1, 3):
        with opened(tmp_path, toy, card, batch=batch) as detector:
            assert_scores(detector.log_probs(images), wanted)


@pytest.mark.parametrize("tail", [(SIGMOID,), (SIGMOID, CLIP)], ids=["end", "middle"])
@pytest.mark.parametrize("classes", [2, 3])
def test_independent_sigmoids_are_normalised(
    tmp_path: Path, tail: tuple[tuple[Any, ...], ...], classes: int
) -> None:
    toy = Toy(classes=classes, tail=tail)
    card = toy.card(output={"activation": "sigmoid"})
    images = frames(4)
    with opened(tmp_path, toy, card) as detector:
        got = detector.log_probs(images)
    p = 1 / (1 + np.exp(-toy.logits(images, card)))
    assert_scores(got, np.log(p / p.sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("squeezed", [2, 1], ids=["two classes", "one logit"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_bare_squeeze_at_the_end(tmp_path: Path, squeezed: int, batch: int) -> None:
    """`output.squeeze()` in PyTorch: at a batch of one the batch axis is gone as well."""
    toy = Toy(columns=squeezed, tail=(reshape(-1, squeezed, 1, 1), ("Squeeze", {})))
    toy = replace(toy, output_shape=(None,) if squeezed == 1 else ("n", squeezed))
    output = {"positive": "df"} if squeezed == 1 else {}
    card = toy.card(output=output)
    images = frames(4)
    z = toy.logits(images, card)
    wanted = (
        np.concatenate([log_sigmoid(-z), log_sigmoid(z)], axis=1)
        if squeezed == 1
        else (log_softmax(z))
    )
    with opened(tmp_path, toy, card, batch=batch) as detector:
        assert_scores(detector.log_probs(images), wanted)


@pytest.mark.parametrize("squeezed", [2, 1], ids=["two classes", "one logit"])
def test_a_bare_squeeze_at_a_fixed_batch_of_one(tmp_path: Path, squeezed: int) -> None:
    toy = Toy(columns=squeezed, batch=1, tail=(("Squeeze", {}),))
    toy = replace(toy, output_shape=(2,) if squeezed == 2 else ())
    model = toy.model()
    if squeezed == 1:  # a scalar's shape is there, and empty
        model.graph.output[0].type.tensor_type.shape.SetInParent()
    card = toy.card(output={"positive": "df"} if squeezed == 1 else {})
    images = frames(3)
    z = toy.logits(images, card)
    wanted = (
        np.concatenate([log_sigmoid(-z), log_sigmoid(z)], axis=1)
        if squeezed == 1
        else (log_softmax(z))
    )
    with opened_model(tmp_path, model, card) as detector:
        assert_scores(detector.log_probs(images), wanted)


# --- a closing activation is taken off, so that nothing underflows


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_saturated_scores_keep_their_value(tmp_path: Path, op: str) -> None:
    """Logits of ±60 (float32 softmax: exactly 0 and 1) give log-probs of about −120."""
    activation = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}[op]
    toy = Toy(gain=0.5, bias=(-60.0, 60.0), tail=((op, {}), ("Identity", {})))
    card = toy.card(output={"activation": activation})
    images = frames(3)
    z = toy.logits(images, card)
    wanted = log_softmax(log_sigmoid(z)) if op == "Sigmoid" else log_softmax(z)
    with opened(tmp_path, toy, card) as detector:
        got = detector.log_probs(images)
    # the winner's log-prob is −exp(−120) in truth, and 0 in float32: hold it to the margin's size
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-20)
    assert (got[:, 0] < -59).all()
    # what differs between the images lives on: differences of a thousandth of ±120
    np.testing.assert_allclose(np.diff(got[:, 0]), np.diff(wanted[:, 0]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("positive", ["real", "df"])
def test_a_saturated_one_logit_sigmoid_keeps_its_value(
    tmp_path: Path, sign: int, positive: str
) -> None:
    toy = Toy(columns=1, gain=0.5, bias=(60.0 * sign,), tail=(SIGMOID,))
    card = toy.card(output={"activation": "sigmoid", "positive": positive})
    images = frames(3)
    z = toy.logits(images, card)
    wanted = np.concatenate([log_sigmoid(z), log_sigmoid(-z)], axis=1)
    if positive == "df":
        wanted = wanted[:, ::-1]
    with opened(tmp_path, toy, card) as detector:
        got = detector.log_probs(images)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-20)
    assert (got.min(axis=1) < -59).all()


NOT_TAKEN_OFF = [
    (CLIP,),
    (("Slice", {}, np.array([0]), np.array([3]), np.array([1])),),
    (("Mul", {}, np.array(1, np.float32)),),
    (("Cast", {"to": TensorProto.INT32}), ("Cast", {"to": TensorProto.FLOAT})),
]


@pytest.mark.parametrize("after", NOT_TAKEN_OFF[:3], ids=["Clip", "Slice", "Mul"])
def test_a_softmax_in_the_middle_is_read_as_probabilities(
    tmp_path: Path, after: tuple[tuple[Any, ...], ...]
) -> None:
    toy = Toy(classes=3, tail=(SOFTMAX, *after))
    card = toy.card(output={"activation": "softmax"})
    images = frames(4)
    with opened(tmp_path, toy, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))
    saturated = replace(toy, gain=0.5, bias=(-60.0, 0.0, 60.0))
    with opened(tmp_path, saturated, card) as detector:
        got = detector.log_probs(images)
    assert np.isfinite(got).all()
    # exp(−120) is not in the float32 that came out, so the logits cannot have been read
    assert (got[:, 0] > -71).all()
    np.testing.assert_allclose(got[:, 1], log_softmax(saturated.logits(images, card))[:, 1], 1e-5)


def test_a_softmax_that_two_nodes_read_is_read_as_probabilities(tmp_path: Path) -> None:
    toy = Toy(classes=3, tail=(SOFTMAX, ("Identity", {})))
    model = toy.model()
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    model.graph.node.append(
        helper.make_node("ReduceMax", [softmax.output[0]], ["best"], axes=[1], keepdims=0)
    )
    best = helper.make_tensor_value_info("best", TensorProto.FLOAT, ["n"])
    model.graph.output.append(best)
    card = toy.card(output={"activation": "softmax", "name": "y"})
    images = frames(3)
    with opened_model(tmp_path, model, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))
    assert load_graph(tmp_path / "toy.onnx")[1].endings == {}


def test_rounded_scores_are_not_taken_for_logits(tmp_path: Path) -> None:
    toy = Toy(classes=3, gain=0.1, tail=(SOFTMAX, *NOT_TAKEN_OFF[3]))
    card = toy.card(output={"activation": "softmax"})
    with opened(tmp_path, toy, card) as detector, pytest.raises(DetectorError, match="softmax"):
        detector.log_probs(frames(2))  # three zeros are no probabilities


def test_a_softmax_over_the_batch_is_no_softmax(tmp_path: Path) -> None:
    toy = Toy(classes=3, tail=(("Softmax", {"axis": 0}),))
    card = toy.card(output={"activation": "softmax"})
    said = r"not probabilities .*\[1\.0, 1\.0, 1\.0\]"
    with (
        opened(tmp_path, toy, card, batch=1) as detector,
        pytest.raises(DetectorError, match=said),
    ):
        detector.log_probs(frames(2))


# --- what goes in


PREPARED = {
    "RGB": {},
    "BGR": {"color": "BGR"},
    "0-255": {"range": [0, 255]},
    "[-1, 1]": {"range": [-1, 1]},
    "mean": {"mean": [0.4, 0.5, 0.6]},
    "std": {"std": [0.2, 0.3, 0.25]},
    "mean, std": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "BGR, mean, std": {"color": "BGR", "mean": [0.1, 0.5, 0.9], "std": [0.2, 0.3, 0.4]},
    "BGR, 0-255, mean": {"color": "BGR", "range": [0, 255], "mean": [104.0, 117.0, 123.0]},
    "[-1, 1], mean, std": {"range": [-1, 1], "mean": [0.1, 0.0, -0.1], "std": [0.5, 0.6, 0.7]},
    "all": {
        "color": "BGR",
        "range": [0, 255],
        "mean": [104.0, 117.0, 123.0],
        "std": [58.4, 57.1, 57.4],
    },
}


@pytest.mark.parametrize("size", [(5, 7), (9, 4)], ids=["wide", "tall"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("spec", PREPARED.values(), ids=PREPARED.keys())
def test_pixels_are_prepared_as_the_card_says(
    tmp_path: Path, spec: dict[str, Any], layout: str, size: tuple[int, int]
) -> None:
    scale = 255 if spec.get("range") == [0, 255] else 1
    toy = Toy(layout=layout, size=size, scale=scale, tail=(SOFTMAX,))
    card = toy.card(input=spec, output={"activation": "softmax"})
    images = frames(3, size)
    with opened(tmp_path, toy, card) as detector:
        assert detector.size == size
        got = detector.log_probs(images)
    wanted = log_softmax(toy.logits(images, card))
    assert_scores(got, wanted)
    for key in spec:  # the test can tell: without any of it the scores are others
        less = toy.card(input={k: v for k, v in spec.items() if k != key})
        assert np.abs(log_softmax(toy.logits(images, less)) - wanted).max() > 1e-3


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "spec", [{}, PREPARED["BGR, mean, std"], PREPARED["[-1, 1]"]], ids=["plain", "BGR", "[-1, 1]"]
)
def test_float16_input(tmp_path: Path, layout: str, spec: dict[str, Any]) -> None:
    toy = Toy(layout=layout, dtype=TensorProto.FLOAT16)
    card = toy.card(input=spec)
    images = frames(3)
    with opened(tmp_path, toy, card) as detector:
        got = detector.log_probs(images)
    # float16 rounds halfway cases by the last bit of float32: one unit of 2⁻¹¹ in one weight
    np.testing.assert_allclose(got, log_softmax(toy.logits(images, card)), rtol=1e-3, atol=1e-3)
    if not spec:
        assert_scores(got, log_softmax(toy.logits(images, card)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_uint8_input(tmp_path: Path, layout: str, color: str) -> None:
    toy = Toy(layout=layout, dtype=TensorProto.UINT8, scale=255)
    card = toy.card(input={"range": [0, 255], "color": color})
    images = frames(3)
    with opened(tmp_path, toy, card) as detector:
        got = detector.log_probs(images)
        assert_scores(got, log_softmax(toy.logits(images, card)))
        # to the nearest, and what leaves [0, 1] stays at its ends instead of wrapping around
        for move in (0.4, -0.4):
            moved = np.clip(images + np.float32(move / 255), 0, 1)
            np.testing.assert_array_equal(detector.log_probs(moved), got)
        outside = images.copy()
        outside[outside == 0] = -0.5
        outside[outside == 1] = 1.5
        assert (outside != images).any()
        np.testing.assert_array_equal(detector.log_probs(outside), got)


def test_a_float16_graph_from_end_to_end(tmp_path: Path) -> None:
    """float16 weights and scores: log-probs are float32, and good to float16's eleven bits."""
    size = (5, 7)
    weights = Toy(size=size).weights().astype(np.float16)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    images = frames(3)
    card = make_card(size, classes=["real", "df"], output={"activation": "softmax"})
    with opened_model(tmp_path, model, card) as detector:
        got = detector.log_probs(images)
    half = images.astype(np.float16).astype(np.float64).reshape(3, -1)
    wanted = log_softmax(half @ weights.astype(np.float64))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=5e-3)


def test_the_layout_is_read_off_the_graph_and_may_be_named(tmp_path: Path) -> None:
    images = frames(2)
    for layout in ("NCHW", "NHWC"):
        toy = Toy(layout=layout)
        for spec in ({}, {"layout": layout}):
            card = toy.card(input=spec)
            with opened(tmp_path, toy, card) as detector:
                assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))
            assert inspect_model(tmp_path / "toy.onnx")["layout"] == layout


def test_three_rows_high_is_not_taken_for_channels(tmp_path: Path) -> None:
    """(n, 3, 5, 3) is NCHW with width 3; the card's layout tells where both would fit."""
    images = frames(2, (5, 3))
    toy = Toy(size=(5, 3))
    with opened(tmp_path, toy, toy.card()) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, toy.card())))
    images = frames(2, (3, 5))
    toy = Toy(size=(3, 5), layout="NHWC")
    card = toy.card(input={"layout": "NHWC"})
    with opened(tmp_path, toy, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


def test_a_free_size_is_the_cards(tmp_path: Path) -> None:
    weights = np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "free",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, "height", -1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    images = frames(3, (6, 10))
    with opened_model(tmp_path, model, make_card((6, 10))) as detector:
        got = detector.log_probs(images)
    assert_scores(got, log_softmax(images.astype(np.float64).mean(axis=(2, 3)) @ weights))


# --- batches


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 8])
@pytest.mark.parametrize(
    ("fixed", "asked", "runs_at"),
    [(1, None, 1), (4, None, 4), (4, 4, 4), ("n", 3, 3), ("n", None, 1), (None, 3, 3)],
    ids=["fixed 1", "fixed 4", "fixed 4, asked 4", "free, asked 3", "free", "unnamed, asked 3"],
)
def test_batches_are_padded_and_only_real_images_count(
    tmp_path: Path, fixed: int | str | None, asked: int | None, runs_at: int, count: int
) -> None:
    toy = Toy(batch=fixed)  # type: ignore[arg-type]
    card = toy.card()
    images = frames(count)
    with opened(tmp_path, toy, card, batch=asked) as detector:
        assert detector.engine.batch == runs_at
        assert detector.images_seen == 0
        got = detector.log_probs(images)
        assert detector.images_seen == count
        assert got.shape == (count, 2)
        assert_scores(got, log_softmax(toy.logits(images, card)))
        detector.log_probs(frames(2))
        assert detector.images_seen == count + 2


def test_a_fixed_batch_cannot_be_run_at_another(tmp_path: Path) -> None:
    toy = Toy(batch=4)
    with pytest.raises(Exception, match="fixes its batch at 4; it cannot run at 3"):
        opened(tmp_path, toy, toy.card(), batch=3)


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Detector]:
    """One net with convolution, pooling and a dense layer, at engine batches 1 … 5."""
    rng = np.random.default_rng(1)
    constants = {
        "w1": rng.normal(0, 0.5, (6, 3, 3, 3)),
        "w2": rng.normal(0, 0.5, (5, 6, 3, 3)),
        "w3": rng.normal(0, 1.0, (5 * 6 * 5, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path_factory.mktemp("conv")
    card = make_card((12, 10), classes=list(NAMES[:3]))
    return {batch: opened_model(folder, model, card, batch=batch) for batch in (1, 2, 3, 4, 5)}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batch=st.integers(1, 5),
    position=st.integers(0, 8),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_neighbours_and_place_do_not_change_a_bit(
    convolutions: dict[int, Detector], batch: int, position: int, count: int, seed: int
) -> None:
    """The same picture, wherever it stands and whatever stands beside it, at one engine batch."""
    detector = convolutions[batch]
    picture = frames(1, (12, 10), seed)
    alone = detector.log_probs(picture)
    crowd = frames(count, (12, 10), seed + 1) * np.float32(50)  # loud neighbours
    position = min(position, count - 1)
    crowd[position] = picture[0]
    np.testing.assert_array_equal(detector.log_probs(crowd)[position], alone[0])
    # other engine batches may round otherwise, in the last digits only
    np.testing.assert_allclose(convolutions[1].log_probs(picture), alone, rtol=1e-4, atol=1e-5)


# --- names, classes, other parts of a graph


def test_several_classes_may_be_real(tmp_path: Path) -> None:
    toy = Toy(classes=4)
    card = toy.card(classes=["camera", "df", "scan", "f2f"], real=["scan", "camera"])
    images = frames(2)
    with opened(tmp_path, toy, card) as detector:
        assert detector.real == (2, 0)
        assert detector.card.fake == ("df", "f2f")
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


def test_the_card_names_one_of_two_outputs(tmp_path: Path) -> None:
    toy = Toy()
    model = toy.model()
    model.graph.node.append(helper.make_node("Neg", ["z"], ["negative"]))
    second = helper.make_tensor_value_info("negative", TensorProto.FLOAT, ["n", 2])
    model.graph.output.append(second)
    images = frames(3)
    for name, sign in (("y", 1), ("negative", -1)):
        card = toy.card(output={"name": name})
        with opened_model(tmp_path, model, card) as detector:
            wanted = log_softmax(sign * toy.logits(images, card))
            assert_scores(detector.log_probs(images), wanted)
    with pytest.raises(CardError, match=r"has 2 outputs \(y, negative\): name one in the card"):
        opened_model(tmp_path, model, toy.card())


@pytest.mark.parametrize("ir_version", [3, 9])
def test_weights_may_be_listed_as_inputs(tmp_path: Path, ir_version: int) -> None:
    """Before IR 4 every weight had to be an input as well."""
    toy = Toy(ir_version=ir_version, opset=9, scale=255)
    model = toy.model()
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.insert(0, info)
    card = toy.card(input=PREPARED["all"])
    images = frames(2)
    with opened_model(tmp_path, model, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


def test_a_second_true_input_is_refused(tmp_path: Path) -> None:
    toy = Toy()
    model = toy.model()
    model.graph.input.append(helper.make_tensor_value_info("training", TensorProto.FLOAT, [1]))
    with pytest.raises(CardError, match=r"has 2 inputs \(x, training\): name one in the card"):
        opened_model(tmp_path, model, toy.card())
    with pytest.raises(CardError, match="wants more than a picture, namely training"):
        opened_model(tmp_path, model, toy.card(input={"name": "x"}))


@pytest.mark.parametrize("opset", [8, 11, 13, 20])
def test_opsets(tmp_path: Path, opset: int) -> None:
    toy = Toy(classes=3, opset=opset, scale=255, tail=(("Softmax", {"axis": 1}),))
    card = toy.card(input=PREPARED["all"], output={"activation": "softmax"})
    images = frames(2)
    with opened(tmp_path, toy, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


# --- cards that contradict their graph


CONTRADICTIONS: list[tuple[str, Toy, dict[str, Any], str]] = [
    ("size", Toy(), {"input": {"height": 6}}, "expects 3×5×7, the card says 3×6×7: re-export, or"),
    ("h and w swapped", Toy(), {"input": {"height": 7, "width": 5}}, "expects 3×5×7, .* 3×7×5"),
    (
        "NHWC size",
        Toy(layout="NHWC"),
        {"input": {"width": 9}},
        "expects 3×5×7, the card says 3×5×9",
    ),
    ("layout", Toy(), {"input": {"layout": "NHWC"}}, "expects 7×3×5, the card says 3×5×7"),
    ("ending", Toy(tail=(SOFTMAX,)), {}, "ends in softmax, the card says logits: correct output"),
    (
        "sigmoid",
        Toy(tail=(SIGMOID,)),
        {"output": {"activation": "softmax"}},
        "ends in sigmoid, the card says softmax",
    ),
    (
        "log",
        Toy(tail=(LOG_SOFTMAX,)),
        {"output": {"activation": "softmax"}},
        "ends in log_softmax, the card says softmax",
    ),
    ("classes", Toy(classes=3), {"classes": ["real", "df"]}, "gives 3 scores .* names 2 classes"),
    ("classes", Toy(), {"classes": ["real", "df", "fs"]}, "gives 2 scores .* names 3 classes"),
    ("input name", Toy(), {"input": {"name": "pixels"}}, "no input 'pixels', .* it has: x"),
    ("output name", Toy(), {"output": {"name": "logits"}}, "no output 'logits', .* it has: y"),
    (
        "no positive",
        Toy(columns=1),
        {},
        "gives one score an image: the card needs two classes, and",
    ),
    (
        "one column of three classes",
        Toy(columns=1),
        {"classes": ["real", "df", "fs"]},
        "gives one score an image",
    ),
    (
        "softmax of one",
        Toy(columns=1, tail=(SOFTMAX,)),
        {"output": {"activation": "softmax", "positive": "df"}},
        "one column cannot be a softmax",
    ),
    ("uint8 range", Toy(dtype=TensorProto.UINT8), {}, r"is uint8, .* range must be \[0, 255\]"),
    (
        "uint8 mean",
        Toy(dtype=TensorProto.UINT8),
        {"input": {"range": [0, 255], "mean": [1, 2, 3]}},
        "is uint8, .* without mean and std",
    ),
    ("type", Toy(dtype=TensorProto.DOUBLE), {}, "'x' is double, wanted float, float16 or uint8"),
    ("type", Toy(dtype=TensorProto.INT64), {}, "'x' is int64, wanted float, float16 or uint8"),
]


@pytest.mark.parametrize(
    ("toy", "changes", "message"),
    [case[1:] for case in CONTRADICTIONS],
    ids=[case[0] for case in CONTRADICTIONS],
)
def test_a_card_at_odds_with_its_graph(
    tmp_path: Path, toy: Toy, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CardError, match=message) as caught:
        opened(tmp_path, toy, toy.card(**changes))
    said = str(caught.value)
    assert "toy.onnx" in said
    assert "\n" not in said
    report = inspect_model(tmp_path / "toy.onnx")
    assert report["problems"] == [said]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (["n", 1, 5, 7], "expects 1×5×7, the card says 3×5×7"),
        (["n", 4, 5, 7], "expects 4×5×7"),
        (["n", 3, 35], "input 'x' has 3 dimensions, wanted 4"),
        ([105], "input 'x' has 1 dimensions, wanted 4"),
    ],
)
def test_channels_and_rank(tmp_path: Path, shape: list[Any], message: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(CardError, match=message):
        opened_model(tmp_path, model, make_card(SIZE))


def test_labels_are_no_scores(tmp_path: Path) -> None:
    toy = Toy(tail=(("ArgMax", {"axis": 1, "keepdims": 1}),))
    model = toy.model()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(CardError, match="output 'y' is int64, wanted float scores"):
        opened_model(tmp_path, model, toy.card(output={"positive": "df"}))


def test_a_card_made_by_hand_is_checked_too(tmp_path: Path) -> None:
    toy = Toy()
    opened(tmp_path, toy, toy.card()).close()
    good = DetectorCard.from_dict(toy.card())
    path = tmp_path / "toy.onnx"
    with load_detector(path, card=replace(good, name="mine"), device="cpu") as detector:
        assert detector.card.name == "mine"
    with pytest.raises(CardError, match="std must be positive"):
        load_detector(path, card=replace(good, input=replace(good.input, std=(0, 1, 1))))
    with pytest.raises(CardError, match="unknown class 'genuine'"):
        load_detector(path, card=replace(good, real=("genuine",)))


# --- files that are no model


def one_line(error: Exception, *parts: str) -> None:
    said = str(error)
    assert "\n" not in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an ONNX model: it holds no graph"),
        (b"this is no model\n" * 20, "is not a readable ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a readable ONNX model"),
        (np.random.default_rng(0).bytes(4000), "is not a readable ONNX model"),
    ],
    ids=["empty", "text", "PNG", "random"],
)
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    for act in (load_detector, inspect_model):
        with pytest.raises(DetectorError) as caught:
            act(path)
        one_line(caught.value, str(path), message)


def test_a_truncated_model(tmp_path: Path) -> None:
    toy = Toy()
    opened(tmp_path, toy, toy.card()).close()
    path = tmp_path / "toy.onnx"
    whole = path.read_bytes()
    for keep in [*range(1, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        path.write_bytes(whole[:keep])
        with pytest.raises(DetectorError) as caught:
            load_detector(path, device="cpu")
        one_line(caught.value, str(path))


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DetectorError) as caught:
        load_detector(tmp_path / "none.onnx")
    one_line(caught.value, "none.onnx: cannot read the model: No such file or directory")
    with pytest.raises(DetectorError) as caught:
        load_detector(tmp_path)
    one_line(caught.value, "cannot read the model: Is a directory")


def test_a_graph_without_inputs(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["y"])],
        "constant",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.zeros((1, 2), np.float32), "c")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "c.onnx")
    for act in (load_detector, inspect_model):
        with pytest.raises(DetectorError, match="takes no input: it is no detector"):
            act(tmp_path / "c.onnx")


def test_what_onnxruntime_cannot_load(tmp_path: Path) -> None:
    toy = Toy(tail=(("NoSuchOp", {}),))
    path = tmp_path / "toy.onnx"
    onnx.save(toy.model(), path)
    path.with_suffix(".card.json").write_text(json.dumps(toy.card()))
    with pytest.raises(DetectorError) as caught:
        load_detector(path, device="cpu")
    one_line(caught.value, str(path), "onnxruntime cannot load it", "NoSuchOp")


def test_weights_that_are_too_few(tmp_path: Path) -> None:
    toy = Toy()
    model = toy.model()
    weights = model.graph.initializer[0]
    weights.raw_data = weights.raw_data[:-8]
    path = tmp_path / "toy.onnx"
    onnx.save(model, path)
    path.with_suffix(".card.json").write_text(json.dumps(toy.card()))
    with pytest.raises(DetectorError) as caught:
        load_detector(path, device="cpu")
    one_line(caught.value, "onnxruntime cannot load it")


def external(folder: Path, toy: Toy) -> Path:
    path = folder / "big.onnx"
    onnx.save(
        toy.model(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="big.data",
        size_threshold=0,
    )
    path.with_suffix(".card.json").write_text(json.dumps(toy.card()))
    return path


def test_weights_in_a_file_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy()
    path = external(tmp_path, toy)
    images = frames(3)
    wanted = log_softmax(toy.logits(images, toy.card()))
    with load_detector(path, device="cpu") as detector:
        assert_scores(detector.log_probs(images), wanted)
        first = detector.sha256
    monkeypatch.chdir(tmp_path.parent)  # found beside the model, wherever the caller stands
    with load_detector(path.relative_to(tmp_path.parent), device="cpu") as detector:
        assert_scores(detector.log_probs(images), wanted)
        assert detector.sha256 == first
    data = tmp_path / "big.data"
    whole = data.read_bytes()
    data.write_bytes(bytes(len(whole)))  # other weights, another detector
    with load_detector(path, device="cpu") as detector:
        assert detector.sha256 != first


def test_external_data_that_is_short_or_not_there(tmp_path: Path) -> None:
    path = external(tmp_path, Toy())
    data = tmp_path / "big.data"
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(DetectorError) as caught:
        load_detector(path, device="cpu")
    one_line(caught.value, "big.onnx: cannot read its external data")
    data.unlink()
    with pytest.raises(DetectorError) as caught:
        load_detector(path, device="cpu")
    one_line(caught.value, "big.onnx: cannot read its external data", "big.data")


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    toy = Toy()
    with opened(tmp_path, toy, toy.card()) as detector:
        file = (tmp_path / "toy.onnx").read_bytes()
        assert detector.sha256 == hashlib.sha256(file).hexdigest()
    assert inspect_model(tmp_path / "toy.onnx")["sha256"] == hashlib.sha256(file).hexdigest()


# --- scores that make no sense


@pytest.mark.parametrize("op", [("Sqrt", {}), ("Log", {})], ids=["nan", "inf"])
@pytest.mark.parametrize("batch", [1, 4])
def test_scores_that_are_not_finite_are_counted(
    tmp_path: Path, op: tuple[Any, ...], batch: int
) -> None:
    """√ of a negative sum is NaN, log of zero is −∞: pictures 1 and 3 of five."""
    pool = helper.make_node("GlobalAveragePool", ["x"], ["mean"])
    constants = {"low": np.array(0.5, np.float32), "two": np.array([[[[1]], [[1]]]], np.float32)}
    nodes = [
        pool,
        helper.make_node("ReduceMax", ["mean"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["most", "low"], ["margin"]),
        helper.make_node(op[0], ["margin"], ["one"]),
        helper.make_node("Mul", ["one", "two"], ["both"]),
        helper.make_node("Flatten", ["both"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "nan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    images = np.full((5, 3, *SIZE), 0.75, np.float32)
    images[[1, 3]] = 0.25 if op[0] == "Sqrt" else 0.5
    with opened_model(tmp_path, model, make_card(SIZE), batch=batch) as detector:
        with pytest.raises(DetectorError) as caught:
            detector.log_probs(images)
        one_line(caught.value, "toy gave NaN or infinite scores for 2 of 5 pictures")
        good = detector.log_probs(images[[0, 2, 4]])
    np.testing.assert_allclose(good, np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_scores_that_are_not_what_the_card_says(tmp_path: Path, batch: int) -> None:
    toy = Toy()
    images = frames(3)
    for activation, kind in (
        ("softmax", "probabilities"),
        ("sigmoid", "probabilities"),
        ("log_softmax", "log-probabilities"),
    ):
        card = toy.card(output={"activation": activation})
        with (
            opened(tmp_path, toy, card, batch=batch) as detector,
            pytest.raises(DetectorError) as caught,
        ):
            detector.log_probs(images)
        said = f"toy: the card says {activation}, but the scores are not {kind} (for example ["
        one_line(caught.value, said, "correct output.activation")
    card = toy.card(output={"activation": "softmax"})
    halves = Toy(tail=(SOFTMAX, ("Mul", {}, np.array(0.5, np.float32))))
    with opened(tmp_path, halves, card) as detector, pytest.raises(DetectorError, match="softmax"):
        detector.log_probs(images)


def test_log_probabilities_that_cannot_be_taken_off_are_believed(tmp_path: Path) -> None:
    toy = Toy(classes=3, tail=(LOG_SOFTMAX, CLIP))
    card = toy.card(output={"activation": "log_softmax"})
    images = frames(3)
    with opened(tmp_path, toy, card) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


def test_a_score_count_that_the_graph_hides_is_checked_at_the_first_answer(tmp_path: Path) -> None:
    toy = Toy(classes=3, output_shape=("n", "c"))
    said = "gave 3 scores an image, the card names 2 classes"
    with (
        opened(tmp_path, toy, toy.card(classes=["real", "df"])) as detector,
        pytest.raises(DetectorError, match=said),
    ):
        detector.log_probs(frames(1))
    one = Toy(columns=1, output_shape=("n", "c"))
    with (
        opened(tmp_path, one, one.card()) as detector,
        pytest.raises(CardError, match="gives one score an image"),
    ):
        detector.log_probs(frames(1))


@pytest.mark.parametrize(
    ("batch", "said"), [(2, r"scores of shape \(4, 2\) for 2 pictures"), (1, "6 scores an image")]
)
def test_scores_that_do_not_belong_to_the_pictures(tmp_path: Path, batch: int, said: str) -> None:
    """More rows than pictures: never cut off at the pictures' number."""
    more = ("Concat", {"axis": 0}, np.zeros((2, 2), np.float32))
    toy = Toy(tail=(more,), output_shape=("m", 2))
    with (
        opened(tmp_path, toy, toy.card(), batch=batch) as detector,
        pytest.raises(DetectorError, match=f"gave {said}"),
    ):
        detector.log_probs(frames(2))


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (3, 5, 7), (2, 1, 5, 7), (2, 5, 7, 3)])
def test_images_of_another_shape(tmp_path: Path, shape: Sequence[int]) -> None:
    toy = Toy()
    with opened(tmp_path, toy, toy.card()) as detector:
        with pytest.raises(DetectorError, match=r"wants images \(N, 3, 5, 7\), got \("):
            detector.log_probs(np.zeros(shape, np.float32))
        assert detector.images_seen == 0


def test_bytes_are_not_taken_for_pixels_in_zero_to_one(tmp_path: Path) -> None:
    toy = Toy()
    images = np.zeros((1, 3, *SIZE), np.uint8)
    with (
        opened(tmp_path, toy, toy.card()) as detector,
        pytest.raises(DetectorError, match=r"floats in \[0, 1\], got uint8"),
    ):
        detector.log_probs(images)  # type: ignore[arg-type]


def test_a_graph_that_fails_while_running(tmp_path: Path) -> None:
    """A Reshape that fits one picture only."""
    toy = Toy(tail=(reshape(1, 2),), output_shape=("n", 2))
    with opened(tmp_path, toy, toy.card(), batch=3) as detector:
        with pytest.raises(EngineError) as caught:
            detector.log_probs(frames(3))
        one_line(caught.value, "onnxruntime failed on a batch")
    with opened(tmp_path, toy, toy.card()) as detector:
        wanted = log_softmax(toy.logits(frames(3), toy.card()))
        assert_scores(detector.log_probs(frames(3)), wanted)


# --- a card to start from


@pytest.mark.parametrize(
    "toy",
    [
        Toy(),
        Toy(classes=4),
        Toy(tail=(SOFTMAX,)),
        Toy(layout="NHWC", tail=(LOG_SOFTMAX,)),
        Toy(columns=1, tail=(SIGMOID,)),
        Toy(columns=1, tail=(reshape(-1),), output_shape=("n",)),
        Toy(dtype=TensorProto.UINT8),
        Toy(batch=1),
        Toy(batch=1, tail=(("Squeeze", {}),), output_shape=(2,)),
    ],
)
def test_the_card_to_start_from_fits_its_graph(tmp_path: Path, toy: Toy) -> None:
    path = tmp_path / "bare.onnx"
    onnx.save(toy.model(), path)
    report = inspect_model(path)
    assert report["card"] is None
    assert "has no detector card" in report["problems"][0]
    path.with_suffix(".card.json").write_text(json.dumps(report["card_start"]))
    again = inspect_model(path)
    assert again["problems"] == []
    with load_detector(path, device="cpu") as detector:
        assert detector.size == SIZE
        assert np.exp(detector.log_probs(frames(2))).sum() == pytest.approx(2, rel=1e-5)
