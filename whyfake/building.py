"""From an ONNX detector to a TensorRT engine with its card, held against the original.

    graph → canonical form → precision → TensorRT → parity → engine and card, or nothing

Where there is a GPU, parity and the best batch are measured on it. Where there is none (TensorRT
for RTX builds without), parity is predicted on the CPU by a graph that rounds as a GPU would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .card import DetectorCard, find_card
from .errors import EngineError, UsageError, unknown
from .export.adopt import canonical
from .export.engine import BuildOptions, Plan, plan_from_onnx
from .export.parity import measure_parity, parity_inputs
from .export.precision import LOW, graph_with_precision
from .files import cache_folder, write_file
from .likeness import nes_likeness, throughput
from .models import model_file
from .onnx_graph import load_graph
from .perturbation import FloatArray
from .runtime import Detector, cuda, load_detector
from .runtime.load import ENGINE_SUFFIXES, engine_card_path, is_engine
from .tensorrt_api import RTX_CARDS, TensorRt, load_tensorrt

if TYPE_CHECKING:
    import onnx

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
UNTUNED_BATCH = 64
"""The batch that an engine is tuned for where no GPU is there to measure it."""

Progress = Callable[[str, float | None], None]
"""`progress(what, share)`: what is being done, and how much of it, 0 to 1, where that is known."""


@dataclass(frozen=True)
class BuildRequest:
    """What to build. `model`: an ONNX detector; `out`: the engine file.

    precision: what the engine computes in; max_batch: the largest batch it takes; best_batch: the
    one that it is tuned for (None: measured, or UNTUNED_BATCH without a GPU); calibration: pictures
    (N, 3, h, w) for int8; flavour: `tensorrt` or `rtx` (None: what is installed); index: the GPU;
    max_flips: the largest share of decisions that may differ from float32; command: how the user
    asked, kept in the card.
    """

    model: str
    out: Path
    precision: str = "fp16"
    max_batch: int = 256
    best_batch: int | None = None
    calibration: Callable[[tuple[int, int]], FloatArray] | None = None
    flavour: str | None = None
    card: str | Path | None = None
    index: int = 0
    workspace: int | None = None
    level: int | None = None
    max_flips: float = 0.05
    command: str = ""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(unknown("precision", self.precision, PRECISIONS))
        if not is_engine(self.out):
            raise UsageError(
                f"{self.out}: an engine's name ends in {', '.join(ENGINE_SUFFIXES)}, such as "
                f"{self.out.with_suffix('.engine')}"
            )
        if self.max_batch < 1 or not 1 <= (self.best_batch or 1) <= self.max_batch:
            raise UsageError(
                f"wanted 1 ≤ best batch ≤ max batch, got {self.best_batch} and {self.max_batch}"
            )
        if (self.precision == "int8") != (self.calibration is not None):
            raise UsageError(
                "int8 needs calibration pictures (--calibration FOLDER), and only int8 does"
            )


@dataclass(frozen=True)
class Built:
    """An engine that was written, and its card."""

    engine: Path
    card: DetectorCard
    size: int
    """Of the engine, in bytes."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "engine": str(self.engine),
            "card_file": str(engine_card_path(self.engine)),
            "bytes": self.size,
            "card": self.card.to_dict(),
        }


