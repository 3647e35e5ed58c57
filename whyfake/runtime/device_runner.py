"""Runs batches on a device: buffers made once, copies that overlap with computing, CUDA graphs.

Every slot owns an input and an output on the device, a page-locked output on the host and a stream
for its copies. All slots compute on one stream, in turn, so that the model's scratch memory exists
once. While one slot computes, another copies its pictures up:

    slot 0   up   | compute |  down
    slot 1          up      | compute |  down
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .cuda import Cuda

Enqueue = Callable[[int, int, int, int], None]
"""`enqueue(input, output, rows, stream)`: put one execution of the model on a stream; the first two
are device pointers."""


ALIGNMENT = 256
"""In bytes, of whatever TensorRT reads or writes."""


@dataclass(frozen=True, eq=False)
class Piece:
    """The pictures of a batch from `row` on: `arrays` go up, contiguous and aligned.

    `compose(pointers, output, stream)` puts on a stream what makes pictures of them, one thread at
    a time; without it there is one array, which is the pictures.
    """

    row: int
    arrays: tuple[NDArray[Any], ...]
    compose: Callable[[list[int], int, int], None] | None = None


@dataclass
class _Slot:
    """One batch's place on the device; `graphs` are the recorded executions, by rows.

    The last of `codes` is `room` bytes for what pieces send up; those that became too small stay,
    since to free memory is to wait for all other work.
    """

    stream: int
    uploaded: int
    computed: int
    input: int
    output: int
    result: NDArray[np.float32]
    graphs: dict[int, int] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    room: int = 0


class DeviceRunner:
    """Runs float32 batches of up to `rows` through `enqueue`, from several threads at once.

    `input_shape` and `output_shape` are those of one row. `slots` batches can be under way at once;
    more callers wait. Device memory: slots · rows · (input + output) · 4 bytes, allocated here and
    freed by `close`. Raises EngineError where that does not fit.
    """

    def __init__(
        self,
        cuda: Cuda,
        enqueue: Enqueue,
        *,
        rows: int,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        slots: int = 2,
    ) -> None:
        self._cuda = cuda
        self._enqueue = enqueue
        self._rows = rows
        self._input_shape = input_shape
        self._output_shape = output_shape
        self._turn = threading.Lock()
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._slots = 0
        self._closed = False
        self.graphs = cuda.graphs
        """Whether executions are recorded once and replayed; False where the model forbids it."""
        self._compute = cuda.stream()
        for _ in range(slots):
            self._free.put(self._new_slot())
            self._slots += 1

    def _new_slot(self) -> _Slot:
        cuda, rows = self._cuda, self._rows
        return _Slot(
            stream=cuda.stream(),
            uploaded=cuda.event(),
            computed=cuda.event(),
            input=cuda.allocate(4 * rows * prod(self._input_shape)),
            output=cuda.allocate(4 * rows * prod(self._output_shape)),
            result=cuda.pinned((rows, *self._output_shape), np.float32),
        )

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (n, …) of a batch (n, …), n ≤ rows, as an array of the caller's own.

        The batch copies fastest from page-locked memory (`Cuda.pinned`), and from any other too.
        """
        count = len(batch)
        if not 1 <= count <= self._rows or batch.shape[1:] != self._input_shape:
            raise EngineError(
                f"wanted 1 to {self._rows} rows of {self._input_shape}, got {batch.shape}"
            )
        return self.run_pieces([Piece(0, (batch,))], count)

    def run_pieces(self, pieces: Sequence[Piece], count: int) -> NDArray[np.float32]:
        """Scores (count, …) of a batch that is put together on the device.

        Rows that no piece makes hold whatever was there.
        """
        slot = self._free.get()
        try:
            if self._closed:
                raise EngineError("the engine is closed")
            return self._run(slot, pieces, count)
        finally:
            self._free.put(slot)

    def _run(self, slot: _Slot, pieces: Sequence[Piece], count: int) -> NDArray[np.float32]:
        cuda = self._cuda
        try:
            composing = self._send(slot, pieces)
            cuda.record(slot.uploaded, slot.stream)
            with self._turn:
                cuda.wait(self._compute, slot.uploaded)
                self._compose(composing)
                graph = self._graph(slot, count)
                if graph is None:
                    self._enqueue(slot.input, slot.output, count, self._compute)
                else:
                    cuda.launch(graph, self._compute)
                cuda.record(slot.computed, self._compute)
            cuda.wait(slot.stream, slot.computed)
            result = slot.result[:count]
            cuda.download(result, slot.output, slot.stream)
        finally:  # a failure must not leave a copy from the caller's memory under way
            cuda.synchronize(slot.stream)
        scores: NDArray[np.float32] = result.copy()
        return scores

    def _send(self, slot: _Slot, pieces: Sequence[Piece]) -> list[Callable[[], None]]:
        """Put all copies up on the slot's stream; what is then to be composed."""
        drawn = [array for piece in pieces if piece.compose for array in piece.arrays]
        needed = sum(_aligned(array.nbytes) for array in drawn)
        if needed > slot.room:
            slot.codes.append(self._cuda.allocate(2 * needed))
            slot.room = 2 * needed
        composing: list[Callable[[], None]] = []
        place = slot.codes[-1] if slot.codes else 0
        for piece in pieces:
            target = slot.input + piece.row * prod(self._input_shape) * 4
            if piece.compose is None:
                self._cuda.upload(target, piece.arrays[0], slot.stream)
                continue
            pointers = []
            for array in piece.arrays:
                self._cuda.upload(place, array, slot.stream)
                pointers.append(place)
                place += _aligned(array.nbytes)
            composing.append(functools.partial(piece.compose, pointers, target, self._compute))
        return composing

    def _compose(self, composing: list[Callable[[], None]]) -> None:
        try:
            for compose in composing:
                compose()
        except EngineError:  # what was put on the stream before still reads this slot's memory
            self._cuda.synchronize(self._compute)
            raise

    def _graph(self, slot: _Slot, count: int) -> int | None:
        """The recorded execution of so many rows; None where recording does not work.

        The model runs once before it is recorded: what it sets up on its first run (kernels,
        workspaces) cannot be part of a recording.
        """
        if not self.graphs or count in slot.graphs:
            return slot.graphs.get(count)
        cuda = self._cuda
        self._enqueue(slot.input, slot.output, count, self._compute)
        cuda.begin_capture(self._compute)
        try:
            self._enqueue(slot.input, slot.output, count, self._compute)
        except EngineError:
            self.graphs = False
        try:
            graph = cuda.end_capture(self._compute)
        except EngineError:  # the recording is invalid, or the model synchronises within
            self.graphs = False
        if self.graphs:
            slot.graphs[count] = graph
        return slot.graphs.get(count)

    def close(self) -> None:
        """Wait for what is under way and free the device memory; it may be called twice."""
        if self._closed:
            return
        slots = [self._free.get() for _ in range(self._slots)]  # waits for those that run
        self._closed = True
        for slot in slots:
            self._cuda.free(slot.input)
            self._cuda.free(slot.output)
            for codes in slot.codes:
                self._cuda.free(codes)
            self._free.put(slot)  # a caller that waits learns that it is closed


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
