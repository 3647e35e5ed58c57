"""What two shortcuts save where a detector is light, and that they change no bit.

    python benchmarks/light_detectors.py DETECTOR.onnx FRAME --out FILE.json

Whole explanations of one frame, by turns in one process: as whyfake is, with copies composed by
NumPy in place of the compiled library, and with normalisations left before poolings.
Ratios are of the medians to those of the first; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import whyfake
from whyfake import compiled
from whyfake.runtime import load, load_detector
from whyfake.runtime.engine import cpu_count
from whyfake.runtime.layout import processor

SHIPPED, NUMPY, UNPOOLED = "as shipped", "composed by NumPy", "normalised before pooling"


@contextmanager
def without(variant: str) -> Iterator[None]:
    """Whyfake without a shortcut, inside the block."""
    library, pool_first = compiled.library, load.pool_first
    if variant == NUMPY:
        compiled.library = lambda: None  # type: ignore[assignment]
    if variant == UNPOOLED:
        load.pool_first = lambda model: 0
    try:
        yield
    finally:
        compiled.library, load.pool_first = library, pool_first


def explain(detector: Any, frame: Path, method: str, images: int) -> tuple[float, int, Any]:
    """Seconds, images asked, and the heat map."""
    settings = whyfake.Settings().with_budget(images)
    start = time.perf_counter()
    found = whyfake.explain(detector, frame, method=method, settings=settings)
    return time.perf_counter() - start, sum(found.image_counts.values()), found.heatmap


def measure(options: argparse.Namespace, method: str, detectors: dict[str, Any]) -> dict[str, Any]:
    """A row: medians of one method, by variant."""
    seconds: dict[str, list[float]] = {variant: [] for variant in detectors}
    asked, maps = 0, {}
    for _ in range(options.repeats):
        for variant, detector in detectors.items():
            with without(variant):
                taken, asked, heat = explain(detector, options.frame, method, options.images)
            seconds[variant].append(taken)
            maps[variant] = heat
    medians = {variant: statistics.median(taken) for variant, taken in seconds.items()}
    return {
        "method": method,
        "images": asked,
        "seconds": {variant: [round(s, 3) for s in taken] for variant, taken in seconds.items()},
        "ratio": {variant: round(m / medians[SHIPPED], 3) for variant, m in medians.items()},
        "same_bits": {v: bool(np.array_equal(maps[v], maps[SHIPPED])) for v in detectors},
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector", type=Path)
    parser.add_argument("frame", type=Path)
    parser.add_argument("--methods", default="lime,shap,sobol,rise,lime-adv")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if compiled.library() is None:
        parser.error("no compiled library here: pip install -e . where there is a C compiler")
    detectors = {}
    for variant in (SHIPPED, NUMPY, UNPOOLED):
        with without(variant):
            detectors[variant] = load_detector(options.detector, device="cpu", tune=False)
            explain(detectors[variant], options.frame, "lime", 64)
    rows = []
    for method in options.methods.split(","):
        row = measure(options, method, detectors)
        rows.append(row)
        said = (
            f"{v}: {r} {'same bits' if row['same_bits'][v] else 'OTHER BITS'}"
            for v, r in row["ratio"].items()
            if v != SHIPPED
        )
        print(f"{method:10} {row['images']:5} images  {'  '.join(said)}", flush=True)
    if options.out:
        report = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": {"processor": processor(), "cores": cpu_count()},
            "detector": options.detector.name,
            "frame": options.frame.name,
            "repeats": options.repeats,
            "rows": rows,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
