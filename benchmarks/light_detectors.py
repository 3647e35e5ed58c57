"""What three shortcuts save where a detector is light, and how little they change.

    python benchmarks/light_detectors.py DETECTOR.onnx FRAME --out FILE.json

Whole explanations of one frame, by turns in one process: as whyfake is, with NumPy and scikit-image
in place of the compiled library, with pooled windows not computed as channels, and with
normalisations left before poolings too. Ratios are of the medians to those of the first, changes
the largest of the heat map; the machine should have nothing else to do. All are asked whole
pictures: first_layers.py measures what comes of looking first layers up. Then superpixels alone, by
the compiled library and by scikit-image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import whyfake
from whyfake import compiled
from whyfake.explainers.regions import slic
from whyfake.media import fit_to, load_picture
from whyfake.runtime import load, load_detector
from whyfake.runtime.engine import cpu_count
from whyfake.runtime.layout import processor

SHIPPED, UNCOMPILED = "as shipped", "nothing compiled"
NARROW, UNPOOLED = "windows not as channels", "nor normalised after pooling"


@contextmanager
def without(variant: str) -> Iterator[None]:
    """Whyfake without a shortcut, inside the block."""
    with ExitStack() as stack:
        if variant == UNCOMPILED:
            stack.enter_context(patch.object(compiled, "library", lambda: None))
        if variant in (NARROW, UNPOOLED):
            stack.enter_context(patch.object(load, "windows_as_channels", lambda model: 0))
        if variant == UNPOOLED:
            stack.enter_context(patch.object(load, "pool_first", lambda model: 0))
        yield


def when_and_where() -> dict[str, Any]:
    """What the JSON of a measurement begins with."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": cpu_count()},
    }


def whole_pictures(model: Path) -> whyfake.Detector:
    """A detector on the CPU that is asked whole pictures."""
    return load_detector(model, device="cpu", tune=False, compose="host")


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
        "change": {v: float(np.abs(maps[v] - maps[SHIPPED]).max()) for v in detectors},
    }


def superpixels(frame: Path, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Milliseconds of SLIC on a frame at the detector's size, by turns."""
    pixels = fit_to(load_picture(frame).rgb, size)
    taken: dict[str, list[float]] = {SHIPPED: [], UNCOMPILED: []}
    labels = {}
    for variant in list(taken) * (repeats + 1):
        with without(variant):
            start = time.perf_counter()
            labels[variant] = slic(pixels, 50)
        taken[variant].append(1000 * (time.perf_counter() - start))
    medians = {variant: round(statistics.median(ms[1:]), 2) for variant, ms in taken.items()}
    same = np.array_equal(labels[SHIPPED], labels[UNCOMPILED])
    return {"size": size, "repeats": repeats, "milliseconds": medians, "same_labels": bool(same)}


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
    for variant in (SHIPPED, UNCOMPILED, NARROW, UNPOOLED):
        with without(variant):
            detectors[variant] = whole_pictures(options.detector)
            explain(detectors[variant], options.frame, "lime", 64)
    rows = []
    for method in options.methods.split(","):
        row = measure(options, method, detectors)
        rows.append(row)
        said = (
            f"{v}: {r} (changes {row['change'][v]:.1e})"
            for v, r in row["ratio"].items()
            if v != SHIPPED
        )
        print(f"{method:10} {row['images']:5} images  {'  '.join(said)}", flush=True)
    cut = superpixels(options.frame, detectors[SHIPPED].size, 10 * options.repeats)
    print(f"superpixels {cut['milliseconds']} ms, same labels: {cut['same_labels']}")
    if options.out:
        report = {
            **when_and_where(),
            "detector": options.detector.name,
            "frame": options.frame.name,
            "repeats": options.repeats,
            "rows": rows,
            "superpixels": cut,
        }
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
