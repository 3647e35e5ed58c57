"""Detector cards: what they must say, what they may not, and where they are found."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from toys import make_card

from whyfake.card import METADATA_KEY, DetectorCard, card_from_json, find_card, read_card
from whyfake.errors import CardError

FULL: dict[str, Any] = {
    "schema": 1,
    "name": "EfficientNetV2-B0",
    "input": {
        "height": 224,
        "width": 160,
        "name": "pixels",
        "color": "BGR",
        "range": [-1.0, 1.0],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "layout": "NHWC",
    },
    "output": {"activation": "softmax", "name": "scores"},
    "classes": ["real", "df", "f2f"],
    "real": ["real"],
    "crop_margin": 1.3,
    "source": "https://example.org/größe",
    "license": "MIT",
    "notice": "untested on phones",
    "parity": {"max_difference": 1e-6},
    "engine": {"precision": "fp16"},
    "trained_on": ["ffpp"],
}
ONE_LOGIT = make_card((8, 12), output={"activation": "sigmoid", "positive": "fake"})


@pytest.mark.parametrize("data", [FULL, ONE_LOGIT, make_card((8, 12))])
def test_a_card_survives_a_round_trip(data: dict[str, Any]) -> None:
    card = DetectorCard.from_dict(data)
    text = json.dumps(card.to_dict())
    assert DetectorCard.from_dict(json.loads(text)) == card
    assert card_from_json(text, "again").to_dict() == card.to_dict()


def test_every_field_is_read() -> None:
    card = DetectorCard.from_dict(FULL)
    assert card.to_dict() == FULL
    assert (card.input.height, card.input.width) == (224, 160)
    assert card.input.color == "BGR"
    assert card.input.range == (-1.0, 1.0)
    assert card.input.mean == (0.1, 0.2, 0.3)
    assert card.input.std == (0.5, 0.6, 0.7)
    assert (card.input.layout, card.input.name) == ("NHWC", "pixels")
    assert (card.output.activation, card.output.name) == ("softmax", "scores")
    assert card.output.positive is None
    assert card.fake == ("df", "f2f")
    assert card.crop_margin == 1.3
    assert card.parity == {"max_difference": 1e-6}
    assert card.engine == {"precision": "fp16"}
    assert card.extra == {"trained_on": ["ffpp"]}
    assert DetectorCard.from_dict(ONE_LOGIT).output.positive == "fake"


def test_what_a_card_may_leave_out() -> None:
    card = DetectorCard.from_dict(
        {
            "input": {"height": 8, "width": 12},
            "output": {"activation": "logits"},
            "classes": ["real", "fake"],
            "real": ["real"],
        },
        where="folder/meso4.onnx (metadata)",
    )
    assert card.name == "meso4"
    assert card.input.color == "RGB"
    assert card.input.range == (0.0, 1.0)
    assert card.input.mean == (0.0, 0.0, 0.0)
    assert card.input.std == (1.0, 1.0, 1.0)
    assert card.input.layout is None
    assert card.crop_margin is None
    assert card.schema == 1


MISSING = object()
WRONG: list[tuple[str, Any, str]] = [
    # path of the field, its value, what the message must say
    ("schema", 2, "schema 2 is not known to this whyfake, which reads 1"),
    ("schema", 0, "schema 0 is not known"),
    ("schema", "1", "'schema' must be a whole number, got '1'"),
    ("name", 7, "'name' must be a text, got 7"),
    ("input", MISSING, "'input' is missing"),
    ("input", [224, 224], "'input' must be an object, got [224, 224]"),
    ("input.height", MISSING, "input: 'height' is missing"),
    ("input.height", 0, "input: 'height' must be 1 to 8192, got 0"),
    ("input.height", 10**10, "input: 'height' must be 1 to 8192, got 10000000000"),
    ("input.height", "224", "input: 'height' must be a whole number, got '224'"),
    ("input.height", 224.0, "input: 'height' must be a whole number, got 224.0"),
    ("input.height", True, "input: 'height' must be a whole number, got True"),
    ("input.width", -3, "input: 'width' must be 1 to 8192, got -3"),
    ("input.width", None, "input: 'width' must be a whole number, got None"),
    ("input.name", 0, "input: 'name' must be a text, got 0"),
    ("input.color", "GBR", "input: unknown color 'GBR': did you mean 'RGB'? Known: RGB, BGR"),
    ("input.color", "rgb", "unknown color 'rgb': did you mean 'RGB'?"),
    ("input.layout", "NHCW", "unknown layout 'NHCW': did you mean 'NHWC'?"),
    ("input.range", [1, 0], "input.range must rise, got [1.0, 0.0]"),
    ("input.range", [0, 0], "input.range must rise"),
    ("input.range", [0, 1, 2], "input: 'range' must be 2 numbers, got [0, 1, 2]"),
    ("input.range", 255, "input: 'range' must be a list, got 255"),
    ("input.mean", [0.5, 0.5], "input: 'mean' must be 3 numbers, got [0.5, 0.5]"),
    ("input.mean", [0.5, "0.5", 0.5], "input: 'mean' must be 3 numbers"),
    ("input.mean", [True, False, False], "input: 'mean' must be 3 numbers, got [True"),
    ("input.mean", [float("nan"), 0, 0], "input: 'mean' must be 3 numbers, got [nan"),
    ("input.mean", [float("inf"), 0, 0], "input: 'mean' must be 3 numbers, got [inf"),
    ("input.mean", [10**400, 0, 0], "input: 'mean' must be 3 numbers"),
    ("input.std", [0.5, 0, 0.5], "input.std must be positive, got [0.5, 0.0, 0.5]"),
    ("input.std", [0.5, -0.5, 0.5], "input.std must be positive"),
    ("input.colour", "BGR", "input: unknown field 'colour': did you mean 'color'?"),
    ("output", MISSING, "'output' is missing"),
    ("output.activation", MISSING, "output: 'activation' is missing"),
    ("output.activation", "sofmax", "unknown activation 'sofmax': did you mean 'softmax'?"),
    ("output.activation", False, "output: 'activation' must be a text, got False"),
    ("output.positive", "fkae", "output.positive: unknown class 'fkae': did you mean 'fake'?"),
    ("output.positve", "fake", "output: unknown field 'positve': did you mean 'positive'?"),
    ("classes", MISSING, "'classes' is missing"),
    ("classes", "real,fake", "'classes' must be a list, got 'real,fake'"),
    ("classes", ["real", 1], "'classes' must be a list of names, got ['real', 1]"),
    ("classes", ["real", ""], "'classes' must be a list of names"),
    ("classes", ["real"], "a detector needs two classes or more, got ['real']"),
    ("classes", ["real", "fake", "fake"], "'classes' repeats a name: ['real', 'fake', 'fake']"),
    ("real", MISSING, "'real' is missing"),
    ("real", [], "'real' must name at least one class and leave at least one, got []"),
    ("real", ["real", "fake"], "'real' must name at least one class and leave at least one"),
    ("real", ["real", "real"], "'real' repeats a name"),
    ("real", ["rael"], "real: unknown class 'rael': did you mean 'real'? Known: real, fake"),
    ("crop_margin", "1.3", "'crop_margin' must be a number, got '1.3'"),
    ("crop_margin", float("nan"), "'crop_margin' must be a positive number, got nan"),
    ("crop_margin", -1, "'crop_margin' must be a positive number, got -1"),
    ("crop_margin", True, "'crop_margin' must be a number, got True"),
    ("source", ["here"], "'source' must be a text"),
    ("license", {}, "'license' must be a text"),
    ("notice", 3, "'notice' must be a text"),
    ("parity", {"worst": float("nan")}, "'parity' is not plain JSON"),
]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    WRONG,
    ids=[f"{f}={'missing' if v is MISSING else v}" for f, v, _ in WRONG],
)
def test_a_wrong_field_is_named(field: str, value: Any, message: str) -> None:
    data = copy.deepcopy(make_card((8, 12)))
    *parents, key = field.split(".")
    part = data
    for parent in parents:
        part = part[parent]
    if value is MISSING:
        del part[key]
    else:
        part[key] = value
    with pytest.raises(CardError) as caught:
        DetectorCard.from_dict(data, where="toy.card.json")
    said = str(caught.value)
    assert said.startswith("toy.card.json: ")
    assert message in said
    assert "\n" not in said


def test_positive_is_for_two_classes() -> None:
    data = make_card((8, 12), output={"positive": "df"}, classes=["real", "df", "f2f"])
    with pytest.raises(CardError, match="one-column heads with two classes, but there are 3"):
        DetectorCard.from_dict(data)


@pytest.mark.parametrize("text", ["", "{", "not JSON", "[" * 100_000, '{"a": 1,}'])
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(CardError, match=r"^here: not valid JSON: "):
        card_from_json(text, "here")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"card"'])
def test_json_that_is_no_object(text: str) -> None:
    with pytest.raises(CardError, match="here: expected a JSON object, got "):
        card_from_json(text, "here")


def test_nan_in_a_file_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(make_card((8, 12), input={"std": [float("nan"), 1, 1]})))
    assert "NaN" in path.read_text()
    with pytest.raises(CardError, match="'std' must be 3 numbers"):
        read_card(path)


def test_cards_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="cannot read the card: No such file or directory"):
        read_card(tmp_path / "none.json")
    with pytest.raises(CardError, match="cannot read the card: Is a directory"):
        read_card(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="not UTF-8 text"):
        read_card(tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("changes", "color"),
    [
        ({"mean": [0.2, 0.4, 0.6]}, (0.2, 0.4, 0.6)),
        ({"mean": [0.2, 0.4, 0.6], "std": [0.1, 0.2, 0.3]}, (0.2, 0.4, 0.6)),
        # mean is in the graph's order: blue first
        ({"mean": [0.2, 0.4, 0.6], "color": "BGR"}, (0.6, 0.4, 0.2)),
        ({"range": [0, 255], "mean": [51, 102, 204]}, (0.2, 0.4, 0.8)),
        ({"range": [0, 255], "mean": [51, 102, 204], "color": "BGR"}, (0.8, 0.4, 0.2)),
        ({"range": [-1, 1]}, (0.5, 0.5, 0.5)),
        ({"range": [-1, 1], "mean": [-0.5, 0, 0.5]}, (0.25, 0.5, 0.75)),
        ({"range": [0, 1]}, (0.0, 0.0, 0.0)),
        ({"mean": [-1, 2, 0.5]}, (0.0, 1.0, 0.5)),  # held inside what a picture can show
    ],
)
def test_neutral_color_is_what_the_graph_sees_as_zero(
    changes: dict[str, Any], color: tuple[float, float, float]
) -> None:
    spec = DetectorCard.from_dict(make_card((8, 12), input=changes)).input
    assert spec.neutral_color == pytest.approx(color, abs=1e-12)
    low, high = spec.range
    seen = spec.neutral_color[::-1] if spec.color == "BGR" else spec.neutral_color
    for value, mean in zip(seen, spec.mean, strict=True):
        if 0 < value < 1:
            assert value * (high - low) + low - mean == pytest.approx(0, abs=1e-9)


def test_a_neutral_color_that_is_named_is_the_one() -> None:
    """Where mean and std are inside the graph, the card's own are 0 and 1."""
    card = DetectorCard.from_dict(make_card((8, 12), input={"neutral": [0.2, 0.4, 0.6]}))
    assert card.input.neutral_color == (0.2, 0.4, 0.6)
    assert DetectorCard.from_dict(card.to_dict()) == card
    with pytest.raises(CardError, match=r"input.neutral must lie in \[0, 1\], got \[0.2, 1.5"):
        DetectorCard.from_dict(make_card((8, 12), input={"neutral": [0.2, 1.5, 0.6]}))


