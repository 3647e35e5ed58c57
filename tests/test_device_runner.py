"""Buffers, streams and graphs of a GPU run, on a device made of NumPy that does all work late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_device import NumpyDevice

from whyfake.errors import EngineError
from whyfake.runtime.device_runner import DeviceRunner, Piece

ROW, ROWS = (3, 4, 5), 6


class Model:
    """Scores of a row: its sum, and minus that; counts how often it was put on a stream."""

    def __init__(self, device: NumpyDevice) -> None:
        self.device = device
        self.enqueued: list[int] = []
        self.fail = self.busy = False

    def enqueue(self, source: int, sink: int, rows: int, stream: int) -> None:
        if self.fail:
            raise EngineError("the model failed")
        assert not self.busy, "an execution context is for one thread at a time"
        self.busy = True
        self.enqueued.append(rows)
        time.sleep(1e-4)
        self.busy = False

        def kernel() -> None:
            sums = self.device.floats(source, (rows, *ROW)).sum(axis=(1, 2, 3))
            self.device.floats(sink, (rows, 2))[...] = np.stack([sums, -sums], axis=1)

        self.device.put(stream, kernel)


def runner(device: NumpyDevice, slots: int = 2) -> tuple[DeviceRunner, Model]:
    model = Model(device)
    made = DeviceRunner(
        device,  # type: ignore[arg-type]
        model.enqueue,
        rows=ROWS,
        input_shape=ROW,
        output_shape=(2,),
        slots=slots,
    )
    return made, model


def expected(batch: np.ndarray) -> np.ndarray:
    sums = batch.sum(axis=(1, 2, 3))
    return np.stack([sums, -sums], axis=1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 3),
    threads=st.integers(1, 4),
    graphs=st.booleans(),
)
def test_every_caller_gets_the_scores_of_its_own_batch(
    seed: int, slots: int, threads: int, graphs: bool
) -> None:
    """Whatever the device does first, and whoever comes in between; batches of every size."""
    rng = np.random.default_rng(seed)
    device = NumpyDevice(graphs=graphs, rng=np.random.default_rng(seed))
    made, _ = runner(device, slots)
    batches = [rng.random((rng.integers(1, ROWS + 1), *ROW), np.float32) for _ in range(12)]

    def ask(batch: np.ndarray) -> np.ndarray:
        buffer = batch.copy()
        scores = made.run(buffer)
        buffer[...] = np.nan  # the caller's buffer is its own again
        return scores

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(ask, batches))
    for batch, scores in zip(batches, answers, strict=True):
        np.testing.assert_allclose(scores, expected(batch), rtol=1e-5)
    made.close()
    assert device.allocated == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 3),
    threads=st.integers(1, 4),
    graphs=st.booleans(),
)
def test_pieces_are_put_together_whatever_the_device_does_first(
    seed: int, slots: int, threads: int, graphs: bool
) -> None:
    """Codes (n, 2) become rows filled with their product; pictures are pictures; every cut."""
    rng = np.random.default_rng(seed)
    device = NumpyDevice(graphs=graphs, rng=np.random.default_rng(seed))
    made, _ = runner(device, slots)

    def piece(row: int, codes: np.ndarray) -> Piece:
        def compose(pointers: list[int], output: int, stream: int) -> None:
            def kernel() -> None:
                factors = [device.floats(pointer, (len(codes),)) for pointer in pointers]
                product = np.prod(factors, axis=0)[:, None, None, None]
                device.floats(output, (len(codes), *ROW))[...] = product

            device.put(stream, kernel)

        return Piece(row, tuple(np.ascontiguousarray(codes.T)), compose)

    def ask(seed: int) -> None:
        own = np.random.default_rng(seed)
        pieces, rows, row = [], [], 0
        while row < ROWS:
            count = int(own.integers(1, ROWS - row + 1))
            if own.random() < 0.5:
                codes = own.random((count, 2), np.float32)
                pieces.append(piece(row, codes))
                rows.append(np.ones((count, *ROW), np.float32) * codes.prod(1)[:, None, None, None])
            else:
                rows.append(own.random((count, *ROW), np.float32))
                pieces.append(Piece(row, (rows[-1].copy(),)))
            row += count
        scores = made.run_pieces(pieces, ROWS)
        np.testing.assert_allclose(scores, expected(np.concatenate(rows)), rtol=1e-5)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, rng.integers(0, 2**32, 12)))
    made.close()
    assert device.allocated == 0


def test_memory_is_what_the_docstring_says_and_is_given_back() -> None:
    device = NumpyDevice()
    made, _ = runner(device, slots=3)
    assert device.allocated == 3 * ROWS * (60 + 2) * 4
    for _ in range(20):
        made.run(np.ones((ROWS, *ROW), np.float32))
    assert device.most_allocated == 3 * ROWS * (60 + 2) * 4
    made.close()
    made.close()
    assert device.allocated == 0
    with pytest.raises(EngineError, match="the engine is closed"):
        made.run(np.ones((1, *ROW), np.float32))


def test_out_of_memory_is_said_at_once() -> None:
    with pytest.raises(EngineError, match="out of memory"):
        runner(NumpyDevice(memory=1000))


def test_an_execution_is_recorded_once_a_slot_and_size_and_replayed() -> None:
    device = NumpyDevice()
    made, model = runner(device, slots=1)
    for _ in range(5):
        made.run(np.ones((ROWS, *ROW), np.float32))
        made.run(np.ones((2, *ROW), np.float32))
    assert model.enqueued == [ROWS, ROWS, 2, 2], "once to warm up and once to record"
    assert device.launches == 10


def test_without_graphs_every_batch_is_put_on_the_stream() -> None:
    device = NumpyDevice(graphs=False)
    made, model = runner(device, slots=1)
    for _ in range(3):
        made.run(np.ones((2, *ROW), np.float32))
    assert model.enqueued == [2, 2, 2]
    assert device.launches == 0


def test_a_model_that_cannot_be_recorded_runs_all_the_same() -> None:
    device = NumpyDevice()
    device.invalid_capture = True
    made, _ = runner(device, slots=2)
    batch = np.random.default_rng(0).random((4, *ROW), np.float32)
    for _ in range(3):
        np.testing.assert_allclose(made.run(batch), expected(batch), rtol=1e-5)
    assert not made.graphs
    assert device.launches == 0


def test_a_failing_batch_leaves_the_slot_usable() -> None:
    device = NumpyDevice()
    made, model = runner(device, slots=1)
    model.fail = True
    for _ in range(3):
        with pytest.raises(EngineError, match="the model failed"):
            made.run(np.ones((2, *ROW), np.float32))
    model.fail = False
    batch = np.full((2, *ROW), 0.5, np.float32)
    np.testing.assert_allclose(made.run(batch), expected(batch))
    made.close()
    assert device.allocated == 0


@pytest.mark.parametrize("shape", [(0, *ROW), (ROWS + 1, *ROW), (2, 3, 5, 4), (2, 60)])
def test_batches_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    made, model = runner(NumpyDevice())
    with pytest.raises(EngineError, match=r"wanted 1 to 6 rows of \(3, 4, 5\)"):
        made.run(np.zeros(shape, np.float32))
    assert not model.enqueued


def test_pictures_of_one_slot_travel_while_another_computes() -> None:
    """The second batch is on the device before the first one's kernel has run."""
    device = NumpyDevice(graphs=False)
    made, model = runner(device, slots=2)
    seen: list[bool] = []
    second = np.full((1, *ROW), 2.0, np.float32)
    entered, gate = threading.Event(), threading.Event()
    put = model.enqueue

    def enqueue(source: int, sink: int, rows: int, stream: int) -> None:
        if not entered.is_set():
            entered.set()
            gate.wait(10)  # holds the turn, as a long kernel launch would
        put(source, sink, rows, stream)

    made._enqueue = enqueue
    upload = device.upload

    def watched(pointer: int, array: np.ndarray, stream: int) -> None:
        upload(pointer, array, stream)
        if array is second:
            seen.append(not model.enqueued)
            gate.set()

    device.upload = watched  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(made.run, np.ones((1, *ROW), np.float32))
        assert entered.wait(10)
        other = pool.submit(made.run, second)
        np.testing.assert_allclose(first.result(20), [[60, -60]])
        np.testing.assert_allclose(other.result(20), [[120, -120]])
    assert seen == [True]
