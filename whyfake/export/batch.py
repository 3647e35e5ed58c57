"""Frees a fixed batch where that is provably right: constant Reshape targets become relative.

A graph exported at batch B often holds B in the targets of its Reshapes only. Each is looked at
with the shapes at B and at another batch. Where the input is P×(kB)×rest at B, and grows with the
batch on that axis, every image is one block behind each of the P leading indices; a target with the
same P in front and a multiple of B next keeps it one. That number is then left to ONNX (−1).
Whether the whole graph is right is for parity to say: see `measure_parity`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

_PROBE = 13  # a batch that no sensible graph has for another reason
_SMALL = 4096  # elements: what larger weights hold does not matter to shapes

Shapes = Mapping[str, tuple[int, ...]]


def free_batch(graph: onnx.ModelProto, source: str, batch: int) -> onnx.ModelProto | None:
    """A copy whose input `source` takes any number of images, or None where that cannot be had.

    The outputs' shapes are left open.
    """
    import onnx

    bare = _without_weights(graph)
    before = _shapes(bare, source, batch)
    targets: dict[int, list[int]] = {}
    for index, node in enumerate(bare.graph.node):
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
            continue
        target = _freed_target(node, before, _shapes(bare, source, _PROBE), batch)
        if target is not None and _is_constant(bare, node.input[1]):
            targets[index] = target
            _aim(bare, index, target)
    after = _shapes(bare, source, _PROBE)
    for output in bare.graph.output:
        if _batch_axis(before.get(output.name), after.get(output.name), batch) is None:
            return None
    freed = onnx.ModelProto()
    freed.CopyFrom(graph)
    for index, target in targets.items():
        _aim(freed, index, target)
    _open_shapes(freed)
    for item in freed.graph.input:
        if item.name == source:
            item.type.tensor_type.shape.dim[0].dim_param = "N"
    return freed


def _batch_axis(
    before: tuple[int, ...] | None, after: tuple[int, ...] | None, batch: int
) -> int | None:
    """The one axis that grew with the batch; None where there is none, or more than one."""
    if before is None or after is None or len(before) != len(after):
        return None
    grown = [i for i, (b, a) in enumerate(zip(before, after, strict=True)) if b != a]
    if len(grown) != 1 or before[grown[0]] * _PROBE != after[grown[0]] * batch:
        return None
    return grown[0]


def _freed_target(node: Any, before: Shapes, now: Shapes, batch: int) -> list[int] | None:
    """A Reshape's target with −1 where it holds the batch; None where it is right, or cannot be."""
    source, wanted = before.get(node.input[0]), before.get(node.output[0])
    axis = _batch_axis(source, now.get(node.input[0]), batch)
    if source is None or wanted is None or axis is None:
        return None
    in_front = math.prod(source[:axis])
    fits = [
        place
        for place, size in enumerate(wanted)
        if math.prod(wanted[:place]) == in_front and size % batch == 0
    ]
    if not fits:
        return None
    place = axis if axis in fits else fits[0]
    if _batch_axis(wanted, now.get(node.output[0]), batch) == place:
        return None
    return [-1 if i == place else size for i, size in enumerate(wanted)]


def _aim(graph: onnx.ModelProto, index: int, target: list[int]) -> None:
    """Give a Reshape another constant target."""
    import onnx

    node = graph.graph.node[index]
    name = f"{node.output[0]}_whyfake_shape"
    value = np.array(target, np.int64)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    node.input[1] = name
    kept = [item for item in node.attribute if item.name != "allowzero"]
    del node.attribute[:]
    node.attribute.extend(kept)


def _without_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A light copy for shape inference: large weights are inputs of their type and shape."""
    import onnx

    bare = onnx.ModelProto()
    bare.ir_version = graph.ir_version
    bare.opset_import.extend(graph.opset_import)
    bare.functions.extend(graph.functions)
    for field in ("node", "input", "output"):
        getattr(bare.graph, field).extend(getattr(graph.graph, field))
    bare.graph.name = "shapes"
    listed = {item.name for item in bare.graph.input}
    for tensor in graph.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            kind = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            bare.graph.input.append(kind)
    _open_shapes(bare)
    return bare


def _open_shapes(graph: onnx.ModelProto) -> None:
    """Forget what shapes were at the fixed batch, but for the inputs'."""
    del graph.graph.value_info[:]
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")


def _shapes(bare: onnx.ModelProto, source: str, batch: int) -> Shapes:
    """All shapes that are known when the input has that batch."""
    import onnx

    for item in bare.graph.input:
        if item.name == source:
            item.type.tensor_type.shape.dim[0].dim_value = batch
    found = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    shapes = {}
    for item in (*found.graph.input, *found.graph.value_info, *found.graph.output):
        kind = item.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[item.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return shapes


def _is_constant(graph: onnx.ModelProto, name: str) -> bool:
    return any(tensor.name == name for tensor in graph.graph.initializer) or any(
        node.op_type == "Constant" and node.output[0] == name for node in graph.graph.node
    )
