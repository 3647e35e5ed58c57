"""ONNX Runtime as the back-end: one session for the whole run, on the CPU or an NVIDIA device.

On a CPU the cores are used as lanes: one session with a single thread of its own, run by several
threads of ours on one picture each. That beats one many-threaded session (`whyfake bench` shows
it), lets composing pictures overlap with running them, and makes
scores independent of the thread count. On a GPU each lane has a bound input on the device.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DetectorError, EngineError, UsageError, require
from ..files import cache_folder
from ..onnx_graph import PIXELS
from ..perturbation import FloatArray, PerturbationBatch
from .canvas import Canvas, OnDevice
from .devices import Device, parse_device
from .engine import Arrays, Engine, cpu_count
from .onnxruntime_composition import OrtCanvas, OrtComposition
from .throughput import Layout

_GPU_BATCH = 64
_HEAVY = 4_000_000
"""Bytes of model over which the CPU's batch is 2: weights that its caches do not hold are then read
half as often. Lighter models run fastest one picture at a time. A rule, so that the same model runs
at the same batch, to the same bits, every time: until a measurement, made on purpose, is
remembered."""

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "ort-tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntimeEngine(Engine):
    """A model run by ONNX Runtime.

    `model` is a path or the serialised model; `device` one of auto, cpu, cuda, cuda:N, ort-tensorrt
    or ort-tensorrt:N, where auto takes CUDA if it works here; `threads` the CPU lanes; `batch` the
    batch size, unless the model fixes it; `size` the height and width of its pictures, which
    ort-tensorrt builds for; `layout` replaces the rules for batch, lanes and the threads in each.
    Raises MissingExtraError, EngineError (no such device), DetectorError.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        size: tuple[int, int] | None = None,
        name: str = "model",
        layout: Layout | None = None,
    ) -> None:
        wanted = parse_device(device)
        for option, count in (("threads", threads), ("batch", batch)):
            if count is not None and count < 1:
                raise UsageError(f"{option} must be 1 or more, got {count}")
        self._ort = require("onnxruntime", "cpu", "running a detector")
        self.threads = 1 if layout is None else layout.threads
        wished = batch or (None if layout is None else layout.batch)
        self._session: Any = None
        used = Device("cpu")
        if wanted.kind != "cpu":
            if wanted.kind == "ort-tensorrt":
                with contextlib.suppress(ImportError):  # loads libnvinfer where pip installed it
                    importlib.import_module("tensorrt_libs")
            gpu = Device("cuda") if wanted.kind == "auto" else wanted
            providers = _gpu_providers(gpu, wished or _GPU_BATCH, size)
            self._session = self._gpu_session(model, gpu, providers, name, wanted.kind != "auto")
            used = gpu if self._session is not None else used
        on_gpu = self._session is not None
        if not on_gpu:
            self._session = self._open(model, [("CPUExecutionProvider", {})], name)
        self.name = f"onnxruntime {self._ort.__version__}"
        self.device = str(used)
        self.lanes = 2 if on_gpu else threads or cpu_count()
        if layout is not None:
            self.lanes = layout.lanes
        # the TensorRT provider rounds float32 to TF32, and has no option not to
        self.precision = "tf32" if used.kind == "ort-tensorrt" else "fp32"
        source = self._session.get_inputs()[0]
        self.inputs = (source.name,)
        self._outputs = [item.name for item in self._session.get_outputs()]
        fixed = source.shape[0] if isinstance(source.shape[0], int) else None
        if fixed is not None and batch not in (None, fixed):
            raise UsageError(f"{name} fixes its batch at {fixed}; it cannot run at {batch}")
        length = len(model) if isinstance(model, bytes) else Path(model).stat().st_size
        self.free_batch = fixed is None and used.kind != "ort-tensorrt"
        rule = _GPU_BATCH if on_gpu else 2 if length > _HEAVY else 1
        self.rule_batch = fixed or rule
        self.batch = fixed or wished or rule
        self._gpu = used if on_gpu else None
        self._bound = threading.local()
        self._composition: OrtComposition | None = None
        if size is not None:
            self.compositions = ("host", "device")
            place = ("cuda", used.index) if on_gpu else ("cpu", 0)
            self._composition = OrtComposition(
                self._ort, self._open_composition, place, size, self.count_up
            )

    def _open(self, model: Any, providers: list[Any], name: str) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters comes as an exception
        # on CPUs without VNNI, integer products that do not overflow at 16 bits
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            source = model if isinstance(model, bytes) else str(model)
            # by itself a session that fails, even amid a run, prints to stdout and goes on with
            # the CPU; the argument forbids that, and for older versions the call
            session = self._ort.InferenceSession(
                source, options, providers=providers, enable_fallback=0
            )
            session.disable_fallback()
            return session
        except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen kinds of its own
            raise DetectorError(f"{name}: onnxruntime cannot load it: {_line(error)}") from None

    def _open_composition(self, content: bytes) -> Any:
        """A session beside the detector's; on a GPU always CUDA's, which has nothing to build."""
        if self._gpu is None:
            return self._open(content, [("CPUExecutionProvider", {})], "composition")
        providers = _gpu_providers(Device("cuda", self._gpu.index), self.batch, None)
        return self._gpu_session(
            content, Device("cuda", self._gpu.index), providers, "composition", True
        )

    def _gpu_session(
        self, model: Any, gpu: Device, providers: list[Any], name: str, insist: bool
    ) -> Any:
        """A session whose provider is really in use; None where it is not and need not be."""
        provider, title = providers[0][0], "CUDA" if gpu.kind == "cuda" else "TensorRT"
        if provider not in self._ort.get_available_providers():
            if insist:
                raise EngineError(
                    f"this onnxruntime has no {title} provider: pip uninstall onnxruntime, then "
                    "pip install 'whyfake[gpu]'; or use --device cpu"
                )
            return None
        try:
            session = self._open(model, providers, name)
        except DetectorError as error:
            if insist:
                raise EngineError(f"{title} device {gpu.index} cannot be used: {error}") from None
            return None
        if provider in session.get_providers():
            return session
        if insist:
            raise EngineError(
                f"{title} device {gpu.index} cannot be used (no GPU, or its driver or libraries "
                "are missing), and onnxruntime fell back to the CPU: whyfake doctor says what is "
                "missing; or use --device cpu, or auto"
            )
        return None

    def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        if self._session is None:
            raise EngineError(f"{self.name}: the engine is closed")
        try:
            if self._gpu is None:
                results = self._session.run(self._outputs, dict(arrays))
            else:
                results = self._binding(self._gpu).run(arrays[self.inputs[0]])
        except Exception as error:  # noqa: BLE001 - as above
            raise EngineError(f"onnxruntime failed on a batch: {_line(error)}") from None
        return dict(zip(self._outputs, results, strict=True))

    def upload(self, batch: PerturbationBatch, frame: FloatArray) -> list[OnDevice[Any]]:
        """Make a batch ready to be composed where the session is."""
        if self._composition is None:
            return super().upload(batch, frame)
        return self._composition.upload(batch, frame)

    def canvas(self) -> Canvas[Any]:
        """Pictures that are composed where the session is."""
        if self._session is None:
            raise EngineError(f"{self.name}: the engine is closed")
        if self._composition is None:
            return super().canvas()
        return OrtCanvas(self._ort, self._composition, self._session, self.batch, self.count_up)

    def _binding(self, gpu: Device) -> Binding:
        """This thread's bound input and outputs."""
        found: Binding | None = getattr(self._bound, "binding", None)
        if found is None:
            found = Binding(self._ort, self._session, "cuda", gpu.index)
            self._bound.binding = found
        return found

    def close(self) -> None:
        """Drop the sessions and their memory."""
        self._session = self._composition = None
        self._bound = threading.local()


