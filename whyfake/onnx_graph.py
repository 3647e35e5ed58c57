"""The detector's ONNX graph: read, described, and rewritten to take pixels and give logits.

Whatever a graph expects (0–255, BGR, NHWC, mean and std, float16) is folded in front of it, and a
closing Sigmoid or Softmax is taken off its end, so that everything else in whyfake lives in one
world: float32 RGB (N, 3, h, w) in [0, 1] goes in, scores come out that do not underflow.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .card import DetectorCard
from .errors import CardError, DetectorError
from .onnx_edit import Chain, moved_aside

if TYPE_CHECKING:
    import onnx

PIXELS = "whyfake_pixels"
"""The input of a rewritten graph: float32 (N, 3, h, w), RGB, in [0, 1]."""
SCORES = "whyfake_scores"
"""Its output: float32, one row an image."""

_ENDINGS = {"Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "log_softmax"}
_SHAPE_ONLY = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"}
_INTEGER = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_FLOATS = {1: "float", 10: "float16", 11: "double", 16: "bfloat16"}  # TensorProto.DataType


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, type and shape; None or a name is a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class GraphInfo:
    """What a graph says of itself; `endings` are the activations that it closes with, by output.

    `sha256` is that of the file; weights in files beside it go into it too. `precision` is the
    lowest that it computes in: fp32, bf16, fp16 or int8.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    nodes: int
    sha256: str
    metadata: dict[str, str]
    endings: dict[str, str]
    precision: str = "fp32"


def load_graph(path: str | Path) -> tuple[onnx.ModelProto, GraphInfo]:
    """Read an ONNX file with its external data. Raises DetectorError."""
    import onnx
    from google.protobuf.message import DecodeError

    path = Path(path)
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise DetectorError(f"{path}: cannot read the model: {error.strerror or error}") from None
    except DecodeError as error:
        raise DetectorError(f"{path} is not a readable ONNX model: {error}") from None
    if not model.graph.node or not model.graph.output:
        raise DetectorError(f"{path} is not an ONNX model: it holds no graph")
    digest = hashlib.sha256(content)
    outside = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise DetectorError(f"{path}: cannot read its external data: {reason}") from None
    for tensor in outside:
        digest.update(tensor.raw_data)
    info = describe(model, digest.hexdigest())
    if not info.inputs:
        raise DetectorError(f"{path} takes no input: it is no detector")
    return model, info


def describe(model: onnx.ModelProto, sha256: str) -> GraphInfo:
    """What a graph says of itself; `sha256` is that of its file."""
    constants = {tensor.name for tensor in model.graph.initializer}
    endings = {}
    for output in model.graph.output:
        node = _closing_activation(model, output.name)
        if node is not None:
            endings[output.name] = _ENDINGS[node.op_type]
    return GraphInfo(
        inputs=tuple(_tensor(item) for item in model.graph.input if item.name not in constants),
        outputs=tuple(_tensor(item) for item in model.graph.output),
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
        nodes=len(model.graph.node),
        sha256=sha256,
        metadata={item.key: item.value for item in model.metadata_props},
        endings=endings,
        precision=_precision(model.graph),
    )


def _precision(graph: onnx.GraphProto) -> str:
    """What the graph computes in, told by the types of its constants, Casts and operators."""
    from onnx import TensorProto

    types = {tensor.data_type for tensor in graph.initializer}
    types |= {item.i for n in graph.node if n.op_type == "Cast" for item in n.attribute}
    if any(node.op_type in _INTEGER for node in graph.node):
        return "int8"
    if TensorProto.FLOAT16 in types:
        return "fp16"
    return "bf16" if TensorProto.BFLOAT16 in types else "fp32"


def _tensor(item: Any) -> Tensor:
    import onnx

    kind = item.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.dim_value > 0 else (dim.dim_param or None)  # 0 and −1 mean unknown
        for dim in kind.shape.dim
    )
    return Tensor(item.name, onnx.TensorProto.DataType.Name(kind.elem_type).lower(), shape)


