"""Whether memory stays flat however many samples are asked: peaks of fresh processes.

python benchmarks/peak_memory.py DETECTOR.onnx --out benchmarks/results/peak_memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import whyfake
from whyfake.benching.memory import peak_mb
from whyfake.benching.methods import portraits
from whyfake.settings import Settings

SAMPLES = (2048, 16384)


def peak(model: Path, method: str, samples: int) -> float:
    """Peak memory in MB of a fresh process that explains one picture with so many samples."""
    command = [sys.executable, __file__, str(model), "--one", method, str(samples)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(model: Path, method: str, samples: int) -> None:
    """The work of the fresh process: explain, then print the peak in MB."""
    with whyfake.load_detector(model, device="cpu", tune=False) as detector:
        settings = Settings().with_budget(samples)
        whyfake.explain(detector, portraits(1)[0], method=method, settings=settings)
    print(peak_mb())


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector", type=Path, help="an ONNX file with its card")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SAMPLES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print_peak(options.detector, options.one[0], int(options.one[1]))
        return
    rows = []
    for method in ("lime", "shap", "sobol", "rise"):
        few, many = (peak(options.detector, method, samples) for samples in SAMPLES)
        rows.append({"method": method, **dict(zip(map(str, SAMPLES), (few, many), strict=True))})
        print(f"{method:6} {few:5.0f} MB, {many:5.0f} MB: ×{many / few:.2f}")
    if options.out:
        report = {"detector": options.detector.name, "peak_mb": rows}
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
