"""A device for each test, which must leave nothing behind on it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from emulated_cuda import Emulator
from helpers import EMULATED, PACKAGE

from whyfake.runtime.cuda import Cuda, open_cuda


@pytest.fixture
def emulator() -> Emulator:
    """For what can only be seen from within the driver."""
    if not EMULATED:
        pytest.skip("asks the emulated driver")
    return Emulator()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After every test all is freed, no context is current, and no memory was misused."""
    yield
    gc.collect()
    if EMULATED:
        emulator = Emulator()
        emulator.shuffle(0)
        assert emulator.violations() == ""
        assert emulator.alive() == {}
        assert emulator.current() == 0


@pytest.fixture
def cuda() -> Iterator[Cuda]:
    with open_cuda(0, PACKAGE) as device:
        yield device