def _closing_activation(model: onnx.ModelProto, output: str) -> Any:
    """The Sigmoid, Softmax or LogSoftmax that an output comes from; None where there is none.

    Only nodes that keep the values may stand between them, and nothing else may read it.
    """
    maker = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    name = output
    while name in maker:
        node = maker[name]
        if node.op_type in _ENDINGS:
            over_the_batch = any(item.name == "axis" and item.i == 0 for item in node.attribute)
            return None if over_the_batch else node
        if node.op_type not in _SHAPE_ONLY or readers.get(node.input[0], 0) != 1:
            return None
        if any(item.name == "to" and item.i not in _FLOATS for item in node.attribute):
            return None
        name = node.input[0]
    return None


@dataclass(frozen=True)
class Port:
    """How a card and its graph fit: names, layout, input type and the batch it insists on."""

    input: str
    input_type: str
    layout: str
    output: str
    batch: int | None
    columns: int | None


def fit(info: GraphInfo, card: DetectorCard, model: str) -> Port:
    """Hold a card against its graph. Raises CardError that names what contradicts what."""
    source = _pick(info.inputs, card.input.name, "input", model)
    others = ", ".join(tensor.name for tensor in info.inputs if tensor != source)
    if others:
        raise CardError(f"{model} wants more than a picture, namely {others}: re-export without")
    shape = source.shape
    if len(shape) != 4:
        raise CardError(f"{model}: input '{source.name}' has {len(shape)} dimensions, wanted 4")
    if source.dtype not in ("float", "float16", "uint8"):
        raise CardError(
            f"{model}: input '{source.name}' is {source.dtype}, wanted float, float16 or uint8"
        )
    spec = card.input
    if source.dtype == "uint8" and (
        spec.range != (0.0, 255.0) or any(spec.mean) or spec.std != (1.0, 1.0, 1.0)
    ):
        raise CardError(
            f"{model}: input '{source.name}' is uint8, so the card's range must be [0, 255], "
            "without mean and std"
        )
    layout = card.input.layout or ("NHWC" if shape[3] == 3 and shape[1] != 3 else "NCHW")
    channels, height, width = shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
    want = (3, card.input.height, card.input.width)
    for got, wanted in zip((channels, height, width), want, strict=True):
        if isinstance(got, int) and got != wanted:
            raise CardError(
                f"{model} expects {channels}×{height}×{width}, the card says "
                f"{want[0]}×{want[1]}×{want[2]}: re-export, or pass --card"
            )
    sink = _pick(info.outputs, card.output.name, "output", model)
    if sink.dtype not in _FLOATS.values():
        raise CardError(f"{model}: output '{sink.name}' is {sink.dtype}, wanted float scores")
    batch = shape[0] if isinstance(shape[0], int) else None
    columns = score_columns(sink, batch)
    _check_head(card, info.endings.get(sink.name), columns, model)
    return Port(source.name, source.dtype, layout, sink.name, batch, columns)


def _pick(tensors: tuple[Tensor, ...], name: str | None, kind: str, model: str) -> Tensor:
    names = ", ".join(tensor.name for tensor in tensors)
    if name is None:
        if len(tensors) != 1:
            raise CardError(f"{model} has {len(tensors)} {kind}s ({names}): name one in the card")
        return tensors[0]
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise CardError(f"{model} has no {kind} '{name}', which the card names; it has: {names}")


def score_columns(sink: Tensor, batch: int | None) -> int | None:
    """Scores per image in an output, the batch being fixed or None; None where that is open."""
    if not sink.shape:
        return None
    if len(sink.shape) == 1 and isinstance(sink.shape[0], int):
        if batch == 1:  # squeezed: the one axis holds the scores
            return sink.shape[0]
        return 1 if sink.shape[0] == batch else None
    total = 1
    for dim in sink.shape[1:]:
        if not isinstance(dim, int):
            return None
        total *= dim
    return total


def _check_head(card: DetectorCard, ending: str | None, columns: int | None, model: str) -> None:
    activation = card.output.activation
    if ending is not None and ending != activation:
        raise CardError(
            f"{model} ends in {ending}, the card says {activation}: correct output.activation"
        )
    if columns is None:
        return
    if columns == 1:
        check_one_column(card, model)
    elif columns != len(card.classes):
        raise CardError(
            f"{model} gives {columns} scores an image, the card names {len(card.classes)} classes"
        )


