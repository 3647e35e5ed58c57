"""Opens what `whyfake export` is given: a checkpoint, a callable, a program, or an ONNX file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .card import METADATA_KEY, DetectorCard, find_card, read_card
from .errors import CardError, DetectorError, EngineError, UsageError
from .export.adopt import canonical
from .export.batch import free_batch
from .export.cards import Fields, card_from_fields, class_names, fields_of_graph, merged
from .export.finish import MIN_OPSET, upgraded
from .export.modules import input_of, module_from_callable, module_from_timm
from .export.parity import Scorer
from .export.program import picture_shape, program_from_pt2
from .export.trace import INPUT, OUTPUT, onnx_from_module, onnx_from_program, scores_of
from .models import model_file
from .onnx_graph import GraphInfo, Port, describe, fit, load_graph, pixels_to_scores
from .perturbation import FloatArray, Pixels
from .runtime import Detector
from .runtime.detector import log_probs_from_scores
from .runtime.onnxruntime_engine import OnnxRuntimeEngine

if TYPE_CHECKING:
    import onnx

LOGITS, LOG_PROBS, PROBS = "logits", "log-probabilities", "probabilities"
_WEIGHTS = (".ckpt", ".pth", ".pt", ".bin", ".safetensors", ".pkl", ".tar")


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported: `source` as the command takes it, and what is said about it.

    `said` holds fields of the card, which win over what is known. `tolerance` bounds |Δ| of scores.
    """

    source: str
    arch: str | None = None
    card: Path | None = None
    said: Fields = field(default_factory=dict)
    prefix: str | None = None
    trust_pickle: bool = False
    tolerance: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Attempt:
    """A canonical graph to try, its card, and what to say if it is the one."""

    graph: onnx.ModelProto
    card: DetectorCard
    note: str = ""


@dataclass(frozen=True)
class Source:
    """A model to export: how it is called, its card, and its scores in `unit`.

    `attempts` makes the graphs to try, best first. For the record: `reference` is `what` without
    where it lies, `sha256` that of its file, `made_with` the packages that made sense of it.
    """

    what: str
    reference: str
    sha256: str | None
    card: DetectorCard
    scores: Scorer
    unit: str
    attempts: Callable[[], list[Attempt]]
    made_with: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_source(request: ExportRequest) -> Source:
    """Open a source by its kind. Raises DetectorError, CardError, UsageError, MissingExtraError."""
    source = request.source
    suffix = Path(source).suffix.lower()
    if request.arch is not None:
        return _timm(request, request.arch)
    if suffix == ".onnx" or model_file(source) != Path(source):
        return _onnx(request)
    if suffix == ".pt2":
        return _program(request)
    if suffix in _WEIGHTS:
        raise UsageError(f"{source} holds weights only: name their architecture in timm, --arch")
    module, colon, attribute = source.partition(":")
    if colon and attribute and not Path(source).exists():
        if not all(part.isidentifier() for name in (module, attribute) for part in name.split(".")):
            raise UsageError(f"'{source}' is no module:callable, such as detectors.meso:build")
        return _callable(request)
    raise UsageError(
        f"cannot tell what {source} is: wanted detector.onnx, program.pt2, module:callable, or a "
        "checkpoint with --arch"
    )


def _timm(request: ExportRequest, arch: str) -> Source:
    said = _said(request)
    positive = said.get("output", {}).get("positive")
    names = class_names(said, request.source)
    scores = 1 if positive is not None else len(names)
    module, notes = module_from_timm(
        arch,
        request.source,
        scores,
        size=_size(said),
        prefix=request.prefix,
        trust_pickle=request.trust_pickle,
    )
    file = Path(request.source)
    return _module(module, f"{arch} with {file.name}", file, said, notes, ("timm",))


def _callable(request: ExportRequest) -> Source:
    module = module_from_callable(request.source)
    return _module(module, request.source, None, _said(request))