class Binding:
    """One thread's input, which stays on the device, and outputs, which come back to the host."""

    def __init__(self, ort: Any, session: Any, place: str, index: int) -> None:
        self._ort = ort
        self._session = session
        self._place = (place, index)
        self._name = session.get_inputs()[0].name
        self._value: Any = None
        self._shape: tuple[int, ...] = ()
        self._io = session.io_binding()

    def run(self, array: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The outputs for one batch, in their order."""
        if self._value is None or self._shape != array.shape:
            make = self._ort.OrtValue.ortvalue_from_shape_and_type
            self._value = make(list(array.shape), np.float32, *self._place)
            self._io.bind_ortvalue_input(self._name, self._value)
            for item in self._session.get_outputs():  # anew: the last ones had another size
                self._io.bind_output(item.name, "cpu")
            self._shape = array.shape
        self._value.update_inplace(array)
        self._session.run_with_iobinding(self._io)
        outputs: list[NDArray[Any]] = self._io.copy_outputs_to_cpu()
        return outputs


def _gpu_providers(gpu: Device, batch: int, size: tuple[int, int] | None) -> list[Any]:
    """Providers with their options, the wanted one first.

    TF32 is off: NES compares scores whose difference it would round away.
    """
    cuda = (_PROVIDERS["cuda"], {"device_id": gpu.index, "use_tf32": 0})
    if gpu.kind == "cuda":
        return [cuda]
    cache = str(cache_folder("ort-tensorrt"))
    options: dict[str, Any] = {
        "device_id": gpu.index,
        "trt_fp16_enable": False,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache,
    }
    if size is not None:
        shape = f"{PIXELS}:{batch}x3x{size[0]}x{size[1]}"
        options |= {f"trt_profile_{end}_shapes": shape for end in ("min", "opt", "max")}
    return [(_PROVIDERS["ort-tensorrt"], options), cuda]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