def check_one_column(card: DetectorCard, model: str) -> None:
    """A one-column head: two classes, a positive one, and no softmax. Raises CardError."""
    if card.output.activation in ("softmax", "log_softmax"):
        raise CardError(f"{model}: one column cannot be a {card.output.activation}")
    if len(card.classes) != 2 or card.output.positive is None:
        raise CardError(
            f"{model} gives one score an image: the card needs two classes, and the one it "
            "scores in output.positive"
        )


def pixels_to_scores(model: onnx.ModelProto, card: DetectorCard, port: Port) -> tuple[bytes, bool]:
    """Serialise the graph with pixels in front and, where it can be, logits at its end.

    Returns the model's bytes and whether a closing Sigmoid or Softmax was taken off. `model` itself
    is not changed. Raises DetectorError.
    """
    adapted, stripped = fold(model, card, port)
    return serialised(adapted), stripped


def fold(model: onnx.ModelProto, card: DetectorCard, port: Port) -> tuple[onnx.ModelProto, bool]:
    """The same, as a model: a copy whose input is `whyfake_pixels` and output `whyfake_scores`."""
    import onnx

    adapted = onnx.ModelProto()
    adapted.CopyFrom(model)
    ours = (PIXELS, SCORES)  # a graph that was folded before has these names already
    source, sink = (moved_aside(adapted.graph, n, ours) for n in (port.input, port.output))
    port = replace(port, input=source, output=sink)
    closing = _closing_activation(adapted, port.output)
    stripped = closing is not None
    if closing is not None:  # taking off LogSoftmax changes nothing, log-softmax being idempotent
        closing.op_type = "Identity"
        del closing.attribute[:]
    _put_pixels_in_front(adapted.graph, card, port)
    cast = onnx.helper.make_node("Cast", [port.output], [SCORES], to=onnx.TensorProto.FLOAT)
    adapted.graph.node.append(cast)
    del adapted.graph.output[:]
    adapted.graph.output.append(
        onnx.helper.make_tensor_value_info(SCORES, onnx.TensorProto.FLOAT, None)
    )
    return adapted, stripped


def serialised(model: onnx.ModelProto) -> bytes:
    """The model's bytes. Raises DetectorError over protobuf's limit of 2 GB."""
    from google.protobuf.message import EncodeError

    try:
        content: bytes = model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise DetectorError(f"the model is too large to be rewritten in memory: {error}") from None
    return content


def _put_pixels_in_front(graph: onnx.GraphProto, card: DetectorCard, port: Port) -> None:
    """Prepend the nodes that turn RGB pixels in [0, 1] into what the graph's input expects."""
    import numpy as np
    from onnx import TensorProto, helper

    spec = card.input
    chain = Chain(graph, PIXELS)
    then = chain.then

    low, high = spec.range
    mean, std = np.array(spec.mean), np.array(spec.std)
    scale, shift = (high - low) / std, (low - mean) / std
    if spec.color == "BGR":
        then("Gather", np.array([2, 1, 0]), axis=1)
    if np.any(scale != 1):
        then("Mul", scale.astype(np.float32).reshape(1, 3, 1, 1))
    if np.any(shift != 0):
        then("Add", shift.astype(np.float32).reshape(1, 3, 1, 1))
    if port.layout == "NHWC":
        then("Transpose", perm=[0, 2, 3, 1])
    if port.input_type == "uint8":
        then("Round")
        then("Clip", np.array(0, np.float32), np.array(255, np.float32))
        then("Cast", to=TensorProto.UINT8)
    elif port.input_type == "float16":
        then("Cast", to=TensorProto.FLOAT16)
    chain.then("Identity", to_name=port.input)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend(chain.nodes + body)
    for index, item in enumerate(graph.input):
        if item.name == port.input:
            del graph.input[index]
            break
    shape = [port.batch or "N", 3, spec.height, spec.width]
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, shape))
