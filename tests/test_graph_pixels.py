"""What goes into a graph: cards prepare pixels, batches are padded; against NumPy in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import (
    NAMES,
    PREPARED,
    SOFTMAX,
    Toy,
    assert_scores,
    frames,
    log_softmax,
    opened,
    opened_model,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from toys import make_card

from whyfake import Detector
from whyfake.errors import CardError
from whyfake.inspection import inspect_model

# --- what goes in


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
