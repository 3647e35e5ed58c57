"""ONNX Runtime as the back-end: one session for the whole run, on the CPU or a CUDA device.

On a CPU the cores are used as lanes: one session with a single thread of its own, run by several
threads of ours on one picture each. That beats one many-threaded session (see
benchmarks/engine_efficiency.py), lets composing pictures overlap with running them, and makes
scores independent of the thread count.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import DetectorError, EngineError, UsageError, require
from .engine import Arrays, Engine

_CUDA_BATCH = 64
_HEAVY = 4_000_000
"""Bytes of model over which the CPU's batch is 2: weights that its caches do not hold are then read
half as often. Lighter models run fastest one picture at a time. A rule instead of a measurement, so
that the same model runs at the same batch, to the same bits, every time."""


class OnnxRuntimeEngine(Engine):
    """A model run by ONNX Runtime.

    `model` is a path or the serialised model; `device` one of auto, cpu, cuda or cuda:N, where auto
    takes CUDA if it works here; `threads` the CPU lanes; `batch` the batch size, unless the
    model fixes it. Raises MissingExtraError, EngineError (no such device), DetectorError.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch: int | None = None,
        name: str = "model",
    ) -> None:
        kind, _, index = device.partition(":")
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
            raise UsageError(f"device must be auto, cpu, cuda or cuda:N, got '{device}'")
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be 1 or more, got {threads}")
        if batch is not None and batch < 1:
            raise UsageError(f"batch must be 1 or more, got {batch}")
        self._ort = require("onnxruntime", "cpu", "running a detector")
        self._session: Any = None
        if kind != "cpu":
            self._session = self._cuda_session(model, int(index or 0), name, kind == "cuda")
        cuda = self._session is not None
        if not cuda:
            self._session = self._open(model, [("CPUExecutionProvider", {})], name)
        self.name = f"onnxruntime {self._ort.__version__}"
        self.device = f"cuda:{index or 0}" if cuda else "cpu"
        self.lanes = 2 if cuda else threads or cpu_count()
        source = self._session.get_inputs()[0]
        self.inputs = (source.name,)
        self._outputs = [item.name for item in self._session.get_outputs()]
        fixed = source.shape[0] if isinstance(source.shape[0], int) else None
        if fixed is not None and batch not in (None, fixed):
            raise UsageError(f"{name} fixes its batch at {fixed}; it cannot run at {batch}")
        size = len(model) if isinstance(model, bytes) else Path(model).stat().st_size
        self.batch = fixed or batch or (_CUDA_BATCH if cuda else 2 if size > _HEAVY else 1)

    def _open(self, model: Any, providers: list[Any], name: str) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what matters comes as an exception
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

    def _cuda_session(self, model: Any, index: int, name: str, insist: bool) -> Any:
        """A session whose CUDA provider is really in use; None where it is not and need not be."""
        if "CUDAExecutionProvider" not in self._ort.get_available_providers():
            if insist:
                raise EngineError(
                    "this onnxruntime has no CUDA provider: pip uninstall onnxruntime, then "
                    "pip install 'whyfake[gpu]'; or use --device cpu"
                )
            return None
        try:
            session = self._open(model, [("CUDAExecutionProvider", {"device_id": index})], name)
        except DetectorError as error:
            if insist:
                raise EngineError(f"CUDA device {index} cannot be used: {error}") from None
            return None
        if "CUDAExecutionProvider" in session.get_providers():
            return session
        if insist:
            raise EngineError(
                f"CUDA device {index} cannot be used (no GPU, or its driver or libraries are "
                "missing), and onnxruntime fell back to the CPU: use --device cpu, or auto"
            )
        return None

    def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        if self._session is None:
            raise EngineError(f"{self.name}: the engine is closed")
        try:
            results = self._session.run(self._outputs, dict(arrays))
        except Exception as error:  # noqa: BLE001 - as above
            raise EngineError(f"onnxruntime failed on a batch: {_line(error)}") from None
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None


def cpu_count() -> int:
    """The CPUs that this process may use."""
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
