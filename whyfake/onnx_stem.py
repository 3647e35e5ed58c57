"""Where a detector's graph can be cut in two so that a value at the cut sees a small window only.

The first layers of most networks are local: convolutions, poolings and what works on each value
alone. Of copies that differ by regions, a value there has as many versions as the regions in its
window have combinations, few, and can be looked up (runtime/stem.py). `cuts` finds where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .onnx_flops import Shapes, flops, infer
from .onnx_graph import PIXELS, SCORES

if TYPE_CHECKING:
    import onnx

_EACH_ALONE = {
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid"),
    *("HardSwish", "Tanh", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "Exp", "Abs", "Neg"),
    *("BatchNormalization", "Identity", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sqrt"),
}
_OVER_WINDOWS = {"Conv", "MaxPool", "AveragePool"}
_OF_CHANNELS = {"Split", "Concat", "Gather"}


@dataclass(frozen=True)
class Window:
    """What value i along a side sees: `length` pixels from i·step + first on, or those inside."""

    step: int = 1
    first: int = 0
    length: int = 1

    def through(self, kernel: int, stride: int, dilation: int, pad: int) -> Window:
        """The same of a convolution's or pooling's values, of what has this window."""
        grown = self.length + dilation * (kernel - 1) * self.step
        return Window(self.step * stride, self.first - pad * self.step, grown)

    def joined(self, other: Window) -> Window | None:
        """Of a value made of two; None where they do not lie side by side."""
        if self.step != other.step:
            return None
        first = min(self.first, other.first)
        end = max(self.first + self.length, other.first + other.length)
        return Window(self.step, first, end - first)


Windows = tuple[Window, Window]
"""Of rows and of columns."""


@dataclass(frozen=True)
class Cut:
    """A tensor (n, *shape) that all the scores hang on, and nothing else of the picture does.

    `share`: of the whole graph's operations, those before it. `widest`: bytes of the largest value
    from here on, of one picture.
    """

    name: str
    shape: tuple[int, int, int]
    windows: Windows
    share: float
    widest: int

    @property
    def nbytes(self) -> int:
        """Of one picture's values there."""
        return 4 * math.prod(self.shape)


def cuts(model: onnx.ModelProto) -> list[Cut]:
    """Where a graph from PIXELS to SCORES can be cut, the first layers first.

    Between two convolutions only once, as late as can be, and only where what is cut is no larger
    than a picture. Empty where a shape cannot be inferred. `model` keeps its graph, not its shapes.
    """
    shapes = infer(model)
    costs = [flops(node, shapes) for node in model.graph.node]
    total = sum(cost for cost in costs if cost is not None)
    if None in costs or not total:
        return []
    seen, most = _local(model.graph, shapes), math.prod(shapes[PIXELS])
    found: dict[float, Cut] = {}
    for name, windows in seen.items():
        shape = shapes[name]
        if name == PIXELS or math.prod(shape) > most:
            continue
        if not _reaches(model.graph, name):
            before = _before(model.graph, name)
            spent = sum(cost or 0.0 for cost, used in zip(costs, before, strict=True) if used)
            behind = [n for n, used in zip(model.graph.node, before, strict=True) if not used]
            made = [name, *(output for node in behind for output in node.output)]
            widest = 4 * max(math.prod(shapes.get(one, [])) for one in made)
            if spent:
                sides = shape[1], shape[2], shape[3]
                found[spent] = Cut(name, sides, windows, spent / total, widest)
    return [found[spent] for spent in sorted(found)]


def split(model: onnx.ModelProto, cut: Cut) -> tuple[bytes, bytes]:
    """The graph up to the cut, from PIXELS, and from there on, to SCORES; serialised."""
    from onnx import TensorProto, helper
    from onnx.utils import Extractor

    whole = type(model)()
    whole.CopyFrom(model)
    kept = [item for item in whole.graph.value_info if item.name != cut.name]
    del whole.graph.value_info[:]
    here = helper.make_tensor_value_info(cut.name, TensorProto.FLOAT, ["N", *cut.shape])
    whole.graph.value_info.extend([*kept, here])
    extractor = Extractor(whole)
    ends = ([PIXELS], [cut.name]), ([cut.name], [SCORES])
    first, rest = (extractor.extract_model(*names).SerializeToString() for names in ends)
    return first, rest


def _local(graph: onnx.GraphProto, shapes: Shapes) -> dict[str, Windows]:
    """The windows of all tensors that have some, in the graph's order."""
    seen: dict[str, Windows] = {PIXELS: (Window(), Window())}
    beyond: set[str] = set()
    for node in graph.node:
        own = [seen[name] for name in node.input if name in seen]
        if beyond.intersection(node.input):
            windows = None
        elif not own:
            continue  # constants
        else:
            windows = _windows(node, own, [name for name in node.input if name in seen], shapes)
        for name in node.output:
            shape = shapes.get(name, [])
            if windows is not None and len(shape) == 4 and all(shape):
                seen[name] = windows
            else:
                beyond.add(name)
    return seen


def _windows(
    node: onnx.NodeProto, own: list[Windows], names: list[str], shapes: Shapes
) -> Windows | None:
    """The windows of a node's outputs; None where they are not small, or not known."""
    from onnx import helper

    if node.domain not in ("", "ai.onnx"):
        return None
    said = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    sides = _joined(own)
    taken = [shapes[name] for name in names]
    made = [shapes.get(name, []) for name in node.output]
    if sides is None or any(shape[2:] != taken[0][2:] for shape in taken):
        return None
    if node.op_type in _EACH_ALONE:
        alike = len(made) == 1 and all(shape == made[0] for shape in taken)
        return sides if alike and not said.get("training_mode") else None
    if node.op_type in _OF_CHANNELS:
        alike = all(shape[2:] == taken[0][2:] and len(shape) == 4 for shape in made)
        return sides if alike and said.get("axis", 0) == 1 else None
    if node.op_type not in _OVER_WINDOWS or len(made) != 1 or len(names) != 1:
        return None
    if node.input[0] != names[0] or said.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    kernel = said.get("kernel_shape") or shapes[node.input[1]][2:]
    strides, dilations = said.get("strides", [1, 1]), said.get("dilations", [1, 1])
    pads = said.get("pads", [0] * 4)[:2]
    rows, columns = (
        side.through(*numbers)
        for side, *numbers in zip(sides, kernel, strides, dilations, pads, strict=True)
    )
    return rows, columns


def _joined(own: list[Windows]) -> Windows | None:
    """The windows of a value that is made of several."""
    sides = own[0]
    for other in own[1:]:
        rows, columns = sides[0].joined(other[0]), sides[1].joined(other[1])
        if rows is None or columns is None:
            return None
        sides = rows, columns
    return sides


def _before(graph: onnx.GraphProto, name: str) -> list[bool]:
    """For each node whether `name` hangs on it."""
    return _traced(graph, {name}, set())[0]


def _reaches(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the scores hang on the pixels by a way that does not lead through `name`."""
    return PIXELS in _traced(graph, {SCORES}, {name})[1]


def _traced(
    graph: onnx.GraphProto, wanted: set[str], known: set[str]
) -> tuple[list[bool], set[str]]:
    """Which nodes make what is wanted out of what is known, and all names that this needs."""
    needed, used = set(wanted), []
    for node in reversed(graph.node):
        use = bool(needed.intersection(node.output) - known)
        if use:
            needed.update(node.input)
        used.append(use)
    return used[::-1], needed
