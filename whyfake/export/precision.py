"""Rewrites a float32 graph so that most of it computes in float16 or bfloat16.

TensorRT 11 builds strongly typed networks only: what a layer computes in is what its tensors are.
So precision is a property of the graph, and the same graph says the same on every TensorRT.

Kept in float32: the picture and its normalisation; the head, from the pooling before the last
layer with weights to the end; operators whose ONNX definition knows no such type; and layers whose
weights the type cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DetectorError

if TYPE_CHECKING:
    import onnx

LOW = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
"""The precisions that change the graph, and the type that each puts into it."""

_LARGEST = {"fp16": 65504.0, "bf16": 3.38e38}
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_POOLING = frozenset(
    {"GlobalAveragePool", "AveragePool", "ReduceMean", "GlobalMaxPool"}
    | {"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Identity"}
)
_FIXED = frozenset({"Cast", "CastLike", "ConstantOfShape", "Constant"})
_KNOWS_BF16 = 22
"""The opset whose Conv and pooling know bfloat16; TensorRT takes it in graphs of any opset."""


def graph_with_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of a float32 `model` that computes in `precision`: `fp16` or `bf16`.

    Inputs, outputs and head stay float32; Casts stand where the types meet. Raises DetectorError
    for a graph with control flow, whose branches are not looked into.
    """
    import onnx

    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    _constants_to_initializers(converted.graph)
    kept = front(converted.graph) | head(converted.graph)
    _Rewriter(converted, precision, kept).rewrite()
    return converted


def front(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes that see the picture before any layer with weights does."""
    reached = {item.name for item in graph.input}
    found = set()
    for index, node in enumerate(graph.node):
        if node.op_type not in _WEIGHTED and any(name in reached for name in node.input):
            reached.update(node.output)
            found.add(index)
    return found


def head(graph: onnx.GraphProto) -> set[int]:
    """Indices of the last layer with weights, of all behind it, and of the pooling before it."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    open_ends = [(makers[item.name], False) for item in graph.output if item.name in makers]
    while open_ends:
        index, past_weights = open_ends.pop()
        node = graph.node[index]
        if index in found or (past_weights and node.op_type not in _POOLING):
            continue
        found.add(index)
        past = past_weights or node.op_type in _WEIGHTED
        open_ends += [(makers[name], past) for name in node.input if name in makers]
    return found


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, so that there is one kind of constant."""
    import onnx

    body = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            body.append(node)
    del graph.node[:]
    graph.node.extend(body)


class _Rewriter:
    """Gives every node a side, float32 or low, and puts Casts where a tensor changes sides."""

    def __init__(self, model: onnx.ModelProto, precision: str, kept: set[int]) -> None:
        import onnx

        self._graph = model.graph
        self._kept = kept
        self._type: int = getattr(onnx.TensorProto, LOW[precision])
        self._type_name = f"tensor({LOW[precision].lower()})"
        self._largest = _LARGEST[precision]
        self._opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        if precision == "bf16":
            self._opset = max(self._opset, _KNOWS_BF16)
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._floats = _float_tensors(model)
        self._low: set[str] = set()  # the tensors that are made in low precision
        self._made: set[str] = set()  # names of Casts and of converted constants
        self._nodes: list[Any] = []

    def rewrite(self) -> None:
        """Rewrite the graph in place."""
        for index, node in enumerate(self._graph.node):
            if any(item.g.node or item.graphs for item in node.attribute):
                raise DetectorError(
                    f"the graph has control flow ({node.op_type}), which low precision does not "
                    "look into: build it with --precision fp32 or tf32"
                )
            schema = self._schema(node)
            low = index not in self._kept and schema is not None and self._can_be_low(node, schema)
            for position, name in enumerate(node.input):
                if name in self._floats:
                    wanted = low and self._takes_low(schema, position)
                    node.input[position] = self._as(name, low=wanted)
            self._nodes.append(node)
            if low:
                self._low.update(
                    name
                    for position, name in enumerate(node.output)
                    if name in self._floats and self._takes_low(schema, position, outputs=True)
                )
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._graph.node for name in node.input}
        left = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(left)
        del self._graph.value_info[:]  # its types are no longer true

    def _schema(self, node: Any) -> Any:
        import onnx

        if node.domain not in ("", "ai.onnx") or node.op_type in _FIXED:
            return None
        try:
            return onnx.defs.get_schema(node.op_type, self._opset, "")
        except onnx.defs.SchemaError:
            return None

    def _can_be_low(self, node: Any, schema: Any) -> bool:
        """Whether some input may be low, and every constant fits into the type."""
        places = [
            position
            for position, name in enumerate(node.input)
            if name in self._floats and self._takes_low(schema, position)
        ]
        return bool(places) and all(self._fits(node.input[position]) for position in places)

    def _fits(self, name: str) -> bool:
        from onnx import numpy_helper

        if name not in self._constants:
            return True
        values = numpy_helper.to_array(self._constants[name])
        return not values.size or float(np.abs(values).max()) <= self._largest

    def _takes_low(self, schema: Any, position: int, *, outputs: bool = False) -> bool:
        """Whether the operator's definition lets that input or output have the low type."""
        formal = schema.outputs if outputs else schema.inputs
        item = formal[min(position, len(formal) - 1)]  # the last one may repeat
        for constraint in schema.type_constraints:
            if constraint.type_param_str == item.type_str:
                return self._type_name in constraint.allowed_type_strs
        return False

    def _as(self, name: str, *, low: bool) -> str:
        """The name under which tensor `name` can be had in the wanted type."""
        import onnx
        from onnx import helper

        if low == (name in self._low):
            return name
        if low and name in self._constants:
            return self._low_constant(name)
        made = f"{name}_{'low' if low else 'float'}"
        if made not in self._made:
            self._made.add(made)
            to = self._type if low else onnx.TensorProto.FLOAT
            self._nodes.append(helper.make_node("Cast", [name], [made], to=to))
        return made

    def _low_constant(self, name: str) -> str:
        """A constant converted once, so that no Cast runs for it."""
        from onnx import helper, numpy_helper

        made = f"{name}_low"
        if made not in self._made:
            self._made.add(made)
            values = numpy_helper.to_array(self._constants[name])
            self._graph.initializer.append(
                helper.make_tensor(made, self._type, values.shape, values.ravel().tolist())
            )
        return made


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 tensors: inputs, constants and whatever shape inference types so."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    typed: Iterable[Any] = (*inferred.input, *inferred.value_info, *inferred.output)
    wanted = onnx.TensorProto.FLOAT
    found = {item.name for item in typed if item.type.tensor_type.elem_type == wanted}
    return found | {t.name for t in model.graph.initializer if t.data_type == wanted}
