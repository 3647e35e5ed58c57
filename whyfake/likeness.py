"""How alike two detectors are where it matters: the differences that NES lives on, and speed."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from .errors import EngineError
from .explainers import Directions, Nes, real_margin, trusted_nes
from .perturbation import FloatArray
from .runtime import Detector, drive


def nes_likeness(
    reference: Detector, candidate: Detector, frames: FloatArray, nes: Nes | None = None
) -> dict[str, Any]:
    """What NES will do on `candidate`, and how well its differences agree with the reference's.

    `frames` (N, 3, h, w). Per frame, σ is chosen as `explain` will choose it, and one step's
    differences are correlated: `sigma` is the largest, `correlation` the smallest of the frames;
    `refused` counts frames on which no σ can be trusted. Costs about 240 images a frame.
    """
    nes = nes or Nes()
    sigmas, correlations, refused = [], [], 0
    for index, frame in enumerate(frames):
        rng = np.random.default_rng([0, index])
        used = nes
        if not candidate.exact:
            choosing = trusted_nes(
                nes, frame, candidate.real, seed=0, rng=rng, precision=candidate.engine.precision
            )
            try:
                used, _ = drive(choosing, candidate, frame)
            except EngineError:
                refused += 1
                continue
        directions = Directions(frame.shape[1:], used.channels, 0, rng, used.cell)
        batch = directions.batch(frame, used.pairs, used.sigma, None)
        differences = []
        for detector in (reference, candidate):
            margins = real_margin(detector.ask(batch, frame), detector.real)[1:]
            differences.append(margins[: used.pairs] - margins[used.pairs :])
        sigmas.append(used.sigma)
        with np.errstate(invalid="ignore"):  # a frame without any slope correlates with nothing
            correlation = float(np.asarray(np.corrcoef(differences))[0, 1])
        correlations.append(correlation if np.isfinite(correlation) else 0.0)
    return {
        "frames": len(frames),
        "refused": refused,
        "sigma": max(sigmas, default=None),
        "correlation": min(correlations, default=None),
    }


def throughput(detector: Detector, seconds: float = 0.5) -> float:
    """Images a second of the bare engine at its batch, on all its lanes, pictures ready-made."""
    engine = detector.engine
    counts = [0] * engine.lanes
    lanes = [detector.lane() for _ in counts]
    rows = lanes[0].most(engine)
    for lane in lanes:  # what happens on the first run only does not count
        lane.run(rows)
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            lanes[number].run(rows)
            counts[number] += rows

    threads = [threading.Thread(target=work, args=(n,)) for n in range(engine.lanes)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)
