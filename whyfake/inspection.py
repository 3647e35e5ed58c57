"""What `whyfake inspect` finds out about a model: its card, its graph, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .card import find_card
from .errors import CardError
from .models import model_file
from .onnx_graph import GraphInfo, fit, load_graph, score_columns
from .runtime.load import engine_card_path, is_engine, read_engine_card


def inspect_model(model: str | Path, card: str | Path | None = None) -> dict[str, Any]:
    """Card, inputs, outputs, opset, hash, problems and advice, or what an engine was built for.

    Raises DetectorError where the file is no ONNX model at all.
    """
    if is_engine(model):
        return _inspect_engine(Path(model), card)
    path = model_file(model)
    _, info = load_graph(path)
    report: dict[str, Any] = {
        "model": str(model),
        "sha256": info.sha256,
        "opset": info.opset,
        "nodes": info.nodes,
        "inputs": [_tensor(t) for t in info.inputs],
        "outputs": [{**_tensor(t), "activation": info.endings.get(t.name)} for t in info.outputs],
        "card": None,
        "card_from": None,
        "problems": [],
        "advice": [],
    }
    try:
        found, where = find_card(path, info.metadata, card)
        report["card"], report["card_from"] = found.to_dict(), where
        port = fit(info, found, str(model))
        report["batch"] = port.batch
        report["layout"] = port.layout
    except CardError as error:
        report["problems"].append(str(error))
        if report["card"] is None:
            report["card_start"] = start_of_card(path, info)
        return report
    if port.batch is not None:
        report["advice"].append(f"the batch is fixed at {port.batch}: a free one is faster")
    if found.output.activation in ("softmax", "sigmoid") and port.output not in info.endings:
        report["advice"].append(
            f"the graph does not end in {found.output.activation}, so scores are read as "
            "probabilities and may underflow: export logits"
        )
    for name in ("source", "license", "crop_margin"):
        if not getattr(found, name):
            report["advice"].append(f"the card says nothing of '{name}'")
    report["advice"] += [f"the card has an unknown field '{name}'" for name in found.extra]
    return report


def _inspect_engine(path: Path, given: str | Path | None) -> dict[str, Any]:
    """What an engine's card says; the engine itself opens only on the GPU that it fits."""
    card, digest = read_engine_card(path, given)
    return {
        "model": str(path),
        "sha256": digest,
        "engine": dict(card.engine),
        "card": card.to_dict(),
        "card_from": str(given or engine_card_path(path)),
        "problems": [],
        "advice": [],
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def start_of_card(path: Path, info: GraphInfo) -> dict[str, Any]:
    """A card to start from: what the graph tells, and example values for what it cannot."""
    source, sink = info.inputs[0], info.outputs[0]
    sizes = [dim for dim in source.shape[1:] if isinstance(dim, int) and dim != 3]
    height, width = sizes * 2 if len(sizes) == 1 else [*sizes, 224, 224][:2]
    activation = info.endings.get(sink.name, "logits")
    output: dict[str, Any] = {"name": sink.name, "activation": activation}
    batch = source.shape[0] if source.shape and isinstance(source.shape[0], int) else None
    columns = score_columns(sink, batch) or 2
    fakes = ["fake"] if columns <= 2 else [f"fake {n}" for n in range(1, columns)]
    if columns == 1:
        output["positive"] = "fake"
    return {
        "schema": 1,
        "name": path.stem,
        "input": {
            "name": source.name,
            "height": height,
            "width": width,
            "color": "RGB",
            "range": [0, 255] if source.dtype == "uint8" else [0, 1],
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
        "output": output,
        "classes": ["real", *fakes],
        "real": ["real"],
        "crop_margin": 1.3,
        "source": "",
        "license": "",
    }