def build_engine(request: BuildRequest, progress: Progress | None = None) -> Built:
    """Build `request.out` and its card; nothing is written unless all of it worked.

    Costs 64 images and more of the original on the CPU, and as many of the engine. Raises
    DetectorError, CardError, EngineError, MissingExtraError, OutputError.
    """
    say = progress or (lambda what, share: None)
    say("reading the model", None)
    path = model_file(request.model)
    graph, info = load_graph(path)
    original, _ = find_card(path, info.metadata, request.card)
    model, card = canonical(graph, info, original, request.model)
    tensorrt = load_tensorrt(request.flavour, "building an engine")
    gpu = _gpu(request, tensorrt)
    size = (card.input.height, card.input.width)
    say(f"rewriting the graph for {request.precision}", None)
    converted = _converted(model, request, size)
    reference = _on_cpu(model, card)
    with tempfile.TemporaryDirectory() as folder:
        build = _Bench(request, tensorrt, gpu, card, info.sha256, Path(folder), say)
        if gpu is None:
            options = build.options(request.best_batch or min(UNTUNED_BATCH, request.max_batch))
            plan = build.plan(converted, options)
            stand_in = _prediction(converted, request.precision)
            candidate = None if stand_in is None else _on_cpu(stand_in, card, request.precision)
            parity = build.parity(reference, candidate, "predicted on the CPU")
        else:
            plan, options = build.tuned_plan(converted)
            with build.opened(plan, options) as candidate:
                parity = build.parity(reference, candidate, f"measured on {gpu['name']}")
    record = build.record(plan, options, parity)
    finished = dataclasses.replace(card, engine=record)
    say("writing", None)
    write_file(request.out, plan.engine)
    write_file(engine_card_path(request.out), _card_text(finished))
    return Built(request.out, finished, len(plan.engine))


def _gpu(request: BuildRequest, tensorrt: TensorRt) -> Mapping[str, Any] | None:
    """The GPU to build for; None where there is none and none is needed."""
    try:
        found, why = cuda.devices(), "the driver shows no GPU"
    except EngineError as error:
        found, why = [], str(error)
    if not found and tensorrt.flavour == "tensorrt":
        raise EngineError(
            f"{tensorrt} builds for the GPU it runs on, and none can be used here ({why}): build "
            "on the machine that will run it, or with TensorRT for RTX, which needs no GPU for "
            "that (pip install 'whyfake[rtx]', --flavour rtx)"
        )
    if found and request.index >= len(found):
        raise EngineError(
            f"there is no GPU {request.index}, only {len(found)}: 0 to {len(found) - 1}"
        )
    gpu = found[request.index] if found else None
    if gpu is not None and tensorrt.flavour == "rtx" and capability(gpu) not in RTX_CARDS:
        return None  # it builds for other machines, as it would without a GPU
    return gpu


def capability(gpu: Mapping[str, Any]) -> str:
    """A device's compute capability as `8.9`."""
    major, minor = gpu["compute_capability"]
    return f"{major}.{minor}"


def _converted(
    model: onnx.ModelProto, request: BuildRequest, size: tuple[int, int]
) -> onnx.ModelProto:
    if request.precision in LOW:
        return graph_with_precision(model, request.precision)
    if request.calibration is not None:
        from .export.quantize import quantized_graph

        return quantized_graph(model, request.calibration(size))
    return model


def _prediction(converted: onnx.ModelProto, precision: str) -> onnx.ModelProto | None:
    """A graph whose scores on a CPU are about those of the engine; None for fp32 and TF32."""
    if precision in LOW:
        from .export.emulate import emulated_graph

        return emulated_graph(converted, precision)
    return converted if precision == "int8" else None


def _on_cpu(model: onnx.ModelProto, card: DetectorCard, precision: str = "fp32") -> Detector:
    from .runtime.onnxruntime_engine import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(model.SerializeToString(), device="cpu", name=card.name)
    engine.precision = precision
    return Detector(engine, card)


