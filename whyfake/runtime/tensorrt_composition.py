"""Composition by TensorRT: each graph an engine of its own that writes into the detector's input.

An engine depends on TensorRT, the GPU, the size and the batch, not on the detector. So it is built
by the TensorRT that runs the detector, when a kind of batch is first asked about, and kept in the
cache folder: engines that were built before, or elsewhere, need no more than they have.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, OutputError
from ..files import cache_folder, write_file
from ..perturbation import FloatArray, PerturbationBatch
from ..tensorrt_api import TensorRt, message_log
from .canvas import Canvas, Constants, OnDevice
from .composition import OUTPUT, Shapes, fits, graph, parts, shapes
from .cuda import Cuda
from .device_runner import ALIGNMENT, DeviceRunner, Piece


class Held:
    """An array on the device; its memory goes back to the pool with it."""

    def __init__(self, pool: Pool, array: NDArray[Any]) -> None:
        self.shape = array.shape
        self.pointer, room = pool.take(array.nbytes)
        weakref.finalize(self, pool.give, self.pointer, room).atexit = False


class Pool:
    """Device memory that is used again and again: to free any would wait for all work under way.

    What it holds in the end is the most that was in use at once, in powers of two.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._unused: dict[int, deque[int]] = {}
        self._all: list[int] = []

    def take(self, nbytes: int) -> tuple[int, int]:
        """A pointer, and the bytes there."""
        room = max(ALIGNMENT, 1 << (nbytes - 1).bit_length())
        with contextlib.suppress(IndexError):
            return self._unused.setdefault(room, deque()).pop(), room
        pointer = self._cuda.allocate(room)
        self._all.append(pointer)
        return pointer, room

    def give(self, pointer: int, room: int) -> None:
        """Take it back; called wherever garbage is found, so it only notes that."""
        self._unused.setdefault(room, deque()).append(pointer)

    def close(self) -> None:
        """Free all of it, in use or not."""
        while self._all:
            self._cuda.free(self._all.pop())
        self._unused.clear()


class TensorRtComposition:
    """The engines that compose, and what is up for them.

    `size` is the pictures' height and width, `batch` the most that are composed at once. Raises
    EngineError where TensorRT cannot build here.
    """

    def __init__(
        self,
        tensorrt: TensorRt,
        runtime: Any,
        cuda: Cuda,
        size: tuple[int, int],
        batch: int,
        count: Callable[[int], None],
    ) -> None:
        self.size, self.batch = size, batch
        self._tensorrt, self._cuda = tensorrt, cuda
        self._runtime = runtime
        self._count = count
        self._lock = threading.Lock()
        self._engines: dict[str, Any] = {}
        self._contexts: dict[str, Any] = {}
        self._stream = cuda.stream()
        self._pool = Pool(cuda)
        self._constants: Constants[Held] = Constants(self._send)

    def _send(self, array: NDArray[Any]) -> Held:
        held = Held(self._pool, array)
        self._cuda.upload(held.pointer, array, self._stream)
        self._cuda.synchronize(self._stream)
        self._count(array.nbytes)
        return held

    def upload(self, batch: PerturbationBatch, frame: FloatArray) -> list[OnDevice[Held]]:
        """What does not change from copy to copy, sent up."""
        ready = []
        with self._lock:
            for part in parts(batch, frame):
                constants = None
                if part.feed is not None and fits(part.feed, self.size, self.batch):
                    self._open(part.feed.kind)
                    constants = {n: self._constants.get(a) for n, a in part.feed.constants.items()}
                ready.append(OnDevice(part, constants))
        return ready

    def _open(self, kind: str) -> None:
        """The engine of a kind: from the cache, or built now."""
        if kind in self._contexts:
            return
        content, wanted = graph(kind, self.size), shapes(kind, self.size, self.batch)
        kept = self._kept(kind, content, wanted)
        with self._cuda.current():
            engine = None
            with contextlib.suppress(OSError):  # not there, or not to be read
                if kept is not None:
                    engine = self._runtime.deserialize_cuda_engine(kept.read_bytes())
            if engine is None:  # also one that was spoiled on disk
                plan = plan_from_graph(self._tensorrt, content, wanted)
                engine = self._runtime.deserialize_cuda_engine(plan)
                if engine is None:
                    raise EngineError(f"{self._tensorrt} cannot load what it built to compose")
                with contextlib.suppress(OutputError):  # then it is built again next time
                    if kept is not None:
                        write_file(kept, plan)
            context = engine.create_execution_context()
            if context is None:
                raise EngineError(f"{self._tensorrt}: no execution context to compose in")
        self._engines[kind], self._contexts[kind] = engine, context

    def _kept(self, kind: str, content: bytes, wanted: Mapping[str, Shapes]) -> Path | None:
        """Where the engine is kept, named after all that it depends on; None without a cache."""
        cuda = self._cuda
        depends = (str(self._tensorrt), cuda.name, cuda.compute_capability, sorted(wanted.items()))
        digest = hashlib.sha256(content + repr(depends).encode()).hexdigest()[:16]
        try:
            folder = cache_folder("composition")
        except OutputError:
            return None
        return folder / f"{kind}-{self.size[0]}x{self.size[1]}-{digest}.engine"

    def enqueue(
        self, kind: str, inputs: Mapping[str, tuple[int, tuple[int, ...]]], sink: int, stream: int
    ) -> None:
        """Compose on a stream, from pointers with their shapes; by one thread at a time."""
        with self._cuda.current():
            if not _executed(self._contexts[kind], inputs, sink, stream):
                raise EngineError(f"{self._tensorrt} failed to compose {kind}")

    def close(self) -> None:
        """Free what is up and let TensorRT's objects go, with the device's context current."""
        self._pool.close()
        self._contexts.clear()
        self._engines.clear()
        self._runtime = None


