"""How a CUDA device behaves: memory, and the end of it.

Run by test_cuda.py in a process of its own for each package and driver. By hand, on a GPU:
CUDA_PACKAGE=pycuda pytest tests/device/behaviour_memory.py
"""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from emulated_cuda import Emulator
from helpers import EMULATED, NBYTES, PACKAGE, SHAPE, numbers, pinned, two_streams

from whyfake.errors import EngineError
from whyfake.runtime.cuda import Cuda, open_cuda

OUT_OF_MEMORY, ILLEGAL_ADDRESS, UNKNOWN = 2, 700, 999


# --- memory


def test_memory_is_counted(cuda: Cuda, emulator: Emulator) -> None:
    free, total = cuda.memory()
    pointer = cuda.allocate(1 << 20)
    assert cuda.memory() == (free - (1 << 20), total)
    cuda.free(pointer)
    assert cuda.memory() == (free, total)


def test_out_of_memory_says_how_much(cuda: Cuda) -> None:
    total = cuda.total_memory
    with pytest.raises(EngineError) as caught:
        cuda.allocate(2 * total)
    message = str(caught.value)
    assert f"GPU 0 ({cuda.name}) is out of memory: wanted" in message
    assert "CUDA_ERROR_OUT_OF_MEMORY" in message
    if EMULATED:  # 64 MiB, see test_cuda.py
        assert "wanted 128 MiB, 64 MiB of 64 MiB are free: use a smaller batch" in message
    cuda.free(cuda.allocate(1024))  # and it goes on


def test_no_page_locked_memory_left(cuda: Cuda, emulator: Emulator) -> None:
    emulator.fail("cuMemHostAlloc", OUT_OF_MEMORY)
    with pytest.raises(EngineError, match=r"the host has no 1\.5 KiB left to page-lock"):
        cuda.pinned((3, 128), np.float32)


def test_wrong_use_of_memory(cuda: Cuda) -> None:
    memory, stream, values = cuda.allocate(64), cuda.stream(), numbers()
    cuda.free(memory)
    with pytest.raises(EngineError, match="is not allocated, or was freed"):
        cuda.free(memory)
    for nbytes in (0, -1):
        with pytest.raises(EngineError, match="wanted 1 byte or more"):
            cuda.allocate(nbytes)
    memory = cuda.allocate(64)
    for copy in (cuda.upload, lambda m, a, s: cuda.download(a, m, s)):
        with pytest.raises(EngineError, match="420 bytes do not fit the 64 bytes allocated"):
            copy(memory, values, stream)
        with pytest.raises(EngineError, match=r"\(3, 5, 2\) must be C-contiguous"):
            copy(memory, values[..., :2], stream)
        with pytest.raises(EngineError, match="object is Python's objects, not numbers"):
            copy(memory, np.array([[]]).astype(object), stream)
    with pytest.raises(EngineError, match="object is Python's objects, not numbers"):
        cuda.pinned(3, object)
    values.flags.writeable = False
    with pytest.raises(EngineError, match="read-only"):
        cuda.download(values, memory, stream)


def test_handles_of_nothing(cuda: Cuda) -> None:
    stream, event = cuda.stream(), cuda.event()
    for call in (
        lambda: cuda.synchronize(12345),
        lambda: cuda.record(event, 12345),
        lambda: cuda.upload(0, numbers(), 12345),
        lambda: cuda.begin_capture(12345),
    ):
        with pytest.raises(EngineError, match="12345 is not a stream of this device"):
            call()
    with pytest.raises(EngineError, match="12345 is not an event of this device"):
        cuda.wait(stream, 12345)
    with pytest.raises(EngineError, match="is not a graph of this device"):
        cuda.launch(12345, stream)


def test_pinned_arrays(cuda: Cuda) -> None:
    array = cuda.pinned(SHAPE, "float16")
    assert (array.shape, array.dtype) == (SHAPE, np.float16)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert cuda.pinned(7, np.uint8).shape == (7,)
    assert cuda.pinned((), np.uint8).shape == ()
    assert cuda.pinned((4, 0), np.uint8).nbytes == 0


def test_pinned_memory_ends_with_its_last_view(cuda: Cuda, emulator: Emulator) -> None:
    array = pinned(cuda, numbers())
    view = memoryview(array)[1:]
    del array
    gc.collect()
    assert emulator.count("pinned") == 1
    np.testing.assert_array_equal(np.asarray(view), numbers()[1:])
    del view
    assert emulator.count("pinned") == 0


def test_pinned_memory_outlives_close(emulator: Emulator) -> None:
    cuda = open_cuda(0, PACKAGE)
    array = pinned(cuda, numbers())
    cuda.close()
    assert emulator.alive() == {"contexts": 1, "pinned": 1}
    array += 1
    np.testing.assert_array_equal(array, numbers(1))
    del array
    assert emulator.alive() == {}


def test_pinned_memory_found_to_be_garbage_by_another_thread(
    cuda: Cuda, emulator: Emulator
) -> None:
    box = [cuda.pinned(9, np.uint8)]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert emulator.count("pinned") == 0


def test_a_copy_keeps_its_pinned_memory_alive(cuda: Cuda, emulator: Emulator) -> None:
    memory, stream, result = cuda.allocate(NBYTES), cuda.stream(), np.zeros(SHAPE, np.float32)
    cuda.upload(memory, pinned(cuda, numbers())[...], stream)
    gc.collect()
    assert emulator.count("pinned") == 1
    cuda.synchronize(stream)
    assert emulator.count("pinned") == 0
    cuda.download(result, memory, stream)
    np.testing.assert_array_equal(result, numbers())


# --- closing


