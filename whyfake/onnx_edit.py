"""Small edits of an ONNX graph: nodes appended one after the other, names that are free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


class Chain:
    """Nodes one after the other, from the tensor `current` on; for the caller to put in place."""

    def __init__(self, graph: onnx.GraphProto, current: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.current = current
        self._graph = graph
        self._used = _names(graph)

    def then(self, op: str, *others: Any, to_name: str | None = None, **attributes: Any) -> None:
        """Add a node that takes `current` and more, names or constant arrays.

        Its output is the new `current`.
        """
        from onnx import helper, numpy_helper

        names = [self.current]
        for value in others:
            name = value if isinstance(value, str) else self.fresh("whyfake_constant")
            if not isinstance(value, str):
                self._graph.initializer.append(numpy_helper.from_array(value, name))
            names.append(name)
        self.current = to_name or self.fresh("whyfake_step")
        self.nodes.append(helper.make_node(op, names, [self.current], **attributes))

    def fresh(self, stem: str) -> str:
        """A name that nothing in the graph has."""
        name = next(n for i in count() if (n := f"{stem}_{i}") not in self._used)
        self._used.add(name)
        return name


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its If, Loop and Scan nodes, which see its names."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from graphs(inner)


def uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often each name is read: by nodes, here or in branches, and as an output."""
    found = Counter(item.name for part in graphs(graph) for item in part.output)
    found.update(name for part in graphs(graph) for node in part.node for name in node.input)
    return found


def _names(graph: onnx.GraphProto) -> set[str]:
    used = {tensor.name for part in graphs(graph) for tensor in (*part.input, *part.initializer)}
    nodes = [node for part in graphs(graph) for node in part.node]
    return used | {name for node in nodes for name in (*node.input, *node.output)}


def moved_aside(graph: onnx.GraphProto, name: str, reserved: tuple[str, ...]) -> str:
    """Give an input or output another name where its own is reserved; returns what it has now."""
    if name not in reserved:
        return name
    used = _names(graph)
    new = next(n for i in count() if (n := f"{name}_{i}") not in used)
    for part in graphs(graph):
        for node in part.node:
            node.input[:] = [new if item == name else item for item in node.input]
            node.output[:] = [new if item == name else item for item in node.output]
    for item in (*graph.input, *graph.output, *graph.value_info):
        if item.name == name:
            item.name = new
    return new
