"""What a ledger says of each picture and method, as plain numbers, for tables and plots.

Nothing is asked here. An attack is found by the regions that a method put first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..evaluate.controls import CONTROLS
from ..evaluate.flip_rate import images_to_flip
from ..evaluate.manifest import FAKE, REAL
from ..evaluate.radius import area_under_radii
from ..evaluate.stability import mean_over_pairs, spearman, top_overlap
from ..evaluate.sufficiency import sufficiency
from ..evaluate.top_regions import top_regions
from ..explainers import METHODS, is_signed
from ..ledger import Ledger, PictureRow, Record, canonical, digest
from .plan import TOPS

_JUDGE = ("regions", "labels", "radii")


@dataclass(frozen=True)
class Picture:
    """A picture's fate: `status` is real, misclassified, judged, failed or waiting.

    One that is under way still waits: means of half of its methods would mislead. `correct`:
    whether the detector agrees with the label; None where it was not asked.
    """

    row: PictureRow
    status: str
    correct: bool | None


@dataclass(frozen=True)
class Fact:
    """One method's numbers on one picture; a metric that was not measured is absent or NaN."""

    path: str
    group: str
    clip: str
    method: str
    values: dict[str, float]


@dataclass(frozen=True)
class Facts:
    """All that a ledger says of one detector.

    `judges` and `variants` are the settings of each judge and method, by its name; `samples` what
    became of adversarial samples, by path; `radii` those that were tried.
    """

    detector: dict[str, Any]
    pictures: list[Picture]
    facts: list[Fact]
    judges: dict[str, dict[str, Any]]
    variants: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    radii: tuple[float, ...] = ()

    @property
    def methods(self) -> list[str]:
        """Methods in their usual order, controls last."""
        order = {name: rank for rank, name in enumerate((*METHODS, *CONTROLS))}
        found = dict.fromkeys(fact.method for fact in self.facts)
        return sorted(found, key=lambda name: (order.get(name.partition("#")[0], 99), name))

    @property
    def groups(self) -> list[str]:
        """Groups of the pictures, in the order of their names."""
        return sorted({picture.row.group for picture in self.pictures})

    def of(self, method: str, group: str | None = None) -> list[Fact]:
        """One method's facts, in one group or in all."""
        wanted = (fact for fact in self.facts if fact.method == method)
        return [fact for fact in wanted if group is None or fact.group == group]


def gather(ledger: Ledger, detector: str) -> Facts:
    """Read one detector's facts from a ledger."""
    about = ledger.detectors()[detector]
    by_frame: dict[str, list[Record]] = defaultdict(list)
    for record in ledger.results(detector):
        by_frame[record.frame].append(record)
    names = _names(r for records in by_frame.values() for r in records if r.kind == "explanation")
    judges = _judge_names(r for records in by_frame.values() for r in records if r.kind == "attack")
    pictures, facts, samples = [], [], {}
    for row in ledger.pictures(detector):
        records = by_frame.get(row.frame or "", [])
        picture = _picture(row, records, about)
        pictures.append(picture)
        if picture.status == "judged":
            facts += _facts_of(row, records, names, judges)
            samples[row.path] = [
                r.value | {"images": r.images} for r in records if r.kind == "sample"
            ]
    tried = (r.settings["radii"] for rs in by_frame.values() for r in rs if r.kind == "radius")
    radii = tuple(next(tried, ()))
    variants = {name: settings for name, (_, settings) in _by_name(names).items()}
    return Facts(about, pictures, facts, dict(judges.values()), variants, samples, radii)


def _picture(row: PictureRow, records: list[Record], about: dict[str, Any]) -> Picture:
    detection = next((r for r in records if r.kind == "detection"), None)
    if row.error is not None:
        return Picture(row, "failed", None)
    if detection is None or row.complete is None:
        return Picture(row, "waiting", None)
    predicted = about["classes"][int(np.argmax(detection.value["log_probs"]))]
    real = predicted in about["real"]
    if row.label == REAL:
        return Picture(row, REAL, real)
    correct = not real if row.label == FAKE else predicted == row.label
    return Picture(row, "judged" if correct else "misclassified", correct)


