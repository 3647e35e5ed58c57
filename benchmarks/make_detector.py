"""A detector for timing: EfficientNetV2-B0 with random weights, as one ONNX file and its card.

    python benchmarks/make_detector.py OUT.onnx [--size 224] [--classes 2] [--seed 0]

The graph has the layers of timm's `tf_efficientnetv2_b0` (Tan & Le 2021, arXiv 2104.00298) after
BatchNorm folding: the speed is that of the real network, the scores mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

OPSET, IR_VERSION = 17, 8
STEM, HEAD = 32, 1280
SE_RATIO = 0.25  # of the channels that enter the block
SMALLEST = 32  # pixels: the network halves its input five times

# Std of the features before a SiLU. That wide, SiLU is nearly ReLU, whose gain does not depend on
# the size of its input; around 1 it grows with it, and contrasty faces got scores of a hundred.
SPREAD = 4.0
SILU_MEAN, SILU_STD = 0.3647, 0.5937  # of SiLU(SPREAD·z) / SPREAD for z ~ N(0, 1), by quadrature
BRANCH = 0.25 * SPREAD  # std of a residual branch, beside a trunk of SPREAD
SE_GATE, GATE_STD = 0.5, 0.25  # a gate is sigmoid(0 ± GATE_STD)
BIAS = 0.1  # std of a bias, relative to that of the features
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # of pictures in [0, 1]; folded into the stem


@dataclass(frozen=True)
class Stage:
    """A run of equal blocks; only the first one strides."""

    block: str
    repeats: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage("conv", 1, 1, 1, 16),
    Stage("fused", 2, 2, 4, 32),
    Stage("fused", 2, 2, 4, 48),
    Stage("mb", 3, 2, 4, 96),
    Stage("mb", 5, 1, 6, 112),
    Stage("mb", 8, 2, 6, 192),
)


@dataclass(frozen=True)
class Feature:
    """A tensor of the graph: name, (channels, height, width), and the mean and std to expect.

    The next layer is initialised so as to take the mean off and divide by the std.
    """

    name: str
    channels: int
    height: int
    width: int
    mean: float = 0.0
    std: float = 1.0


class Builder:
    """Collects nodes and weights; every method appends a layer and returns its output."""

    def __init__(self, seed: int) -> None:
        """`seed` of all weights, which are drawn in the order of the layers."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append one node; returns the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, name: str, values: NDArray[np.float64]) -> str:
        """Append one float32 initializer; returns its name."""
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def kernel(self, shape: tuple[int, ...], gain: float) -> NDArray[np.float64]:
        """Random filters (out, in, …), each of L2 norm `gain`, and of sum zero if it sees features.

        Sum zero keeps the mean of the SiLUs, whatever it is, out (Brock et al., arXiv 2101.08692):
        it is the same for all pictures and would drown them after some twenty layers. Filters of
        one channel, or of colours, are left alone: they would become blind to all but edges.
        """
        flat = self._rng.standard_normal((shape[0], math.prod(shape[1:])))
        if shape[1] > 3:
            flat -= flat.mean(axis=1, keepdims=True)
        flat *= gain / np.linalg.norm(flat, axis=1, keepdims=True)
        return flat.reshape(shape)

    def conv(
        self,
        x: Feature,
        name: str,
        channels: int,
        size: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        gain: float = SPREAD,
    ) -> Feature:
        """Convolution with bias, 'SAME' padding as in TensorFlow (more below and right).

        The output has mean 0 and std `gain`, about.
        """
        height, top, bottom = same_padding(x.height, size, stride)
        width, left, right = same_padding(x.width, size, stride)
        groups = x.channels if depthwise else 1
        kernel = self.kernel((channels, x.channels // groups, size, size), gain / x.std)
        bias = gain * BIAS * self._rng.standard_normal(channels)
        bias -= x.mean * kernel.sum(axis=(1, 2, 3))
        inputs = [
            x.name,
            self.weight(f"{name}.weight", kernel),
            self.weight(f"{name}.bias", bias),
        ]
        output = self.node(
            "Conv",
            inputs,
            name,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[top, left, bottom, right],
            group=groups,
        )
        return Feature(output, channels, height, width, 0.0, gain)

    def silu(self, x: Feature) -> Feature:
        """x · sigmoid(x), as two nodes."""
        gate = self.node("Sigmoid", [x.name], f"{x.name}.sigmoid")
        output = self.node("Mul", [x.name, gate], f"{x.name}.silu")
        return replace(x, name=output, mean=SILU_MEAN * x.std, std=SILU_STD * x.std)

    def squeeze_excite(self, x: Feature, name: str, squeezed: int) -> Feature:
        """Every channel times a gate in (0, 1) that the means of all channels decide."""
        mean = self.node("ReduceMean", [x.name], f"{name}.mean", axes=[2, 3], keepdims=1)
        y = replace(x, name=mean, height=1, width=1)
        y = self.silu(self.conv(y, f"{name}.reduce", squeezed))
        y = self.conv(y, f"{name}.expand", x.channels, gain=GATE_STD)
        gate = self.node("Sigmoid", [y.name], f"{name}.gate")
        output = self.node("Mul", [x.name, gate], f"{name}.scaled")
        return replace(x, name=output, mean=SE_GATE * x.mean, std=SE_GATE * x.std)

    def add(self, trunk: Feature, branch: Feature, name: str) -> Feature:
        """The residual sum; variances add."""
        output = self.node("Add", [branch.name, trunk.name], name)
        return replace(trunk, name=output, std=math.hypot(trunk.std, branch.std))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Output size, and the zeros before and after, of TensorFlow's 'SAME' padding."""
    output = -(-size // stride)
    total = max((output - 1) * stride + kernel - size, 0)
    return output, total // 2, total - total // 2


def conv_block(net: Builder, x: Feature, name: str, stage: Stage, stride: int) -> Feature:
    """Convolution 3×3 and SiLU (timm `cn`); never residual here, as its only use narrows."""
    return net.silu(net.conv(x, f"{name}.conv", stage.channels, 3, stride))


def fused_block(net: Builder, x: Feature, name: str, stage: Stage, stride: int) -> Feature:
    """Fused MBConv (timm `er`): expand 3×3, SiLU, project 1×1, and the input where it fits."""
    y = net.silu(net.conv(x, f"{name}.expand", x.channels * stage.expand, 3, stride))
    return project(net, x, y, name, stage, stride)


def mb_block(net: Builder, x: Feature, name: str, stage: Stage, stride: int) -> Feature:
    """MBConv (timm `ir`): expand 1×1, depthwise 3×3, squeeze-excite, project 1×1, and residual."""
    wide = x.channels * stage.expand
    y = net.silu(net.conv(x, f"{name}.expand", wide))
    y = net.silu(net.conv(y, f"{name}.depthwise", wide, 3, stride, depthwise=True))
    y = net.squeeze_excite(y, f"{name}.se", round(x.channels * SE_RATIO))
    return project(net, x, y, name, stage, stride)


def project(net: Builder, x: Feature, y: Feature, name: str, stage: Stage, stride: int) -> Feature:
    """Close a block: 1×1 to its width, plus its input x if the shape was kept."""
    residual = stride == 1 and x.channels == stage.channels
    y = net.conv(y, f"{name}.project", stage.channels, gain=BRANCH if residual else SPREAD)
    return net.add(x, y, f"{name}.add") if residual else y


BLOCKS = {"conv": conv_block, "fused": fused_block, "mb": mb_block}


def features(net: Builder, height: int, width: int) -> Feature:
    """Stem, stages and head convolution, from the graph's `input` to (1280, h/32, w/32)."""
    x = Feature("input", 3, height, width, PIXEL_MEAN, PIXEL_STD)
    x = net.silu(net.conv(x, "stem", STEM, 3, 2))
    for number, stage in enumerate(STAGES, 1):
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = BLOCKS[stage.block](net, x, f"stage{number}.{repeat}", stage, stride)
    return net.silu(net.conv(x, "head", HEAD))


def classifier(net: Builder, x: Feature, classes: int) -> None:
    """Global average and one linear layer, to the graph's `logits`."""
    pooled = net.node("GlobalAveragePool", [x.name], "pool")
    flat = net.node("Flatten", [pooled], "flatten", axis=1)
    kernel = net.kernel((classes, HEAD), 1 / x.std)
    weight = net.weight("classifier.weight", kernel)
    bias = net.weight("classifier.bias", np.zeros(classes))
    net.node("Gemm", [flat, weight, bias], "logits", transB=1)


def efficientnetv2_b0(
    height: int = 224, width: int = 224, classes: int = 2, seed: int = 0
) -> onnx.ModelProto:
    """An EfficientNetV2-B0 with random weights: `input` (n, 3, h, w) to `logits` (n, classes).

    float32, RGB in [0, 1] (the stem holds the normalisation), n dynamic. The same arguments give
    the same bytes. Raises ValueError for fewer than 32 pixels a side or fewer than two classes.
    """
    if min(height, width) < SMALLEST:
        raise ValueError(f"sides must be {SMALLEST} pixels or more, got {height}×{width}")
    if classes < 2:
        raise ValueError(f"a detector needs two classes or more, got {classes}")
    net = Builder(seed)
    classifier(net, features(net, height, width), classes)
    graph = helper.make_graph(
        net.nodes,
        "efficientnetv2_b0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        net.weights,
    )
    model = helper.make_model(
        graph,
        producer_name="whyfake-benchmarks",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def card(height: int = 224, width: int = 224, classes: int = 2, seed: int = 0) -> dict[str, Any]:
    """The detector card of `efficientnetv2_b0` with the same arguments, as JSON types."""
    fakes = ["fake"] if classes == 2 else [f"fake{i}" for i in range(1, classes)]
    return {
        "schema": 1,
        "name": f"efficientnetv2-b0-random-{seed}",
        "input": {
            "name": "input",
            "height": height,
            "width": width,
            "color": "RGB",
            "range": [0, 1],
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
        "output": {"name": "logits", "activation": "logits"},
        "classes": ["real", *fakes],
        "real": ["real"],
        "crop_margin": 1.3,
        "source": f"random weights (seed {seed}), for timing only: benchmarks/make_detector.py",
        "license": "Apache-2.0",
    }


def parameter_count(model: onnx.ModelProto) -> int:
    """Numbers in all initializers (a folded BatchNorm counts as one bias a channel)."""
    return sum(math.prod(weight.dims) for weight in model.graph.initializer)


def multiply_adds(model: onnx.ModelProto) -> int:
    """Multiply-adds of one picture in Conv and Gemm nodes; all else is left out, as is custom."""
    return sum(_multiply_adds(model))


def _multiply_adds(model: onnx.ModelProto) -> Iterator[int]:
    graph = shape_inference.infer_shapes(model).graph
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.output)
    }
    weights = {weight.name: math.prod(weight.dims) for weight in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            yield weights[node.input[1]] * math.prod(shapes[node.output[0]][2:])


def write(path: Path, content: bytes) -> None:
    """Write beside, then rename: the file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    """Write OUT.onnx and OUT.card.json, and print what was made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument("--size", type=int, default=224, help="pixels a side (224)")
    parser.add_argument("--classes", type=int, default=2, help="real and the fakes (2)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (0)")
    options = parser.parse_args()
    if options.out.suffix != ".onnx":
        parser.error(f"OUT must end in .onnx, got {options.out}")
    arguments = (options.size, options.size, options.classes, options.seed)
    try:
        model = efficientnetv2_b0(*arguments)
    except ValueError as error:
        parser.error(str(error))
    content = model.SerializeToString(deterministic=True)
    beside = options.out.with_suffix(".card.json")
    text = json.dumps(card(*arguments), indent=2) + "\n"
    try:
        write(options.out, content)
        write(beside, text.encode())
    except OSError as error:
        raise SystemExit(f"cannot write {options.out}: {error.strerror}") from None
    macs = multiply_adds(model)
    print(f"{options.out}  {len(content) / 1e6:.1f} MB, card {beside.name}")
    print(f"parameters  {parameter_count(model):,}")
    print(f"a picture   {macs / 1e9:.3f} GMACs = {2 * macs / 1e9:.3f} GFLOPs (Conv and Gemm)")


if __name__ == "__main__":
    main()
