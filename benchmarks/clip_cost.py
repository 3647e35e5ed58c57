"""What clips cost with and without their neighbours' help, and whether the answers agree.

    whyfake video CLIP -d DETECTOR --every 10 --overlay none --cold -o cold
    whyfake video CLIP -d DETECTOR --every 10 --overlay none -o warm
    python benchmarks/clip_cost.py cold/CLIP warm/CLIP … --out benchmarks/results/clip_cost.json

The first folder is what the others are held against, on the frames that all of them have: Spearman
correlation of region scores, same best region, overlap of the best three. Asks nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from whyfake import Explanation, __version__


def frames_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The explained faces of a clip's folder, by name."""
    rows = map(json.loads, (folder / "frames.jsonl").read_text().splitlines())
    return {row["id"]: row for row in rows if row["explained"]}


def agreement(first: Path, other: Path, names: list[str], method: str) -> dict[str, float]:
    """How alike two folders rank the regions of the same frames."""
    spearman, same, three = [], [], []
    for name in names:
        a, b = (Explanation.load(folder / "frames" / name / method) for folder in (first, other))
        if not np.array_equal(a.region_map, b.region_map):
            raise SystemExit(f"{name}: the two folders cut it into other regions")
        spearman.append(spearmanr(a.region_scores, b.region_scores)[0])
        best = [[r["region"] for r in e.regions[:3]] for e in (a, b)]
        same.append(best[0][0] == best[1][0])
        three.append(len(set(best[0]) & set(best[1])) / 3)
    return {
        "spearman": float(np.mean(spearman)),
        "same_best": float(np.mean(same)),
        "top_3_overlap": float(np.mean(three)),
    }


def main() -> None:
    """Print a line a folder, and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--method", default="lime-adv")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    every = {folder: frames_of(folder) for folder in options.folders}
    names = sorted(set.intersection(*(set(rows) for rows in every.values())))
    lines = []
    for folder, rows in every.items():
        summary = json.loads((folder / "summary.json").read_text())
        made = [row["methods"][options.method] for row in rows.values()]
        line = {
            "folder": folder.parent.name,
            "explained": len(rows),
            "flipped": sum(bool(m["flipped"]) for m in made),
            "images_per_explained": summary["images_per_explained"],
            "adversary_images": float(np.mean([m["image_counts"]["adversary"] for m in made])),
            "linf_255": float(np.mean([255 * m["adversary"]["linf"] for m in made])),
            "seed": summary["run"]["seed"],
            "samples": summary["run"]["settings"]["lime"]["samples"],
            "warm_start": summary["run"]["warm_start"],
            **agreement(options.folders[0], folder, names, options.method),
        }
        lines.append(line)
        print(
            "{folder:12} {explained:3} explained, {flipped:3} flipped, {images_per_explained:7.1f} "
            "images each ({adversary_images:6.1f} for the sample, L∞ {linf_255:4.1f}/255); "
            "Spearman {spearman:.2f}, same best {same_best:.2f}, top 3 {top_3_overlap:.2f}".format(
                **line
            )
        )
    if options.out is not None:
        about = {
            "frames_compared": len(names),
            "method": options.method,
            "detector": summary["run"]["detector"]["name"],
            "engine": summary["run"]["detector"]["engine"],
            "clip": summary["clip"],
            "machine": f"{platform.machine()}, {platform.system()}",
            "whyfake": __version__,
            "date": date.today().isoformat(),
        }
        options.out.write_text(json.dumps({**about, "runs": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
