"""Do explanations find what was manipulated, and what the detector uses?

    python benchmarks/truth_on_pairs.py PAIRS --detector DETECTOR.onnx --out FILE.json

PAIRS is a folder with `fake/NAME.png` and `mask/NAME.png` (white where the face was manipulated).
For every frame that the detector calls fake, each method is asked with its default settings, and:

- energy: the share of positive heat inside the mask; RISE's map has a floor, the mean score, that
  spreads its heat evenly, so `above` measures the heat of unsigned maps from their minimum;
- precision: the share of the top region's pixels inside the mask;
- steps to flip: NES steps (at most 50) until the detector says *real* when only the pixels of
  the top 1, 2 or 3 regions may move; a frame that does not flip counts as 50.

Two controls need no detector and stand beside them: a Gaussian in the centre of the frame (σ a
sixth of each side), and random regions. Face crops have their face in the centre, so the first is
hard to beat by overlap; steps to flip ask the detector instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Generator, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import whyfake
from whyfake.evaluate import energy_above_floor, energy_in_mask, top_region_precision
from whyfake.explainers import AdversarialSample, Nes, region_means
from whyfake.media import fit_to, load_picture
from whyfake.perturbation import FloatArray, NoiseStep
from whyfake.runtime import Delivered, Failed, Job, run

ATTACK = Nes(steps=50)
TOPS = (1, 2, 3)
CONTROLS = ("gaussian", "random")


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One method's (or control's) answer for one frame."""

    name: str
    heatmap: FloatArray
    regions: list[int]
    signed: bool = False


def centred_gaussian(height: int, width: int) -> FloatArray:
    """A Gaussian in the middle, σ a sixth of each side."""
    rows = np.exp(-0.5 * ((np.arange(height) - (height - 1) / 2) / (height / 6)) ** 2)
    columns = np.exp(-0.5 * ((np.arange(width) - (width - 1) / 2) / (width / 6)) ** 2)
    return np.outer(rows, columns).astype(np.float32)


def controls(regions: NDArray[np.int32], seed: int) -> Iterator[Ranking]:
    """The rankings that look at neither picture nor detector."""
    gaussian = centred_gaussian(*regions.shape)
    order = np.argsort(-region_means(gaussian, regions), kind="stable")
    yield Ranking("gaussian", gaussian, order.tolist())
    random = np.random.default_rng(seed).permutation(int(regions.max()) + 1)
    flat = np.ones(regions.shape, np.float32)  # no relief: it has its energy from zero, or none
    yield Ranking("random", flat, random.tolist(), signed=True)


def attack(
    frame: FloatArray, real: tuple[int, ...], mask: FloatArray, seed: list[int]
) -> Generator[NoiseStep, FloatArray, AdversarialSample]:
    """NES on the pixels of a mask alone."""
    rng = np.random.default_rng(seed)
    return ATTACK.attack(frame, real, seed=seed[0], rng=rng, mask=mask)


