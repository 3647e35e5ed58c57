"""Two evaluations side by side on the same pictures: maps, decisions, and paired differences."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError, unknown
from ..evaluate.bootstrap import mean_interval
from ..evaluate.stability import spearman
from ..ledger import Ledger, canonical
from ..perturbation import FloatArray
from ..report.tables import Cell, Table
from .facts import Facts, gather

CELLS = 32
"""Maps of whatever sizes are compared on a grid of so many cells a side."""
METRICS = {
    "nes_to_flip_1": "images to flip, top-1",
    "nes_to_flip_3": "images to flip, top-3",
    "nes_area_1": "area over radii, top-1",
    "nes_sufficiency_1": "sufficiency, top-1",
    "nes_sufficiency_3": "sufficiency, top-3",
    "square_sufficiency_1": "sufficiency (square), top-1",
    "energy": "energy in mask",
    "precision_1": "precision, top-1",
    "deletion": "deletion",
    "insertion": "insertion",
}


@dataclass(frozen=True, eq=False)
class Side:
    """One evaluation, or one of its methods; `maps` are small heat maps by (path, method)."""

    name: str
    facts: Facts
    maps: dict[tuple[str, str], FloatArray]
    method: str | None


def side(text: str) -> Side:
    """A side from `FOLDER` or `FOLDER:METHOD`. Raises OutputError, UsageError."""
    folder, method = text, None
    if not Path(text).is_dir() and ":" in text:
        folder, _, method = text.rpartition(":")
    with Ledger(folder) as ledger:
        detectors = ledger.detectors()
        if len(detectors) != 1:
            raise UsageError(
                f"{folder}: wanted an evaluation of one detector, got {len(detectors)}: "
                f"{', '.join(d['name'] for d in detectors.values()) or 'none'}"
            )
        [detector] = detectors
        facts = gather(ledger, detector)
        if method is not None and method not in facts.methods:
            raise UsageError(f"{folder}: {unknown('method', method, facts.methods)}")
        maps = _maps(ledger, detector, facts)
    return Side(text, facts, maps, method)


def _maps(ledger: Ledger, detector: str, facts: Facts) -> dict[tuple[str, str], FloatArray]:
    """Each method's map on each picture, with the smallest seed."""
    import cv2

    paths: dict[str, list[str]] = {}
    for picture in facts.pictures:
        paths.setdefault(picture.row.frame or "", []).append(picture.row.path)
    names = {
        canonical([name.partition("#")[0], settings]): name
        for name, settings in facts.variants.items()
    }
    found: dict[tuple[str, str], tuple[int, FloatArray]] = {}
    for record in ledger.results(detector, "explanation", blobs=True):
        if record.blob is None:  # a control: its map says nothing of the detector
            continue
        flat: FloatArray = np.frombuffer(zlib.decompress(record.blob), np.float32)
        heat = cv2.resize(
            flat.reshape(record.value["shape"]), (CELLS, CELLS), interpolation=cv2.INTER_AREA
        )
        name = names[canonical([record.method, record.settings])]
        for path in paths.get(record.frame, []):
            if record.seed <= found.get((path, name), (record.seed, heat))[0]:
                found[path, name] = record.seed, heat
    return {key: heat for key, (_, heat) in found.items()}


def compare(a: Side, b: Side) -> list[Table]:
    """Decisions that differ, likeness of maps, and differences B − A picture by picture.

    Methods are compared by name, or the one named of A with the one named of B. Raises UsageError
    where the two have no picture or no method in common.
    """
    if a.method or b.method:
        pairs = [(a.method or b.method or "", b.method or a.method or "")]
    else:
        pairs = [(m, m) for m in a.facts.methods if m in b.facts.methods]
    common = {p.row.path for p in a.facts.pictures} & {p.row.path for p in b.facts.pictures}
    if not common or not pairs:
        what = "picture" if not common else "method"
        raise UsageError(f"{a.name} and {b.name} have no {what} in common: nothing to compare")
    made = [_decisions(a, b, common), _likeness(a, b, pairs), _differences(a, b, pairs)]
    return [table for table in made if table.rows]


def _decisions(a: Side, b: Side, common: set[str]) -> Table:
    right = [{p.row.path: p.correct for p in s.facts.pictures} for s in (a, b)]
    both = [(right[0][path], right[1][path]) for path in sorted(common)]
    asked = [pair for pair in both if None not in pair]
    row: list[Cell] = [
        "all",
        len(asked),
        sum(x is True and y is True for x, y in asked),
        sum(x is True and y is False for x, y in asked),
        sum(x is False and y is True for x, y in asked),
        sum(x is False and y is False for x, y in asked),
    ]
    columns = ["", "pictures", "both right", "only A right", "only B right", "both wrong"]
    return Table("Decisions", columns, [row], f"A is {a.name}, B is {b.name}.")


def _likeness(a: Side, b: Side, pairs: list[tuple[str, str]]) -> Table:
    rows: list[list[Cell]] = []
    for mine, theirs in pairs:
        found, clips = [], []
        for fact in a.facts.of(mine):
            maps = (a.maps.get((fact.path, mine)), b.maps.get((fact.path, theirs)))
            if maps[0] is not None and maps[1] is not None:
                found.append(spearman(maps[0], maps[1]))
                clips.append(fact.clip)
        if found:
            rows.append([_pair(mine, theirs), len(found), mean_interval(found, clips)])
    note = f"Rank correlation of the heat maps, each averaged over {CELLS}×{CELLS} cells."
    return Table("Likeness of maps", ["method", "pictures", "Spearman"], rows, note)


def _differences(a: Side, b: Side, pairs: list[tuple[str, str]]) -> Table:
    rows: list[list[Cell]] = []
    for mine, theirs in pairs:
        others = {fact.path: fact.values for fact in b.facts.of(theirs)}
        for metric, name in METRICS.items():
            both = [
                (fact.clip, fact.values[metric], others[fact.path][metric])
                for fact in a.facts.of(mine)
                if metric in fact.values and metric in others.get(fact.path, {})
            ]
            if both:
                clips = [clip for clip, _, _ in both]
                columns = [[pair[1] for pair in both], [pair[2] for pair in both]]
                paired = [y - x for _, x, y in both]
                means = [mean_interval(values, clips).mean for values in columns]
                difference = mean_interval(paired, clips)
                rows.append([_pair(mine, theirs), name, len(both), *means, difference])
    note = "B − A on each picture, with its 95 % interval: one that spans 0 shows no difference."
    heads = ["method", "metric", "pictures", "A", "B", "B − A"]
    return Table("Paired differences", heads, rows, note)


def _pair(mine: str, theirs: str) -> str:
    return mine if mine == theirs else f"{mine} → {theirs}"
