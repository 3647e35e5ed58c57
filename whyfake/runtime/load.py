"""Opens a detector: an ONNX file on ONNX Runtime, or a compiled engine on TensorRT."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from ..card import DetectorCard, find_card, read_card
from ..errors import CardError, DetectorError, UsageError, WhyfakeError, unknown
from ..models import BUNDLED, model_file
from ..onnx_graph import fit, load_graph, pixels_to_scores
from ..onnx_pooling import pool_first
from ..onnx_windows import windows_as_channels
from .detector import COMPOSITIONS, Detector
from .devices import Device, parse_device
from .engine import Engine
from .layout import Found, machine_key, settle
from .onnxruntime_engine import OnnxRuntimeEngine
from .stem import Stems
from .throughput import Layout, layout_of

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
"""Files with these endings are TensorRT engines."""
_RECORD = ("sha256", "flavour", "version", "precision", "gpu", "profile", "parity")


def is_engine(model: str | Path) -> bool:
    """Whether a file is a TensorRT engine, by its name."""
    return Path(model).suffix.lower() in ENGINE_SUFFIXES


def load_detector(
    model: str | Path = BUNDLED,
    *,
    card: str | Path | DetectorCard | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    compose: str = "auto",
    layout: Layout | None = None,
    tune: bool = True,
    planned: int = 0,
) -> Detector:
    """Open a detector, ready to be asked.

    `model` is an ONNX file, an engine that `whyfake build` made, or `bundled` (the default), the
    demonstration detector that comes with whyfake. `card` overrides the card in the file or beside
    it. `device` is auto, cpu, cuda, ort-tensorrt or tensorrt, the last three with `:N` for one of
    several GPUs; `threads` the CPU cores to use (all); `batch` the engine's batch size; `compose`
    where perturbed copies are composed: `host`, `device`, or `auto`, what is faster, on a CPU the
    host with first layers looked up where that saves work (see Detector).

    How an ONNX file is fed (batch, lanes, threads in each) follows a rule, unless `whyfake bench`
    or a long run measured it on this machine: `tune=False` keeps to the rule, which gives the same
    bits on every machine; `layout` says it. `planned` is how many images will be asked: if they
    will take long and nothing is remembered, it is measured now, for about two seconds.

    Costs no images. Raises DetectorError, CardError, EngineError, MissingExtraError, UsageError.
    """
    wanted = parse_device(device)
    if compose not in COMPOSITIONS:
        raise UsageError(unknown("compose", compose, COMPOSITIONS))
    if is_engine(model):
        return _load_engine(Path(model), card, wanted, batch, compose)
    if wanted.kind == "tensorrt":
        raise UsageError(
            f"--device tensorrt runs engines, and {model} is none: whyfake build {model} --out "
            f"{Path(model).stem}.engine; or use --device ort-tensorrt"
        )
    read = _read(model, card)
    card = read.card
    size = (card.input.height, card.input.width)

    def open_engine(layout: Layout | None) -> Engine:
        opened = OnnxRuntimeEngine(
            read.content,
            device=device,
            threads=threads,
            batch=batch or read.batch,
            size=size,
            name=str(model),
            layout=layout,
        )
        if read.precision != "fp32":
            opened.precision = read.precision
        return opened

    engine = open_engine(layout)
    key = machine_key(hashlib.sha256(read.content).hexdigest(), engine, threads)
    how = "rule" if layout is None and batch is None else "asked"
    found = Found(layout_of(engine), how, key=key)
    if tune and how == "rule":
        engine, found = settle(engine, open_engine, key, size, planned)
    detector = Detector(engine, card, sha256=read.sha256, stripped=read.stripped, compose=compose)
    detector.layout = found

    def reopen(layout: Layout) -> Engine:  # from the file: the graph is not kept for it
        return load_detector(
            model, card=card, device=device, threads=threads, layout=layout, tune=False
        ).engine

    detector.reopen = reopen if tune else None
    if engine.device == "cpu" and engine.free_batch and engine.precision == "fp32":
        detector.stems = _stems(detector, model, card, read.sha256)
    return detector


def _stems(detector: Detector, model: str | Path, card: DetectorCard, sha256: str) -> Stems:
    """What a detector on the CPU can be cut into; read from its file anew when it is wanted."""

    def read() -> bytes | None:
        try:
            again = _read(model, card)
        except WhyfakeError:  # gone meanwhile: whole pictures do without it
            return None
        return again.content if again.sha256 == sha256 else None

    def open_part(content: bytes, batch: int | None) -> Engine:
        layout = layout_of(detector.engine)
        layout = replace(layout, batch=batch or layout.batch)
        return OnnxRuntimeEngine(content, device="cpu", name=str(model), layout=layout)

    return Stems(read, open_part, lambda: detector.engine, detector.size)


@dataclass(frozen=True)
class _Onnx:
    """What an ONNX file says: its graph from pixels to scores, its card, what is built into it."""

    content: bytes
    card: DetectorCard
    stripped: bool
    batch: int | None
    precision: str
    sha256: str


def _read(model: str | Path, given: str | Path | DetectorCard | None) -> _Onnx:
    """Read a detector's file, and hold its card against its graph."""
    path = model_file(model)
    graph, info = load_graph(path)
    if isinstance(given, DetectorCard):
        card = _checked(given)
    else:
        card, _ = find_card(path, info.metadata, given)
    port = fit(info, card, str(model))
    pool_first(graph)
    windows_as_channels(graph)
    content, stripped = pixels_to_scores(graph, card, port)
    return _Onnx(content, card, stripped, port.batch, info.precision, info.sha256)


