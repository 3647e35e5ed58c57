"""Where copies are composed, on the host or on the device: what is faster here, by measuring."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..errors import EngineError
from .throughput import typical_copies

if TYPE_CHECKING:
    from .detector import Detector
    from .lane import Lane

_SECONDS = 0.1
"""For each way, after two batches that do not count; what is slower by far is seen sooner."""
_LEAD = 1.05
"""What the host must be faster by: on the device the host's cores are free for what explains."""


def choose(detector: Detector) -> tuple[str, str]:
    """`host` or `device`, for a detector that leaves it open, and why.

    On a CPU that is the host, unmeasured: NumPy in lanes was always ahead there, and a measurement
    that errs would change last bits from run to run. An engine whose device cannot compose after
    all composes on the host.
    """
    engine = detector.engine
    if "device" not in engine.compositions or engine.device == "cpu":
        return "host", "it is faster on a CPU"
    try:
        rates = composition_rates(detector)
    except EngineError as error:  # if it is the engine that fails, the first question will say so
        return "host", f"the device could not: {error}"
    way = "host" if rates["host"] > _LEAD * rates["device"] else "device"
    return way, ", ".join(f"{name} {rate:.0f} images/s" for name, rate in rates.items())


def composition_rates(detector: Detector, seconds: float = _SECONDS) -> dict[str, float]:
    """Images a second, composed and run in all lanes, for each way that the engine has.

    Costs no images that count. Raises EngineError.
    """
    batch, frame = typical_copies(detector.size, detector.engine.batch)
    rates = {}
    for way in detector.engine.compositions:
        copies = detector.prepared(batch, frame, way)
        lanes = [detector.lane_on(way) for _ in range(detector.engine.lanes)]
        _run(lanes, copies, detector.engine.batch, 0.0)
        rates[way] = _run(lanes, copies, detector.engine.batch, seconds)
    return rates


def _run(lanes: list[Lane], copies: object, batch: int, seconds: float) -> float:
    """Images a second over that many, and no fewer than two batches a lane."""
    counts = [0] * len(lanes)
    errors: list[BaseException] = []
    started = time.perf_counter()

    def work(number: int) -> None:
        lane, done = lanes[number], 0
        try:
            while done < 2 or time.perf_counter() < started + seconds:
                lane.try_out(copies)
                done += 1
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)
        counts[number] = done

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) * batch / (time.perf_counter() - started)