def _facts_of(
    row: PictureRow,
    records: list[Record],
    names: dict[tuple[str, str], tuple[str, dict[str, Any]]],
    judges: dict[str, tuple[str, dict[str, Any]]],
) -> list[Fact]:
    """A picture's facts, one for each method and its settings."""
    by_method: dict[tuple[str, str], list[Record]] = defaultdict(list)
    indexed: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if record.kind == "explanation":
            by_method[record.method, canonical(record.settings)].append(record)
        elif record.kind in ("attack", "radius"):
            labels = tuple(record.settings["labels"])
            regions = record.settings["regions"]
            indexed[record.kind, record.seed, _judge(record.settings), regions, labels] = record
        elif record.kind in ("localisation", "curves"):
            indexed[record.kind, record.seed, record.method, record.settings["explanation"]] = (
                record
            )
    found = []
    for (method, settings), explanations in by_method.items():
        explanations.sort(key=lambda r: r.seed)
        first = explanations[0]
        values: dict[str, float] = {"images": first.images, "seconds": first.seconds}
        for kind in ("localisation", "curves"):
            made = indexed.get((kind, first.seed, method, digest(first.settings)))
            values |= _numbers(made.value if made else {})
        signed = is_signed(method)
        scores = [np.array(e.value["region_scores"]) for e in explanations]
        for top in TOPS:
            labels = tuple(sorted(top_regions(scores[0], top, signed=signed)))
            where = (first.settings["regions"], labels)
            for judge, (name, options) in judges.items():
                values |= _attacked(indexed, (first.seed, judge, *where), name, options, top)
        values["short"] = float(len(top_regions(scores[0], max(TOPS), signed=signed)) < max(TOPS))
        values["spearman"] = mean_over_pairs(scores, spearman)
        tops = [top_regions(s, 3, signed=signed) for s in scores]
        values["top3"] = mean_over_pairs(tops, top_overlap)
        name = names[method, settings][0]
        found.append(Fact(row.path, row.group, row.clip, name, values))
    return found


def _numbers(value: dict[str, Any]) -> dict[str, float]:
    """The plain numbers of a result; of curves also the score of the canvas, all pixels hidden."""
    found = {
        key: float("nan") if number is None else number
        for key, number in value.items()
        if not isinstance(number, list)
    }
    if "insertion_curve" in value:
        found["insertion_canvas"] = value["insertion_curve"][0]
        found["deletion_canvas"] = value["deletion_curve"][-1]
    return found


def _attacked(
    indexed: dict[tuple[Any, ...], Record],
    where: tuple[Any, ...],
    name: str,
    options: dict[str, Any],
    top: int,
) -> dict[str, float]:
    """What one judge found of one method's top regions, where it was asked."""
    attack = indexed.get(("attack", *where))
    if attack is None:
        return {}
    value = attack.value
    found = {
        f"{name}_to_flip_{top}": float(
            images_to_flip(value["flipped"], value["images"], budget(name, options))
        ),
        f"{name}_flipped_{top}": float(value["flipped"]),
        f"{name}_accuracy_{top}": float(value["correct"]),
        f"{name}_sufficiency_{top}": sufficiency(value["score_before"], value["score_after"]),
    }
    radius = indexed.get(("radius", *where))
    if radius is not None:
        radii = radius.settings["radii"]
        smallest = radius.value["smallest"]
        found[f"{name}_area_{top}"] = area_under_radii(smallest, radii)
        found[f"{name}_radius_{top}"] = float("inf") if smallest is None else smallest
    return found


def budget(name: str, options: dict[str, Any]) -> int:
    """The most images that a judge of these settings asks for."""
    if name.startswith("nes"):
        return int(options["steps"] * (2 * options["pairs"] + 1) + 1)
    return int(options["queries"]) + 1


def _judge(settings: dict[str, Any]) -> str:
    return canonical({key: value for key, value in settings.items() if key not in _JUDGE})


def _judge_names(records: Iterable[Record]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each judge's settings with the name it goes by: where two share one, with a hash."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for record in records:
        key = _judge(record.settings)
        if key not in found:
            options = {k: v for k, v in record.settings.items() if k not in _JUDGE}
            found[key] = (record.method, options)
    return _told_apart(found)


def _names(records: Iterable[Record]) -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    """What each method with its settings goes by: its name, with a hash where two share one."""
    found: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for record in records:
        found.setdefault(
            (record.method, canonical(record.settings)), (record.method, record.settings)
        )
    return _told_apart(found)


def _told_apart(
    found: dict[Any, tuple[str, dict[str, Any]]],
) -> dict[Any, tuple[str, dict[str, Any]]]:
    names = [name for name, _ in found.values()]
    return {
        key: (name if names.count(name) == 1 else f"{name}#{digest(settings)[:6]}", settings)
        for key, (name, settings) in found.items()
    }


def _by_name(
    names: dict[tuple[str, str], tuple[str, dict[str, Any]]],
) -> dict[str, tuple[str, dict[str, Any]]]:
    return {name: (name, settings) for name, settings in names.values()}
