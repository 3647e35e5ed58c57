"""Let a narrow convolution before a max pooling compute each pooled window's pixels as channels.

A CPU multiplies a block of channels at a time, and wants several blocks to be busy: a convolution
to eight channels, such as MesoNet's second, leaves it half idle. The four pixels of a 2 × 2 window
are four kernels, each moved by a pixel, of one convolution that goes two pixels a step and has four
times the channels; the largest of the four is what pooling gives. The same sums, but for rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .onnx_edit import Chain, uses

if TYPE_CHECKING:
    import onnx

WIDEST, SMALLEST = 8, 5
"""Channels up to which, and side of the kernel from which, this pays (docs/results.md)."""
_WINDOW = [2, 2]
_OPSET = 13  # from which on Split takes sizes as an input


def windows_as_channels(model: onnx.ModelProto) -> int:
    """Rewrite, in `model` itself, every narrow Conv, Relu, 2 × 2 MaxPool. Returns how many.

    Left as they are: outputs that something else reads, weights that are no constants, strides,
    dilations, groups, poolings that overlap or reach over the edge.
    """
    graph = model.graph
    opsets = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if max(opsets, default=0) < _OPSET:
        return 0
    read = uses(graph)
    maker = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = 0
    for pool in [node for node in graph.node if _halves(node)]:
        relu = maker.get(pool.input[0])
        conv = maker.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
        if relu is None or conv is None or not read[relu.output[0]] == read[conv.output[0]] == 1:
            continue
        weights = _narrow(conv, constants)
        if weights is not None:
            _rewrite(graph, (conv, relu, pool), *weights)
            found += 1
    return found


def _said(node: onnx.NodeProto, **usual: Any) -> dict[str, Any]:
    """A node's attributes that are not as usual."""
    from onnx import helper

    said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value for name, value in said.items() if value != usual.get(name)}


def _halves(node: onnx.NodeProto) -> bool:
    """Whether it is a max pooling of 2 × 2 windows side by side, whole ones only."""
    said = _said(node, pads=[0] * 4, dilations=[1, 1], ceil_mode=0, auto_pad=b"NOTSET")
    wanted = {"kernel_shape": _WINDOW, "strides": _WINDOW}
    return node.op_type == "MaxPool" and said == wanted and len(node.output) == 1


def _narrow(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[NDArray[Any], NDArray[Any], list[int]] | None:
    """Kernel (M, C, h, w), bias (M) and pads of a convolution that is narrow; else None."""
    from onnx import numpy_helper

    said = _said(node, strides=[1, 1], dilations=[1, 1], group=1, auto_pad=b"NOTSET")
    names = node.input[1:]
    if node.op_type != "Conv" or {*said} - {"pads", "kernel_shape"} or {*names} - {*constants}:
        return None
    kernel, *bias = (numpy_helper.to_array(constants[name]) for name in names)
    if kernel.ndim != 4 or len(kernel) > WIDEST or min(kernel.shape[2:]) < SMALLEST:
        return None
    pads = said.get("pads", [0] * 4)
    return kernel, bias[0] if bias else np.zeros(len(kernel), kernel.dtype), pads


def _rewrite(
    graph: onnx.GraphProto,
    nodes: tuple[onnx.NodeProto, ...],
    kernel: NDArray[Any],
    bias: NDArray[Any],
    pads: list[int],
) -> None:
    """Put one convolution of all four pixels, and the largest of these, in place of `nodes`."""
    conv, _, pool = nodes
    many, channels, height, width = kernel.shape
    moved = np.zeros((4, many, channels, height + 1, width + 1), kernel.dtype)
    for index, (y, x) in enumerate(np.ndindex(*_WINDOW)):
        moved[index, :, :, y : y + height, x : x + width] = kernel
    chain = Chain(graph, conv.input[0])
    kernels = moved.reshape(-1, *moved.shape[2:])
    chain.then("Conv", kernels, np.tile(bias, 4), pads=pads, strides=_WINDOW)
    chain.then("Relu")
    pixels = [chain.fresh("whyfake_pixel") for _ in moved]
    chain.then("Split", np.full(4, many), to_name=pixels[0], axis=1)
    chain.nodes[-1].output.extend(pixels[1:])
    chain.then("Max", *pixels[1:], to_name=pool.output[0])
    where = list(graph.node).index(pool)
    body = [*graph.node[:where], *chain.nodes, *graph.node[where + 1 :]]
    del graph.node[:]
    graph.node.extend(node for node in body if node not in nodes)
    for name in {*conv.input[1:]} - {*uses(graph)}:
        for listed in (graph.initializer, graph.input):  # in both, in files of old
            for item in [item for item in listed if item.name == name]:
                listed.remove(item)
