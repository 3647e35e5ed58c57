"""Do explanations find what a detector uses, also where a prior on face crops cannot?

    python -m studies.truth --detector DETECTOR.onnx --pairs FFPP/Deepfakes --faces FACES --out OUT

Judges every method with `whyfake evaluate`'s parts on the cases of studies/cases.py, and writes the
manifest, the ledger, the tables (tables.md, tables.csv), plots, and `run.json`: machine, versions,
seeds, which cases were left out and why. Results are kept as they come: stopped by Ctrl-C or
`--minutes`, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import whyfake
from whyfake.evaluate.manifest import Manifest, fitted, read_manifest, refuse
from whyfake.evaluation import Done, evaluate, make_plan
from whyfake.evaluation.facts import Facts, gather
from whyfake.evaluation.plan import Plan
from whyfake.evaluation.plots import plot
from whyfake.evaluation.tables import tables
from whyfake.ledger import Ledger
from whyfake.report.tables import comma_separated, markdown
from whyfake.runtime import Detector
from whyfake.settings import preset

from .cases import Case, blend_cases, choose, pair_cases, write_manifest


def main() -> None:
    """Make the cases, judge the methods on them, write what was found."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = preset(options.preset)
    if options.samples is not None:
        settings = settings.with_budget(options.samples)
    plan = make_plan(
        "paper", suite=options.suite, seed=options.seed, seeds=options.seeds, settings=settings
    )
    plan = dataclasses.replace(
        plan,
        tops=tuple(int(top) for top in options.tops.split(",")),
        parts=plan.parts - set(options.without.split(",")),
    )
    with (
        whyfake.load_detector(options.detector) as detector,
        Ledger(options.out, write=True) as ledger,
    ):
        sources: dict[str, Iterator[Case]] = {}
        for pairs in options.pairs:
            sources |= pair_cases(pairs, options.seed)
        if options.faces is not None:
            sources |= blend_cases(options.faces, options.seed)
        if options.groups:
            sources = {name: found for name, found in sources.items() if name in options.groups}
        cases, counts = choose(detector, sources, options.per_group)
        cases = cases[: options.cases]
        manifest = read_manifest(write_manifest(cases, options.out / "cases"))
        spent = judged(detector, manifest, plan, ledger, options.minutes)
        facts = gather(ledger, detector.sha256)
    found = tables(facts)
    (options.out / "tables.md").write_text(markdown(found), encoding="utf-8")
    (options.out / "tables.csv").write_text(comma_separated(found), encoding="utf-8")
    plot(facts, options.out / "plots")
    report = run_record(facts, plan, detector, spent)
    report["preset"], report["samples"] = options.preset, options.samples
    report["cases"] = {group: dict(count) for group, count in counts.items()}
    (options.out / "run.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))


def judged(
    detector: Detector, manifest: Manifest, plan: Plan, ledger: Ledger, minutes: float | None
) -> float:
    """Carry the plan out, for so many minutes at most; the seconds it took."""
    usable = fitted(manifest, detector.card.classes, detector.card.real)
    refuse(usable, skip_bad=False)
    started = time.perf_counter()
    done = 0
    for event in evaluate(detector, usable.entries, plan, ledger):
        spent = time.perf_counter() - started
        if isinstance(event, Done):
            done += 1
            what = event.error or ("was done" if event.resumed else "done")
            print(
                f"{done} of {len(usable.entries)}: {Path(event.path).name} {what}, {spent:.0f} s",
                file=sys.stderr,
            )
        if minutes is not None and spent > 60 * minutes:
            print("the time is up: the same command goes on from here", file=sys.stderr)
            break
    return time.perf_counter() - started


def run_record(facts: Facts, plan: Plan, detector: Detector, seconds: float) -> dict[str, Any]:
    """What a reader must know of a run to repeat it."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "detector": facts.detector,
        "detector_sha256": detector.sha256,
        "seeds": plan.seeds,
        "parts": sorted(plan.parts),
        "tops": plan.tops,
        "images_this_run": detector.images_seen,
        "seconds_this_run": round(seconds, 1),
        "load": os.getloadavg(),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {
            name: version(name) for name in ("whyfake", "numpy", "scikit-image", "onnxruntime")
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--detector", default="bundled")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="folders of pairs")
    parser.add_argument("--faces", type=Path, help="folder of faces with landmarks68.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--per-group", type=int, default=6, help="cases of each group at most")
    parser.add_argument("--groups", nargs="+", help="of all groups, these alone")
    parser.add_argument("--cases", type=int, help="judge so many at most, a turn of groups each")
    parser.add_argument("--preset", default="default", help="settings of the methods")
    parser.add_argument("--samples", type=int, help="images an explanation may ask")
    parser.add_argument("--tops", default="1,2,3", help="how many of the top regions to attack")
    parser.add_argument("--suite", default="all")
    parser.add_argument("--without", default="", help="parts of the suite to leave out, by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="explain with so many seeds")
    parser.add_argument("--minutes", type=float, help="stop after so long; resumable")
    return parser.parse_args()


if __name__ == "__main__":
    main()