def test_a_given_card_beats_the_metadata_which_beats_the_file_beside(tmp_path: Path) -> None:
    model = tmp_path / "net.v2.onnx"
    given = tmp_path / "given.json"
    beside = tmp_path / "net.v2.card.json"
    given.write_text(json.dumps(make_card((8, 12), name="given")))
    beside.write_text(json.dumps(make_card((8, 12), name="beside")))
    metadata = {METADATA_KEY: json.dumps(make_card((8, 12), name="metadata"))}

    card, where = find_card(model, metadata, given)
    assert (card.name, where) == ("given", str(given))
    card, where = find_card(model, metadata)
    assert (card.name, where) == ("metadata", f"{model} (metadata)")
    card, where = find_card(model, {"other": "{}"})
    assert (card.name, where) == ("beside", str(beside))


def test_a_broken_card_is_not_passed_over_for_the_next(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    (tmp_path / "net.card.json").write_text(json.dumps(make_card((8, 12))))
    with pytest.raises(CardError, match=r"net\.onnx \(metadata\): not valid JSON"):
        find_card(model, {METADATA_KEY: "{"})
    with pytest.raises(CardError, match=r"typo\.json: cannot read the card"):
        find_card(model, {}, tmp_path / "typo.json")


def test_no_card_says_how_to_get_one(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    with pytest.raises(CardError) as caught:
        find_card(model, {})
    said = str(caught.value)
    assert f"whyfake inspect {model}" in said
    assert "net.card.json" in said
    assert "--card FILE" in said
    assert "\n" not in said


def test_the_card_in_a_models_metadata_is_used(tmp_path: Path) -> None:
    from whyfake import load_detector

    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    classes = ["real", "df", "f2f"]
    card = make_card((8, 12), name="inside", classes=classes)
    helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, tmp_path / "net.onnx")
    with load_detector(tmp_path / "net.onnx", device="cpu", threads=1) as detector:
        assert detector.card.name == "inside"
        assert detector.card.classes == tuple(classes)
