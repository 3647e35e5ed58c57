"""How few questions say what the paper's budgets say, by method and by how they are chosen?

    python benchmarks/fewer_questions.py FRAMES... --detector DETECTOR.onnx --out FILE.json

For each frame, method and form, region scores are held to a reference of four times the paper's
budget under a seed of its own: Spearman's correlation, whether the first region is the same, and
the share of the first three. The paper's budget is measured alike, under the same seeds; then every
setting in SETTINGS at every budget in BUDGETS. The cheapest whose three means are at least the
paper budget's is named last, by method and form.

SOBOL's reference is scrambled: the unscrambled one holds the paper's design as its first rows.
What was found is kept in --cache, setting by setting, and not asked again; questions that two
settings share are asked once. Adversarial forms have a sample of their own for every seed, made as
the paper says for the reference and the paper's budget, and as `--config` says for the others: its
images count too. For a frame and a form this asks some 105,000 images, 58,000 of them for the
references; --methods, --forms and --finalists limit it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Generator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import whyfake
from whyfake.ahead import in_turn
from whyfake.evaluate.bootstrap import mean_interval
from whyfake.evaluate.stability import spearman, top_overlap
from whyfake.explainers import EXPLAINERS, Lime, Scene, Target, baseline_image, region_means
from whyfake.files import write_file
from whyfake.perturbation import FloatArray, GridMix
from whyfake.runtime import Delivered, Failed, Job, run
from whyfake.settings import PRESETS, Settings, read_settings

FORMS = ("original", "adv")
REFERENCE_SEED = 1000
TIMES = 4
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "lime": [{}, {"design": "paired"}, {"design": "hadamard"}],
    "shap": [
        {},
        {"nodes_per_round": 4},
        {"contexts": "paired", "pairs": 1, "nodes_per_round": 4},
        {"contexts": "paired", "pairs": 2, "nodes_per_round": 4},
        {"contexts": "paired", "pairs": 4, "nodes_per_round": 4},
    ],
    "sobol": [{}, {"scramble": True}],
    "rise": [{}, {"sampling": "paired"}, {"sampling": "stratified"}],
    "hsic": [{}, {"fitted": True}],
    "kernelshap": [{}],
    "owen": [{}, {"contexts": "paired", "pairs": 2, "nodes_per_round": 4}],
}
BUDGETS: dict[str, list[int]] = {
    "lime": [64, 128, 192, 256, 330, 448, 672],
    "shap": [100, 200, 300, 500],
    "sobol": [264, 528, 1056],
    "rise": [250, 500, 1000, 2000],
    "hsic": [64, 125, 250],
    "kernelshap": [250, 500, 1000],
    "owen": [200, 300, 500],
}
"""In images; SOBOL's are for designs of 4, 8 and 16."""
FINALISTS: dict[str, list[dict[str, Any]]] = {
    "lime": [{"design": "hadamard", "samples": n} for n in (128, 192, 224)],
    "shap": [{"contexts": "paired", "pairs": 2, "nodes_per_round": 4, "samples": 448}],
    "sobol": [{"scramble": True, "steps": "half", "design": 6}],
    "rise": [
        {"sampling": "stratified", "adjusted": True, "masks": 500},
        {"sampling": "stratified", "adjusted": True, "masks": 1000},
    ],
    "hsic": [{"fitted": True, "samples": n} for n in (64, 125)] + [{"samples": 125}],
    "kernelshap": [{"samples": 500}],
    "owen": [
        {"contexts": "paired", "pairs": pairs, "nodes_per_round": 4, "samples": 500}
        for pairs in (2, 6)
    ],
}
"""What `--preset fast` asks, and less of LIME and RISE; `--finalists` asks about them alone."""
CONFIDENCE = 0.9
Setting = tuple[str, dict[str, Any], int]
"""A method, what differs from the paper's preset, and a seed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A frame with all that explainers are given, and the answers that are known already."""

    name: str
    frame: FloatArray
    regions: NDArray[np.int32]
    target: Target
    samples: dict[tuple[str, int], tuple[FloatArray, int]]
    """The adversarial sample of `paper` or `other` settings and a seed, and what it cost."""
    memory: dict[bytes, Any] = dataclasses.field(default_factory=dict)


def explainer_of(method: str, changes: dict[str, Any]) -> Any:
    """An explainer of the paper's preset with some options changed."""
    return dataclasses.replace(PRESETS["paper"].explainer(method), **changes)


def budget_field(method: str, images: int, changes: dict[str, Any]) -> dict[str, Any]:
    """The option that makes a method ask for so many images."""
    made, base = explainer_of(method, changes).with_budget(images), explainer_of(method, changes)
    return {
        item.name: getattr(made, item.name)
        for item in dataclasses.fields(made)
        if getattr(made, item.name) != getattr(base, item.name)
    }


