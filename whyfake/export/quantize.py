"""INT8 by Q/DQ pairs in the graph, calibrated on pictures, as TensorRT wants them."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DetectorError, UsageError, require
from ..onnx_graph import PIXELS
from ..perturbation import FloatArray
from .precision import front, head

if TYPE_CHECKING:
    import onnx

LEAST = 16
"""Calibration pictures below which the ranges of activations are a matter of luck."""


def quantized_graph(model: onnx.ModelProto, pictures: FloatArray) -> onnx.ModelProto:
    """A copy of a float32 `model` whose convolutions and products compute in INT8.

    `pictures` (N, 3, h, w) in [0, 1] set the ranges of the activations. Symmetric, zero points 0,
    weights per channel, biases in float32; picture, normalisation and head stay float32. Costs
    N images of ONNX Runtime. Raises UsageError for too few pictures, DetectorError.
    """
    import onnx

    quantization = require("onnxruntime.quantization", "cpu", "INT8")
    if len(pictures) < LEAST:
        raise UsageError(f"INT8 wants {LEAST} calibration pictures or more, got {len(pictures)}")
    kept = front(model.graph) | head(model.graph)
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for index, node in enumerate(named.graph.node):  # nodes are excluded by name
        node.name = node.name or f"whyfake_node_{index}"
    left_out = [named.graph.node[index].name for index in kept]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(named, source)
        try:
            quantization.quantize_static(
                source,
                target,
                _reader(quantization, pictures),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=left_out,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                },
            )
        except Exception as error:  # noqa: BLE001 - the quantiser raises whatever it meets
            reason = " ".join(str(error).split())[:300]
            raise DetectorError(f"the graph cannot be quantised: {reason}") from None
        quantized: onnx.ModelProto = onnx.load(target)
    if not any(node.op_type == "QuantizeLinear" for node in quantized.graph.node):
        raise DetectorError("the graph has no convolution or product that INT8 could serve")
    return quantized


def _reader(quantization: Any, pictures: FloatArray) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows = iter(pictures)

        def get_next(self) -> dict[str, FloatArray] | None:
            row = next(self._rows, None)
            return None if row is None else {PIXELS: row[None]}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice to the root logger and prints; neither is for our users."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