def _module(
    module: Any,
    what: str,
    file: Path | None,
    said: Fields,
    notes: tuple[str, ...] = (),
    made_with: tuple[str, ...] = (),
) -> Source:
    """A torch module in evaluation mode, with what timm knows of it under what the user says."""
    own = input_of(module)
    name = file.stem if file else what.replace(":", ".").rpartition(".")[2]
    known: dict[str, Any] = {"name": name, "input": {}, "output": {"activation": "logits"}}
    if own:
        known["input"] = {"height": own["size"][0], "width": own["size"][1]}
        known["input"].update(mean=own["mean"], std=own["std"])
    card = card_from_fields(_for_trace(merged(known, said)), what)

    def attempts() -> list[Attempt]:
        graph = onnx_from_module(module, card, what)
        return _freed(graph, describe(graph, ""), card, what)

    scorer, unit = _torch_scores(module, card, what)
    packages = ("torch", "onnxscript", *made_with)
    digest = None if file is None else _digest(file)
    return Source(what, what, digest, card, scorer, unit, attempts, packages, notes)


def _program(request: ExportRequest) -> Source:
    what = request.source
    program = program_from_pt2(what, trust_pickle=request.trust_pickle)
    batch, (height, width), layout = picture_shape(program, what)
    known = {
        "name": Path(what).stem,
        "input": {"height": height, "width": width, "layout": layout},
        "output": {"activation": "logits"},
    }
    card = card_from_fields(_for_trace(merged(known, _said(request))), what)

    def attempts() -> list[Attempt]:
        graph = onnx_from_program(program, what)
        return _freed(graph, describe(graph, ""), card, what)

    scorer, unit = _torch_scores(program.module(), card, what, batch)
    file, packages = Path(what), ("torch", "onnxscript")
    return Source(what, file.name, _digest(file), card, scorer, unit, attempts, packages)


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _onnx(request: ExportRequest) -> Source:
    path, what = model_file(request.source), request.source
    graph, info = load_graph(path)
    said = request.said
    named = said.get("classes") and said.get("real")
    beside = METADATA_KEY in info.metadata or path.with_suffix(".card.json").exists()
    if named and request.card is None and not beside:
        base = {"name": path.stem, **fields_of_graph(info, said, what)}
    else:
        base = find_card(path, info.metadata, request.card)[0].to_dict()
    card = card_from_fields(merged(base, said), what)
    newer, notes = upgraded(graph, info.opset, what), []
    if newer is not graph:
        notes.append(f"opset {info.opset} raised to {MIN_OPSET}")
    if not _batch_is_true(graph, card, what):
        notes.append("its batch is named free, but only one picture at a time runs")
        for model in (graph, newer):
            _fix_batch(model, fit(info, card, what).input)
    scorer = _original(graph, card, what)

    def attempts() -> list[Attempt]:
        return _freed(newer, describe(newer, info.sha256), card, what)

    digest, unit = info.sha256, LOG_PROBS
    return Source(
        what, path.name, digest, card, scorer.log_probs, unit, attempts, notes=tuple(notes)
    )


def _original(graph: onnx.ModelProto, card: DetectorCard, what: str) -> OnnxScorer:
    """Scores of an ONNX file as `Detector` reads it."""
    port = fit(describe(graph, ""), card, what)
    content, stripped = pixels_to_scores(graph, card, port)
    return OnnxScorer(content, card, what, stripped=stripped, batch=port.batch)


def _batch_is_true(graph: onnx.ModelProto, card: DetectorCard, what: str) -> bool:
    """Whether a graph that names its batch free can run two pictures; it must run one."""
    if fit(describe(graph, ""), card, what).batch is not None:
        return True
    scorer = _original(graph, card, what)
    pictures = np.zeros((2, 3, card.input.height, card.input.width), np.float32)
    scorer.raw(pictures[:1])
    try:
        scorer.raw(pictures)
    except (DetectorError, EngineError):
        return False
    return True


def _fix_batch(graph: onnx.ModelProto, source: str) -> None:
    """Say that the graph takes one picture at a time."""
    for item in graph.graph.input:
        if item.name == source:
            item.type.tensor_type.shape.dim[0].dim_value = 1


def _said(request: ExportRequest) -> Fields:
    """What the user says of a torch model: a card's file, with the options over it."""
    if request.card is None:
        return request.said
    read_card(request.card)
    fields = json.loads(request.card.read_text(encoding="utf-8"))
    return merged(fields, request.said)  # what the card leaves out may be known of the model


def _size(said: Fields) -> tuple[int, int] | None:
    spec = said.get("input", {})
    return (spec["height"], spec["width"]) if {"height", "width"} <= set(spec) else None


