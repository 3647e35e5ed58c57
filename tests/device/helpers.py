"""What the behaviours have in common: which package and driver, and small arrays."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from whyfake.runtime.cuda import Cuda

PACKAGE = os.environ.get("CUDA_PACKAGE", "cuda-bindings")
EMULATED = os.environ.get("CUDA_EMULATED") == "1"
SHAPE = (3, 5, 7)
NBYTES = 3 * 5 * 7 * 4

Numbers = np.ndarray[Any, Any]

needs_graphs = pytest.mark.skipif(PACKAGE == "pycuda", reason="pycuda has no graphs")


def numbers(start: int = 0, shape: tuple[int, ...] = SHAPE) -> Numbers:
    """Float32 numbers from `start` on."""
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


def pinned(cuda: Cuda, values: Numbers) -> Numbers:
    array = cuda.pinned(values.shape, values.dtype)
    array[...] = values
    return array


def two_streams(cuda: Cuda) -> tuple[int, int]:
    return cuda.stream(), cuda.stream()


def doubled(source: int, sink: int) -> Callable[[], None]:
    """A "kernel" for the emulated driver: a third of the numbers, times two, on the device."""

    def kernel() -> None:
        values, results = (
            np.ctypeslib.as_array((ctypes.c_float * (NBYTES // 12)).from_address(pointer))
            for pointer in (source, sink)
        )
        results[:] = 2 * values

    return kernel
