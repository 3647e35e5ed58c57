"""What is a stated confidence worth? Runs that stopped early, held to runs that ask far more.

    python benchmarks/stopping.py [FRAMES...] --detector DETECTOR.onnx --out FILE.json

Each method stops at `--confidence` under several seeds, or spends its budget; the reference, with
the same adversarial sample, is asked four times the paper's budget (see fewer_questions.py, whose
--cache it shares). Right means: the same first `--top` regions as the reference, in any order;
again: as another seed's run of the same frame, which is what a confidence claims. Without frames,
forged portraits of `whyfake demo` are explained. The runs of one frame are not independent of each
other: compare shares over many frames.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from fewer_questions import (
    FORMS,
    REFERENCE_SEED,
    TIMES,
    Setting,
    ask,
    budget_field,
    explainer_of,
    subjects,
)
from PIL import Image

import whyfake
from whyfake.demo import forged_portrait
from whyfake.explainers import EXPLAINERS
from whyfake.files import write_file
from whyfake.settings import Settings

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lime": [{}, {"design": "paired"}, {"design": "hadamard"}],
    "shap": [{}, {"contexts": "paired", "pairs": 4, "nodes_per_round": 4}],
    "sobol": [{"scramble": True}],
    "rise": [{}, {"sampling": "stratified"}],
}


def first(scores: list[float], top: int) -> set[int]:
    """The `top` best regions."""
    return set(np.argsort(-np.array(scores), kind="stable")[:top].tolist())


def study(
    detector: whyfake.Detector, subject: Any, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each form, method, setting and seed."""
    rows = []
    for form in options.forms:
        for method in options.methods:
            better = {"scramble": True} if method == "sobol" else {}
            images = TIMES * (2112 if method == "sobol" else explainer_of(method, {}).images())
            large = {**better, **budget_field(method, images, better)}
            reference: Setting = (method, large, REFERENCE_SEED)
            [truth] = ask(detector, subject, form, [reference], options.cache)
            subject.memory.clear()
            wanted: list[Setting] = [
                (method, {**changes, "confidence": options.confidence, "top": options.top}, seed)
                for changes in SETTINGS[method]
                for seed in range(options.seeds)
            ]
            answers = ask(detector, subject, form, wanted, options.cache)
            subject.memory.clear()
            for (_, changes, _), answer in zip(wanted, answers, strict=True):
                found = first(answer["scores"], options.top)
                rows.append(
                    {
                        "frame": subject.name,
                        "form": form,
                        "method": method,
                        "changes": changes,
                        "images": answer["images"],
                        "confidence": answer["confidence"],
                        "first": sorted(found),
                        "right": found == first(truth["scores"], options.top),
                    }
                )
            print(f"  {subject.name} {method} {form}", file=sys.stderr)
    return rows


def summarise(rows: list[dict[str, Any]], confidence: float) -> list[dict[str, Any]]:
    """By method and setting: how many stopped, after how many images, how often right."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row["method"], row["changes"]]), []).append(row)
    table = []
    for key, members in groups.items():
        stopped = [row for row in members if row["confidence"] >= confidence]
        spent = [row for row in members if row["confidence"] < confidence]
        line = dict(zip(("method", "changes"), json.loads(key), strict=True))
        line |= {"runs": len(members), "stopped": len(stopped)}
        line["images"] = statistics.fmean(row["images"] for row in members)
        for name, part in (("stopped", stopped), ("spent", spent)):
            line[f"stated_{name}"] = mean([row["confidence"] for row in part])
            line[f"right_{name}"] = mean([row["right"] for row in part])
            line[f"again_{name}"] = mean(agreements(part))
        table.append(line)
    return table


def agreements(rows: list[dict[str, Any]]) -> list[bool]:
    """For every two runs of one frame and form: whether they have the same regions first."""
    return [
        one["first"] == other["first"]
        for one, other in combinations(rows, 2)
        if (one["frame"], one["form"]) == (other["frame"], other["form"])
    ]


def mean(values: list[float]) -> float | None:
    """The mean, or None of none."""
    return statistics.fmean(values) if values else None


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames", type=Path, nargs="*")
    parser.add_argument("--detector", default="bundled")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("fewer-questions-cache"))
    parser.add_argument("--methods", nargs="+", choices=list(EXPLAINERS), default=list(EXPLAINERS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["adv"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--forged", type=int, default=3, help="portraits, where no frame is given")
    parser.add_argument("--confidence", type=float, default=0.9)
    parser.add_argument("--top", type=int, default=3)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    frames = options.frames
    if not frames:
        frames = [options.cache / f"forged-{seed}.png" for seed in range(options.forged)]
        for seed, path in enumerate(frames):
            Image.fromarray(forged_portrait(seed).image).save(path)
    rows: list[dict[str, Any]] = []
    with whyfake.load_detector(options.detector, device="cpu") as detector:
        for subject in subjects(detector, frames, Settings(), seeds=0):
            # one sample for all runs of a frame: the confidence is in the questions
            [sample] = subject.samples.values()
            keys = [(whose, seed) for whose in ("paper", "other") for seed in range(options.seeds)]
            subject.samples.update(dict.fromkeys(keys, sample))
            rows += study(detector, subject, options)
        name = detector.card.name
    table = summarise(rows, options.confidence)
    for line in table:
        words = " ".join(f"{k}={v}" for k, v in line["changes"].items() if k != "top")
        shares = {k: "–" if v is None else f"{v:.2f}" for k, v in line.items() if "_" in k}
        print(
            f"{line['method']:6}{line['stopped']:3} of {line['runs']:3} stopped, "
            f"{line['images']:5.0f} images; stated {shares['stated_stopped']}, right "
            f"{shares['right_stopped']}, again {shares['again_stopped']}; unstopped: stated "
            f"{shares['stated_spent']}, right {shares['right_spent']}, again "
            f"{shares['again_spent']}  {words}"
        )
    report = {"detector": name, "confidence": options.confidence, "table": table, "rows": rows}
    write_file(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
