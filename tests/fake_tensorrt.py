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

    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    DataType = SimpleNamespace(FLOAT="float", HALF="half")

    def __init__(self, device: Any, *, best: int = 4, most: int = 16, scratch: int = 1000) -> None:
        self.device = device
        self.best, self.most, self.scratch = best, most, scratch
        self.contexts: list[Any] = []
        self.built: list[str] = []
        self.profiles: dict[bytes, dict[str, Any]] = {}
        self.builds = True

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        return _Runtime(self, log)

    def Builder(self, log: Any) -> Any:  # noqa: N802
        return _Builder(self)

    def OnnxParser(self, network: Any, log: Any) -> Any:  # noqa: N802
        def parse(content: bytes) -> bool:
            network.content = content
            return True

        return SimpleNamespace(parse=parse)


class _Builder:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace()

    def create_optimization_profile(self) -> Any:
        return _Profile()

    def create_builder_config(self) -> Any:
        config = SimpleNamespace(flags={self._trt.BuilderFlag.TF32}, profile=None)
        config.clear_flag = config.flags.remove

        def add(profile: _Profile) -> int:
            config.profile = profile
            return 0

        config.add_optimization_profile = add
        return config

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        if not self._trt.builds:
            return None
        assert not config.flags, "masks would be rounded"
        self._trt.profiles[network.content] = config.profile.shapes
        name = onnx.load_model_from_string(network.content).graph.name
        self._trt.built.append(name)
        return MAGIC + network.content


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *three: tuple[int, ...]) -> None:
        self.shapes[name] = three


class _Runtime:
    def __init__(self, trt: FakeTensorRt, log: Any) -> None:
        self._trt, self._log = trt, log

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        if not content.startswith(MAGIC):
            self._log.log("error", "Magic tag does not match\n  (engine.cpp)")
            return None
        return _Engine(self._trt, content[len(MAGIC) :])


class _Engine:
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
        self.num_io_tensors = len(self._names)
        self.dtypes = {
            item.name: onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
            for item in model.graph.input
        }
        [self.sink] = [item.name for item in model.graph.output]
        self.profile = trt.profiles.get(graph, {})

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
        if len(self.dtypes) == 1:  # not those that compose
            self.trt.contexts.append(settings)
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._given: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._given[name] = tuple(shape)
        if name in self._engine.profile:
            low, _, high = self._engine.profile[name]
            return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if len(self._engine.dtypes) > 1:
            return tuple(shape) == self._engine.get_tensor_shape(name)
        return shape[0] <= self._engine.trt.most

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        assert pointer % 256 == 0, "TensorRT wants pointers to be aligned"
        self._places[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        engine, device, given = self._engine, self._engine.trt.device, dict(self._given)
        places, sink = dict(self._places), self._engine.sink

        def kernel() -> None:
            inputs = {
                name: np.ascontiguousarray(device.view(places[name], given[name], dtype))
                for name, dtype in engine.dtypes.items()
            }
            [made] = engine.session.run([sink], inputs)
            device.floats(places[sink], made.shape)[...] = made

        device.put(stream, kernel)
        return True
