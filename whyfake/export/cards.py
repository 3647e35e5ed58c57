"""The card of a model that is exported: what is known of it, under what the user says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..card import DetectorCard
from ..errors import CardError, UsageError
from ..onnx_graph import GraphInfo

Fields = Mapping[str, Any]
"""Fields of a card as `DetectorCard.from_dict` takes them; any may be missing."""


def merged(known: Fields, said: Fields) -> dict[str, Any]:
    """`known` with what `said` says in its place; `input` and `output` field by field."""
    fields = {**known, **{k: v for k, v in said.items() if k not in ("input", "output")}}
    for part in ("input", "output"):
        both = {**known.get(part, {}), **said.get(part, {})}
        if both:
            fields[part] = both
    return fields


def class_names(fields: Fields, where: str) -> list[str]:
    """The names of the classes; only the user knows them. Raises UsageError."""
    if not (fields.get("classes") and fields.get("real")):
        raise UsageError(
            f"{where}: name its classes in the order of its scores, and which of them mean real: "
            "--classes Real,DeepFakes,FaceSwap --real Real"
        )
    return list(fields["classes"])


def card_from_fields(fields: Fields, where: str) -> DetectorCard:
    """The card; `where` names the model in messages.

    Raises UsageError where a field that only the user can know is missing, CardError where one is
    wrong.
    """
    class_names(fields, where)
    if not {"height", "width"} <= set(fields.get("input", {})):
        raise UsageError(f"{where}: say how large its pictures are, such as --size 224")
    return DetectorCard.from_dict(fields, where)


def fields_of_graph(info: GraphInfo, said: Fields, model: str) -> dict[str, Any]:
    """What an ONNX graph tells of its card: names, size, and the activation that it closes with.

    Raises CardError where the activation cannot be told.
    """
    names = {part: said.get(part, {}).get("name") for part in ("input", "output")}
    source = next((t for t in info.inputs if names["input"] in (None, t.name)), info.inputs[0])
    sink = next((t for t in info.outputs if names["output"] in (None, t.name)), info.outputs[0])
    fields: dict[str, Any] = {"input": {}, "output": {}}
    sizes = [dim for dim in source.shape[1:] if isinstance(dim, int)]
    if len(sizes) == 3 and 3 in (sizes[0], sizes[2]):
        rows, columns = sizes[1:] if sizes[0] == 3 else sizes[:2]
        fields["input"] = {"height": rows, "width": columns}
    if source.dtype == "uint8":
        fields["input"]["range"] = [0, 255]
    activation = info.endings.get(sink.name) or said.get("output", {}).get("activation")
    if activation is None:
        raise CardError(
            f"{model} does not end in an activation that could be read off: say what its scores "
            "are: --activation logits, softmax, sigmoid or log_softmax"
        )
    fields["output"]["activation"] = activation
    return fields
