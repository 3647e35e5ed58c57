"""Heads and closing activations: log-probabilities are what NumPy gives in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import (
    CLIP,
    LOG_SOFTMAX,
    SIGMOID,
    SOFTMAX,
    Toy,
    assert_scores,
    frames,
    log_sigmoid,
    log_softmax,
    opened,
    opened_model,
    reshape,
)
from onnx import TensorProto, helper

from whyfake.errors import DetectorError
from whyfake.onnx_graph import load_graph

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
