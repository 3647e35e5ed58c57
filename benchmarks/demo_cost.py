"""What the demonstration costs, and whether its answers hold for other seeds.

    python benchmarks/demo_cost.py --out benchmarks/results/demo_cost.json

Wall-clock seconds and peak memory are of the whole command; each run is a fresh process.
`engine_images_s` is ONNX Runtime alone on the bundled detector, the best over batch sizes and
lanes; `share` is the part of the command's time that the bare engine would need for as many
images. Seconds are of one machine: compare them with nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from whyfake.benching.bench import BATCHES
from whyfake.runtime import load_detector
from whyfake.runtime.engine import Engine, cpu_count
from whyfake.runtime.throughput import Bare, Layout, layouts

COMMAND = Path(sys.executable).with_name("whyfake")


def run_once(folder: Path, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """One `whyfake demo`: seconds, peak memory in MB and images; and what it found."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [COMMAND, "demo", "--out", folder, "--seed", str(seed), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"whyfake demo failed: status {status}")
    found = json.loads(said)
    cost = {
        "seconds": time.perf_counter() - start,
        "peak_mb": usage.ru_maxrss / 1024,
        "images": found["images"],
    }
    return cost, found


def answer(found: dict[str, Any]) -> dict[str, Any]:
    """What one seed's forgery was called, whether NES flipped it, and each method's gain."""
    return {
        "seed": found["seed"],
        "p_fake": round(found["p_fake"]["forgery"], 3),
        "steps": found["adversary"]["steps"] if found["adversary"] else None,
        "flipped": found["adversary"]["flipped"] if found["adversary"] else None,
        "gain": {f["method"]: f["gain"] and round(f["gain"], 2) for f in found["findings"]},
    }


def engine_rate() -> float:
    """Images a second of ONNX Runtime alone, at the layout that is fastest here."""
    with load_detector(device="cpu", tune=False) as detector:
        size = detector.size

    def engine(layout: Layout) -> Engine:
        return load_detector(device="cpu", layout=layout, tune=False).engine

    with Bare(engine, size) as bare:
        tried = layouts(BATCHES, cpu_count(), on_gpu=False)
        best = max(tried, key=lambda layout: bare.measure(layout, 1.0).images_s)
        return bare.measure(best, 3.0).images_s


def main() -> None:
    """Run the demonstration a few times and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=8, help="seeds to ask, from 0 on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = [run_once(Path(name), 0)[0] for _ in range(options.runs)]
        answers = [answer(run_once(Path(name), seed)[1]) for seed in range(options.seeds)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    medians["engine_images_s"] = engine_rate()
    medians["share"] = medians["images"] / medians["engine_images_s"] / medians["seconds"]
    record = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {cpu_count()} cores",
        "versions": {name: version(name) for name in ("whyfake", "onnxruntime", "numpy")},
        "median": {key: round(value, 3) for key, value in medians.items()},
        "runs": runs,
        "answers": answers,
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
