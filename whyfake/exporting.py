"""`whyfake export`: any source in, one ONNX file out, held to its source before it exists."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

from .card import DetectorCard
from .errors import DetectorError, EngineError, OutputError, UsageError, require
from .export.finish import embed_card, finished
from .export.parity import BATCHES, Parity, measure_parity, parity_inputs, require_independence
from .files import write_file
from .onnx_graph import describe, serialised
from .perturbation import FloatArray
from .sources import Attempt, ExportRequest, OnnxScorer, Source, open_source

if TYPE_CHECKING:
    import onnx

INPUTS = 64
_ALONE = 21  # of them are shown alone and in company, to see whether that matters

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)` in images; total 0 where there are none to count."""


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written, its card with the parity record, and what is to be said.

    `batch` is None where it is free; `size` is in bytes.
    """

    path: Path
    card: DetectorCard
    sha256: str
    size: int
    opset: int
    nodes: int
    batch: int | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; the parity record is in the card."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": self.size,
            "opset": self.opset,
            "nodes": self.nodes,
            "batch": self.batch,
            "card": self.card.to_dict(),
            "notes": list(self.notes),
        }


def export_detector(
    request: ExportRequest, out: str | Path, progress: Progress | None = None
) -> Exported:
    """Write one ONNX file, from pixels to logits, with its card inside, equal to its source.

    Raises DetectorError (also where scores differ by more than the tolerance), CardError,
    UsageError, OutputError, MissingExtraError; then no file is written.
    """
    tell = progress or (lambda stage, done, total: None)
    out = Path(out)
    _check_request(request, out)
    tell("reading", 0, 0)
    source = open_source(request)
    size = (source.card.input.height, source.card.input.width)
    inputs = parity_inputs(size, INPUTS, request.seed)
    require_independence(
        source.scores,
        inputs[:_ALONE],
        request.tolerance,
        source.what,
        _counter(tell, "asking the source", 2 * _ALONE + 1),
    )
    tell("rewriting", 0, 0)
    attempts = source.attempts()
    notes = list(source.notes)
    for attempt in attempts:
        try:
            graph, parity = _held(attempt, source, inputs, request.tolerance, tell)
        except (DetectorError, EngineError) as error:
            if attempt is attempts[-1]:
                raise
            notes.append(f"the batch could not be freed: {error}")
            continue
        notes += [attempt.note] if attempt.note else []
        record = _record(parity, source, request)
        card = replace(attempt.card, parity=record, engine={})
        return _written(graph, card, out, tuple(notes))
    raise DetectorError(f"{source.what} gave no graph")


def _check_request(request: ExportRequest, out: Path) -> None:
    """What would fail at the end fails at once. Raises UsageError, OutputError."""
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"export writes ONNX: --out must end in .onnx, got {out}")
    if not 0 < request.tolerance < 1:
        raise UsageError(f"tolerance must lie in (0, 1), got {request.tolerance}")
    if out.is_dir():
        raise OutputError(f"{out} is a folder, wanted a file")
    there = next(folder for folder in (out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OutputError(f"{out}: cannot write there: {error.strerror or error}") from None
    require("onnxruntime", "cpu", "holding an export to its source")


def _counter(tell: Progress, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def tick(images: int) -> None:
        nonlocal done
        done += images
        tell(stage, done, total)

    return tick


def _held(
    attempt: Attempt, source: Source, inputs: FloatArray, tolerance: float, tell: Progress
) -> tuple[onnx.ModelProto, Parity]:
    """The finished graph, and its parity with the source. Raises DetectorError over tolerance."""
    graph = finished(attempt.graph, source.what)
    batch = describe(graph, "").inputs[0].shape[0]
    fixed = batch if isinstance(batch, int) else None
    scorer = OnnxScorer(serialised(graph), attempt.card, source.what, batch=fixed)
    batches = BATCHES if fixed is None else (fixed,)
    tick = _counter(tell, "holding it to the source", len(inputs) * (1 + len(batches)))
    parity = measure_parity(source.scores, scorer.scores(source.unit), inputs, batches, tick)
    if parity.max_abs > tolerance:
        raise DetectorError(
            f"{source.what}: what was exported differs from its source by up to "
            f"{parity.max_abs:.2g} ({source.unit}), over the tolerance of {tolerance:g}; "
            f"{parity.flips} of {parity.inputs} decisions flip"
        )
    return graph, parity


def _record(parity: Parity, source: Source, request: ExportRequest) -> dict[str, Any]:
    """The card's `parity`: what was measured, against what, and with which versions."""
    packages = ("whyfake", "numpy", "onnx", *source.made_with)
    versions = {name: version(name) for name in packages}
    ort = require("onnxruntime", "cpu", "holding an export to its source")
    record = {
        **parity.to_dict(),
        "unit": source.unit,
        "tolerance": request.tolerance,
        "seed": request.seed,
        "reference": source.reference,
        "versions": {**versions, "onnxruntime": ort.__version__, "python": python_version()},
    }
    if source.sha256 is not None:
        record["reference_sha256"] = source.sha256
    return record


def _written(
    graph: onnx.ModelProto, card: DetectorCard, out: Path, notes: tuple[str, ...]
) -> Exported:
    embed_card(graph, card)
    content = serialised(graph)
    info = describe(graph, hashlib.sha256(content).hexdigest())
    write_file(out, content)
    batch = info.inputs[0].shape[0]
    return Exported(
        path=out,
        card=card,
        sha256=info.sha256,
        size=len(content),
        opset=info.opset,
        nodes=info.nodes,
        batch=batch if isinstance(batch, int) else None,
        notes=notes,
    )