def test_close_frees_everything_even_under_way(emulator: Emulator) -> None:
    cuda = open_cuda(0, PACKAGE)
    streams = two_streams(cuda)
    result = pinned(cuda, numbers() * 0)
    memory = cuda.allocate(result.nbytes)
    cuda.upload(memory, pinned(cuda, numbers()), streams[0])
    cuda.download(result, memory, streams[0])
    cuda.record(cuda.event(), streams[0])
    assert emulator.count("pending") == 3
    cuda.close()
    np.testing.assert_array_equal(result, numbers())  # it was waited for
    cuda.close()
    del result
    assert emulator.alive() == {}


def test_close_inside_its_own_context(emulator: Emulator) -> None:
    cuda = open_cuda(0, PACKAGE)
    with cuda.current():
        cuda.close()
    assert emulator.current() == 0


def test_close_in_another_thread(emulator: Emulator) -> None:
    cuda = open_cuda(0, PACKAGE)
    cuda.allocate(10)
    thread = threading.Thread(target=cuda.close)
    thread.start()
    thread.join()
    assert emulator.alive() == {}
    assert emulator.current() == 0


def test_a_device_that_nobody_closed(emulator: Emulator) -> None:
    cuda = open_cuda(0, PACKAGE)
    cuda.allocate(10)
    cuda.stream()
    del cuda
    gc.collect()
    assert emulator.alive() == {}


def test_a_closed_device_says_so(cuda: Cuda) -> None:
    stream, event, array = cuda.stream(), cuda.event(), cuda.pinned(4, np.uint8)
    memory = cuda.allocate(4)
    cuda.close()
    for call in (
        cuda.current,
        cuda.memory,
        cuda.stream,
        cuda.event,
        lambda: cuda.allocate(4),
        lambda: cuda.free(memory),
        lambda: cuda.pinned(4, np.uint8),
        lambda: cuda.record(event, stream),
        lambda: cuda.wait(stream, event),
        lambda: cuda.upload(memory, array, stream),
        lambda: cuda.download(array, memory, stream),
        lambda: cuda.synchronize(stream),
        lambda: cuda.begin_capture(stream),
        lambda: cuda.end_capture(stream),
        lambda: cuda.launch(1, stream),
    ):
        with pytest.raises(EngineError, match="GPU 0 is closed"):
            call()


MAKING = ["cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuMemAlloc"]
MAKING += ["cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuEventRecord"]
MAKING += ["cuStreamWaitEvent", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize"]


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("routine", MAKING)
def test_an_error_anywhere_leaves_nothing(emulator: Emulator, routine: str, call: int) -> None:
    """The k-th call of each routine fails: its name comes out, and all is freed."""
    emulator.fail(routine, UNKNOWN, call)
    message = rf"{routine}\w* failed: CUDA_ERROR_UNKNOWN, unknown error"
    with pytest.raises(EngineError, match=message):
        use_everything_twice()


def use_everything_twice() -> None:
    with open_cuda(0, PACKAGE) as cuda:
        for _ in range(2):
            stream, event, memory = cuda.stream(), cuda.event(), cuda.allocate(NBYTES)
            array = pinned(cuda, numbers())
            cuda.upload(memory, array, stream)
            cuda.record(event, stream)
            cuda.wait(stream, event)
            cuda.download(array, memory, stream)
            cuda.synchronize(stream)
        open_cuda(0, PACKAGE).close()


def test_an_error_that_is_kept_keeps_nothing_of_the_device(emulator: Emulator) -> None:
    """Its traceback outlives the context, as that of a Ctrl-C does."""
    cuda = open_cuda(0, PACKAGE)
    stream, event = cuda.stream(), cuda.event()
    kept = []
    for routine in ("cuEventRecord", "cuStreamSynchronize"):
        emulator.fail(routine, UNKNOWN)
        try:
            cuda.record(event, stream)
            cuda.synchronize(stream)
        except EngineError as error:
            kept.append(error)
    assert len(kept) == 2
    cuda.close()
    assert emulator.alive() == {}


@pytest.mark.parametrize("routine", ["cuCtxPushCurrent", "cuStreamSynchronize"])
def test_an_error_while_closing(emulator: Emulator, routine: str) -> None:
    """It is raised once all else is tried. Where the context cannot even be entered, what is in it
    goes with it: that the emulated driver complains of.
    """
    theirs = emulator.retain(0)
    cuda = open_cuda(0, PACKAGE)
    cuda.allocate(10), cuda.stream()
    emulator.fail(routine, UNKNOWN)
    with pytest.raises(EngineError, match=f"{routine}.* failed: CUDA_ERROR_UNKNOWN"):
        cuda.close()
    cuda.close()
    left = {"memory", "bytes", "streams"} if routine == "cuCtxPushCurrent" else set()
    assert emulator.alive().keys() == {"contexts"} | left
    assert emulator.count("contexts") == 1
    emulator.set_current(theirs)
    emulator.crash(UNKNOWN)  # so that what was left there is no violation
    emulator.set_current(0)
    emulator.release(0)


def test_a_broken_context_is_still_let_go(emulator: Emulator) -> None:
    """After a crash on the GPU every call fails; close tries all, then says what the first said."""
    cuda = open_cuda(0, PACKAGE)
    stream = cuda.stream()
    cuda.allocate(NBYTES)
    emulator.compute(stream, lambda: emulator.crash(ILLEGAL_ADDRESS))
    with pytest.raises(EngineError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS, .*: something ran outside"):
        cuda.synchronize(stream)
    with pytest.raises(EngineError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        cuda.allocate(4)
    with pytest.raises(EngineError, match="cuStreamSynchronize failed"):
        cuda.close()
    cuda.close()
    assert emulator.alive() == {}