def study(
    detector: whyfake.Detector, fakes: list[Path], masks: Path, methods: str, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows per frame and method, and the fate of NES per frame."""
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    jobs: list[Job] = []
    explanations = whyfake.explain_many(detector, fakes, method=methods, seed=seed)
    per_frame: dict[str, list[whyfake.Explanation]] = {}
    for explanation in explanations:
        per_frame.setdefault(explanation.source, []).append(explanation)
        print(f"  {Path(explanation.source).name} {explanation.method}", file=sys.stderr)
    for number, (source, of_frame) in enumerate(per_frame.items()):
        first = of_frame[0]
        if first.called_real:
            samples.append({"frame": Path(source).name, "called": "real"})
            continue
        samples.append(fate_of_sample(of_frame))
        mask_rgb = load_picture(masks / Path(source).name).rgb
        mask = fit_to(mask_rgb, detector.size)[0] > 0.5
        rankings = [
            Ranking(e.method, e.heatmap, [r["region"] for r in e.regions], e.signed)
            for e in of_frame
        ]
        for ranking in (*rankings, *controls(first.region_map, seed + number)):
            row = {
                "frame": Path(source).name,
                "method": ranking.name,
                "energy": energy_in_mask(ranking.heatmap, mask),
                "above": energy_above_floor(ranking.heatmap, mask, signed=ranking.signed),
                "precision": top_region_precision(first.region_map, ranking.regions[0], mask),
                "area": float(mask.mean()),
                "steps": {},
            }
            rows.append(row)
            for top in TOPS:
                moving = np.isin(first.region_map, ranking.regions[:top]).astype(np.float32)
                coroutine = attack(first.frame, detector.real, moving, [seed, number, top])
                jobs.append(Job((len(rows) - 1, top), first.frame, coroutine))
    for event in run(detector, jobs):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Delivered):
            index, top = event.key
            sample: AdversarialSample = event.value
            rows[index]["steps"][top] = sample.steps if sample.flipped else None
    return rows, samples


def fate_of_sample(of_frame: list[whyfake.Explanation]) -> dict[str, Any]:
    """How NES fared on a frame, and whether its sample stays where it must."""
    adversarial = next(e for e in of_frame if e.adversary is not None)
    assert adversarial.adversary is not None
    assert adversarial.adversarial is not None
    image, frame = adversarial.adversarial, adversarial.frame
    return {
        "frame": Path(adversarial.source).name,
        "called": "fake",
        **dataclasses.asdict(adversarial.adversary),
        "inside": bool(
            np.abs(image - frame).max() <= Nes().epsilon + 1e-6
            and image.min() >= 0
            and image.max() <= 1
        ),
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means per method, in the order asked; a frame that did not flip counts as the most steps."""
    table = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        summary = {
            "energy": statistics.fmean(r["energy"] for r in mine),
            "above": statistics.fmean(r["above"] for r in mine),
            "precision": statistics.fmean(r["precision"] for r in mine),
        }
        for top in TOPS:
            steps = [r["steps"][top] for r in mine]
            summary[f"steps_{top}"] = statistics.fmean(
                ATTACK.steps if s is None else s for s in steps
            )
            summary[f"flipped_{top}"] = sum(s is not None for s in steps) / len(steps)
        summary["steps_sum"] = sum(summary[f"steps_{top}"] for top in TOPS)
        table[name] = summary
    return table


def print_summary(table: dict[str, dict[str, float]], samples: list[dict[str, Any]]) -> None:
    """The table as a person reads it."""
    flagged = [s for s in samples if s["called"] == "fake"]
    flips = sum(s["flipped"] for s in flagged)
    print(
        f"{len(samples)} frames, {len(flagged)} called fake; NES flips {flips} of {len(flagged)} "
        f"({flips / len(flagged):.0%}), {statistics.fmean(s['steps'] for s in flagged):.1f} steps, "
        f"{statistics.fmean(s['images'] for s in flagged):.0f} images, L∞ "
        f"{255 * statistics.fmean(s['linf'] for s in flagged):.1f}/255; "
        f"inside the ball and [0, 1]: {sum(s['inside'] for s in flagged)} of {len(flagged)}"
    )
    print(
        f"{'method':10} {'energy':>7} {'above':>6} {'precision':>10} {'steps top-1':>12} "
        f"{'flipped':>8} {'top-2':>6} {'top-3':>6} {'sum':>6}"
    )
    for name, row in table.items():
        print(
            f"{name:10} {row['energy']:7.2f} {row['above']:6.2f} {row['precision']:10.2f} "
            f"{row['steps_1']:12.1f} {row['flipped_1']:8.0%} {row['steps_2']:6.1f} "
            f"{row['steps_3']:6.1f} {row['steps_sum']:6.1f}"
        )


def main() -> None:
    """Run the study, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", type=Path, help="folder with fake/ and mask/")
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--frames", type=int, help="so many, evenly spaced; all by default")
    parser.add_argument("--methods", default="all", help="comma-separated; paper, or all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for every row")
    options = parser.parse_args()
    fakes = sorted((options.pairs / "fake").glob("*.png"))
    if options.frames:
        chosen = np.linspace(0, len(fakes) - 1, options.frames).round().astype(int)
        fakes = [fakes[index] for index in chosen]
    with whyfake.load_detector(options.detector) as detector:
        rows, samples = study(
            detector, fakes, options.pairs / "mask", options.methods, options.seed
        )
        asked = detector.images_seen
    table = summarise(rows)
    print_summary(table, samples)
    if options.out:
        report = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "whyfake": whyfake.__version__,
            "detector": detector.card.name,
            "detector_sha256": detector.sha256,
            "seed": options.seed,
            "frames": len(fakes),
            "mask_area": statistics.fmean(row["area"] for row in rows),
            "images": asked,
            "summary": table,
            "samples": samples,
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
