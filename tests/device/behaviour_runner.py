"""How the runner of batches behaves on a CUDA device: slots, copies, recorded executions.

Run by test_cuda.py, as the other behaviours are. The model hands every picture on as it is, by two
copies, which every driver can do; what a device may reorder is tried on one made of NumPy, in
test_device_runner.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from emulated_cuda import Emulator
from helpers import PACKAGE, numbers

from whyfake.runtime.cuda import Cuda
from whyfake.runtime.device_runner import ALIGNMENT, DeviceRunner, Piece

ROW, ROWS = (3, 5, 7), 4


def identity(cuda: Cuda) -> DeviceRunner:
    bounce = cuda.pinned((ROWS, *ROW), np.float32)

    def enqueue(source: int, sink: int, rows: int, stream: int) -> None:
        cuda.download(bounce[:rows], source, stream)
        cuda.upload(sink, bounce[:rows], stream)

    return DeviceRunner(cuda, enqueue, rows=ROWS, input_shape=ROW, output_shape=ROW, slots=2)


def test_four_threads_get_their_own_pictures_back(cuda: Cuda) -> None:
    """From page-locked memory and from any other, in batches of every size, again and again."""
    runner = identity(cuda)

    def ask(turn: int) -> None:
        batch = numbers(turn, (1 + turn % ROWS, *ROW))
        if turn % 2:
            pinned = cuda.pinned(batch.shape, np.float32)
            pinned[...] = batch
            np.testing.assert_array_equal(runner.run(pinned), batch)
        else:
            np.testing.assert_array_equal(runner.run(batch), batch)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(40)))
    assert runner.graphs == (PACKAGE != "pycuda"), "recorded wherever the package can"
    runner.close()


def test_closing_gives_the_memory_back(cuda: Cuda, emulator: Emulator) -> None:
    free, _ = cuda.memory()
    assert emulator.count("memory") == 0
    runner = identity(cuda)
    runner.run(numbers(0, (2, *ROW)))
    runner.close()
    assert cuda.memory()[0] == free


def test_pieces_meet_in_one_batch(cuda: Cuda) -> None:
    """Some come as pictures, some as codes that are made pictures of there; from four threads.

    What composes here hands its codes on, by two copies, as the model does.
    """
    runner = identity(cuda)
    row = int(np.prod(ROW))

    def composing(codes: np.ndarray) -> Piece:
        bounce = cuda.pinned(codes.shape, np.float32)

        def compose(pointers: list[int], output: int, stream: int) -> None:
            assert pointers[1] - pointers[0] == ALIGNMENT
            cuda.download(bounce, pointers[1], stream)
            cuda.upload(output, bounce, stream)

        extra = np.arange(3, dtype=np.int32)  # before it, and of a length that is not aligned
        return Piece(1, (extra, codes.reshape(-1, row)), compose)

    def ask(turn: int) -> None:
        wanted = numbers(turn, (ROWS, *ROW))
        middle = wanted[1:3].reshape(2, row).copy()
        first, last = wanted[:1].copy(), wanted[3:].copy()
        pieces = [Piece(0, (first,)), composing(middle), Piece(3, (last,))]
        np.testing.assert_array_equal(runner.run_pieces(pieces, ROWS), wanted)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(40)))
    runner.close()
