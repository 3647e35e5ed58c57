"""How long whyfake takes before it does anything: help, import, opening a detector, first answer.

    python benchmarks/startup.py [DETECTOR.onnx …] --out benchmarks/results/startup.json

Every figure is the median over fresh processes, which take turns, and stands beside that of
`python -c pass` in the same run: on a busy machine only their ratio means something.
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
from whyfake.runtime.engine import cpu_count
from whyfake.runtime.layout import processor

_FIRST = (
    "import numpy, whyfake; d = whyfake.load_detector({!r}, device='cpu', tune=False); "
    "whyfake.explain(d, numpy.zeros((*d.size, 3), 'uint8'), method='lime', "
    "settings=whyfake.Settings().with_budget(4))"
)
_LOAD = "import whyfake; whyfake.load_detector({!r}, device='cpu', tune=False)"


def commands(detectors: list[str]) -> dict[str, list[str]]:
    """What is timed, by name."""
    python = [sys.executable, "-c"]
    timed = {
        "python": [*python, "pass"],
        "help": [sys.executable, "-m", "whyfake", "--help"],
        "import": [*python, "import whyfake"],
        "engine": [*python, "import onnxruntime"],
    }
    for name in detectors:
        timed[f"load {Path(name).stem}"] = [*python, _LOAD.format(name)]
        timed[f"first explanation {Path(name).stem}"] = [*python, _FIRST.format(name)]
    return timed


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detectors", nargs="*", help="ONNX files with cards, beside the bundled")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    timed = commands(["bundled", *options.detectors])
    taken: dict[str, list[float]] = {name: [] for name in timed}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "WHYFAKE_CACHE": cache}
        for _ in range(options.repeats):
            for name, command in timed.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
                taken[name].append(time.perf_counter() - start)
    bare = statistics.median(taken["python"])
    rows = {
        name: {
            "median_s": round(statistics.median(times), 3),
            "fastest_s": round(min(times), 3),
            "to_python": round(statistics.median(times) / bare, 2),
        }
        for name, times in taken.items()
    }
    for name, row in rows.items():
        print(f"{name:34} {row['median_s']:7.3f} s  fastest {row['fastest_s']:7.3f} s")
    if options.out:
        report = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": {"processor": processor(), "cores": cpu_count()},
            "versions": {"python": platform.python_version(), "whyfake": whyfake.__version__},
            "repeats": options.repeats,
            "rows": rows,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
