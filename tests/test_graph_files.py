"""Files that are no model, and scores that make no sense: one line each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import (
    CLIP,
    LOG_SOFTMAX,
    SIZE,
    SOFTMAX,
    Toy,
    assert_scores,
    external,
    frames,
    log_softmax,
    one_line,
    opened,
    opened_model,
    reshape,
)
from onnx import TensorProto, helper, numpy_helper
from toys import make_card

from whyfake import load_detector
from whyfake.errors import CardError, DetectorError, EngineError
from whyfake.inspection import inspect_model

# --- files that are no model


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
