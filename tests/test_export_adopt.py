"""Graphs of every kind in canonical form: the scores are those of the original, to float32."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import (
    CLIP,
    LOG_SOFTMAX,
    PREPARED,
    SIGMOID,
    SOFTMAX,
    Toy,
    assert_scores,
    frames,
    log_sigmoid,
    log_softmax,
    reshape,
)
from onnx import TensorProto, helper, numpy_helper

from whyfake import Detector, load_detector
from whyfake.card import METADATA_KEY, DetectorCard
from whyfake.errors import DetectorError
from whyfake.export.adopt import canonical
from whyfake.export.batch import free_batch
from whyfake.export.finish import MIN_OPSET, embed_card, finished, upgraded
from whyfake.onnx_graph import PIXELS, SCORES, GraphInfo, describe, serialised


def made(model: Any, card: dict[str, Any]) -> tuple[Any, DetectorCard]:
    return canonical(model, describe(model, ""), DetectorCard.from_dict(card), "toy.onnx")


def detector_of(folder: Path, model: Any, card: DetectorCard) -> Detector:
    """The finished file, with its card inside, opened as anybody would."""
    whole = finished(model, "toy.onnx")
    embed_card(whole, card)
    path = folder / "adopted.onnx"
    path.write_bytes(serialised(whole))
    return load_detector(path, device="cpu", threads=1)


HEADS: dict[str, tuple[Toy, dict[str, Any]]] = {
    "logits": (Toy(classes=3), {}),
    "softmax": (Toy(classes=3, tail=(SOFTMAX,)), {"activation": "softmax"}),
    "log-softmax": (Toy(classes=3, tail=(LOG_SOFTMAX,)), {"activation": "log_softmax"}),
    "softmax in the middle": (Toy(classes=3, tail=(SOFTMAX, CLIP)), {"activation": "softmax"}),
    "log-softmax in the middle": (
        Toy(classes=3, tail=(LOG_SOFTMAX, CLIP)),
        {"activation": "log_softmax"},
    ),
    "sigmoids": (Toy(classes=3, tail=(SIGMOID,)), {"activation": "sigmoid"}),
    "sigmoids in the middle": (Toy(classes=3, tail=(SIGMOID, CLIP)), {"activation": "sigmoid"}),
    "two sigmoids": (Toy(tail=(SIGMOID,)), {"activation": "sigmoid"}),
    "a logit": (Toy(columns=1), {"positive": "df"}),
    "a sigmoid": (Toy(columns=1, tail=(SIGMOID,)), {"activation": "sigmoid", "positive": "real"}),
    "a sigmoid in the middle": (
        Toy(columns=1, tail=(SIGMOID, CLIP)),
        {"activation": "sigmoid", "positive": "df"},
    ),
    "a flat logit": (
        Toy(columns=1, tail=(reshape(-1),), output_shape=("n",)),
        {"positive": "real"},
    ),
    "columns that are hidden": (Toy(classes=3, output_shape=("n", "c")), {}),
    "four dimensions": (
        Toy(classes=3, tail=(reshape(-1, 3, 1, 1),), output_shape=("n", 3, 1, 1)),
        {},
    ),
}


def wanted_log_probs(toy: Toy, card: dict[str, Any], images: Any) -> Any:
    """log P(class) in float64, from the toy's definition."""
    z = toy.logits(images, card)
    if z.shape[1] == 1:
        both = [log_sigmoid(z), log_sigmoid(-z)]
        if card["output"]["positive"] == card["classes"][1]:
            both.reverse()
        return np.concatenate(both, axis=1)
    return log_softmax(log_sigmoid(z) if card["output"]["activation"] == "sigmoid" else z)


