"""TensorRT as the back-end: a compiled engine file, run from page-locked buffers.

The driver is asked for the device before TensorRT is: without one, `trt.Runtime` ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, UsageError
from ..onnx_graph import PIXELS, SCORES
from ..perturbation import FloatArray, PerturbationBatch
from ..tensorrt_api import TITLES, TensorRt, load_tensorrt, message_log
from .canvas import Canvas, OnDevice
from .cuda import Cuda, open_cuda
from .device_runner import DeviceRunner
from .engine import Arrays, Engine, cpu_count
from .tensorrt_composition import TensorRtCanvas, TensorRtComposition

_MOST_LANES = 4
"""Lanes compose on the host; with two of them the engine waits for NumPy, beyond four they wait."""


class TensorRtEngine(Engine):
    """A TensorRT engine on one NVIDIA device, which it may share with torch and ONNX Runtime.

    `path` is the engine file, `record` what its card says of it (`DetectorCard.engine`), `index`
    the device, `batch` the batch size to run at (the one that it was tuned for). Raises EngineError
    where there is no such device or the engine does not fit it: the message gives the command that
    builds it anew.
    """

    compositions = ("host", "device")

    def __init__(
        self,
        path: Path,
        record: Mapping[str, Any],
        *,
        index: int = 0,
        batch: int | None = None,
        name: str = "",
    ) -> None:
        self._runner: DeviceRunner | None = None
        self._composition: TensorRtComposition | None = None
        self._cuda: Cuda | None = None
        self._path = name or str(path)
        self._record = record
        tensorrt = load_tensorrt(record.get("flavour"), f"running {self._path}")
        self._check_version(tensorrt)
        cuda = self._cuda = open_cuda(index)
        try:
            self._check_device(cuda)
            self._open(path, tensorrt, cuda, batch)
        except BaseException:
            self.close()
            raise
        self.name = str(tensorrt)
        self.device = f"tensorrt:{index}"
        self.lanes = max(2, min(cpu_count(), _MOST_LANES))
        self.inputs = (PIXELS,)
        self.precision = str(record.get("precision", "unknown"))

    def _check_version(self, tensorrt: TensorRt) -> None:
        built = self._record.get("version")
        if built != tensorrt.version:
            raise EngineError(
                f"{self._path} was built by {TITLES[tensorrt.flavour]} {built}, here is "
                f"{tensorrt.version}: engines fit one version only; {self._rebuild()}"
            )

    def _check_device(self, cuda: Cuda) -> None:
        built = self._record.get("compute_capability")
        here = "{}.{}".format(*cuda.compute_capability)
        if built is not None and built != here:
            raise EngineError(
                f"{self._path} was built for compute capability {built} "
                f"({self._record.get('gpu') or 'another GPU'}), here is {cuda.name} with {here}: "
                f"{self._rebuild()}"
            )

    def _rebuild(self) -> str:
        command = self._record.get("command")
        return f"build it anew: {command}" if command else "build it anew with whyfake build"

    def _open(self, path: Path, tensorrt: TensorRt, cuda: Cuda, batch: int | None) -> None:
        trt: Any = tensorrt.module
        log = message_log(trt)
        with cuda.current():
            self._runtime = trt.Runtime(log)
            try:
                self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            except OSError as error:
                raise EngineError(f"{path}: cannot read it: {error.strerror or error}") from None
            if self._engine is None:
                raise EngineError(
                    f"{tensorrt} cannot load {self._path}: {log.reason()[:300]}; {self._rebuild()}"
                )
            source = self._tensor(trt, PIXELS, trt.TensorIOMode.INPUT)
            sink = self._tensor(trt, SCORES, trt.TensorIOMode.OUTPUT)
            self.picture = source[1:]
            self.batch = self._choose_batch(source[0], batch)
            needed = int(self._engine.device_memory_size_v2)
            free, _ = cuda.memory()
            if needed > free:
                raise EngineError(
                    f"{self._path} needs {needed >> 20:,} MB on {cuda.name}, {free >> 20:,} MB are "
                    "free: stop what else runs there, or build with a smaller --max-batch"
                )
            self._context = self._new_context(trt)
            if self._context is None:
                raise EngineError(f"{self._path}: no execution context: {log.reason()[:300]}")
        self._log = log
        self._rows = 0
        self._runner = DeviceRunner(
            cuda,
            self._enqueue,
            rows=self.batch,
            input_shape=source[1:],
            output_shape=sink[1:],
        )
        height, width = self.picture[-2:]
        self._composition = TensorRtComposition(
            tensorrt, self._runtime, cuda, (height, width), self.batch, self.count_up
        )

    def _new_context(self, trt: Any) -> Any:
        """An execution context; of RTX one that compiles its kernels when they are first wanted.

        By itself RTX runs general kernels until better ones are ready, and a CUDA graph that is
        recorded meanwhile would keep the general ones.
        """
        strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return self._engine.create_execution_context()
        settings = self._engine.create_runtime_config()
        settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._engine.create_execution_context(settings)

    def _tensor(self, trt: Any, name: str, mode: Any) -> tuple[int, ...]:
        """The shape of one of the engine's two float32 tensors."""
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if name not in names or len(names) != 2 or engine.get_tensor_mode(name) != mode:
            raise EngineError(
                f"{self._path} has the tensors {', '.join(names)}, wanted {PIXELS} and {SCORES}: "
                "it was not made by whyfake build"
            )
        if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
            raise EngineError(f"{self._path}: {name} is not float32; {self._rebuild()}")
        return tuple(int(side) for side in engine.get_tensor_shape(name))

    def _choose_batch(self, fixed: int, wanted: int | None) -> int:
        if fixed != -1:
            if wanted not in (None, fixed):
                raise UsageError(f"{self._path} fixes its batch at {fixed}, not {wanted}")
            return fixed
        low, best, high = (shape[0] for shape in self._engine.get_tensor_profile_shape(PIXELS, 0))
        if wanted is not None and not low <= wanted <= high:
            raise UsageError(f"{self._path} takes batches of {low} to {high}, not {wanted}")
        return int(wanted or best)

    def _enqueue(self, source: int, sink: int, rows: int, stream: int) -> None:
        """One execution on a stream; called by one thread at a time."""
        context, cuda = self._context, self._cuda
        assert cuda is not None
        with cuda.current():
            if rows != self._rows:
                shape = (rows, *self._engine.get_tensor_shape(PIXELS)[1:])
                if not context.set_input_shape(PIXELS, shape):
                    raise EngineError(f"{self._path} refuses {shape}: {self._log.reason()[:300]}")
                self._rows = rows
            placed = context.set_tensor_address(PIXELS, source)
            placed = context.set_tensor_address(SCORES, sink) and placed
            if not (placed and context.execute_async_v3(stream)):
                raise EngineError(f"{self._path} failed on a batch: {self._log.reason()[:300]}")

    def host_array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A page-locked array, which copies to the device fastest."""
        if self._cuda is None:
            raise EngineError(f"{self._path}: the engine is closed")
        array: NDArray[np.float32] = self._cuda.pinned(shape, np.float32)
        array[...] = 0
        return array

    def upload(self, batch: PerturbationBatch, frame: FloatArray) -> list[OnDevice[Any]]:
        """Make a batch ready to be composed on the device."""
        if self._composition is None:
            raise EngineError(f"{self._path}: the engine is closed")
        return self._composition.upload(batch, frame)

    def canvas(self) -> Canvas[Any]:
        """Pictures that are composed on the device."""
        if self._composition is None or self._runner is None:
            raise EngineError(f"{self._path}: the engine is closed")
        return TensorRtCanvas(self._composition, self._runner, self.host_array, self.count_up)

    def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        if self._runner is None:
            raise EngineError(f"{self._path}: the engine is closed")
        return {SCORES: self._runner.run(arrays[PIXELS])}

    def close(self) -> None:
        """Free the context, the buffers and this process's hold on the device."""
        if self._cuda is None:
            return
        if self._runner is not None:
            self._runner.close()
        with self._cuda.current():  # TensorRT frees its memory as these go
            if self._composition is not None:
                self._composition.close()
            self._composition = None
            self._runner = self._context = self._engine = self._runtime = None
        self._cuda.close()
        self._cuda = None