def _card_text(card: DetectorCard) -> bytes:
    import json

    return (json.dumps(card.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()


class _Bench:
    """The steps of one build that need to know what is built, with what, and for which GPU."""

    def __init__(
        self,
        request: BuildRequest,
        tensorrt: TensorRt,
        gpu: Mapping[str, Any] | None,
        card: DetectorCard,
        source: str,
        folder: Path,
        say: Progress,
    ) -> None:
        self._request = request
        self._tensorrt = tensorrt
        self._gpu = gpu
        self._card = card
        self._source = source
        self._folder = folder
        self._say = say

    def options(self, best_batch: int) -> BuildOptions:
        request = self._request
        return BuildOptions(
            best_batch=best_batch,
            max_batch=request.max_batch,
            tf32=request.precision == "tf32",
            workspace=request.workspace,
            level=request.level,
        )

    def plan(self, model: onnx.ModelProto, options: BuildOptions) -> Plan:
        """Build, with a timing cache kept for the next build by this version on this GPU."""
        where = "" if self._gpu is None else f"-{self._gpu['name']}"
        name = f"{self._tensorrt.flavour}-{self._tensorrt.version}{where}".replace(" ", "-")
        cache = cache_folder("timing") / f"{name}.cache"
        with contextlib.ExitStack() as stack:
            device = None
            if self._gpu is not None:
                device = cuda.open_cuda(self._request.index)
                stack.callback(device.close)
            plan = plan_from_onnx(
                model.SerializeToString(),
                self._tensorrt,
                options,
                timing_cache=cache.read_bytes() if cache.is_file() else None,
                progress=lambda phase, share: self._say(f"{self._tensorrt}: {phase}", share),
                within=contextlib.nullcontext if device is None else device.current,
            )
        if plan.timing_cache is not None:
            write_file(cache, plan.timing_cache)
        return plan

    def tuned_plan(self, model: onnx.ModelProto) -> tuple[Plan, BuildOptions]:
        """A plan tuned for the batch that is fastest on this GPU."""
        wanted, most = self._request.best_batch, self._request.max_batch
        options = self.options(wanted or min(UNTUNED_BATCH, most))
        plan = self.plan(model, options)
        if wanted is not None:
            return plan, options
        rates = {}
        for batch in sorted({1, most, *(2**n for n in range(3, 12) if 2**n < most)}):
            self._say(f"measuring batch {batch}", None)
            with self.opened(plan, options, batch) as detector:
                rates[batch] = throughput(detector)
        best = min(batch for batch, rate in rates.items() if rate >= 0.97 * max(rates.values()))
        if best == options.best_batch:
            return plan, options
        options = self.options(best)
        return self.plan(model, options), options

    def opened(self, plan: Plan, options: BuildOptions, batch: int | None = None) -> Detector:
        """The engine on this GPU, from a file of its own."""
        path = self._folder / self._request.out.name
        path.write_bytes(plan.engine)
        card = dataclasses.replace(self._card, engine=self.record(plan, options, {}))
        return load_detector(
            path,
            card=card,
            device=f"tensorrt:{self._request.index}",
            batch=batch,
            compose="host",  # it is asked about pictures only
        )

    def parity(self, reference: Detector, candidate: Detector | None, how: str) -> dict[str, Any]:
        """How far the engine is from the original in float32. Raises EngineError if too far."""
        if candidate is None:
            return {"how": "not measured: no GPU here, and nothing to predict"}
        self._say("comparing with float32", None)
        inputs = parity_inputs(reference.size)
        found = measure_parity(reference.log_probs, candidate.log_probs, inputs, batches=(32,))
        share = found.flips / found.inputs
        if share > self._request.max_flips:
            raise EngineError(
                f"{self._request.precision} decides otherwise than float32 on {found.flips} of "
                f"{found.inputs} pictures ({how}), more than --max-flips {self._request.max_flips} "
                "allows: build with a higher precision"
            )
        self._say("comparing NES's differences", None)
        likeness = nes_likeness(reference, candidate, inputs[::2][:4])
        plain = {key: value for key, value in found.to_dict().items() if key != "batch_effect"}
        return {"how": how, **plain, "nes": likeness}

    def record(
        self, plan: Plan, options: BuildOptions, parity: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the card keeps of the engine."""
        gpu = self._gpu
        return {
            "sha256": hashlib.sha256(plan.engine).hexdigest(),
            "flavour": self._tensorrt.flavour,
            "version": self._tensorrt.version,
            "precision": self._request.precision,
            "gpu": None if gpu is None else gpu["name"],
            "compute_capability": None
            if gpu is None or self._tensorrt.flavour == "rtx"
            else capability(gpu),
            "platform": f"{platform.system()} {platform.machine()}",
            "profile": {"min": 1, "best": options.best_batch, "max": options.max_batch},
            "built_from": self._source,
            "command": self._request.command,
            "parity": dict(parity),
        }