@pytest.mark.parametrize("head", HEADS)
def test_heads_become_logits(tmp_path: Path, head: str) -> None:
    toy, output = HEADS[head]
    card = toy.card(output=output)
    model, adopted = made(toy.model(), card)
    assert adopted.output.activation == "logits"
    columns = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    assert columns == toy.logits(frames(1), card).shape[1]
    assert adopted.output.positive == (card["output"].get("positive") if columns == 1 else None)
    images = frames(5)
    with detector_of(tmp_path, model, adopted) as detector:
        assert_scores(detector.log_probs(images), wanted_log_probs(toy, card, images))


@pytest.mark.parametrize("head", ["softmax", "a sigmoid", "sigmoids"])
def test_saturated_heads_keep_their_value(tmp_path: Path, head: str) -> None:
    """Logits of ±60, of which float32 probabilities hold nothing."""
    toy, output = HEADS[head]
    bias = (-60.0, 60.0, 0.0)[: toy.columns or toy.classes]
    toy = replace(toy, gain=0.5, bias=bias)
    card = toy.card(output=output)
    images = frames(3)
    with detector_of(tmp_path, *made(toy.model(), card)) as detector:
        got = detector.log_probs(images)
    np.testing.assert_allclose(got, wanted_log_probs(toy, card, images), rtol=1e-5, atol=1e-7)
    assert got.min() < -59


