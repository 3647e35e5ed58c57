"""The CUDA driver in the words of pycuda, where that is installed, and of cuda-bindings."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import EngineError, MissingExtraError, UsageError, unknown
from .cuda_driver import Array, Driver, DriverError, Libcuda

_CODES = 1000
"""Above every code that CUresult has (999, unknown)."""
_NON_BLOCKING_STREAM = 1
_PORTABLE_HOST_MEMORY = 1
"""Page-locked for every context of the process."""


class CudaBindings(Driver):
    """NVIDIA's own bindings: the driver's functions as they are, the error code first."""

    graphs = True

    def __init__(self) -> None:
        version = importlib.metadata.version("cuda-bindings")
        self.package = f"cuda-bindings {version}"
        if tuple(map(int, re.findall(r"\d+", version)[:3])) < (12, 9, 1):
            raise EngineError(
                f"{self.package} keeps every thread waiting while one waits for the GPU: "
                "pip install 'cuda-bindings>=12.9.1'"
            )
        self._driver = importlib.import_module("cuda.bindings.driver")
        self.libcuda = Libcuda()
        self._call("cuInit", 0)

    def _call(self, routine: str, *args: Any) -> Any:
        try:
            code, *values = getattr(self._driver, routine)(*args)
        except RuntimeError as error:  # so it says that the library lacks a function
            version = ".".join(map(str, self.libcuda.version()))
            raise EngineError(
                f"{self.package} does not fit the driver (CUDA {version}), {_line(error)}: update "
                "the driver, or install the cuda-bindings of its version"
            ) from None
        if code:
            raise self.libcuda.error(routine, int(code))
        return values[0] if len(values) == 1 else values

    def count(self) -> int:
        return int(self._call("cuDeviceGetCount"))

    def describe(self, index: int) -> tuple[str, tuple[int, int], int]:
        device = self._call("cuDeviceGet", index)
        name = self._call("cuDeviceGetName", 256, device).split(b"\0")[0].decode(errors="replace")
        kinds = self._driver.CUdevice_attribute
        major, minor = (
            self._call("cuDeviceGetAttribute", kind, device)
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return name, (major, minor), int(self._call("cuDeviceTotalMem", device))

    def retain(self, index: int) -> None:
        self._device = self._call("cuDeviceGet", index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    def release(self) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def is_current(self) -> bool:
        return int(self._call("cuCtxGetCurrent")) == int(self._context)

    def push(self) -> int:
        self._call("cuCtxPushCurrent", self._context)
        return 0

    def pop(self, before: int) -> None:
        self._call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cuMemAlloc", nbytes))

    def free(self, pointer: int) -> None:
        self._call("cuMemFree", pointer)

    def pin(self, nbytes: int) -> int:
        return int(self._call("cuMemHostAlloc", nbytes, _PORTABLE_HOST_MEMORY))

    def unpin(self, address: int) -> None:
        self._call("cuMemFreeHost", address)

    def stream(self) -> int:
        return int(self._call("cuStreamCreate", _NON_BLOCKING_STREAM))

    def free_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def event(self) -> int:
        flags = self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return int(self._call("cuEventCreate", flags))

    def free_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def upload(self, pointer: int, array: Array, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, stream)

    def download(self, array: Array, pointer: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, stream)

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        # other threads may go on allocating, which a capture of the whole process would forbid
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)


class PyCuda(Driver):
    """pycuda: objects that free themselves, which here they are never left to do.

    They would in whatever thread finds them to be garbage, and where their context is not current
    they warn and leak, or where it is no more end the process. So they stay in `_handles` and in no
    variable that a traceback might keep, and are freed with the context pushed; where that fails,
    pycuda prints so. It also keeps a stack of contexts beside the driver's, blind to what others
    put there: that is put back.
    """

    def __init__(self) -> None:
        self.libcuda = Libcuda()
        self._driver = importlib.import_module("pycuda.driver")
        self.package = f"pycuda {importlib.metadata.version('pycuda')}"
        self._driver.init()
        self._handles: dict[int, Any] = {}
        """Streams, events, memory and page-locked arrays by their ints."""

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        """pycuda.driver, its errors as ours."""
        try:
            yield self._driver
        except self._driver.Error as error:
            # "cuMemAlloc failed: out of memory", of which the name must be found out
            routine, _, text = str(error).partition(" failed: ")
            for code in range(1, _CODES):
                if self.libcuda.text(code) == text:
                    raise self.libcuda.error(routine, code) from None
            raise EngineError(f"{self.package}: {_line(error)}") from None

    def _keep(self, handle: int, thing: Any) -> int:
        self._handles[handle] = thing
        return handle

    def count(self) -> int:
        with self._asked() as driver:
            return int(driver.Device.count())

    def describe(self, index: int) -> tuple[str, tuple[int, int], int]:
        with self._asked() as driver:
            device = driver.Device(index)
            major, minor = device.compute_capability()
            return device.name(), (major, minor), int(device.total_memory())

    def retain(self, index: int) -> None:
        self._index = index
        with self._asked() as driver:
            self._context = driver.Device(index).retain_primary_context()
        # its own release works in one thread only, and leaves the context current there
        _never_destroy(self._context)

    def release(self) -> None:
        for left in self._handles.values():  # what could not be freed would end the process
            _never_destroy(left)
        self.libcuda.release(self._index)

    def is_current(self) -> bool:
        return (
            self.libcuda.current() == self._context.handle
            and self._driver.Context.get_current() is self._context
        )

    def push(self) -> int:
        before = self.libcuda.current()
        with self._asked():
            self._context.push()
        return before

    def pop(self, before: int) -> None:
        with self._asked() as driver:
            driver.Context.pop()
        if self.libcuda.current() != before:
            self.libcuda.set_current(before)

    def memory(self) -> tuple[int, int]:
        with self._asked() as driver:
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        with self._asked() as driver:
            memory = driver.mem_alloc(nbytes)
            return self._keep(int(memory), memory)

    def free(self, pointer: int) -> None:
        with self._asked():
            self._handles.pop(pointer).free()

    def pin(self, nbytes: int) -> int:
        with self._asked() as driver:
            array = driver.pagelocked_empty(nbytes, np.uint8, "C", _PORTABLE_HOST_MEMORY)
            _never_destroy(array)  # not even when Python ends with it in use
            return self._keep(array.ctypes.data, array)

    def unpin(self, address: int) -> None:
        array = self._handles.pop(address)
        with self._asked():
            array.base.free()
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(array))

    def stream(self) -> int:
        with self._asked() as driver:
            stream = driver.Stream(_NON_BLOCKING_STREAM)
            return self._keep(stream.handle, stream)

    def free_stream(self, stream: int) -> None:
        del self._handles[stream]  # the last reference: its destructor runs here

    def event(self) -> int:
        with self._asked() as driver:
            event = driver.Event(driver.event_flags.DISABLE_TIMING)
            return self._keep(id(event), event)  # pycuda tells nobody the driver's handle

    def free_event(self, event: int) -> None:
        del self._handles[event]

    def record(self, event: int, stream: int) -> None:
        with self._asked():
            self._handles[event].record(self._handles[stream])

    def wait(self, stream: int, event: int) -> None:
        with self._asked():
            self._handles[stream].wait_for_event(self._handles[event])

    def upload(self, pointer: int, array: Array, stream: int) -> None:
        with self._asked() as driver:
            driver.memcpy_htod_async(pointer, array, self._handles[stream])

    def download(self, array: Array, pointer: int, stream: int) -> None:
        with self._asked() as driver:
            driver.memcpy_dtoh_async(array, pointer, self._handles[stream])

    def synchronize(self, stream: int) -> None:
        with self._asked():
            self._handles[stream].synchronize()


_PACKAGES: dict[str, tuple[str, Callable[[], Driver]]] = {
    "pycuda": ("pycuda.driver", PyCuda),
    "cuda-bindings": ("cuda.bindings.driver", CudaBindings),
}


def load_driver(package: str | None) -> Driver:
    """The driver through `package`, or through the first that works, initialised.

    Raises UsageError, MissingExtraError, EngineError (with what each package said), DriverError.
    """
    if package is not None and package not in _PACKAGES:
        raise UsageError(unknown("CUDA package", package, _PACKAGES))
    names = [package] if package else list(_PACKAGES)
    present = [name for name in names if _installed(_PACKAGES[name][0])]
    if not present:
        extra = "pycuda" if package == "pycuda" else "gpu"
        raise MissingExtraError(
            f"using a GPU needs the package {' or '.join(names)}, which is not installed: "
            f"pip install 'whyfake[{extra}]'"
        )
    Libcuda()  # no driver and no GPU are nobody's fault among the packages
    said = []
    for name in present:
        try:
            return _PACKAGES[name][1]()
        except DriverError:
            raise
        except EngineError as error:
            said.append(str(error))
        except Exception as error:  # noqa: BLE001 - a broken package fails in ways of its own
            said.append(f"{name} says: {_line(error)}")
    raise EngineError("the GPU cannot be used: " + "; ".join(said))


def _never_destroy(thing: Any) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of a package above it
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
