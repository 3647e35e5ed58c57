"""What a picture costs in floating-point operations, and what GPUs can do at best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

PEAKS: dict[str, dict[str, float]] = {
    "H200": {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "fp16": 756, "bf16": 756},
    "H100": {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989},
    "A100": {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312},
    "L40S": {"fp32": 91.6, "tf32": 183, "fp16": 362, "bf16": 362},
    "L4": {"fp32": 30.3, "tf32": 60, "fp16": 121, "bf16": 121},
    "T4": {"fp32": 8.1, "fp16": 65},
}
"""Dense TFLOP/s by NVIDIA's data sheets, by what the GPU's name contains; the first match holds."""


def peak(gpu: str, precision: str) -> float | None:
    """The most FLOP/s of a GPU at a precision; None where that is not known."""
    for name, rates in PEAKS.items():
        if all(part in gpu.replace("-", " ").split() for part in name.split()):
            return rates[precision] * 1e12 if precision in rates else None
    return None


def flops_a_picture(path: str | Path) -> float | None:
    """Operations of Conv, Gemm and MatMul for one picture, two a multiply-add, as is usual.

    What they leave out (activations, pooling, norms) is a few per cent in the usual networks. None
    where the graph has a shape that cannot be inferred, or loops. Raises DetectorError.
    """
    from onnx import shape_inference

    from ..onnx_graph import load_graph

    model, _ = load_graph(path)
    for item in model.graph.input:
        first = item.type.tensor_type.shape.dim[:1]
        for dim in first:
            dim.dim_value = 1
    for item in model.graph.output:  # or the free batch of the output contradicts that
        item.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(model).graph
    shapes = {item.name: list(item.dims) for item in graph.initializer}
    for item in (*graph.input, *graph.value_info, *graph.output):
        dims = item.type.tensor_type.shape.dim
        shapes[item.name] = [dim.dim_value for dim in dims]
    total = 0.0
    for node in graph.node:
        if node.op_type in ("Loop", "Scan", "If"):
            return None
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            own = _flops(node, shapes)
            if own is None:
                return None
            total += own
    return total or None


def _flops(node: Any, shapes: dict[str, list[int]]) -> float | None:
    made, taken, weight = (
        shapes.get(name, []) for name in (node.output[0], node.input[0], node.input[1])
    )
    if not all(made) or not all(taken) or not all(weight) or not (made and taken and weight):
        return None
    if node.op_type == "Conv":  # weight (out, in / groups, …)
        depth = math.prod(weight[1:])
    elif node.op_type == "Gemm":
        flipped = any(a.name == "transA" and a.i for a in node.attribute)
        depth = taken[0 if flipped else 1]
    else:
        depth = taken[-1]
    return 2.0 * math.prod(made) * depth