@pytest.mark.parametrize("head", ["softmax in the middle", "a sigmoid in the middle"])
def test_what_saturates_in_the_middle_is_held_where_the_detector_holds_it(
    tmp_path: Path, head: str
) -> None:
    toy, output = HEADS[head]
    toy = replace(toy, gain=0.5, bias=(-60.0, 60.0, 0.0)[: toy.columns or toy.classes])
    card = toy.card(output=output)
    path = tmp_path / "toy.onnx"
    onnx.save(toy.model(), path)
    path.with_suffix(".card.json").write_text(json.dumps(card))
    images = frames(3)
    with load_detector(path, device="cpu", threads=1) as original:
        wanted = original.log_probs(images)
    with detector_of(tmp_path, *made(toy.model(), card)) as detector:
        np.testing.assert_allclose(detector.log_probs(images), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("spec", PREPARED.values(), ids=PREPARED.keys())
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_what_the_input_wants_is_folded_in(
    tmp_path: Path, spec: dict[str, Any], layout: str, dtype: int
) -> None:
    scale = 255 if spec.get("range") == [0, 255] else 1
    toy = Toy(layout=layout, scale=scale, dtype=dtype)
    card = toy.card(input=spec)
    model, adopted = made(toy.model(), card)
    assert (adopted.input.range, adopted.input.mean, adopted.input.std) == (
        (0, 1),
        (0, 0, 0),
        (1, 1, 1),
    )
    assert (adopted.input.color, adopted.input.layout) == ("RGB", "NCHW")
    # SOBOL and RISE hide pixels with the colour that the network sees as zero: it must stay known
    assert adopted.input.neutral_color == DetectorCard.from_dict(card).input.neutral_color
    images = frames(3)
    tolerance = 2e-3 if dtype == TensorProto.FLOAT16 else 2e-6  # fp16 rounds after other sums
    with detector_of(tmp_path, model, adopted) as detector:
        got = detector.log_probs(images)
    np.testing.assert_allclose(got, log_softmax(toy.logits(images, card)), 1e-5, tolerance)


def test_bytes_go_in_as_pixels(tmp_path: Path) -> None:
    toy = Toy(dtype=TensorProto.UINT8, layout="NHWC", scale=255)
    card = toy.card(input={"range": [0, 255], "color": "BGR"})
    images = frames(3)
    with detector_of(tmp_path, *made(toy.model(), card)) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


def test_a_canonical_graph_can_be_made_canonical_again(tmp_path: Path) -> None:
    toy = Toy(classes=3, scale=255, tail=(SIGMOID,))
    card = toy.card(input=PREPARED["all"], output={"activation": "sigmoid"})
    model, adopted = made(toy.model(), card)
    again, same = made(model, adopted.to_dict())
    assert same == adopted
    assert [item.name for item in again.graph.input] == [PIXELS]
    assert [item.name for item in again.graph.output] == [SCORES]
    images = frames(3)
    with detector_of(tmp_path, again, same) as detector:
        assert_scores(detector.log_probs(images), wanted_log_probs(toy, card, images))


def test_names_inside_a_branch_are_renamed_too(tmp_path: Path) -> None:
    """A graph whose input is already called as ours, and is read inside an If."""
    kind = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body = [helper.make_node("Identity", [PIXELS], ["out"])]
    branch = helper.make_graph(body, "branch", [], [kind])
    nodes = [
        helper.make_node("If", ["yes"], ["same"], then_branch=branch, else_branch=branch),
        helper.make_node("Flatten", ["same"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    toy = Toy()
    graph = helper.make_graph(
        nodes,
        "if",
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["n", 3, *toy.size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(toy.weights(), "w"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    card = toy.card(input={"color": "BGR"})
    images = frames(2)
    z = toy.logits(images, card) - toy.constants()
    with detector_of(tmp_path, *made(model, card)) as detector:
        assert_scores(detector.log_probs(images), log_softmax(z))


def test_what_the_card_says_beside_stays() -> None:
    toy = Toy()
    said = {"crop_margin": 1.3, "source": "us", "license": "MIT", "notice": "no", "extra": [1]}
    _, adopted = made(toy.model(), {**toy.card(), **said})
    assert {key: adopted.to_dict()[key] for key in said} == said


# --- the last hand


def test_the_finished_file_says_nothing_of_where_it_was_made() -> None:
    model, card = made(Toy().model(), Toy().card())
    model.graph.node[0].doc_string = 'File "/home/me/model.py", line 3'
    model.graph.node[0].metadata_props.add(key="pkg.torch.stack", value="/home/me")
    model.metadata_props.add(key=METADATA_KEY, value="an older card")
    model.metadata_props.add(key="author", value="us")
    whole = finished(model, "toy.onnx")
    embed_card(whole, card)
    assert b"/home/me" not in serialised(whole)
    metadata = {item.key: item.value for item in whole.metadata_props}
    assert len(whole.metadata_props) == 2
    assert metadata["author"] == "us"
    assert DetectorCard.from_dict(json.loads(metadata[METADATA_KEY])) == card


def test_shapes_are_inferred() -> None:
    whole = finished(made(Toy(classes=3).model(), Toy(classes=3).card())[0], "toy.onnx")
    shapes = {item.name: item.type.tensor_type.shape for item in whole.graph.value_info}
    made_by_nodes = {name for node in whole.graph.node for name in node.output} - {SCORES}
    assert set(shapes) == made_by_nodes
    assert [d.dim_value for d in shapes["z"].dim[1:]] == [3]


def test_a_graph_that_is_not_valid_is_one_line() -> None:
    model, _ = made(Toy().model(), Toy().card())
    model.graph.initializer[0].dims[0] = 7  # the weights no longer fit the pixels
    with pytest.raises(DetectorError, match=r"^toy.onnx: the graph is not valid ONNX: .+$"):
        finished(model, "toy.onnx")


@pytest.mark.parametrize("opset", [8, 9, 11, 12])
def test_old_opsets_are_raised(tmp_path: Path, opset: int) -> None:
    toy = Toy(classes=3, opset=opset, scale=255, tail=(("Softmax", {"axis": 1}),))
    card = toy.card(input=PREPARED["all"], output={"activation": "softmax"})
    model = upgraded(toy.model(), opset, "toy.onnx")
    assert describe(model, "").opset == MIN_OPSET
    images = frames(2)
    with detector_of(tmp_path, *made(model, card)) as detector:
        assert_scores(detector.log_probs(images), log_softmax(toy.logits(images, card)))


def test_opsets_that_are_too_old_are_refused() -> None:
    with pytest.raises(DetectorError, match=r"opset too old: it is 6, wanted 13 or later"):
        upgraded(Toy(opset=6).model(), 6, "toy.onnx")
    odd = Toy(opset=9).model()
    odd.graph.node[-1].op_type = "Frobnicate"
    with pytest.raises(DetectorError, match=r"opset too old: it is 9, .* cannot convert it"):
        upgraded(odd, 9, "toy.onnx")


# --- the batch


def freed(toy: Toy) -> tuple[Any, GraphInfo] | None:
    model = free_batch(toy.model(), "x", int(toy.batch))
    return None if model is None else (model, describe(model, ""))


FIXED: dict[str, tuple[tuple[Any, ...], ...]] = {
    "no Reshape": (),
    "to rows": (reshape(1, 3),),
    "the rest open": (reshape(1, -1),),
    "more dimensions and back": (reshape(1, 3, 1, 1), reshape(1, 3)),
    "ones around": (reshape(1, 1, 3), reshape(1, 3)),
    "batch in the middle": (
        ("Transpose", {"perm": [1, 0]}),
        reshape(3, 1, 1),
        ("Transpose", {"perm": [1, 0, 2]}),
        reshape(1, 3),
    ),
    "relative already": (reshape(-1, 3), reshape(0, -1)),
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("tail", FIXED.values(), ids=FIXED.keys())
def test_a_fixed_batch_is_freed(
    tmp_path: Path, tail: tuple[tuple[Any, ...], ...], batch: int
) -> None:
    """Reshapes written for a batch of 1; for 2 each size that stands for the batch is doubled."""
    if batch == 2:
        # the batch is the axis of size one that travels from the front
        places = {(3, 1, 1): 1}
        tail = tuple(
            ("Reshape", {}, _doubled(node[2], places)) if node[0] == "Reshape" else node
            for node in tail
        )
    toy = Toy(classes=3, batch=batch, tail=tail)
    onnx.checker.check_model(toy.model())
    found = freed(toy)
    assert found is not None
    model, info = found
    assert info.inputs[0].shape == ("N", 3, 5, 7)
    whole, card = canonical(model, info, DetectorCard.from_dict(toy.card()), "toy")
    path = tmp_path / "adopted.onnx"
    whole = finished(whole, "toy")
    embed_card(whole, card)
    path.write_bytes(serialised(whole))
    images = frames(7)
    for size in (1, 2, 7):
        with load_detector(path, device="cpu", threads=1, batch=size) as detector:
            got = detector.log_probs(images)
        assert_scores(got, log_softmax(toy.logits(images, toy.card())))


def _doubled(target: Any, places: dict[tuple[int, ...], int]) -> Any:
    shape = [int(side) for side in target]
    if shape[0] not in (-1, 0):
        shape[places.get(tuple(shape), 0)] *= 2
    return np.array(shape)


def test_heads_that_are_merged_with_the_batch() -> None:
    """As attention does: (B, heads, d) → (B·heads, d), and back."""
    toy = Toy(classes=6, batch=2, tail=(reshape(2, 3, 2), reshape(6, 2), reshape(2, 6)))
    model = free_batch(toy.model(), "x", 2)
    assert model is not None
    targets = {
        tensor.name: numpy_helper.to_array(tensor).tolist()
        for tensor in model.graph.initializer
        if tensor.name.endswith("_whyfake_shape")
    }
    assert list(targets.values()) == [[-1, 3, 2], [-1, 2], [-1, 6]]


def test_a_batch_that_is_woven_in_stays() -> None:
    rows = ("Add", {}, np.zeros((2, 3), np.float32))
    assert freed(Toy(classes=3, batch=2, tail=(rows,))) is None
    wide = ("Reshape", {}, np.array([3, 2]))  # rows that mix the images
    assert freed(Toy(classes=3, batch=2, tail=(wide,), output_shape=(3, 2))) is None


def test_freeing_leaves_the_original_alone() -> None:
    model = Toy(classes=3, batch=1, tail=(reshape(1, 3),)).model()
    before = model.SerializeToString()
    assert free_batch(model, "x", 1) is not None
    assert model.SerializeToString() == before