def remembered(
    coroutine: Any, memory: dict[bytes, Any], salt: bytes
) -> Generator[Any, FloatArray, tuple[Any, int]]:
    """The coroutine's result and how many images it asked for; a known copy is not shown again."""
    plain, answer, images = in_turn(coroutine), None, 0
    while True:
        try:
            batch = plain.send(answer)
        except StopIteration as stop:
            return stop.value, images
        images += len(batch)
        if isinstance(batch, GridMix):
            keys = [
                salt + grid.tobytes() + shift.astype(np.int64).tobytes()
                for grid, shift in zip(batch.grids, batch.shifts, strict=True)
            ]
        else:
            labels = salt + hashlib.sha1(batch.labels.tobytes()).digest()
            keys = [labels + row.tobytes() for row in batch.codes]
        new = np.array([i for i, key in enumerate(keys) if key not in memory], np.intp)
        if len(new):
            changed = (
                {"grids": batch.grids[new], "shifts": batch.shifts[new]}
                if isinstance(batch, GridMix)
                else {"codes": batch.codes[new]}
            )
            found = yield dataclasses.replace(batch, **changed)
            memory.update({keys[i]: row for i, row in zip(new, found, strict=True)})
        answer = np.stack([memory[key] for key in keys])


def ask(
    detector: whyfake.Detector, subject: Subject, form: str, wanted: list[Setting], cache: Path
) -> list[dict[str, Any]]:
    """Region scores and images of each setting, from the cache or the detector."""
    neutral = detector.card.input.neutral_color
    paths, costs, found, jobs = [], [], {}, []
    for index, (method, changes, seed) in enumerate(wanted):
        content = [detector.sha256, hashlib.sha256(subject.frame.tobytes()).hexdigest()]
        whose = "paper" if seed == REFERENCE_SEED or not changes else "other"
        if form == "original":
            name, cost = EXPLAINERS[method].baseline, 0
            rng = np.random.default_rng(seed)
            baseline = baseline_image(name, subject.frame, subject.regions, neutral, rng)
        else:
            baseline, cost = subject.samples[whose, seed]
        content.append(hashlib.sha256(baseline.tobytes()).hexdigest())
        content.append(hashlib.sha256(subject.regions.tobytes()).hexdigest())
        costs.append(cost)
        key = json.dumps([*content, method, changes, seed], sort_keys=True)
        paths.append(cache / (hashlib.sha256(key.encode()).hexdigest()[:24] + ".json"))
        if paths[-1].exists():
            found[index] = json.loads(paths[-1].read_text())
            continue
        rng = np.random.default_rng([seed, len(method)])
        scene = Scene(baseline, subject.regions, rng)
        asking = explainer_of(method, changes).explain(subject.frame, subject.target, scene)
        salt = f"{method} {form} {content[-2]}".encode()
        jobs.append(Job(index, subject.frame, remembered(asking, subject.memory, salt)))
    for event in run(detector, jobs):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Delivered):
            attribution, images = event.value
            scores = attribution.region_scores
            if scores is None:
                scores = region_means(attribution.heatmap, subject.regions)
            row = {"scores": scores.tolist(), "images": images}
            row["confidence"] = attribution.confidence
            found[event.key] = row
            write_file(paths[event.key], json.dumps(row).encode())
    return [found[i] | {"images": found[i]["images"] + costs[i]} for i in range(len(wanted))]


def agreement(scores: list[float], reference: list[float]) -> dict[str, float]:
    """Spearman, whether the first is the same, and the share of the first three."""
    ours, theirs = (
        np.argsort(-np.array(s), kind="stable")[:3].tolist() for s in (scores, reference)
    )
    return {
        "spearman": spearman(np.array(scores), np.array(reference)),
        "top1": float(ours[0] == theirs[0]),
        "top3": top_overlap(ours, theirs),
    }


def candidates(method: str, finalists: bool) -> list[dict[str, Any]]:
    """Every setting at every budget, the dearest first: cheaper ones share its questions."""
    if finalists:
        return FINALISTS[method][::-1]
    made = [
        {**changes, **budget_field(method, images, changes)}
        for changes in SETTINGS[method]
        for images in sorted(BUDGETS[method], reverse=True)
    ]
    if not hasattr(explainer_of(method, {}), "confidence"):
        return made
    return made + [
        {**changes, "confidence": CONFIDENCE, **budget_field(method, max(BUDGETS[method]), changes)}
        for changes in SETTINGS[method]
    ]


