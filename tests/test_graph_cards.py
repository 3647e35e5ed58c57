"""Cards that contradict their graph, and the card to start from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import (
    LOG_SOFTMAX,
    SIGMOID,
    SIZE,
    SOFTMAX,
    Toy,
    frames,
    opened,
    opened_model,
    reshape,
)
from onnx import TensorProto, helper
from toys import make_card

from whyfake import load_detector
from whyfake.card import DetectorCard
from whyfake.errors import CardError
from whyfake.inspection import inspect_model

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
