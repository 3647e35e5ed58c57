"""How much faster two Ray workers evaluate than one, on one machine, as whole processes.

    pip install '.[cpu,ray]'
    python benchmarks/ray_workers.py frames.csv detector.onnx --out ray_workers.json

The two take turns; the ratio is between neighbours, since machines drift. Starting Ray and opening
the detector count. A worker has one core, so the machine needs two that nothing else uses.
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
from pathlib import Path

import whyfake

ASKED = ("-m", "lime,rise", "--samples", "2500", "--suite", "localisation", "--ray", "local")


def seconds(manifest: Path, detector: str, workers: int) -> float:
    """Wall-clock time of one evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "whyfake", "evaluate", str(manifest), "-d", detector]
        command += [*ASKED, "--workers", str(workers), "-o", folder]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("detector")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pairs = [
        [seconds(args.manifest, args.detector, workers) for workers in (1, 2)]
        for _ in range(args.repeats)
    ]
    ratios = [one / two for one, two in pairs]
    report = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "whyfake": whyfake.__version__,
        "asked": list(ASKED),
        "seconds_of_1_and_2_workers": pairs,
        "ratios": ratios,
        "median": statistics.median(ratios),
    }
    print(json.dumps(report, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
