"""What composing copies costs beside running them, on a CPU, by kind.

    python benchmarks/composing.py DETECTOR.onnx FRAME --out FILE.json

All lanes ask about copies of a frame as explainers do, by turns with the bare engine, which runs
one picture that is ready again and again: a quarter of a second each, in an order that is turned
round every time. Printed are the medians over the turns of a picture's time to the bare engine's of
the same turn, half the width of their 95 % interval, and the milliseconds of a lane that composing
takes. All are whole pictures, as SOBOL's are where first layers are not looked up; they come in its
order, each made of the one before, and once more each composed anew. The machine should have
nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from light_detectors import when_and_where, whole_pictures

import whyfake
from whyfake import compiled
from whyfake.explainers import Sobol
from whyfake.explainers.nes import Directions
from whyfake.explainers.regions import grid
from whyfake.explainers.sobol import distinct_rows
from whyfake.media import fit_to, load_picture
from whyfake.perturbation import FloatArray, GridMix, PerturbationBatch, RegionMix, cell_size
from whyfake.runtime.lane import Lane

BARE = "bare engine"
ANEW, MADE = "sobol, each anew", "sobol, each of the one before"
COPIES = 480


def batches(frame: FloatArray) -> dict[str, PerturbationBatch]:
    """Copies of each kind, `COPIES` of them or more."""
    rng = np.random.default_rng(0)
    size = frame.shape[1:]
    sobol = Sobol()
    rows, where = distinct_rows(sobol._rows(None))
    order = list(dict.fromkeys(where.reshape(-1, sobol.design).T.ravel().tolist()))
    mix = RegionMix(rows[order], grid(*size, sobol.grid), 1 - frame)
    shifts = rng.integers(0, [cell_size(8, side) for side in size], (COPIES, 2))
    return {
        ANEW: mix,
        MADE: mix,
        "rise": GridMix(rng.integers(0, 2, (COPIES, 8, 8), np.uint8), shifts, 1 - frame),
        "nes": Directions(size, 1, 0, rng).batch(frame, COPIES // 2, 0.001, None),
    }


def composers(detector: whyfake.Detector, frame: FloatArray) -> dict[str, Any]:
    """What lanes need to know of each kind."""
    found = {}
    for kind, batch in batches(frame).items():
        with patch.object(compiled, "FEW", 0 if kind == ANEW else compiled.FEW):
            found[kind] = detector.prepare(batch, frame)
    assert isinstance(found[MADE], compiled.Changing)
    assert not isinstance(found[ANEW], compiled.Changing)
    return found


def bare(detector: whyfake.Detector) -> Callable[[Lane, int], int]:
    """Run one picture; how many."""
    engine = detector.engine
    ready = [engine.host_array((engine.batch, 3, *detector.size)) for _ in range(engine.lanes)]
    for pictures in ready:
        pictures[...] = np.random.default_rng(0).random(pictures.shape, np.float32)

    def work(_: Lane, number: int) -> int:
        engine.run({engine.inputs[0]: ready[number]})
        return engine.batch

    return work


def asking(detector: whyfake.Detector, copies: Any) -> Callable[[Lane, int], int]:
    """Ask about the next copies, lanes in turns; how many."""
    engine = detector.engine
    at = [0] * engine.lanes

    def work(lane: Lane, number: int) -> int:
        most = lane.most(engine)
        start = (at[number] * engine.lanes + number) * most
        if start + most > COPIES:
            start, at[number] = number * most, 0
        at[number] += 1
        lane.ask([(copies, start, start + most)])
        return most

    return work


def turn(
    lanes: list[Lane], work: Callable[[Lane, int], int], seconds: float
) -> tuple[float, float]:
    """Milliseconds of a lane for a picture over that many seconds, and for composing it."""
    taken, composing = [0.0] * len(lanes), [0.0] * len(lanes)
    together = threading.Barrier(len(lanes))

    def one(number: int) -> None:
        lane = lanes[number]
        work(lane, number)
        together.wait()
        before, start, done = lane.stages.composing, time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            done += work(lane, number)
        taken[number] = 1000 * (time.perf_counter() - start) / done
        composing[number] = 1000 * (lane.stages.composing - before) / done

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statistics.fmean(taken), statistics.fmean(composing)


def measure(detector: whyfake.Detector, frame: FloatArray, turns: int) -> dict[str, Any]:
    """By kind: the ratio to the bare engine, its interval, and milliseconds."""
    works = {BARE: bare(detector)}
    works |= {kind: asking(detector, c) for kind, c in composers(detector, frame).items()}
    lanes = [detector.lane() for _ in range(detector.engine.lanes)]
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in works}
    for number in range(turns):
        for kind in works if number % 2 else reversed(works):
            found[kind].append(turn(lanes, works[kind], 0.25))
    table = {}
    for kind, pairs in found.items():
        ratios = [one[0] / other[0] for one, other in zip(pairs, found[BARE], strict=True)]
        table[kind] = {
            "milliseconds": round(statistics.median(one[0] for one in pairs), 4),
            "composing": round(statistics.median(one[1] for one in pairs), 4),
            "ratio": round(statistics.median(ratios), 4),
            # of a median of nearly normal ones: 1.25 standard errors
            "half_interval": round(1.96 * 1.25 * statistics.stdev(ratios) / turns**0.5, 4),
        }
    return table


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector", type=Path)
    parser.add_argument("frame", type=Path)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if compiled.library() is None:
        parser.error("no compiled library here: pip install -e . where there is a C compiler")
    with whole_pictures(options.detector) as detector:
        frame = fit_to(load_picture(options.frame).rgb, detector.size)
        table = measure(detector, frame, options.turns)
    for kind, row in table.items():
        print(
            f"{kind:30} × {row['ratio']:.3f} ± {row['half_interval']:.3f} of the bare engine, "
            f"{row['milliseconds']:.3f} ms, {row['composing']:.3f} of it composing"
        )
    if options.out:
        report = {
            **when_and_where(),
            "detector": options.detector.name,
            "frame": options.frame.name,
            "turns": options.turns,
            "kinds": table,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
