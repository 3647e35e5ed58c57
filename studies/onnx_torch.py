"""Runs a small ONNX detector in torch, so that gradients reach its pixels: for PGD in studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from whyfake.card import find_card
from whyfake.models import model_file
from whyfake.onnx_graph import SCORES, fit, fold, load_graph
from whyfake.perturbation import FloatArray
from whyfake.runtime import Detector


def _conv(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(
        x, w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1)
    )


def _pool(a: dict[str, Any], x: Any) -> Any:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    x = functional.pad(x, (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(
        x, a["kernel_shape"], a["strides"], ceil_mode=bool(a.get("ceil_mode", 0))
    )


def _gemm(a: dict[str, Any], x: Any, w: Any, b: Any = 0) -> Any:
    x, w = x.T if a.get("transA") else x, w.T if a.get("transB") else w
    return a.get("alpha", 1.0) * (x @ w) + a.get("beta", 1.0) * b


def _axes(a: dict[str, Any], given: Any) -> list[int]:
    return a["axes"] if given is None else given.tolist()


OPS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y,
    "Neg": lambda a, x: -x,
    "Identity": lambda a, x: x,
    "Cast": lambda a, x: x,
    "Relu": lambda a, x: functional.relu(x),
    "LeakyRelu": lambda a, x: functional.leaky_relu(x, a.get("alpha", 0.01)),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Gather": lambda a, x, i: x.index_select(a.get("axis", 0), i.reshape(-1)),
    "Unsqueeze": lambda a, x, axes=None: x[
        tuple(None if d in _axes(a, axes) else slice(None) for d in range(x.ndim + 1))
    ],
    "ReduceMean": lambda a, x, axes=None: x.mean(_axes(a, axes), bool(a.get("keepdims", 1))),
    "ReduceMax": lambda a, x, axes=None: x.amax(_axes(a, axes), bool(a.get("keepdims", 1))),
    "BatchNormalization": lambda a, x, w, b, m, v: functional.batch_norm(
        x, m, v, w, b, False, 0.0, a.get("epsilon", 1e-5)
    ),
    "Conv": _conv,
    "MaxPool": _pool,
    "Gemm": _gemm,
}
"""What the two detectors of the study need; each is held to ONNX Runtime as a whole."""


class TorchDetector:
    """Pixels (N, 3, h, w) in [0, 1] to log-probabilities (N, 2), differentiable.

    Sizes: a one-logit head becomes two columns, as in whyfake. ValueError for an operation that is
    not in OPS.
    """

    def __init__(self, model: str) -> None:
        path: Path = model_file(model)
        graph, info = load_graph(path)
        self.card, _ = find_card(path, info.metadata, None)
        folded, _ = fold(graph, self.card, fit(info, self.card, model))
        self._graph = folded.graph
        unknown = {node.op_type for node in folded.graph.node} - set(OPS)
        unknown -= {"Constant"}
        if unknown:
            raise ValueError(f"{model}: no torch for {', '.join(sorted(unknown))}")
        self._known = {
            item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
            for item in folded.graph.initializer
        }

    def log_probs(self, pixels: Any) -> Any:
        """Log-probabilities (N, C) of a tensor of pixels."""
        values = {**self._known, self._graph.input[0].name: pixels}
        for node in self._graph.node:
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            if node.op_type == "Constant":
                array = numpy_helper.to_array(attributes["value"]).copy()
                values[node.output[0]] = torch.from_numpy(np.asarray(array))
                continue
            given = [values[name] if name else None for name in node.input]
            values[node.output[0]] = OPS[node.op_type](attributes, *given)
        logits = values[SCORES].reshape(len(pixels), -1)
        if logits.shape[1] > 1:
            return torch.log_softmax(logits, 1)
        one = self.card.classes.index(self.card.output.positive)
        columns = [None, None]
        columns[one], columns[1 - one] = (
            functional.logsigmoid(logits),
            functional.logsigmoid(-logits),
        )
        return torch.cat(columns, 1)

    def distance(self, detector: Detector, frame: FloatArray) -> float:
        """How far log-probabilities are from the detector's own, at most, on a frame (3, h, w)."""
        ours = self.log_probs(torch.from_numpy(frame[None])).detach().numpy()
        return float(np.abs(ours - detector.log_probs(frame[None])).max())
