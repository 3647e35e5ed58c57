"""Toy detectors as ONNX, built in memory, whose true explanation is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from whyfake import Detector, DetectorCard, load_detector

Patch = tuple[int, int, int, int]  # top, bottom, left, right


def save_model(
    folder: Path,
    nodes: list[Any],
    constants: dict[str, NDArray[Any]],
    *,
    size: tuple[int, int],
    columns: int,
    card: dict[str, Any] | None = None,
    batch: int | str = "n",
    layout: str = "NCHW",
    dtype: int = TensorProto.FLOAT,
    name: str = "toy",
) -> Path:
    """Write a graph from `x` to `y` as NAME.onnx, with its card beside it; returns its path."""
    shape = [batch, 3, *size] if layout == "NCHW" else [batch, *size, 3]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, columns])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    if card is not None:
        path.with_suffix(".card.json").write_text(json.dumps(card))
    return path


def make_card(size: tuple[int, int], **changes: Any) -> dict[str, Any]:
    """A card for a two-class logits head [real, fake]; `input` and `output` are merged."""
    card: dict[str, Any] = {
        "schema": 1,
        "name": "toy",
        "input": {"height": size[0], "width": size[1], "color": "RGB", "range": [0, 1]},
        "output": {"activation": "logits"},
        "classes": ["real", "fake"],
        "real": ["real"],
    }
    for key, value in changes.items():
        card[key] = {**card[key], **value} if isinstance(value, dict) else value
    return card


def linear_weights(patch: Patch, size: tuple[int, int]) -> NDArray[np.float32]:
    """(3, h, w): a checkerboard of ±1 inside the patch, scaled to mean, zero outside."""
    top, bottom, left, right = patch
    weights = np.zeros((3, *size), np.float32)
    rows, columns = np.indices((bottom - top, right - left))
    weights[:, top:bottom, left:right] = np.where((rows + columns) % 2, 1.0, -1.0)
    return weights / (3 * (bottom - top) * (right - left))


def linear_detector(
    folder: Path,
    weights: NDArray[np.float32],
    bias: float,
    *,
    gain: float = 1.0,
    batch: int | str = "n",
    threads: int | None = None,
    engine_batch: int | None = None,
    name: str = "toy",
) -> Detector:
    """logits [0, gain·(Σ weights·x + bias)] for classes [real, fake]."""
    size = (weights.shape[1], weights.shape[2])
    matrix = np.zeros((weights.size, 2), np.float32)
    matrix[:, 1] = weights.ravel() * gain
    path = save_model(
        folder,
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["y"]),
        ],
        {"w": matrix, "b": np.array([0, bias * gain], np.float32)},
        size=size,
        columns=2,
        card=make_card(size),
        batch=batch,
        name=name,
    )
    return load_detector(path, device="cpu", threads=threads, batch=engine_batch)


def planted_frame(patch: Patch, size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A uint8 picture (H, W, 3), smooth noise all over, with the checkerboard in the patch."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(90, 160, (-(-height // 8), -(-width // 8), 3))
    picture = np.kron(coarse, np.ones((8, 8, 1), int))[:height, :width]
    board = np.sign(linear_weights(patch, size)).transpose(1, 2, 0)
    return np.clip(picture + 60 * board, 0, 255).astype(np.uint8)


def planted_detector(folder: Path, patch: Patch, size: tuple[int, int], **kwargs: Any) -> Detector:
    """Reads the checkerboard in one patch and nothing else; calls `planted_frame` fake.

    The pattern's mean is 60/255 in that frame; the decision turns at 50/255, inside NES's ball.
    """
    weights = linear_weights(patch, size)
    return linear_detector(folder, weights, -50 / 255, gain=60.0, **kwargs)


PATCH: Patch = (10, 20, 24, 40)  # whole cells of an 8×8 grid, and whole SHAP blocks
SIZE = (40, 64)
TALL_PATCH: Patch = (24, 40, 10, 20)
TALL = (64, 40)
SQUARE_PATCH: Patch = (12, 24, 24, 36)
SQUARE = (48, 48)
SCENES: list[tuple[tuple[int, int], Patch]] = [
    (SIZE, PATCH),
    (TALL, TALL_PATCH),
    (SQUARE, SQUARE_PATCH),
]
"""Frame sizes, wide, tall and square, each with the patch that is planted there."""


BRIGHT = np.zeros((3, *SIZE), np.float32), 0.5
"""Reads the patch's mean: bright is fake. Squares cannot undo a checkerboard of single pixels."""
BRIGHT[0][:, PATCH[0] : PATCH[1], PATCH[2] : PATCH[3]] = 1
BRIGHT[0][...] /= BRIGHT[0].sum()


def bright_detector(folder: Path) -> Detector:
    """Calls fake where the patch's mean is over a half; in batches of 16."""
    return linear_detector(folder, BRIGHT[0], -BRIGHT[1], gain=60, engine_batch=16)


def bright_picture(seed: int = 0) -> NDArray[np.uint8]:
    """uint8 (h, w, 3): smooth noise, and in the patch a mean of 2/255 over what is real."""
    rgb = planted_frame(PATCH, SIZE, seed).astype(int)
    top, bottom, left, right = PATCH
    patch = rgb[top:bottom, left:right]
    patch += round(127.5 + 2 - patch.mean())
    return rgb.clip(0, 255).astype(np.uint8)


def conv_detector(folder: Path, size: tuple[int, int] = (32, 48), seed: int = 0) -> Detector:
    """A small random convolutional net: smooth, interacting, no closed form; [real, fake]."""
    rng = np.random.default_rng(seed)
    w1 = rng.normal(0, 0.5, (6, 3, 3, 3)).astype(np.float32)
    w2 = rng.normal(0, 0.4, (8, 6, 3, 3)).astype(np.float32)
    w3 = rng.normal(0, 2.0, (8 * 4, 2)).astype(np.float32)
    path = save_model(
        folder,
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Tanh", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Tanh", ["c"], ["d"]),
            helper.make_node(
                "AveragePool",
                ["d"],
                ["e"],
                kernel_shape=[size[0] // 8, size[1] // 8],
                strides=[size[0] // 8, size[1] // 8],
            ),
            helper.make_node("Flatten", ["e"], ["f"]),
            helper.make_node("MatMul", ["f", "w3"], ["y"]),
        ],
        {"w1": w1, "w2": w2, "w3": w3},
        size=size,
        columns=2,
        card=make_card(size),
        name="conv",
    )
    return load_detector(path, device="cpu")


def run_graph(model: onnx.ModelProto, images: NDArray[np.float32]) -> list[Any]:
    """What a graph whose input is `x` gives for images, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": images}))


def check_a_detector_scores_as(model: onnx.ModelProto, path: Path) -> None:
    """A detector whose file, `path`, holds a graph of logits says what the graph says."""
    onnx.save(model, path)
    images = np.random.default_rng(2).random((3, 3, 16, 20), np.float32)
    z = run_graph(model, images)[0].astype(np.float64)
    classes = [f"c{index}" for index in range(z.shape[1])]
    card = make_card((16, 20), classes=classes, real=["c0"], output={"activation": "logits"})
    with load_detector(path, card=DetectorCard.from_dict(card, path.stem), device="cpu") as found:
        got = found.log_probs(images)
    assert got == pytest.approx(z - np.log(np.exp(z).sum(1, keepdims=True)), abs=1e-6)
    assert onnx.load(path) == model
