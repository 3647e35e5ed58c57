"""How a CUDA device behaves: copies, streams and events.

Run by test_cuda.py in a process of its own for each package and driver. By hand, on a GPU:
CUDA_PACKAGE=pycuda pytest tests/device/behaviour_copies.py
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from emulated_cuda import Emulator
from helpers import (
    EMULATED,
    NBYTES,
    PACKAGE,
    SHAPE,
    Numbers,
    doubled,
    numbers,
    pinned,
    two_streams,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from whyfake.errors import EngineError
from whyfake.runtime.cuda import Cuda, devices, open_cuda

# --- the device


def test_a_device_says_what_it_is(cuda: Cuda) -> None:
    [described, *_] = devices()
    assert described["index"] == cuda.index == 0
    assert described["name"] == cuda.name != ""
    assert described["compute_capability"] == cuda.compute_capability >= (5, 0)
    assert described["memory"] == cuda.total_memory > 1 << 20
    assert cuda.driver_version >= (11, 0)
    assert cuda.package.startswith(PACKAGE + " ")
    assert cuda.graphs == (PACKAGE != "pycuda")


@pytest.mark.parametrize("index", [-1, 64])
def test_a_device_that_is_not_there(index: int) -> None:
    with pytest.raises(EngineError, match=rf"there is no GPU {index} here: CUDA shows (one|\d+), "):
        open_cuda(index, PACKAGE)


# --- copies


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool", "M8[s]"])
@pytest.mark.parametrize("locked", [True, False])
def test_every_dtype_makes_the_round_trip(cuda: Cuda, dtype: str, locked: bool) -> None:
    values = numbers().astype("int64").astype(dtype)
    source = pinned(cuda, values) if locked else values.copy()
    result = cuda.pinned(SHAPE, dtype) if locked else np.zeros(SHAPE, dtype)
    memory, stream = cuda.allocate(values.nbytes), cuda.stream()
    cuda.upload(memory, source, stream)
    cuda.download(result, memory, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(result, values)


@given(shape=st.lists(st.integers(0, 9), max_size=4), offset=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_every_shape_makes_the_round_trip(shape: list[int], offset: int) -> None:
    """Also none at all, no elements, and memory in the middle of what was allocated."""
    with open_cuda(0, PACKAGE) as cuda:
        values = numbers(shape=tuple(shape))
        memory, stream = cuda.allocate(values.nbytes + 16), cuda.stream()
        result = cuda.pinned(tuple(shape), np.float32)
        cuda.upload(memory + 4 * offset, pinned(cuda, values), stream)
        cuda.download(result, memory + 4 * offset, stream)
        cuda.synchronize(stream)
        assert result.shape == tuple(shape)
        np.testing.assert_array_equal(result, values)


def test_read_only_arrays_can_be_uploaded(cuda: Cuda) -> None:
    values = numbers()
    values.flags.writeable = False
    memory, stream = cuda.allocate(values.nbytes), cuda.stream()
    cuda.upload(memory, values, stream)
    result = np.zeros_like(values)
    cuda.download(result, memory, stream)
    np.testing.assert_array_equal(result, values)


def test_other_arrays_are_copied_aside_and_waited_for(cuda: Cuda) -> None:
    """Not page-locked: it may change at once, and the result is there without synchronize."""
    values, result = numbers(), np.zeros(SHAPE, np.float32)
    memory, stream = cuda.allocate(values.nbytes), cuda.stream()
    cuda.upload(memory, values, stream)
    values += 1
    cuda.download(result, memory, stream)
    np.testing.assert_array_equal(result, values - 1)


def test_pinned_arrays_are_copied_later(cuda: Cuda, emulator: Emulator) -> None:
    source, result = pinned(cuda, numbers()), pinned(cuda, numbers(500))
    memory, stream = cuda.allocate(source.nbytes), cuda.stream()
    cuda.upload(memory, source, stream)
    cuda.download(result, memory, stream)
    assert emulator.count("pending") == 2
    np.testing.assert_array_equal(result, numbers(500))
    cuda.synchronize(stream)
    assert emulator.count("pending") == 0
    np.testing.assert_array_equal(result, numbers())


# --- streams and events


def test_an_event_orders_two_streams(cuda: Cuda) -> None:
    source, result = pinned(cuda, numbers()), pinned(cuda, numbers() * 0)
    memory, up, down, ready = cuda.allocate(source.nbytes), *two_streams(cuda), cuda.event()
    for turn in range(1, 4):  # the same event again: as it was last recorded
        source[...] = numbers(turn)
        cuda.upload(memory, source, up)
        cuda.record(ready, up)
        cuda.wait(down, ready)
        cuda.download(result, memory, down)
        cuda.synchronize(down)
        np.testing.assert_array_equal(result, numbers(turn))


def test_without_the_event_the_emulated_driver_shows_stale_data(
    cuda: Cuda, emulator: Emulator
) -> None:
    """So that the test above can fail."""
    source, result = pinned(cuda, numbers()), pinned(cuda, numbers() * 0)
    memory, (up, down) = cuda.allocate(source.nbytes), two_streams(cuda)
    cuda.upload(memory, source, up)
    cuda.download(result, memory, down)
    cuda.synchronize(down)
    assert (result != numbers()).any()


def test_an_event_that_never_was_recorded_holds_nothing_up(cuda: Cuda) -> None:
    stream, event = cuda.stream(), cuda.event()
    cuda.wait(stream, event)
    cuda.synchronize(stream)


@pytest.mark.parametrize("seed", range(6))
def test_the_next_batch_goes_up_while_one_is_computed(
    cuda: Cuda, emulator: Emulator, seed: int
) -> None:
    emulator.shuffle(seed)
    np.testing.assert_array_equal(overlapped(cuda, emulator), 2 * numbers())


@pytest.mark.parametrize("left_out", ["there", "used"])
def test_each_of_its_waits_is_needed(cuda: Cuda, emulator: Emulator, left_out: str) -> None:
    """So that the test above can fail: some order of things shows what went wrong."""
    right = 0
    for seed in range(6):
        emulator.shuffle(seed)
        right += bool((overlapped(cuda, emulator, left_out) == 2 * numbers()).all())
    assert right < 6


def overlapped(cuda: Cuda, emulator: Emulator, left_out: str = "") -> Numbers:
    """Doubles numbers row by row: through one buffer up, computed in another stream."""
    up, compute = two_streams(cuda)
    source, result = pinned(cuda, numbers()), pinned(cuda, numbers())
    buffer, computed = cuda.allocate(NBYTES // 3), cuda.allocate(NBYTES // 3)
    there, used = cuda.event(), cuda.event()
    for row in range(3):
        if left_out != "used":
            cuda.wait(up, used)
        cuda.upload(buffer, source[row], up)
        cuda.record(there, up)
        if left_out != "there":
            cuda.wait(compute, there)
        emulator.compute(compute, doubled(buffer, computed))
        cuda.record(used, compute)
        cuda.download(result[row], computed, compute)
    cuda.synchronize(compute)
    cuda.synchronize(up)
    return result


def test_synchronize_lets_other_threads_run(cuda: Cuda, emulator: Emulator) -> None:
    """The driver waits for a call that only another Python thread can make."""
    stream = cuda.stream()
    emulator.hold()
    thread = threading.Thread(target=lambda: (time.sleep(0.05), emulator.let_go()))
    thread.start()
    cuda.synchronize(stream)
    thread.join()
    assert emulator.violations() == ""


def test_threads_with_streams_of_their_own(cuda: Cuda) -> None:
    """Each finds its own numbers again, and the threads' contexts are as they were."""
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            stream, event = cuda.stream(), cuda.event()
            for turn in range(25):
                values = numbers(1000 * number + turn)
                memory, source = cuda.allocate(values.nbytes), pinned(cuda, values)
                result = cuda.pinned(SHAPE, np.float32)
                cuda.upload(memory, source, stream)
                cuda.record(event, stream)
                cuda.wait(stream, event)
                cuda.download(result, memory, stream)
                cuda.synchronize(stream)
                cuda.free(memory)
                if (result != values).any():
                    wrong.append(f"thread {number}, turn {turn}")
            if EMULATED and Emulator().current():
                wrong.append("a context stayed current")
        except Exception as error:  # noqa: BLE001 - it must reach the test
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cuda._live.memory == {}