def study(
    detector: whyfake.Detector, subject: Subject, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each form, method, setting and seed."""
    rows = []
    for form in options.forms:
        for method in options.methods:
            paper = explainer_of(method, {})
            images = TIMES * (2112 if method == "sobol" else paper.images())
            better = {"scramble": True} if method == "sobol" else {}
            reference: Setting = (
                method,
                {**better, **budget_field(method, images, better)},
                REFERENCE_SEED,
            )
            wanted: list[Setting] = [
                (method, changes, seed)
                for changes in [{}, *candidates(method, options.finalists)]
                for seed in range(options.seeds)
            ]
            started = time.perf_counter()
            [truth] = ask(detector, subject, form, [reference], options.cache)
            subject.memory.clear()
            # alone, so that what follows finds its questions answered
            ask(detector, subject, form, wanted[: options.seeds], options.cache)
            answers = ask(detector, subject, form, wanted, options.cache)
            subject.memory.clear()
            for (_, changes, seed), answer in zip(wanted, answers, strict=True):
                rows.append({
                    "frame": subject.name, "form": form, "method": method, "changes": changes,
                    "seed": seed, "images": answer["images"], "confidence": answer["confidence"],
                    **agreement(answer["scores"], truth["scores"]),
                })  # fmt: skip
            took = time.perf_counter() - started
            print(f"  {subject.name} {method} {form}: {took:.0f} s", file=sys.stderr)
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over frames and seeds, by form, method and setting; the paper's setting first.

    `difference` is Spearman's to the paper's budget, with a 95 % interval over frames.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row["form"], row["method"], row["changes"]]), []).append(row)
    table = []
    for key, members in groups.items():
        form, method, changes = json.loads(key)
        line = {"form": form, "method": method, "changes": changes, "asked": len(members)}
        for name in ("images", "spearman", "top1", "top3"):
            line[name] = statistics.fmean(member[name] for member in members)
        papers = groups[json.dumps([form, method, {}])]
        differences = [m["spearman"] - p["spearman"] for m, p in zip(members, papers, strict=True)]
        line["difference"] = dataclasses.asdict(
            mean_interval(differences, [member["frame"] for member in members])
        )
        table.append(line)
    return table


def cheapest(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By form and method: the paper's line, and the cheapest that is as good in all three."""
    chosen = []
    for form, method in dict.fromkeys((line["form"], line["method"]) for line in table):
        lines = [line for line in table if (line["form"], line["method"]) == (form, method)]
        paper = next(line for line in lines if not line["changes"])
        good = [
            line
            for line in lines
            if all(line[name] >= paper[name] - 1e-9 for name in ("spearman", "top1", "top3"))
        ]
        chosen += [paper, min(good, key=lambda line: line["images"])]
    return chosen


def show(table: list[dict[str, Any]]) -> None:
    """Lines of a table, as a person reads them."""
    for line in table:
        changes = " ".join(f"{k}={v}" for k, v in line["changes"].items()) or "paper"
        apart = line["difference"]
        print(
            f"{line['method']:6}{line['form']:9}{line['images']:7.0f} images  "
            f"Spearman {line['spearman']:.3f} ({apart['mean']:+.3f}, {apart['low']:+.3f} to "
            f"{apart['high']:+.3f})  top-1 {line['top1']:.2f}  top-3 {line['top3']:.2f}  {changes}"
        )


def subjects(
    detector: whyfake.Detector, paths: list[Path], other: Settings, seeds: int
) -> Generator[Subject, None, None]:
    """Frames that the detector calls fake, each with its adversarial samples."""
    wanted = [("paper", PRESETS["paper"], seed) for seed in (*range(seeds), REFERENCE_SEED)]
    wanted += [("other", other, seed) for seed in range(seeds)]
    for path in paths:
        samples: dict[tuple[str, int], tuple[FloatArray, int]] = {}
        for whose, settings, seed in wanted:
            quick = dataclasses.replace(settings, lime=Lime(samples=2))
            made = whyfake.explain(detector, path, method="lime-adv", settings=quick, seed=seed)
            if made.called_real or made.adversarial is None or made.adversary is None:
                break
            if not made.adversary.flipped:
                print(f"  {path.stem}: a sample does not flip", file=sys.stderr)
            samples[whose, seed] = made.adversarial, made.adversary.images
        else:
            target = Target(made.predicted, (made.classes.index(made.predicted),))
            yield Subject(path.stem, made.frame, made.region_map, target, samples)
            continue
        print(f"  {path.stem} is called real: left out", file=sys.stderr)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames", type=Path, nargs="+")
    parser.add_argument("--detector", default="bundled")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("fewer-questions-cache"))
    parser.add_argument("--config", type=Path, help="settings: regions, and how samples are made")
    parser.add_argument("--methods", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--finalists", action="store_true", help="only the settings that did best")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    settings = Settings()
    if options.config is not None:
        settings = read_settings(options.config, settings)
    rows: list[dict[str, Any]] = []
    with whyfake.load_detector(options.detector, device="cpu") as detector:
        for subject in subjects(detector, options.frames, settings, options.seeds):
            rows += study(detector, subject, options)
        report = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "detector": detector.card.name,
            "detector_sha256": detector.sha256,
            "images": detector.images_seen,
            "seeds": options.seeds,
            "cores": os.cpu_count(),
            "versions": {name: version(name) for name in ("whyfake", "numpy", "scipy")},
        }
    if not rows:
        raise SystemExit("no frame is called fake by this detector: nothing to measure")
    table = summarise(rows)
    show(table)
    print("\nthe paper's budget, and the cheapest at least as good:")
    show(cheapest(table))
    report |= {"table": table, "cheapest": cheapest(table), "rows": rows}
    write_file(options.out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
