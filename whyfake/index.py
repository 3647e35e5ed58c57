"""Reads back a folder of explained pictures: what is finished there, and frames.jsonl over it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import OutputError, PictureError
from .explainers import ADVERSARIAL, base_name, is_signed, options
from .explanation import Explanation
from .files import write_file
from .media import fit_to, load_picture, printable
from .request import Request
from .results import Results
from .runtime import Detector

TOP = 5
"""Regions of each explanation that frames.jsonl has."""


def unfinished(
    sources: Sequence[str], request: Request, detector: Detector, results: Results
) -> list[str]:
    """Those of the pictures that are not explained yet by all methods in the results' folder.

    Raises OutputError where an explanation stands there that was made with other settings, of
    another picture, or by another detector: one folder never holds a mix. Costs no images.
    """
    return [source for source in sources if not _is_finished(source, request, detector, results)]


def _is_finished(source: str, request: Request, detector: Detector, results: Results) -> bool:
    finished = True
    folder = results.folder / results.name_of(printable(source))
    for method in request.methods:
        if not (folder / method / "explanation.json").exists():
            finished = False
            continue
        stored = Explanation.load(folder / method)
        differs = _differences(stored, source, request, detector, method)
        if differs:
            raise OutputError(
                f"{folder / method}: made with other settings ({'; '.join(differs[:3])}): choose "
                "another --out, or leave out --resume to make it again"
            )
    return finished


def _differences(
    stored: Explanation, source: str, request: Request, detector: Detector, method: str
) -> list[str]:
    """What this request would have done otherwise."""
    explainer = request.settings.explainer(base_name(method))
    wanted: dict[str, Any] = {
        "seed": request.seed,
        "detector": detector.sha256,
        "engine": f"{detector.engine.name}, {detector.engine.device}",
        "regions": request.settings.regions,
        "target": request.target,
        explainer.name: options(explainer),
    }
    found: dict[str, Any] = {
        "seed": stored.seed,
        "detector": stored.detector["sha256"],
        "engine": f"{stored.detector['engine']}, {stored.detector['device']}",
        "regions": stored.settings.get("regions"),
        "target": stored.settings.get("target"),
        explainer.name: stored.settings.get(explainer.name),
    }
    if "batch" in stored.detector:  # older results were all made by the rule
        engine = detector.engine
        wanted["batch"], found["batch"] = engine.batch, stored.detector["batch"]
        wanted["threads"], found["threads"] = engine.threads, stored.detector.get("threads", 1)
    if stored.adversary is not None:
        attack = request.settings.attack()
        wanted["adversary"], found["adversary"] = attack.name, stored.adversary.method
        wanted[attack.name] = options(attack)
        found[attack.name] = stored.settings.get(attack.name)
    elif not (method.endswith(ADVERSARIAL) and not stored.called_real):
        wanted["baseline"] = request.baseline or explainer.baseline
        found["baseline"] = stored.baseline
    differs = [
        f"{key}: {json.dumps(found[key])[:60]}, now {json.dumps(wanted[key])[:60]}"
        for key in wanted
        if found[key] != wanted[key]
    ]
    try:
        frame = fit_to(load_picture(source).rgb, detector.size)
    except PictureError:
        return differs  # the run will say so
    if not np.array_equal(frame, stored.frame):
        differs.append("the picture itself has changed")
    return differs


def write_index(
    results: Results, sources: Sequence[str], request: Request, failed: Mapping[str, str]
) -> Path:
    """Write `frames.jsonl`: a line a picture, in the order given; returns its path.

    Raises OutputError.
    """
    lines = []
    for source in map(printable, sources):
        row: dict[str, Any] = {"source": source, "explained": False, "flags": [], "methods": {}}
        name = results.name_of(source)
        for method in request.methods:
            try:
                text = (results.folder / name / method / "explanation.json").read_text("utf-8")
            except OSError:
                continue
            data = json.loads(text)
            row["predicted"], row["scores"] = data["predicted"], data["scores"]
            row["methods"][method] = method_record(data, f"{name}/{method}")
        row["explained"] = source not in failed and len(row["methods"]) == len(request.methods)
        if any(m["flipped"] is False for m in row["methods"].values()):
            row["flags"].append("not flipped")
        if source in failed:
            row["flags"].append("failed")
            row["error"] = failed[source]
        row["images"] = sum(m["images"] for m in row["methods"].values())
        row["seconds"] = round(sum(m["seconds"] for m in row["methods"].values()), 4)
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    path = results.folder / "frames.jsonl"
    write_file(path, "".join(lines).encode())
    return path


def method_record(
    data: Mapping[str, Any], folder: str, parts: Sequence[str] | None = None
) -> dict[str, Any]:
    """An explanation in short, from what explanation.json holds: its fate and its best regions.

    `parts` names the part of the face that each region lies on, where that is known.
    """
    signed = is_signed(data["method"])
    best = [r for r in data["regions"][:TOP] if r["score"] > 1e-9 or not signed]
    adversary = data["adversary"]
    scores = data["scores"]
    target = data["target"]
    p_target = (
        scores[target]
        if target in scores
        else sum(p for name, p in scores.items() if name not in data["real"])
    )
    return {
        "target": target,
        "p_target": p_target,
        "baseline": data["baseline"],
        "flipped": None if adversary is None else adversary["flipped"],
        "adversary": adversary,
        "top_regions": [
            {**region, "part": None if parts is None else parts[region["region"]]}
            for region in best
        ],
        "notes": list(data["notes"]),
        "images": data["images"],
        "image_counts": dict(data["image_counts"]),
        "seconds": data["seconds"],
        "files": {
            "explanation": f"{folder}/explanation.json",
            "arrays": f"{folder}/arrays.npz",
            "overlay": f"{folder}/overlay.png",
        },
    }
