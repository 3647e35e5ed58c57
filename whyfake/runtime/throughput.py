"""The engine alone, or with pictures to compose: images a second at one layout or another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..perturbation import Composer, FloatArray, RegionMix, Scratch
from .engine import Engine


@dataclass(frozen=True)
class Layout:
    """How an engine is fed: `lanes` threads that each run batches of `batch` pictures, with
    `threads` of the back-end's own in each run.
    """

    batch: int
    lanes: int
    threads: int = 1

    def __str__(self) -> str:
        own = f" × {self.threads} threads" if self.threads > 1 else ""
        return f"batch {self.batch}, {self.lanes} lane{'s' * (self.lanes > 1)}{own}"


def layout_of(engine: Engine) -> Layout:
    """The layout that an engine has."""
    return Layout(engine.batch, engine.lanes, engine.threads)


@dataclass(frozen=True)
class Speed:
    """Images a second, and the CPU seconds that each takes: None where they cannot be told, since
    threads or a device of the back-end's own do the work.
    """

    images_s: float
    cpu_s: float | None


_REGIONS = 64
_LANE_ROWS = 8


def lane_rows(batch: int) -> int:
    """How many pictures a lane composes at a time, for engine batches of that size.

    A few batches where these are small: pictures composed one after the other find frame and
    baseline in the processor's caches, which a run of the engine empties.
    """
    return batch * max(1, _LANE_ROWS // batch)


def typical_copies(size: tuple[int, int], count: int) -> tuple[RegionMix, FloatArray]:
    """Copies such as explainers ask about, and their frame (3, h, w): for measuring."""
    rng = np.random.default_rng(0)
    frame = rng.random((3, *size), np.float32)
    pixels = size[0] * size[1]
    labels = (np.arange(pixels) * _REGIONS // pixels).reshape(size)
    return RegionMix(rng.integers(0, 2, (count, _REGIONS), np.uint8), labels, 1 - frame), frame


class Bare:
    """An engine on pictures that are ready in memory, at one layout after another.

    `open_engine` opens the model at a layout. An engine is used again for the next layout where
    only batch and lanes differ and its batch is free; so two stand open on a CPU at the most. Close
    it, or use it in a `with`.
    """

    def __init__(self, open_engine: Callable[[Layout], Engine], size: tuple[int, int]) -> None:
        self._open = open_engine
        self._size = size
        self._engines: dict[int | Layout, Engine] = {}
        self._pictures: FloatArray = np.empty((0, 3, *size), np.float32)
        self._composers: dict[int, Composer] = {}

    def engine(self, layout: Layout) -> Engine:
        """The engine at that layout, warm."""
        free = self._engines.get(layout.threads)
        if free is not None and free.free_batch:
            free.batch, free.lanes = layout.batch, layout.lanes
            return free
        if layout not in self._engines:
            engine = self._open(layout)
            self._engines[layout.threads if engine.free_batch else layout] = engine
            return engine
        return self._engines[layout]

    def measure(self, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        """The speed over about that many seconds; every lane runs once unmeasured first.

        Each lane's own rate, summed: that one of them ends a batch later costs nothing. `composed`:
        lanes compose their pictures (`lane_rows`), as they do when they explain.
        """
        engine = self.engine(layout)
        rows = lane_rows(layout.batch) if composed else layout.batch
        compose = self._composer(rows) if composed else None
        if len(self._pictures) < rows * layout.lanes:
            rng = np.random.default_rng(0)
            self._pictures = rng.random((rows * layout.lanes, 3, *self._size), np.float32)
        rates, shares = [0.0] * layout.lanes, [0.0] * layout.lanes
        failures: list[BaseException] = []
        together = threading.Barrier(layout.lanes)

        def work(lane: int) -> None:
            own, scratch = self._pictures[lane * rows : (lane + 1) * rows], Scratch()
            feeds = [{engine.inputs[0]: part} for part in np.split(own, rows // layout.batch)]
            try:
                engine.run(feeds[0])
                together.wait()
                start, cpu, runs, passed = time.perf_counter(), time.thread_time(), 0, 0.0
                while passed < seconds:
                    if compose is not None and runs % len(feeds) == 0:
                        compose(own, 0, scratch)
                    engine.run(feeds[runs % len(feeds)])
                    runs += 1
                    passed = time.perf_counter() - start
                rates[lane] = runs * layout.batch / passed
                shares[lane] = (time.thread_time() - cpu) / (runs * layout.batch)
            except threading.BrokenBarrierError:  # another lane failed, and says why
                return
            except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                failures.append(error)
                together.abort()

        workers = [threading.Thread(target=work, args=(n,)) for n in range(layout.lanes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if failures:
            raise failures[0]
        own = layout.threads == 1 and engine.device == "cpu"
        return Speed(sum(rates), sum(shares) / layout.lanes if own else None)

    def _composer(self, rows: int) -> Composer:
        if rows not in self._composers:
            copies, frame = typical_copies(self._size, rows)
            self._composers[rows] = copies.composer(frame)
        return self._composers[rows]

    def close(self) -> None:
        """Close all engines that it opened."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def layouts(batches: Sequence[int], cores: int, on_gpu: bool) -> list[Layout]:
    """What is worth trying: on a CPU lanes of one thread, or one lane of all cores; on a GPU one
    to three lanes.
    """
    if on_gpu:
        return [Layout(batch, lanes) for batch in batches for lanes in (1, 2, 3)]
    ways = {(cores, 1), (1, cores)}
    return [Layout(batch, lanes, threads) for batch in batches for lanes, threads in sorted(ways)]
