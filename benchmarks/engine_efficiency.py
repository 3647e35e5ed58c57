"""How much of the engine's speed reaches an explanation, and whether memory stays flat.

    python benchmarks/make_detector.py /tmp/b0.onnx
    python benchmarks/engine_efficiency.py /tmp/b0.onnx [MORE.onnx …] --out benchmarks/results

For every detector and method: wall time ÷ (images asked ÷ the engine's best raw throughput), where
raw throughput is onnxruntime alone on pictures that are ready in memory, the best over batch sizes
and over ways to use the cores (lanes of one thread, or one session with all threads). It is
measured again right before and after every explanation, and their mean is the yardstick, since
machines drift; the median over repeats is reported. 1.00 would be an engine that never waits.

Peak memory is compared between fresh processes that differ in the number of samples alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import skimage.data

import whyfake
from whyfake.explainers import Nes
from whyfake.onnx_graph import load_graph
from whyfake.runtime.engine import cpu_count
from whyfake.settings import Settings

BATCHES = (1, 2, 4, 8, 16, 32)
NES_STEPS = 10  # a random detector never flips: keep the sample's cost at 811 images


class Raw:
    """onnxruntime alone, on ready pictures: `lanes` threads of one session, `threads` in each."""

    def __init__(self, model: Path, batch: int, lanes: int, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.batch, self.lanes, self.threads = batch, lanes, threads
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        source = self._session.get_inputs()[0]
        rng = np.random.default_rng(0)
        self._feeds = [
            {source.name: rng.random((batch, *source.shape[1:]), np.float32)} for _ in range(lanes)
        ]
        self.rate(0.2)

    def rate(self, seconds: float) -> float:
        """Images a second over about that many seconds."""
        counts = [0] * self.lanes
        start = time.perf_counter()

        def work(lane: int) -> None:
            while time.perf_counter() - start < seconds:
                self._session.run(None, self._feeds[lane])
                counts[lane] += self.batch

        workers = [threading.Thread(target=work, args=(lane,)) for lane in range(self.lanes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts) / (time.perf_counter() - start)


def best_raw(model: Path, cores: int, seconds: float) -> tuple[Raw, list[dict[str, Any]]]:
    """The fastest way to run the model, and the table of all that were tried."""
    _, info = load_graph(model)
    fixed = info.inputs[0].shape[0]
    table, best = [], None
    for batch in BATCHES if not isinstance(fixed, int) else (fixed,):
        for lanes, threads in {(cores, 1), (1, cores)}:
            raw = Raw(model, batch, lanes, threads)
            rate = statistics.median(raw.rate(seconds) for _ in range(3))
            table.append({"batch": batch, "lanes": lanes, "threads": threads, "images_s": rate})
            if best is None or rate > best[0]:
                best = (rate, raw)
    assert best is not None
    return best[1], table


def fake_seeing(model: Path, picture: Any, threads: int | None) -> whyfake.Detector:
    """The detector, with `real` put on the other class if it calls the picture real.

    The adversarial forms have work to do only on a picture that is called fake; for speed it does
    not matter which class is called what.
    """
    detector = whyfake.load_detector(model, device="cpu", threads=threads)
    if whyfake.explain(detector, picture, method="lime", settings=tiny()).called_real:
        card = dataclasses.replace(detector.card, real=detector.card.fake)
        detector.close()
        detector = whyfake.load_detector(model, card=card, device="cpu", threads=threads)
    return detector


def tiny() -> Settings:
    """Settings that cost next to nothing."""
    return Settings(nes=Nes(steps=1)).with_budget(4)


def picture() -> Any:
    """A portrait that may be used freely: the astronaut's face, NASA, from scikit-image."""
    return np.ascontiguousarray(skimage.data.astronaut()[0:256, 96:352])