def _for_trace(fields: dict[str, Any]) -> dict[str, Any]:
    """The same for a graph that is about to be traced, with the names that it will have."""
    fields["input"] = {**fields.get("input", {}), "name": INPUT}
    fields["output"] = {**fields.get("output", {}), "name": OUTPUT}
    return fields


def _freed(graph: onnx.ModelProto, info: GraphInfo, card: DetectorCard, what: str) -> list[Attempt]:
    """The graph with its batch freed, then as it is; the latter alone where its batch is free."""
    port = _checked_fit(info, card, what)
    plain = Attempt(*canonical(graph, info, card, what))
    if port.batch is None:
        return [plain]
    attempts = []
    freed = free_batch(graph, port.input, port.batch)
    if freed is not None:
        again = canonical(freed, describe(freed, info.sha256), card, what)
        attempts.append(Attempt(*again, note=f"batch freed, was {port.batch}"))
    fixed = f"the batch stays fixed at {port.batch}: the graph is built around it"
    return [*attempts, replace(plain, note=fixed)]


def _checked_fit(info: GraphInfo, card: DetectorCard, what: str) -> Port:
    """`fit`, with the option that mends a wrong activation."""
    ending = next((e for name, e in info.endings.items() if name == card.output.name), None)
    if card.output.name == OUTPUT and ending not in (None, card.output.activation):
        raise CardError(f"{what} ends in {ending}: pass --activation {ending}")
    return fit(info, card, what)


def _torch_scores(
    module: Any, card: DetectorCard, what: str, batch: int | None = None
) -> tuple[Scorer, str]:
    """The module's scores as they can be compared, and in which unit.

    Probabilities cannot be turned back to logits where they saturate, so they are compared as such.
    """
    activation = card.output.activation

    def raw(images: FloatArray) -> FloatArray:
        return scores_of(module, card, images, what)

    asked = raw if batch is None else filled(raw, batch)
    if activation == "logits":
        return asked, LOGITS
    if activation == "log_softmax":
        return asked, LOG_PROBS
    return lambda images: probabilities(asked(images), card), PROBS


def probabilities(raw: FloatArray, card: DetectorCard) -> NDArray[np.float64]:
    """P(class) (n, C) of what a model gives, as its card reads it. Raises DetectorError."""
    return np.exp(log_probs_from_scores(raw, card, stripped=False).astype(np.float64))


def filled(scores: Callable[[FloatArray], FloatArray], batch: int) -> Scorer:
    """A scorer of any number of pictures from one that takes `batch` at a time."""

    def scorer(images: FloatArray) -> FloatArray:
        rows = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            full = np.zeros((batch, *images.shape[1:]), np.float32)
            full[: len(part)] = part
            rows.append(scores(full)[: len(part)])
        return np.concatenate(rows)

    return scorer


class OnnxScorer:
    """Scores of a graph from `whyfake_pixels` to `whyfake_scores`, by ONNX Runtime on the CPU.

    Pictures that are asked for together run as one batch, unless the graph fixes `batch`.
    """

    def __init__(
        self,
        content: bytes,
        card: DetectorCard,
        what: str,
        *,
        stripped: bool = False,
        batch: int | None = None,
    ) -> None:
        self._content, self._card, self._what = content, card, what
        self._stripped, self._fixed = stripped, batch
        self._detector: Detector | None = None

    def raw(self, images: FloatArray) -> FloatArray:
        """What the graph gives, (n, columns). Raises DetectorError, EngineError."""
        return self._detector_for(len(images)).raw(Pixels(images), images[0])

    def log_probs(self, images: FloatArray) -> FloatArray:
        """Log-probabilities (n, C), as `Detector` gives them."""
        raw = self.raw(images)
        assert self._detector is not None
        return self._detector.decode(raw)

    def scores(self, unit: str) -> Scorer:
        """Its scores in that unit."""
        if unit == LOGITS:
            return self.raw
        if unit == LOG_PROBS:
            return self.log_probs
        return lambda images: probabilities(self.raw(images), self._card)

    def _detector_for(self, images: int) -> Detector:
        size = self._fixed or images
        if self._detector is None or self._detector.engine.batch != size:
            engine = OnnxRuntimeEngine(self._content, device="cpu", batch=size, name=self._what)
            self._detector = Detector(engine, self._card, stripped=self._stripped)
        return self._detector
