"""Graphs whose answer is known: linear over the pixels, under heads and closings of every kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from toys import make_card

from whyfake import Detector, load_detector

SIZE = (5, 7)
NAMES = ("real", "df", "f2f", "fs")
Array = NDArray[np.float64]
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


def one_line(error: Exception, *parts: str) -> None:
    said = str(error)
    assert "\n" not in said
    for part in parts:
        assert part in said


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


def put(toy: Toy, card: dict[str, Any] | None, name: str = "toy") -> None:
    """Write the toy into the working folder, with a card beside it where there is one."""
    onnx.save(toy.model(), f"{name}.onnx")
    if card is not None:
        Path(f"{name}.card.json").write_text(json.dumps(card))