def measure(model: Path, repeats: int, seconds: float, threads: int | None) -> dict[str, Any]:
    """Efficiency of every method on one detector."""
    cores = threads or cpu_count()
    raw, table = best_raw(model, cores, seconds)
    settings = Settings(nes=Nes(steps=NES_STEPS))
    runs: dict[str, list[dict[str, float]]] = {}
    with fake_seeing(model, picture(), threads) as detector:
        list(whyfake.explain_many(detector, [picture()], method="all", settings=tiny()))  # imports
        for repeat in range(repeats):
            for method in whyfake.METHODS:
                before = raw.rate(seconds)
                seen, start = detector.images_seen, time.perf_counter()
                explanation = whyfake.explain(
                    detector, picture(), method=method, seed=repeat, settings=settings
                )
                wall = time.perf_counter() - start
                yardstick = (before + raw.rate(seconds)) / 2
                assert explanation.images == detector.images_seen - seen
                run = {
                    "images": explanation.images,
                    "seconds": wall,
                    "raw_images_s": yardstick,
                    "ratio": wall * yardstick / explanation.images,
                }
                runs.setdefault(method, []).append(run)
                print(f"  {method:10} {run['ratio']:.3f}  ({run['raw_images_s']:.0f}/s raw)")
    return {
        "detector": model.name,
        "engine_batch": detector.engine.batch,
        "lanes": detector.engine.lanes,
        "best_raw": {"batch": raw.batch, "lanes": raw.lanes, "threads": raw.threads},
        "raw": table,
        "median_ratio": {m: statistics.median(r["ratio"] for r in rs) for m, rs in runs.items()},
        "runs": runs,
    }


def peak_memory(model: Path, method: str, samples: int) -> float:
    """Peak memory in MB of a fresh process that explains one picture with so many samples."""
    command = [sys.executable, __file__, str(model), "--peak", method, str(samples)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(model: Path, method: str, samples: int) -> None:
    """The work of the fresh process: explain, then print the peak in MB."""
    settings = Settings().with_budget(samples)
    with whyfake.load_detector(model, device="cpu") as detector:
        whyfake.explain(detector, picture(), method=method, settings=settings)
    # not ru_maxrss: that keeps the peak of the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detectors", nargs="+", type=Path, help="ONNX files with cards")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="per raw measurement")
    parser.add_argument("--threads", type=int, help="CPU lanes; all by default")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory part out")
    parser.add_argument("--out", type=Path, help="folder for the JSON")
    parser.add_argument("--peak", nargs=2, metavar=("METHOD", "SAMPLES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.detectors[0], options.peak[0], int(options.peak[1]))
        return
    report: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "whyfake": whyfake.__version__,
        },
        "nes_steps": NES_STEPS,
        "detectors": [],
        "memory_mb": [],
    }
    for model in options.detectors:
        print(model.name)
        report["detectors"].append(
            measure(model, options.repeats, options.seconds, options.threads)
        )
    if not options.no_memory:
        model = options.detectors[-1]
        for method in ("lime", "shap", "sobol", "rise"):
            few, many = (peak_memory(model, method, n) for n in (2048, 16384))
            report["memory_mb"].append(
                {"detector": model.name, "method": method, "2048": few, "16384": many}
            )
    print_table(report)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "engine_efficiency.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(f"wrote {path}")


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def print_table(report: dict[str, Any]) -> None:
    """Ratios per detector and method; then peak memory."""
    print(f"\n{'wall ÷ (images ÷ best raw)':28}" + "".join(f"{m:>11}" for m in whyfake.METHODS))
    for item in report["detectors"]:
        ratios = item["median_ratio"]
        cells = "".join(f"{ratios[m]:11.3f}" for m in whyfake.METHODS)
        print(f"{item['detector']:28}" + cells)
    for row in report["memory_mb"]:
        few, many = row["2048"], row["16384"]
        print(
            f"peak memory, {row['method']:5} 2,048 samples {few:5.0f} MB, "
            f"16,384 samples {many:5.0f} MB: ×{many / few:.2f}"
        )


if __name__ == "__main__":
    main()
