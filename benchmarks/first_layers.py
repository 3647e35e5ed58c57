"""What it saves to look first layers up, and how little that changes.

    python benchmarks/first_layers.py FRAME DETECTOR.onnx … --out FILE.json

Whole explanations of one frame by turns in one process, with first layers looked up where whyfake
finds that less work, and with whole pictures. Ratios are medians of those of neighbouring runs,
changes the largest of the heat map, relative to its largest value. The machine should have nothing
else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from light_detectors import explain, when_and_where, whole_pictures

import whyfake
from whyfake.runtime import load_detector


def row(
    options: argparse.Namespace, method: str, shipped: whyfake.Detector, whole: whyfake.Detector
) -> dict[str, Any]:
    """One method on one detector."""
    seconds: dict[str, list[float]] = {"looked up": [], "whole pictures": []}
    maps: list[Any] = []
    asked = 0
    for _ in range(options.repeats):
        maps.clear()
        for detector, taken in zip((shipped, whole), seconds.values(), strict=True):
            spent, asked, heat = explain(detector, options.frame, method, options.images)
            taken.append(round(spent, 3))
            maps.append(heat)
    ratios = [slow / fast for fast, slow in zip(*seconds.values(), strict=True)]
    return {
        "method": method,
        "images": asked,
        "seconds": seconds,
        "times_as_fast": round(statistics.median(ratios), 2),
        "change": float(np.abs(maps[0] - maps[1]).max() / np.abs(maps[1]).max()),
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frame", type=Path)
    parser.add_argument("detectors", nargs="+")
    parser.add_argument("--methods", default="lime,shap,kernelshap,owen,hsic,lime-adv,shap-adv")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    report: dict[str, Any] = {
        **when_and_where(),
        "frame": options.frame.name,
        "repeats": options.repeats,
        "rows": {},
    }
    for model in options.detectors:
        with (
            load_detector(model, device="cpu", tune=False) as shipped,
            whole_pictures(model) as whole,
        ):
            rows = report["rows"][Path(model).name] = []
            for method in options.methods.split(","):
                for detector in (shipped, whole):  # imports, and opening parts, are not timed
                    explain(detector, options.frame, method, min(options.images, 500))
                rows.append(row(options, method, shipped, whole))
                print(
                    f"{Path(model).name:28} {method:12} {rows[-1]['images']:5} images  "
                    f"{rows[-1]['times_as_fast']:5.2f} times as fast, "
                    f"changes {rows[-1]['change']:.1e}",
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