def _executed(context: Any, inputs: Mapping[str, Any], sink: int, stream: int) -> bool:
    """Put an execution on a stream; whether TensorRT took all of it."""
    fine = True
    for name, (pointer, shape) in inputs.items():
        fine = context.set_input_shape(name, shape) and fine
        fine = context.set_tensor_address(name, pointer) and fine
    fine = context.set_tensor_address(OUTPUT, sink) and fine
    return bool(fine and context.execute_async_v3(stream))


def plan_from_graph(tensorrt: TensorRt, content: bytes, wanted: Mapping[str, Shapes]) -> bytes:
    """A serialised engine of a small float32 graph, for inputs of these shapes.

    Raises EngineError.
    """
    trt: Any = tensorrt.module
    log = message_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        raise EngineError(f"{tensorrt} cannot take the graph that composes: {log.reason()[:300]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, (low, likely, high) in wanted.items():
        if low != high:
            profile.set_shape(name, low, likely, high)
    if not bool(profile) or config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{tensorrt} refuses the shapes to compose: {log.reason()[:300]}")
    config.clear_flag(trt.BuilderFlag.TF32)  # it would round the masks of grids
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{tensorrt} built no engine to compose: {log.reason()[:300]}")
    return bytes(plan)


class TensorRtCanvas(Canvas[Held]):
    """Pictures that are composed in whichever slot of the runner is free, when they are run."""

    def __init__(
        self,
        composition: TensorRtComposition,
        runner: DeviceRunner,
        host_array: Callable[[tuple[int, ...]], FloatArray],
        count: Callable[[int], None],
    ) -> None:
        super().__init__(composition.batch, composition.size, count)
        self._composition, self._runner = composition, runner
        self._make_host_array = host_array
        self._pieces: list[Piece] = []

    def compose(self, copies: list[OnDevice[Held]], start: int, stop: int, row: int) -> None:
        """Note what is to be drawn; row 0 begins a batch, whatever became of the last one."""
        if row == 0:
            self._pieces = []
        super().compose(copies, start, stop, row)

    def _host_array(self, shape: tuple[int, ...]) -> FloatArray:
        return self._make_host_array(shape)

    def _can_draw(self, row: int) -> bool:
        """TensorRT writes to multiples of 256 bytes only; most sizes of pictures are."""
        return row * 4 * math.prod(self._shape) % ALIGNMENT == 0

    def _draw(
        self,
        kind: str,
        codes: dict[str, NDArray[Any]],
        constants: dict[str, Held],
        row: int,
        rows: int,
    ) -> None:
        def compose(pointers: list[int], sink: int, stream: int) -> None:
            # `constants` are named here, not before: so they are held until this has run
            inputs = {name: (held.pointer, held.shape) for name, held in constants.items()}
            for (name, array), pointer in zip(codes.items(), pointers, strict=True):
                inputs[name] = (pointer, array.shape)
            self._composition.enqueue(kind, inputs, sink, stream)

        self._pieces.append(Piece(row, tuple(codes.values()), compose))

    def _show(self, images: FloatArray, row: int) -> None:
        self._pieces.append(Piece(row, (images,)))

    def run(self) -> NDArray[np.float32]:
        """The detector's scores for all rows."""
        pieces, self._pieces = self._pieces, []
        return self._runner.run_pieces(pieces, self.rows)
