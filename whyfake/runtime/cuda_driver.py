"""What whyfake wants of the CUDA driver (`Driver`), and what it asks libcuda itself (`Libcuda`).

The latter is `cuInit`, before a package asks anything that may crash without it, the names of
errors, and the contexts that pycuda cannot see.
"""

from __future__ import annotations

import abc
import ctypes
from typing import Any

from numpy.typing import NDArray

from ..errors import EngineError

Array = NDArray[Any]

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
NO_DEVICE = "CUDA_ERROR_NO_DEVICE"
_MEANING = {
    NO_DEVICE: "there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES hides it",
    "CUDA_ERROR_NOT_INITIALIZED": "CUDA does not survive a fork: open the device in the child",
    "CUDA_ERROR_STUB_LIBRARY": "libcuda.so.1 is the toolkit's stub, not a driver",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has the GPU to itself",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated under a running kernel: reboot",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "this GPU cannot use the compatibility driver",
    "CUDA_ERROR_OPERATING_SYSTEM": "the kernel's part of the driver does not answer",
    "CUDA_ERROR_SYSTEM_NOT_READY": "NVIDIA's fabric manager is not running",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "something ran outside its buffers: start the process anew",
    "CUDA_ERROR_LAUNCH_FAILED": "what ran on the GPU crashed: start the process anew",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the GPU's memory is faulty",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "it is not possible while a graph is captured",
}


class DriverError(EngineError):
    """What the driver itself refused, by its `name` for it."""

    def __init__(self, routine: str, name: str, text: str) -> None:
        meaning = f": {_MEANING[name]}" if name in _MEANING else ""
        super().__init__(f"{routine} failed: {name}, {text}{meaning}")
        self.name = name


class Libcuda:
    """The driver library itself, initialised. Raises EngineError where there is none."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise EngineError(
                f"there is no NVIDIA driver here ({error}): install it, or start the "
                "container with --gpus all"
            ) from None
        self._call("cuInit", 0)

    def _call(self, routine: str, *args: Any) -> None:
        code = getattr(self._library, routine)(*args)
        if code:
            raise self.error(routine, code)

    def error(self, routine: str, code: int) -> DriverError:
        """The driver's own words for a code; pycuda crashes on one that the driver lacks."""
        name = self._say("cuGetErrorName", code) or f"code {code}"
        return DriverError(routine, name, self.text(code) or "which this driver has no words for")

    def text(self, code: int) -> str:
        """Such as `out of memory`; empty for a code that it does not know."""
        return self._say("cuGetErrorString", code)

    def _say(self, routine: str, code: int) -> str:
        said = ctypes.c_char_p()
        getattr(self._library, routine)(code, ctypes.byref(said))
        return (said.value or b"").decode()

    def version(self) -> tuple[int, int]:
        """The newest CUDA that the driver knows."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value // 1000, version.value % 1000 // 10

    def current(self) -> int:
        """This thread's context; 0 for none."""
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        return context.value or 0

    def set_current(self, context: int) -> None:
        """Put a context in the place of this thread's."""
        self._call("cuCtxSetCurrent", ctypes.c_void_p(context))

    def release(self, device: int) -> None:
        """Let a primary context go."""
        self._call("cuDevicePrimaryCtxRelease_v2", device)


class Driver(abc.ABC):
    """One device, as a package speaks of it: handles are ints, and nothing is checked.

    From `memory` on, its context must be current in the calling thread.
    """

    package: str
    graphs = False
    libcuda: Libcuda

    @abc.abstractmethod
    def count(self) -> int:
        """How many devices there are."""

    @abc.abstractmethod
    def describe(self, index: int) -> tuple[str, tuple[int, int], int]:
        """A device's name, compute capability and memory in bytes."""

    @abc.abstractmethod
    def retain(self, index: int) -> None:
        """Take part in a device's primary context; all that follows is about that."""

    @abc.abstractmethod
    def release(self) -> None:
        """Let it go, once."""

    @abc.abstractmethod
    def is_current(self) -> bool:
        """Whether it is this thread's, for the driver and the package."""

    @abc.abstractmethod
    def push(self) -> int:
        """Make it this thread's; returns what `pop` needs to undo that."""

    @abc.abstractmethod
    def pop(self, before: int) -> None:
        """Undo `push`."""

    @abc.abstractmethod
    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""

    @abc.abstractmethod
    def allocate(self, nbytes: int) -> int: ...

    @abc.abstractmethod
    def free(self, pointer: int) -> None: ...

    @abc.abstractmethod
    def pin(self, nbytes: int) -> int:
        """The address of page-locked host memory."""

    @abc.abstractmethod
    def unpin(self, address: int) -> None: ...

    @abc.abstractmethod
    def stream(self) -> int: ...

    @abc.abstractmethod
    def free_stream(self, stream: int) -> None: ...

    @abc.abstractmethod
    def event(self) -> int: ...

    @abc.abstractmethod
    def free_event(self, event: int) -> None: ...

    @abc.abstractmethod
    def record(self, event: int, stream: int) -> None: ...

    @abc.abstractmethod
    def wait(self, stream: int, event: int) -> None: ...

    @abc.abstractmethod
    def upload(self, pointer: int, array: Array, stream: int) -> None: ...

    @abc.abstractmethod
    def download(self, array: Array, pointer: int, stream: int) -> None: ...

    @abc.abstractmethod
    def synchronize(self, stream: int) -> None:
        """Wait, with Python's lock let go."""

    def begin_capture(self, stream: int) -> None:
        """Only where `graphs`, as all that follows."""
        raise EngineError(f"{self.package} cannot capture CUDA graphs; cuda-bindings can")

    def end_capture(self, stream: int) -> int:
        """An executable graph."""
        raise EngineError(f"{self.package} has no CUDA graphs")

    def launch(self, graph: int, stream: int) -> None:
        """Put an executable graph into a stream."""
        raise EngineError(f"{self.package} has no CUDA graphs")

    def free_graph(self, graph: int) -> None:
        """Destroy an executable graph."""
        raise EngineError(f"{self.package} has no CUDA graphs")
