"""The pictures of an evaluation: bars with intervals, and accuracy over the attack's radius."""

from __future__ import annotations

from pathlib import Path

from ..evaluate.radius import accuracy_over_radii
from ..files import write_file
from ..report.charts import bars, curves
from .facts import Facts
from .plan import TOPS
from .tables import estimate

_BARS = {
    "flips": ("to_flip", "Images to flip the detector by the top regions (less is better)"),
    "sufficiency": ("sufficiency", "Drop of the explained class's probability (more is better)"),
}


def plot(facts: Facts, folder: Path) -> list[Path]:
    """Write what the facts can fill into `folder`; the files that were written."""
    written = []
    for judge in facts.judges:
        for name, (metric, title) in _BARS.items():
            tops = [top for top in TOPS if _known(facts, f"{judge}_{metric}_{top}")]
            metrics = [f"{judge}_{metric}_{top}" for top in tops]
            values = {}
            for method in facts.methods:
                found = [estimate(facts.of(method), one) for one in metrics]
                if found and all(e.count for e in found):
                    values[method] = [(e.mean, e.low, e.high) for e in found]
            if values:
                series = [f"top-{top}" for top in tops]
                content = bars(title, f"{metric.replace('_', ' ')} ({judge})", series, values)
                written.append(_write(folder / f"{name}-{judge}.png", content))
    if "nes" in facts.judges:
        written += _radii(facts, folder)
    return written


def _known(facts: Facts, metric: str) -> bool:
    return any(metric in fact.values for fact in facts.facts)


def _radii(facts: Facts, folder: Path) -> list[Path]:
    """Accuracy over radii, top-1."""
    values = {}
    for method in facts.methods:
        smallest = [
            f.values["nes_radius_1"] for f in facts.of(method) if "nes_radius_1" in f.values
        ]
        if smallest:
            values[method] = accuracy_over_radii(smallest, facts.radii).tolist()
    if not values:
        return []
    title = "Accuracy when the top region is attacked (less is better)"
    points = [0.0, *(radius * 255 for radius in facts.radii)]
    content = curves(title, "radius ε of the attack / 255", "accuracy", points, values)
    return [_write(folder / "radii-nes.png", content)]


def _write(path: Path, content: bytes) -> Path:
    write_file(path, content)
    return path
