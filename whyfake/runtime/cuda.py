"""One CUDA device: its memory, streams, events and graphs, checked, counted and freed.

`cuda_packages.py` says these things in the words of pycuda or cuda-bindings; nothing else in
whyfake touches the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..errors import EngineError
from .cuda_driver import NO_DEVICE, OUT_OF_MEMORY, Array, Driver, DriverError
from .cuda_packages import load_driver

_page_locked: dict[int, int] = {}
"""All of the process that came from `pinned`: address → bytes."""


class Cuda:
    """One device, through its *primary context*: the one that torch and ONNX Runtime use too.

    Made by `open_cuda`. Pointers, streams, events and graphs are plain ints. Every method makes
    the context current itself, restores what was, and may be called from any thread; one stream
    is for one thread at a time. What the driver refuses is an EngineError with its name for it.
    """

    package: str
    """Who does the work: `pycuda 2026.1`, `cuda-bindings 13.5.0`."""
    index: int
    name: str
    compute_capability: tuple[int, int]
    total_memory: int
    """In bytes."""
    driver_version: tuple[int, int]
    """The newest CUDA that the driver knows."""
    graphs: bool
    """Whether `begin_capture` works; pycuda has no such thing."""

    def __init__(self, driver: Driver, index: int) -> None:
        self._driver = driver
        self.index = index
        self.package, self.graphs = driver.package, driver.graphs
        self.driver_version = driver.libcuda.version()
        self.name, self.compute_capability, self.total_memory = driver.describe(index)
        self._live = _Live(driver, index)
        self._end = weakref.finalize(self, self._live.close)

    def current(self) -> AbstractContextManager[None]:
        """The primary context is this thread's inside; outside again, whatever was before."""
        self._check_open()
        return _pushed(self._driver)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        with self._active():
            return self._driver.memory()

    def allocate(self, nbytes: int) -> int:
        """A pointer to `nbytes` on the device. Raises EngineError: out of memory, with figures."""
        if nbytes < 1:
            raise EngineError(f"CUDA memory: wanted 1 byte or more, got {nbytes}")
        with self._active():
            try:
                pointer = self._driver.allocate(nbytes)
            except DriverError as error:
                if error.name != OUT_OF_MEMORY:
                    raise
                free, total = self._driver.memory()
                raise EngineError(
                    f"GPU {self.index} ({self.name}) is out of memory: wanted {_bytes(nbytes)}, "
                    f"{_bytes(free)} of {_bytes(total)} are free: use a smaller batch, or close "
                    f"what else uses it ({OUT_OF_MEMORY})"
                ) from None
        self._live.memory[pointer] = nbytes
        return pointer

    def free(self, pointer: int) -> None:
        """Give back what `allocate` gave; work under way on it is waited for."""
        self._check_open()
        if self._live.memory.pop(pointer, None) is None:
            raise EngineError(f"GPU {self.index}: {pointer:#x} is not allocated, or was freed")
        with self._active():
            self._driver.free(pointer)

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """A page-locked host array, C-contiguous and not cleared: copies to and from it overlap.

        It is freed when the last view of it is gone; a view outlives `close`, and the context then
        lives as long. Raises EngineError if the host has no more to lock.
        """
        kind = np.dtype(dtype)
        _check_dtype(kind)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = max(1, math.prod(shape) * kind.itemsize)
        with self._active():
            try:
                owner = self._live.pin(nbytes)
            except DriverError as error:
                if error.name != OUT_OF_MEMORY:
                    raise
                raise EngineError(
                    f"the host has no {_bytes(nbytes)} left to page-lock: use a smaller batch "
                    f"({OUT_OF_MEMORY})"
                ) from None
        array: Array = np.ndarray(shape, kind, buffer=owner)
        return array

    def stream(self) -> int:
        """A stream that does not wait for the default stream."""
        with self._active():
            stream = self._driver.stream()
        self._live.streams[stream] = {}
        return stream

    def event(self) -> int:
        """An event without timing."""
        with self._active():
            event = self._driver.event()
        self._live.events.add(event)
        return event

    def record(self, event: int, stream: int) -> None:
        """Let `event` happen when what `stream` holds so far is done."""
        self._check_known(stream, event)
        with self._active():
            self._driver.record(event, stream)

    def wait(self, stream: int, event: int) -> None:
        """Let what `stream` is given from here on wait for `event` as it was last recorded."""
        self._check_known(stream, event)
        with self._active():
            self._driver.wait(stream, event)

    def upload(self, pointer: int, array: Array, stream: int) -> None:
        """Copy a C-contiguous array to the device, in the stream's turn.

        A pinned array must not change before the stream was synchronised, and is kept alive until
        then; any other is copied aside before this returns, which is slower.
        """
        self._check_copy(pointer, array, stream)
        if array.nbytes:
            with self._active():
                self._driver.upload(pointer, array, stream)

    def download(self, array: Array, pointer: int, stream: int) -> None:
        """Copy from the device into a C-contiguous array, in the stream's turn.

        A pinned array holds it once the stream was synchronised, and is kept alive until then; for
        any other this waits.
        """
        if not array.flags.writeable:
            raise EngineError("CUDA copy: the array to fill is read-only")
        self._check_copy(pointer, array, stream)
        if array.nbytes:
            with self._active():
                self._driver.download(array, pointer, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done; other Python threads run meanwhile."""
        self._check_known(stream)
        with self._active():
            self._driver.synchronize(stream)
        self._live.streams[stream].clear()

    def begin_capture(self, stream: int) -> None:
        """Collect what this thread gives the stream into a graph, instead of doing it."""
        self._check_known(stream)
        if stream in self._live.capturing:
            raise EngineError(f"GPU {self.index}: the stream is captured already")
        with self._active():
            self._driver.begin_capture(stream)
        self._live.capturing[stream] = {}

    def end_capture(self, stream: int) -> int:
        """The graph of what was given since `begin_capture`, ready to launch. To be called too
        when something in between failed: it raises, and the stream is usable again.
        """
        self._check_known(stream)
        held = self._live.capturing.pop(stream, None)
        if held is None:
            raise EngineError(f"GPU {self.index}: the stream is not being captured")
        try:
            with self._active():
                graph = self._driver.end_capture(stream)
        finally:
            self._live.unpin_unused()
        self._live.graphs[graph] = held
        return graph

    def launch(self, graph: int, stream: int) -> None:
        """Do again, in the stream's turn, all that was captured, on the same buffers."""
        self._check_known(stream)
        if graph not in self._live.graphs:
            raise EngineError(f"GPU {self.index}: {graph:#x} is not a graph of this device")
        with self._active():
            self._driver.launch(graph, stream)

    def close(self) -> None:
        """Wait for what is under way, and free all. Raises the driver's first error, at its end."""
        self._end()

    def __enter__(self) -> Cuda:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _active(self) -> AbstractContextManager[None]:
        self._check_open()
        if self._driver.is_current():
            return contextlib.nullcontext()
        return _pushed(self._driver)

    def _check_open(self) -> None:
        if not self._end.alive:
            raise EngineError(f"GPU {self.index} is closed")

    def _check_known(self, stream: int, event: int | None = None) -> None:
        self._check_open()
        if stream not in self._live.streams:
            raise EngineError(f"GPU {self.index}: {stream!r} is not a stream of this device")
        if event is not None and event not in self._live.events:
            raise EngineError(f"GPU {self.index}: {event!r} is not an event of this device")

    def _check_copy(self, pointer: int, array: Array, stream: int) -> None:
        """Contiguous, no larger than the memory, and kept alive while the driver may use it."""
        self._check_known(stream)
        _check_dtype(array.dtype)
        if not array.flags.c_contiguous:
            raise EngineError(f"CUDA copy: the array {array.shape} must be C-contiguous")
        room = self._live.memory.get(pointer)
        if room is not None and array.nbytes > room:
            raise EngineError(
                f"CUDA copy: {_bytes(array.nbytes)} do not fit the {_bytes(room)} allocated"
            )
        captured = self._live.capturing.get(stream)
        block = _block(array)
        if block is not None:
            (self._live.streams[stream] if captured is None else captured)[block] = array
        elif captured is not None and array.nbytes:
            raise EngineError("CUDA copy: a graph can only hold copies of pinned arrays")


def open_cuda(index: int = 0, package: str | None = None) -> Cuda:
    """Open device `index` with `package`: pycuda, cuda-bindings, or None for the first that works.

    Raises EngineError (no driver, no GPU, no such GPU), MissingExtraError, UsageError.
    """
    driver = load_driver(package)
    count = driver.count()
    if not 0 <= index < count:
        have = {0: "none", 1: "one, GPU 0"}.get(count, f"{count}, GPU 0 to {count - 1}")
        raise EngineError(f"there is no GPU {index} here: CUDA shows {have}")
    return Cuda(driver, index)


def devices() -> list[dict[str, Any]]:
    """Each device's index, name, compute_capability (major, minor) and memory in bytes.

    Empty where there is a driver but no GPU. Raises EngineError (no driver), MissingExtraError.
    """
    try:
        driver = load_driver(None)
    except DriverError as error:
        if error.name == NO_DEVICE:
            return []
        raise
    keys = ("name", "compute_capability", "memory")
    return [
        {"index": index, **dict(zip(keys, driver.describe(index), strict=True))}
        for index in range(driver.count())
    ]


class _Live:
    """What a device has handed out: it must be freed whether or not anybody thinks of it.

    Kept apart from `Cuda`, so that it can do so when that is garbage, or when Python ends.
    """

    def __init__(self, driver: Driver, index: int) -> None:
        self._driver = driver
        self._process = os.getpid()
        self._closed = self._released = False
        self._lock = threading.RLock()  # unpinning may cut in wherever garbage is found
        self._pinned: set[int] = set()
        self._unused: list[int] = []
        self.memory: dict[int, int] = {}
        self.events: set[int] = set()
        self.streams: dict[int, dict[int, Array]] = {}
        """By stream: the pinned arrays that its copies use, by block; likewise the next two."""
        self.capturing: dict[int, dict[int, Array]] = {}
        self.graphs: dict[int, dict[int, Array]] = {}
        driver.retain(index)

    def pin(self, nbytes: int) -> Any:
        """Page-locked memory as an object whose end frees it."""
        address = self._driver.pin(nbytes)
        self._pinned.add(address)
        _page_locked[address] = nbytes
        owner = (ctypes.c_char * nbytes).from_address(address)
        # not at Python's exit: whoever still holds a view then must find it
        weakref.finalize(owner, self._unpin, address).atexit = False
        return owner

    def _unpin(self, address: int) -> None:
        self._unused.append(address)
        self.unpin_unused()

    def unpin_unused(self) -> None:
        """Free the pinned memory that nobody holds; the context, if nothing is left in it."""
        if self.capturing or os.getpid() != self._process:
            return  # it would break the capture; in a fork it is the parent's
        with self._lock:
            while self._unused:
                address = self._unused.pop()
                self._pinned.remove(address)
                del _page_locked[address]
                with _pushed(self._driver):
                    self._driver.unpin(address)
            if self._closed and not self._pinned and not self._released:
                self._released = True
                self._driver.release()

    def close(self) -> None:
        """Free everything but the pinned memory that is in use; that goes with its last user."""
        if os.getpid() != self._process:
            return  # a fork: all this is its parent's
        errors: list[EngineError] = []

        def attempt(step: Callable[[int], object], handles: Iterable[int]) -> None:
            for handle in list(handles):
                try:
                    step(handle)
                except EngineError as error:
                    errors.append(error)

        def free(_: int) -> None:
            with _pushed(driver):
                attempt(lambda at: driver.free_graph(driver.end_capture(at)), self.capturing)
                attempt(driver.synchronize, self.streams)
                attempt(driver.free_graph, self.graphs)
                attempt(driver.free_event, self.events)
                attempt(driver.free_stream, self.streams)
                attempt(driver.free, self.memory)

        driver = self._driver
        attempt(free, [0])
        for handles in (self.capturing, self.graphs, self.events, self.streams, self.memory):
            handles.clear()
        self._closed = True
        attempt(lambda _: self.unpin_unused(), [0])
        if errors:
            raise errors[0]


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise EngineError(f"CUDA copy: {dtype} is Python's objects, not numbers")


def _block(array: Array) -> int | None:
    """The address of the page-locked memory that an array lies in."""
    start = array.ctypes.data
    for address, nbytes in list(_page_locked.items()):
        if address <= start < address + nbytes:
            return address
    return None


@contextlib.contextmanager
def _pushed(driver: Driver) -> Iterator[None]:
    """Its context is this thread's inside; outside again, whatever was before."""
    before = driver.push()
    try:
        yield
    finally:
        driver.pop(before)


def _bytes(count: int) -> str:
    """A size as people say it."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
