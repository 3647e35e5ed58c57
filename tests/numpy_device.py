"""A CUDA device made of NumPy: work is queued per stream and done as late, or as oddly, as may be.

Nothing that was put on a stream happens before somebody has to wait for it; with `rng`, bits of
other streams' work are done at random in between. So a missing wait, a buffer that is read too
early or freed too soon shows as a wrong number or an error, on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from whyfake.errors import EngineError


class NumpyDevice:
    """What `whyfake.runtime.cuda.Cuda` offers, for tests."""

    package = "numpy"
    index = 0
    name = "NumPy device"
    compute_capability = (9, 0)
    driver_version = (13, 0)

    def __init__(
        self, *, graphs: bool = True, memory: int = 1 << 30, rng: np.random.Generator | None = None
    ) -> None:
        self.graphs = graphs
        self.total_memory = memory
        self._rng = rng
        self._lock = threading.RLock()
        self._next = 1000
        self._streams: dict[int, deque[Any]] = {}
        self._events: dict[int, tuple[int, int] | None] = {}  # stream, place in it
        self._done: dict[int, int] = {}  # how many operations of a stream are done
        self._put: dict[int, int] = {}
        self._memory: dict[int, np.ndarray[Any, Any]] = {}
        self._capturing: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._pinned: list[np.ndarray[Any, Any]] = []
        self.invalid_capture = False
        self.closed = False
        self.most_allocated = 0
        self.launches = 0

    def _handle(self) -> int:
        self._next += 16
        return self._next

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        assert not self.closed
        yield

    def memory(self) -> tuple[int, int]:
        return self.total_memory - self.allocated, self.total_memory

    @property
    def allocated(self) -> int:
        return sum(len(block) for block in self._memory.values())

    def allocate(self, nbytes: int) -> int:
        with self._lock:
            if nbytes > self.memory()[0]:
                raise EngineError(f"out of memory: wanted {nbytes} bytes")
            pointer = -(-self._next // 256) * 256 + 256  # aligned, as the driver's is
            self._next = pointer + nbytes
            self._memory[pointer] = np.full(nbytes, 0xFF, np.uint8)  # NaN, as float32
            self.most_allocated = max(self.most_allocated, self.allocated)
            return pointer

    def free(self, pointer: int) -> None:
        with self._lock:
            assert not any(self._streams.values()), "freed while work is under way"
            del self._memory[pointer]

    def floats(self, pointer: int, shape: tuple[int, ...]) -> Any:
        """A view of device memory, for the fake model's kernels."""
        return self.view(pointer, shape, np.float32)

    def view(self, pointer: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory from a pointer on, which may lie within what was allocated."""
        start = max(block for block in self._memory if block <= pointer)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self._memory[start][pointer - start :][:nbytes]
        assert len(block) == nbytes, "beyond what was allocated"
        return block.view(dtype).reshape(shape)

    def pinned(self, shape: Any, dtype: Any) -> Any:
        array = np.full(shape, np.nan, dtype)
        self._pinned.append(array)
        return array

    def is_pinned(self, array: Any) -> bool:
        return any(np.may_share_memory(array, known) for known in self._pinned)

    def stream(self) -> int:
        with self._lock:
            stream = self._handle()
            self._streams[stream] = deque()
            self._put[stream] = self._done[stream] = 0
            return stream

    def event(self) -> int:
        with self._lock:
            event = self._handle()
            self._events[event] = None
            return event

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """Queue work on a stream, or record it where the stream is being captured."""
        with self._lock:
            if stream in self._capturing:
                self._capturing[stream].append(work)
                return
            self._streams[stream].append(work)
            self._put[stream] += 1
            self._stir()

    def record(self, event: int, stream: int) -> None:
        with self._lock:
            self._events[event] = (stream, self._put[stream])

    def wait(self, stream: int, event: int) -> None:
        with self._lock:
            happened = self._events[event]
            assert happened is not None, "waits for an event that was never recorded"
            source, place = happened
            self.put(stream, lambda: self._run_until(source, place))

    def upload(self, pointer: int, array: Any, stream: int) -> None:
        assert array.flags.c_contiguous
        # what is not page-locked is copied aside at once
        source = array if self.is_pinned(array) else array.copy()

        def work() -> None:
            self.view(pointer, array.shape, array.dtype)[...] = source

        self.put(stream, work)

    def download(self, array: Any, pointer: int, stream: int) -> None:
        assert array.flags.c_contiguous

        def work() -> None:
            array[...] = self.view(pointer, array.shape, array.dtype)

        self.put(stream, work)

    def synchronize(self, stream: int) -> None:
        with self._lock:
            self._run_until(stream, self._put[stream])

    def _run_until(self, stream: int, place: int) -> None:
        while self._done[stream] < place:
            self._step(stream)

    def _step(self, stream: int) -> None:
        work = self._streams[stream].popleft()
        work()
        self._done[stream] += 1

    def _stir(self) -> None:
        """Do some other stream's next operation now and then, as a device might."""
        if self._rng is None or self._rng.random() < 0.5:
            return
        busy = [stream for stream, queue in self._streams.items() if queue]
        if busy:
            self._step(busy[int(self._rng.integers(len(busy)))])

    def begin_capture(self, stream: int) -> None:
        with self._lock:
            self._capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        with self._lock:
            recorded = self._capturing.pop(stream)
            if self.invalid_capture:
                raise EngineError("the capture is invalid")
            graph = self._handle()
            self._graphs[graph] = recorded
            return graph

    def launch(self, graph: int, stream: int) -> None:
        with self._lock:
            self.launches += 1
            for work in self._graphs[graph]:
                self.put(stream, work)

    def close(self) -> None:
        self.closed = True
