"""Makes a CPU compute as a GPU would in low precision, so that its cost is known before a GPU is.

ONNX Runtime's CPU kernels compute fp16 graphs in float32: it shows nothing of what a GPU would
round. Here every tensor of low precision is float32 again, and is rounded to as many bits as its
type has, with nodes that no optimiser may remove (Veltkamp's splitting, Dekker 1971):

    c = x·(2ᵏ + 1),   rounded x = c − (c − x),   k = 24 − bits

A GPU that fuses layers rounds less often, so this is the pessimistic side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .precision import LOW

if TYPE_CHECKING:
    import onnx

_BITS = {"fp16": 11, "bf16": 8}
"""Bits of the significand, the hidden one included."""


def emulated_graph(converted: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A float32 graph that rounds where `converted` (by `graph_with_precision`) computes low.

    The range of the type is not emulated: fp16 would overflow above 65,504.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    low_type: int = getattr(TensorProto, LOW[precision])
    inferred = onnx.shape_inference.infer_shapes(converted).graph
    typed = (*inferred.value_info, *inferred.output)
    low = {item.name for item in typed if item.type.tensor_type.elem_type == low_type}
    emulated = onnx.ModelProto()
    emulated.CopyFrom(converted)
    graph = emulated.graph
    for tensor in graph.initializer:
        if tensor.data_type == low_type:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    factor = np.array(2.0 ** (24 - _BITS[precision]) + 1, np.float32)
    graph.initializer.append(numpy_helper.from_array(factor, "whyfake_splitter"))
    body: list[Any] = []
    for node in graph.node:
        if node.op_type == "Cast":
            for item in node.attribute:
                item.i = TensorProto.FLOAT if item.i == low_type else item.i
        body.append(node)
        for position, name in enumerate(node.output):
            if name in low:
                exact, scaled, rest = (f"{name}_{part}" for part in ("exact", "scaled", "rest"))
                node.output[position] = exact
                body += [
                    helper.make_node("Mul", [exact, "whyfake_splitter"], [scaled]),
                    helper.make_node("Sub", [scaled, exact], [rest]),
                    helper.make_node("Sub", [scaled, rest], [name]),
                ]
    del graph.node[:]
    graph.node.extend(body)
    return emulated
