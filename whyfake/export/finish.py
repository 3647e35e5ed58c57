"""The last hand on a graph: an opset that everything reads, shapes, checks, the card inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..card import METADATA_KEY, DetectorCard
from ..errors import DetectorError, one_line
from ..onnx_graph import serialised

if TYPE_CHECKING:
    import onnx

MIN_OPSET = 13
"""Since 13, axes are inputs and Softmax is over one axis: what TensorRT's parser is tested with,
and the first with per-channel quantisation, which INT8 engines need."""
_MIN_IR = 8  # weights need not be listed as inputs, and functions are known


def upgraded(graph: onnx.ModelProto, opset: int, model: str) -> onnx.ModelProto:
    """The graph in opset 13 where it is older. Raises DetectorError if it cannot be converted."""
    import onnx

    if opset >= MIN_OPSET:
        return graph
    too_old = f"{model}: opset too old: it is {opset}, wanted {MIN_OPSET} or later"
    if opset < 7:  # ONNX Runtime's promise, and the converter's, begin there
        raise DetectorError(f"{too_old}; re-export it")
    try:
        return onnx.version_converter.convert_version(graph, MIN_OPSET)
    except Exception as error:  # noqa: BLE001 - the converter, in C++, raises kinds of its own
        raise DetectorError(
            f"{too_old}, and onnx cannot convert it ({one_line(error, 120)}): re-export it"
        ) from None


def finished(graph: onnx.ModelProto, model: str) -> onnx.ModelProto:
    """A copy with shapes inferred and all of it checked, in one piece and without others' paths.

    Raises DetectorError.
    """
    import onnx

    done = onnx.ModelProto()
    done.CopyFrom(graph)
    done.ir_version = max(done.ir_version, _MIN_IR)
    weights = {tensor.name for tensor in done.graph.initializer}
    kept = [item for item in done.graph.input if item.name not in weights]
    del done.graph.input[:]
    done.graph.input.extend(kept)
    for node in done.graph.node:  # exporters note paths of the machine they ran on
        node.doc_string = ""
        del node.metadata_props[:]
    del done.graph.metadata_props[:]
    del done.graph.value_info[:]
    serialised(done)  # over 2 GB what follows crashes or fails unclearly
    try:
        done = onnx.shape_inference.infer_shapes(
            done, check_type=True, strict_mode=True, data_prop=True
        )
        onnx.checker.check_model(done, full_check=True)
    except Exception as error:  # noqa: BLE001 - raised in C++
        raise DetectorError(f"{model}: the graph is not valid ONNX: {one_line(error)}") from None
    return done


def embed_card(graph: onnx.ModelProto, card: DetectorCard) -> None:
    """Put the card into the graph's metadata, in place of one that is there."""
    text = json.dumps(card.to_dict(), ensure_ascii=False)
    kept = [(item.key, item.value) for item in graph.metadata_props if item.key != METADATA_KEY]
    del graph.metadata_props[:]
    for key, value in (*kept, (METADATA_KEY, text)):
        graph.metadata_props.add(key=key, value=value)
