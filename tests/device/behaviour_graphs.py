"""How a CUDA device behaves: graphs.

Run by test_cuda.py in a process of its own for each package and driver. By hand, on a GPU:
CUDA_PACKAGE=pycuda pytest tests/device/behaviour_graphs.py
"""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from emulated_cuda import Emulator
from helpers import NBYTES, PACKAGE, SHAPE, doubled, needs_graphs, numbers, pinned

from whyfake.errors import EngineError
from whyfake.runtime.cuda import Cuda, open_cuda


@pytest.mark.skipif(PACKAGE != "pycuda", reason="this package has graphs")
def test_pycuda_says_that_it_has_no_graphs(cuda: Cuda) -> None:
    stream = cuda.stream()
    with pytest.raises(EngineError, match=r"pycuda .* cannot capture CUDA graphs; cuda-bindings"):
        cuda.begin_capture(stream)
    cuda.synchronize(stream)


@needs_graphs
def test_a_graph_repeats_its_copies(cuda: Cuda) -> None:
    """Nothing happens while it is captured; then all of it, at each launch, on the same buffers."""
    source, result = pinned(cuda, numbers()), pinned(cuda, numbers(500))
    memory, stream = cuda.allocate(NBYTES), cuda.stream()
    cuda.begin_capture(stream)
    cuda.upload(memory, source, stream)
    cuda.download(result, memory, stream)
    graph = cuda.end_capture(stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(result, numbers(500))
    for turn in range(3):
        source[...] = numbers(turn)
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(result, numbers(turn))


@needs_graphs
def test_graphs_of_several_sizes_with_work_in_them(cuda: Cuda, emulator: Emulator) -> None:
    """The engine's pattern: copy, compute, copy, as one graph for each batch size."""
    source, result = pinned(cuda, numbers()), pinned(cuda, numbers())
    memory, stream, graphs = cuda.allocate(NBYTES), cuda.stream(), {}
    for rows in (1, 3):
        cuda.begin_capture(stream)
        cuda.upload(memory, source[:rows], stream)
        for row in range(rows):
            emulator.compute(stream, doubled(*[memory + row * NBYTES // 3] * 2))
        cuda.download(result[:rows], memory, stream)
        graphs[rows] = cuda.end_capture(stream)
    for rows in (1, 3, 1):
        source[...], result[...] = numbers(rows), -1
        cuda.launch(graphs[rows], stream)
        cuda.synchronize(stream)
        np.testing.assert_array_equal(result[:rows], 2 * numbers(rows)[:rows])
        assert (result[rows:] == -1).all()


@needs_graphs
def test_a_graph_keeps_its_pinned_memory_alive(cuda: Cuda, emulator: Emulator) -> None:
    memory, stream, result = cuda.allocate(NBYTES), cuda.stream(), np.zeros(SHAPE, np.float32)
    source = pinned(cuda, numbers())
    cuda.begin_capture(stream)
    cuda.upload(memory, source, stream)
    graph = cuda.end_capture(stream)
    del source
    gc.collect()
    cuda.launch(graph, stream)
    cuda.synchronize(stream)
    cuda.launch(graph, stream)
    cuda.download(result, memory, stream)
    np.testing.assert_array_equal(result, numbers())
    assert emulator.count("pinned") == 1


@needs_graphs
def test_only_pinned_arrays_can_be_captured(cuda: Cuda) -> None:
    memory, stream, values = cuda.allocate(NBYTES), cuda.stream(), numbers()
    cuda.begin_capture(stream)
    for call in (
        lambda: cuda.upload(memory, values, stream),
        lambda: cuda.download(values, memory, stream),
    ):
        with pytest.raises(EngineError, match="a graph can only hold copies of pinned arrays"):
            call()
    cuda.launch(cuda.end_capture(stream), stream)  # nothing was broken by it
    cuda.synchronize(stream)


@needs_graphs
def test_a_capture_that_fails_leaves_a_usable_stream(cuda: Cuda) -> None:
    stream = cuda.stream()
    cuda.begin_capture(stream)
    with pytest.raises(EngineError, match=r"CAPTURE_UNSUPPORTED.*while a graph is captured"):
        cuda.synchronize(stream)
    with pytest.raises(EngineError, match="CAPTURE_INVALIDATED"):
        cuda.end_capture(stream)
    memory, result = cuda.allocate(NBYTES), np.zeros(SHAPE, np.float32)
    cuda.upload(memory, numbers(), stream)
    cuda.download(result, memory, stream)
    np.testing.assert_array_equal(result, numbers())


@needs_graphs
@pytest.mark.parametrize(
    "routine", ["cuStreamBeginCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"]
)
def test_an_error_of_a_graph_leaves_nothing(emulator: Emulator, routine: str) -> None:
    """The fixture sees to it that neither graph of a capture, nor its memory, is left."""
    emulator.fail(routine, 999)
    with pytest.raises(EngineError, match="CUDA_ERROR_UNKNOWN"):
        capture_and_launch()


def capture_and_launch() -> None:
    with open_cuda(0, PACKAGE) as cuda:
        memory, stream, array = cuda.allocate(NBYTES), cuda.stream(), pinned(cuda, numbers())
        cuda.begin_capture(stream)
        cuda.upload(memory, array, stream)
        cuda.launch(cuda.end_capture(stream), stream)


@needs_graphs
def test_wrong_order(cuda: Cuda) -> None:
    stream = cuda.stream()
    with pytest.raises(EngineError, match="the stream is not being captured"):
        cuda.end_capture(stream)
    cuda.begin_capture(stream)
    with pytest.raises(EngineError, match="the stream is captured already"):
        cuda.begin_capture(stream)
    cuda.end_capture(stream)


@needs_graphs
def test_other_threads_may_allocate_meanwhile(cuda: Cuda) -> None:
    """Which a capture in CUDA's default mode would forbid, and be broken by."""
    stream, failed = cuda.stream(), []

    def work() -> None:
        try:
            cuda.free(cuda.allocate(100))
            cuda.pinned(10, np.uint8)
        except EngineError as error:
            failed.append(error)

    cuda.begin_capture(stream)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    graph = cuda.end_capture(stream)
    assert failed == []
    cuda.launch(graph, stream)
    cuda.synchronize(stream)


@needs_graphs
def test_garbage_found_amid_a_capture_does_not_break_it(cuda: Cuda, emulator: Emulator) -> None:
    stream, garbage = cuda.stream(), cuda.pinned(10, np.uint8)
    cuda.begin_capture(stream)
    del garbage
    assert emulator.count("pinned") == 1
    cuda.end_capture(stream)
    assert emulator.count("pinned") == 0


@needs_graphs
def test_close_amid_a_capture(emulator: Emulator) -> None:
    cuda = open_cuda(0, PACKAGE)
    stream, memory, array = cuda.stream(), cuda.allocate(NBYTES), pinned(cuda, numbers())
    cuda.begin_capture(stream)
    cuda.upload(memory, array, stream)
    del array
    cuda.close()
    assert emulator.alive() == {}
