"""What the demonstration costs: wall-clock seconds and peak memory of the whole command.

    python benchmarks/demo_cost.py --out benchmarks/results/demo_cost.json

Each run is a fresh process. `engine_images_s` is ONNX Runtime alone on the bundled detector, the
best over batch sizes and lanes; `share` is the part of the command's time that the bare engine
would need for as many images. Seconds are of one machine: compare them with nothing else.
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

from engine_efficiency import best_raw

from whyfake.models import BUNDLED, model_file
from whyfake.runtime.onnxruntime_engine import cpu_count

COMMAND = Path(sys.executable).with_name("whyfake")


def run_once(folder: Path) -> dict[str, Any]:
    """One `whyfake demo`: seconds, peak memory in MB, images."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [COMMAND, "demo", "--out", folder, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"whyfake demo failed: status {status}")
    found = json.loads(said)
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": usage.ru_maxrss / 1024,
        "images": found["images"],
    }


def main() -> None:
    """Run the demonstration a few times and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        runs = [run_once(Path(name) / str(number)) for number in range(options.runs)]
    medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    raw, _ = best_raw(model_file(BUNDLED), cpu_count(), 1.0)
    medians["engine_images_s"] = raw.rate(3.0)
    medians["share"] = medians["images"] / medians["engine_images_s"] / medians["seconds"]
    record = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()}, {cpu_count()} cores",
        "versions": {name: version(name) for name in ("whyfake", "onnxruntime", "numpy")},
        "median": {key: round(value, 3) for key, value in medians.items()},
        "runs": runs,
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
