"""What whyfake uses of the package tensorrt, run by ONNX Runtime on a NumPy device.

An "engine" is the ONNX graph that it was built from, after a first byte that says whose it is; the
names are held against the real packages by test_tensorrt_api.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

MAGIC = b"fake-engine "


class FakeTensorRt:
    """The module; `device` is where its contexts put their work."""

    __version__ = "10.16.1.11"

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"

        def __init__(self) -> None:
            pass

    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    DataType = SimpleNamespace(FLOAT="float", HALF="half")

    def __init__(self, device: Any, *, best: int = 4, most: int = 16, scratch: int = 1000) -> None:
        self.device = device
        self.best, self.most, self.scratch = best, most, scratch
        self.contexts: list[Any] = []

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        return _Runtime(self, log)


class _Runtime:
    def __init__(self, trt: FakeTensorRt, log: Any) -> None:
        self._trt, self._log = trt, log

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        if not content.startswith(MAGIC):
            self._log.log("error", "Magic tag does not match\n  (engine.cpp)")
            return None
        return _Engine(self._trt, content[len(MAGIC) :])


class _Engine:
    num_io_tensors = 2

    def __init__(self, trt: FakeTensorRt, graph: bytes) -> None:
        self.trt = trt
        self.device_memory_size_v2 = trt.scratch
        model = onnx.load_model_from_string(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self._shapes = {
            item.name: tuple(d.dim_value or -1 for d in item.type.tensor_type.shape.dim)
            for item in (*model.graph.input, *model.graph.output)
        }
        self._names = list(self._shapes)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == self._names[0] else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        row = self._shapes[name][1:]
        return [(1, *row), (self.trt.best, *row), (self.trt.most, *row)]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace()

    def create_execution_context(self, settings: Any = None) -> Any:
        self.trt.contexts.append(settings)
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._places: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return shape[0] <= self._engine.trt.most

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._places[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        device, shape = self._engine.trt.device, self._shape
        (source, given), (sink, taken) = self._places.items()

        def kernel() -> None:
            pictures = device.floats(given, shape)
            [scores] = self._engine.session.run([sink], {source: np.ascontiguousarray(pictures)})
            device.floats(taken, scores.shape)[...] = scores

        device.put(stream, kernel)
        return True