def _checked(card: DetectorCard) -> DetectorCard:
    """A caller's card, checked like one from a file."""
    return DetectorCard.from_dict(card.to_dict(), card.name)


def engine_card_path(engine: Path) -> Path:
    """The card of an engine: `detector.engine` has `detector.engine.card.json`.

    Not `detector.card.json`, which is that of `detector.onnx`.
    """
    return engine.with_name(engine.name + ".card.json")


def read_engine_card(
    path: Path, given: str | Path | DetectorCard | None = None
) -> tuple[DetectorCard, str]:
    """An engine's card, checked to be its own, and the engine's SHA-256. Needs no GPU.

    Raises DetectorError where there is no engine, CardError.
    """
    if not path.is_file():
        raise DetectorError(f"{path}: there is no such file")
    beside = engine_card_path(path)
    if isinstance(given, DetectorCard):
        card = _checked(given)
    elif given is None and not beside.is_file():
        raise CardError(
            f"{path} has no card beside it: whyfake build writes {beside.name} with the engine"
        )
    else:
        card = read_card(given or beside)
    missing = [name for name in _RECORD if name not in card.engine]
    if missing:
        what = "engine" if not card.engine else f"engine.{missing[0]}"
        raise CardError(f"{given or beside} is not an engine's card: '{what}' is missing")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if card.engine.get("sha256") != digest:
        raise CardError(
            f"{given or beside} is the card of another engine than {path}: build both anew "
            "with whyfake build"
        )
    return card, digest


def _load_engine(
    path: Path,
    given: str | Path | DetectorCard | None,
    device: Device,
    batch: int | None,
    compose: str,
) -> Detector:
    if device.kind not in ("auto", "tensorrt"):
        raise UsageError(
            f"{path} is a TensorRT engine, which --device {device} cannot run: use --device "
            "tensorrt, or the ONNX file that it was built from"
        )
    card, digest = read_engine_card(path, given)
    from .tensorrt_engine import TensorRtEngine

    engine = TensorRtEngine(path, card.engine, index=device.index, batch=batch)
    wanted = (3, card.input.height, card.input.width)
    if engine.picture != wanted:
        engine.close()
        raise CardError(f"{path} takes pictures {engine.picture}, the card says {wanted}")
    return Detector(engine, card, sha256=digest, compose=compose)
