"""What every back-end offers: named arrays in, named arrays out, and how it likes to be fed."""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..perturbation import FloatArray, PerturbationBatch
from .canvas import Canvas, OnDevice

Arrays = Mapping[str, NDArray[Any]]
_counting = threading.Lock()


class Engine(abc.ABC):
    """A compiled model. `run` may be called from `lanes` threads at once.

    `batch` is the one batch size that whyfake runs it at: scores must not depend on how questions
    were packed, so every batch has this size, padded where fewer are asked. A free batch dimension
    is the back-end's choice; a fixed one is the model's.
    """

    name: str
    """Back-end and version, such as `onnxruntime 1.31.1`."""
    device: str
    """Where it runs: `cpu`, `cuda:0`."""
    batch: int
    lanes: int
    threads: int = 1
    """Threads of the back-end's own in each run."""
    rule_batch: int = 0
    """What `batch` would be without a measurement; 0: what it is."""
    free_batch: bool = False
    """Whether `batch` and `lanes` may be set to something else while nothing runs."""
    inputs: tuple[str, ...]
    precision: str = "fp32"
    """What it computes in: NES asks for larger differences below `fp32`."""
    compositions: tuple[str, ...] = ("host",)
    """Where copies can be composed: `host`, and `device` where that is the GPU or asked for."""
    composition: str = "host"
    """Where they are, and `composition_why`; `Detector` settles both."""
    composition_why: str = ""
    _up = 0

    @property
    def bytes_up(self) -> int:
        """Bytes handed over so far: pictures composed on the host, codes and what they refer to."""
        return self._up

    def count_up(self, nbytes: int) -> None:
        """Add to `bytes_up`; from any thread."""
        with _counting:
            self._up += nbytes

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Run one batch; every array has `batch` rows, C-contiguous. Raises EngineError."""
        if tuple(arrays) != self.inputs:
            raise EngineError(f"{self.name}: wanted inputs {self.inputs}, got {tuple(arrays)}")
        up = 0
        for name, array in arrays.items():
            up += array.nbytes
            if len(array) != self.batch or not array.flags.c_contiguous:
                raise EngineError(
                    f"{self.name}: input '{name}' must be contiguous with {self.batch} rows, "
                    f"got {array.shape}"
                )
        self.count_up(up)
        return self._run(arrays)

    def upload(self, batch: PerturbationBatch, frame: FloatArray) -> list[OnDevice[Any]]:
        """Make a batch of copies of `frame` ready to be composed on the device, by any canvas."""
        raise EngineError(f"{self.name} cannot compose on its device: compose on the host")

    def canvas(self) -> Canvas[Any]:
        """One thread's `batch` pictures on the device."""
        raise EngineError(f"{self.name} cannot compose on its device: compose on the host")

    def host_array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array of zeros to compose batches in, where `run` reads them fastest."""
        return np.zeros(shape, np.float32)

    @abc.abstractmethod
    def _run(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the engine holds; it may be called twice."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def cpu_count() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
