"""Do explanations find what a detector uses, also where a prior on face crops cannot?

    python studies/truth.py PAIRS --detector DETECTOR.onnx --out FOLDER

PAIRS holds `real/`, `fake/` and `mask/` with pictures of the same names, and `index.csv` beside it
with five landmarks a picture (columns method, frame, rex … lmy). Three groups are judged:

- whole: the fakes as they are, with their masks;
- eyes, mouth: the real picture with only the fake's eyes, or mouth, pasted in. The rest is real, so
  a true explanation must point there, and a Gaussian in the centre of the crop cannot.

Writes the manifest, the ledger, the tables (tables.md) and plots, and `run.json`: machine,
versions, seeds. A part that the detector does not call fake counts as misclassified and is not
judged.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import platform
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import whyfake
from whyfake.evaluate.manifest import fitted, read_manifest, refuse
from whyfake.evaluation import Done, evaluate, make_plan
from whyfake.evaluation.facts import gather
from whyfake.evaluation.plots import plot
from whyfake.evaluation.tables import tables
from whyfake.ledger import Ledger
from whyfake.media import load_picture
from whyfake.report.tables import markdown
from whyfake.settings import Settings

COLUMNS = ("rex", "rey", "lex", "ley", "nx", "ny", "rmx", "rmy", "lmx", "lmy")


def landmarks(pairs: Path) -> dict[str, list[float]]:
    """Ten numbers for each picture of these pairs, by its name without ending."""
    with open(pairs.parent / "index.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["method"] == pairs.name]
    return {f"{int(row['frame']):04d}": [float(row[key]) for key in COLUMNS] for row in rows}


def part_mask(size: tuple[int, int], marks: list[float], part: str) -> NDArray[np.float64]:
    """Soft ellipses over both eyes, or the mouth (h, w): 1 inside, 0 outside, by landmarks."""
    points = np.array(marks).reshape(5, 2)
    apart = np.linalg.norm(points[1] - points[0])
    if part == "eyes":
        ellipses = [(points[0], 0.36, 0.26), (points[1], 0.36, 0.26)]
    else:
        ellipses = [((points[3] + points[4]) / 2, 0.62, 0.36)]
    rows, columns = np.indices(size)
    mask = np.zeros(size)
    for (x, y), wide, high in ellipses:
        distance = np.hypot((columns - x) / (wide * apart), (rows - y) / (high * apart))
        mask = np.maximum(mask, np.clip((1.15 - distance) / 0.3, 0, 1))
    return mask


def build(pairs: Path, names: list[str], out: Path) -> Path:
    """Write pictures, masks and the manifest; its path."""
    marks = landmarks(pairs)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        numbers = " ".join(f"{value:g}" for value in marks[name])
        fake, mask = pairs / "fake" / f"{name}.png", pairs / "mask" / f"{name}.png"
        rows.append([fake.absolute(), "fake", "whole", "clip", mask.absolute(), numbers])
        real_rgb, fake_rgb = (
            load_picture(pairs / kind / f"{name}.png").rgb for kind in ("real", "fake")
        )
        for part in ("eyes", "mouth"):
            weight = part_mask(real_rgb.shape[:2], marks[name], part)
            mixed = real_rgb + weight[..., None] * (fake_rgb.astype(float) - real_rgb)
            picture, truth = out / f"{name}-{part}.png", out / f"{name}-{part}-mask.png"
            Image.fromarray(np.rint(mixed).astype(np.uint8)).save(picture)
            Image.fromarray(((weight > 0.5) * 255).astype(np.uint8)).save(truth)
            rows.append([picture.absolute(), "fake", part, "clip", truth.absolute(), numbers])
    path = out / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group", "clip", "mask", "landmarks"])
        writer.writerows(rows)
    return path


def main() -> None:
    """Build the cases, judge them, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=2, help="pairs, evenly spaced")
    parser.add_argument("--samples", type=int, default=500, help="images an explanation may ask")
    parser.add_argument("--tops", type=int, default=1, help="attack the top 1 … so many regions")
    parser.add_argument("--suite", default="all")
    parser.add_argument("--without", default="", help="parts of the suite to leave out, by commas")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = sorted(path.stem for path in (options.pairs / "fake").glob("*.png"))
    chosen = np.linspace(0, len(names) - 1, options.frames).round().astype(int)
    manifest = read_manifest(
        build(options.pairs, [names[i] for i in chosen], options.out / "cases")
    )
    settings = Settings().with_budget(options.samples)
    plan = make_plan("paper", suite=options.suite, seed=options.seed, settings=settings)
    plan = dataclasses.replace(
        plan,
        tops=tuple(range(1, options.tops + 1)),
        parts=plan.parts - set(options.without.split(",")),
    )
    started = time.perf_counter()
    with (
        whyfake.load_detector(options.detector) as detector,
        Ledger(options.out, write=True) as ledger,
    ):
        usable = fitted(manifest, detector.card.classes, detector.card.real)
        refuse(usable, skip_bad=False)
        for event in evaluate(detector, usable.entries, plan, ledger):
            if isinstance(event, Done):
                print(f"{Path(event.path).name}: {event.error or 'done'}", file=sys.stderr)
        facts = gather(ledger, detector.sha256)
        images = detector.images_seen
    (options.out / "tables.md").write_text(markdown(tables(facts)), encoding="utf-8")
    plot(facts, options.out / "plots")
    report = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "detector": facts.detector,
        "detector_sha256": detector.sha256,
        "pairs": options.pairs.name,
        "names": [names[i] for i in chosen],
        "seeds": plan.seeds,
        "parts": sorted(plan.parts),
        "samples": options.samples,
        "images": images,
        "seconds": round(time.perf_counter() - started, 1),
        "load": os.getloadavg(),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {
            name: version(name) for name in ("whyfake", "numpy", "scikit-image", "onnxruntime")
        },
    }
    (options.out / "run.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(tables(facts)))


if __name__ == "__main__":
    main()
