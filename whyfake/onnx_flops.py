"""Shapes of an ONNX graph's tensors for one picture, and what its nodes cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

LOOPS = ("Loop", "Scan", "If")
"""Nodes with graphs inside: what they cost cannot be told."""
Shapes = dict[str, list[int]]
"""By name; 0 is a dimension that cannot be inferred, a name that is missing a whole shape."""


def infer(model: onnx.ModelProto) -> Shapes:
    """The shape of every tensor for one picture. Changes the sizes that `model` declares."""
    from onnx import shape_inference

    for item in model.graph.input:
        first = item.type.tensor_type.shape.dim[:1]
        for dim in first:
            dim.dim_value = 1
    for item in model.graph.output:  # or the free batch of the output contradicts that
        item.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(model).graph
    shapes = {item.name: list(item.dims) for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [dim.dim_value for dim in dims]
    return shapes


def flops(node: onnx.NodeProto, shapes: Shapes) -> float | None:
    """Operations of a Conv, its transpose, a Gemm or MatMul, two a multiply-add; 0 of other nodes.

    What is left out (activations, pooling, norms) is a few per cent in the usual networks. None
    where a shape cannot be inferred, or where there are graphs inside.
    """
    if node.op_type in LOOPS:
        return None
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0.0
    made, taken, weight = (
        shapes.get(name, []) for name in (node.output[0], node.input[0], node.input[1])
    )
    if not all(made) or not all(taken) or not all(weight) or not (made and taken and weight):
        return None
    if node.op_type == "ConvTranspose":  # weight (in, out / groups, …): what each input goes to
        return 2.0 * math.prod(taken) * math.prod(weight[1:])
    if node.op_type == "Conv":  # weight (out, in / groups, …)
        depth = math.prod(weight[1:])
    elif node.op_type == "Gemm":
        flipped = any(a.name == "transA" and a.i for a in node.attribute)
        depth = taken[0 if flipped else 1]
    else:
        depth = taken[-1]
    return 2.0 * math.prod(made) * depth
