"""Which adversarial sample makes the best explanations, and what does it cost?

    python studies/adversaries.py DETECTOR --pairs PAIRS --out FOLDER [--pgd]
    python studies/adversaries.py bundled --faces FACES --out FOLDER [--pgd]

PAIRS holds `fake/` and `mask/` with pictures of the same names; FACES is a folder as `training/`
reads it, and pictures are self-blends of people that the bundled detector has not seen. Frames that
the detector calls real are passed over.

Each adversary makes a sample of every frame. With it, `lime-adv` and `rise-adv` are made at fixed
budgets and with the same draws, so that explanations differ by the sample alone. Their `--top`
regions are attacked by NES and by Square (images to flip; a failed attack counts as its budget),
and their heat is held to the mask. Differences to `nes` are paired, with bootstrap intervals, whole
people drawn at a time. `nes, seed 1` is the same attack with other draws: what difference is luck.
PGD needs torch and the detector's gradient: no black box, but what gradients would give.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Generator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import whyfake
from whyfake.evaluate import energy_above_floor
from whyfake.evaluate.bootstrap import mean_interval
from whyfake.evaluate.flip_rate import images_to_flip
from whyfake.evaluate.stability import spearman
from whyfake.evaluate.top_regions import top_regions
from whyfake.evaluate.verdict import Case, judge
from whyfake.explainers import AdversarialSample, Lime, Nes, Rise, Square, Target, region_map
from whyfake.making import Maker
from whyfake.media import fit_to, load_picture
from whyfake.perturbation import FloatArray
from whyfake.runtime import Delivered, Detector, Failed, Job, drive, run
from whyfake.settings import Settings

ADVERSARIES: dict[str, dict[str, Any]] = {
    "nes": {},
    "nes, seed 1": {},
    "nes, 10 pairs, momentum .75": {"nes": {"pairs": 10, "momentum": 0.75}},
    "nes, cell 8, 10 pairs": {"nes": {"cell": 8, "pairs": 10}},
    "nes, cell 16, 5 pairs, momentum .5": {"nes": {"cell": 16, "pairs": 5, "momentum": 0.5}},
    "square": {"adversary": "square"},
    "square, 8 candidates": {"adversary": "square", "square": {"candidates": 8}},
    "square-bisect": {"adversary": "square-bisect"},
    "square-nes": {
        "adversary": "square-nes",
        "bisect": {"rounds": 2},
        "refine": {"steps": 2, "pairs": 20},
    },
}
"""What a settings file would say of each."""
JUDGES = {"nes": Nes(steps=50, pairs=5), "square": Square(queries=300)}
METRICS = ("to_flip_nes", "to_flip_square", "energy", "spearman")


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A frame (3, h, w) that the detector calls fake, its mask (h, w), and whose it is."""

    name: str
    who: str
    pixels: FloatArray
    mask: np.ndarray[Any, Any]


def from_pairs(pairs: Path, detector: Detector, count: int) -> list[Frame]:
    """Fakes of a folder of pairs, evenly spaced. They are of one clip."""
    names = sorted(path.name for path in (pairs / "fake").glob("*.png"))
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]
    frames = []
    for name in chosen:
        mask = fit_to(load_picture(pairs / "mask" / name).rgb, detector.size).max(axis=0) > 0.5
        pixels = fit_to(load_picture(pairs / "fake" / name).rgb, detector.size)
        frames.append(Frame(name, name, pixels, mask))
    return called_fake(frames, detector, count)


def from_faces(folder: Path, detector: Detector, count: int) -> list[Frame]:
    """Self-blends of people of the test split, one of each, until `count` are called fake."""
    from training.faces import read_faces
    from training.judge import TEST_ROUND
    from training.pairs import PLACE, make_plain_pair
    from whyfake.evaluate import SelfBlend

    frames, seen = [], set()
    for index, face in enumerate(read_faces(folder, "test", 0)):
        if face.identity in seen:
            continue
        seen.add(face.identity)
        pair = make_plain_pair(face, [0, TEST_ROUND, index], detector.size[0], SelfBlend())
        cells = np.kron(pair.mask, np.ones((PLACE, PLACE)))
        pixels = pair.fake.astype(np.float32) / np.float32(255)
        frames.append(Frame(face.name, face.identity, pixels, cells >= cells.max() / 2))
    return called_fake(frames, detector, count)


def called_fake(frames: list[Frame], detector: Detector, count: int) -> list[Frame]:
    """Those that the detector does not call real: the first `count`."""
    log_probs = detector.log_probs(np.stack([frame.pixels for frame in frames]))
    fake = [int(row.argmax()) not in detector.real for row in log_probs]
    return [frame for frame, wanted in zip(frames, fake, strict=True) if wanted][:count]


def pgd(
    model: Any, frame: FloatArray, real: tuple[int, ...], epsilon: float, alpha: float
) -> tuple[FloatArray, int, int]:
    """Sign steps up the true gradient until the flip: image, forward passes, backward passes."""
    import torch

    low = torch.from_numpy(np.maximum(frame - np.float32(epsilon), 0))
    high = torch.from_numpy(np.minimum(frame + np.float32(epsilon), 1))
    image = torch.from_numpy(frame.copy())
    for step in range(81):
        image.requires_grad_(True)
        row = model.log_probs(image[None])[0]
        others = [c for c in range(len(row)) if c not in real]
        margin = row[list(real)].amax() - row[others].amax()
        if margin.item() > 0 or step == 80:
            break
        (gradient,) = torch.autograd.grad(margin, image)
        image = (image.detach() + alpha * gradient.sign()).clamp(low, high)
    return image.detach().numpy(), step + 1, step


def pgd_sample(model: Any, frame: Frame, detector: Detector) -> tuple[AdversarialSample, int]:
    """PGD's image as a sample, judged by the real engine, and its backward passes."""
    image, forward, backward = pgd(model, frame.pixels, detector.real, 16 / 255, 1 / 255)
    before, after = detector.log_probs(np.stack([frame.pixels, image]))
    sample = AdversarialSample(
        image=image,
        log_probs=after,
        flipped=int(after.argmax()) in detector.real,
        steps=backward,
        images=forward,
        linf=float(np.abs(image - frame.pixels).max()),
        score_before=float(np.exp(before[list(detector.real)]).sum()),
        score_after=float(np.exp(after[list(detector.real)]).sum()),
    )
    return sample, backward


def samples_of(
    frame: Frame, detector: Detector, model: Any, seed: int
) -> tuple[dict[str, AdversarialSample], dict[str, dict[str, float]]]:
    """Every adversary's sample of a frame, and what it cost; one after the other, timed."""
    found, costs = {}, {}
    for name, changes in ADVERSARIES.items():
        attack = Settings().merge(changes, name).attack()
        maker = Maker(frame.pixels, detector, seed + name.endswith("seed 1"))
        before, started = detector.images_seen, time.perf_counter()
        sample = drive(maker.sample(attack), detector, frame.pixels)
        costs[name] = {"seconds": time.perf_counter() - started, "backward": 0}
        assert detector.images_seen - before == sample.images
        found[name] = sample
    if model is not None:
        started = time.perf_counter()
        found["pgd"], backward = pgd_sample(model, frame, detector)
        costs["pgd"] = {"seconds": time.perf_counter() - started, "backward": backward}
    for name, sample in found.items():
        change = sample.image - frame.pixels
        costs[name] |= {
            "flipped": float(sample.flipped),
            "images": sample.images,
            "linf": 255 * sample.linf,
            "l2": float(np.linalg.norm(change)),
            "p_real": sample.score_after,
        }
    return found, costs


def explained(
    frame: Frame,
    detector: Detector,
    samples: dict[str, AdversarialSample],
    explainers: dict[str, Any],
    top: int,
    seed: int,
) -> Generator[Any, FloatArray, None]:
    """The coroutine of one frame: explanations with every sample, judged. Yields a dict last."""
    maker = Maker(frame.pixels, detector, seed)
    regions = region_map("slic:50", frame.pixels)
    log_probs = detector.log_probs(frame.pixels[None])[0]
    column = int(log_probs.argmax())
    target = Target(detector.card.classes[column], (column,))
    accepted = tuple(c for c in range(len(log_probs)) if c not in detector.real)
    case = Case(frame.pixels, regions, log_probs, target, detector.real, accepted, seed)
    attacked: dict[tuple[str, tuple[int, ...]], float] = {}
    found: dict[str, dict[str, dict[str, float]]] = {}
    reference: dict[str, Any] = {}
    for method, explainer in explainers.items():
        for name, sample in samples.items():
            heatmap, scores = yield from maker.attribution(explainer, target, regions, sample.image)
            reference.setdefault(method, scores)
            signed = method == "lime-adv"
            labels = tuple(sorted(top_regions(scores, top, signed=signed)))
            values = {
                "energy": energy_above_floor(heatmap, frame.mask, signed=signed),
                "spearman": spearman(scores, reference[method]),
            }
            for judge_name, attack in JUDGES.items():
                if (judge_name, labels) not in attacked:
                    rng = maker.rng(f"judge {judge_name}")
                    verdict = yield from judge(attack, case, labels, rng)
                    attacked[judge_name, labels] = float(
                        images_to_flip(verdict.flipped, verdict.images, attack.images())
                    )
                values[f"to_flip_{judge_name}"] = attacked[judge_name, labels]
            found.setdefault(method, {})[name] = values
    yield {"frame": frame.name, "who": frame.who, "methods": found}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means by adversary, and differences to `nes` with 95 % intervals."""
    who = [row["who"] for row in rows]
    names = list(rows[0]["samples"])
    summary: dict[str, Any] = {}
    for name in names:
        costs = {
            key: float(np.mean([row["samples"][name][key] for row in rows]))
            for key in rows[0]["samples"][name]
        }
        ratio = [row["samples"][name]["seconds"] / row["samples"]["nes"]["seconds"] for row in rows]
        costs["time_to_nes"] = float(np.median(ratio))
        entry: dict[str, Any] = {"sample": costs}
        for method in rows[0]["methods"]:
            entry[method] = {}
            for metric in METRICS:
                values = np.array([row["methods"][method][name][metric] for row in rows])
                base = np.array([row["methods"][method]["nes"][metric] for row in rows])
                mean, difference = mean_interval(values, who), mean_interval(values - base, who)
                entry[method][metric] = {
                    "mean": mean.mean,
                    "difference": [difference.mean, difference.low, difference.high],
                }
        summary[name] = entry
    return summary


def table(summary: dict[str, Any]) -> str:
    """The summary as Markdown: the samples, then a table a method."""
    lines = [
        "| sample | flipped | images | time, nes = 1 | L∞ of 255 | L2 | p(real) |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, entry in summary.items():
        s = entry["sample"]
        images = f"{s['images']:,.1f}" + (f" + {s['backward']:.1f} back" if s["backward"] else "")
        lines.append(
            f"| {name} | {s['flipped']:.0%} | {images} | {s['time_to_nes']:.2f} | "
            f"{s['linf']:.1f} | {s['l2']:.2f} | {s['p_real']:.2f} |"
        )
    heads = ("to flip, NES judge", "to flip, Square judge", "energy in mask", "Spearman to nes")
    for method in ("lime-adv", "rise-adv"):
        lines += ["", f"**{method}**: mean, and difference to `nes` [95 % interval]", ""]
        lines += ["| sample | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        for name, entry in summary.items():
            cells = []
            for metric in METRICS:
                digits = 0 if metric.startswith("to_flip") else 2
                found = entry[method][metric]
                cell = f"{found['mean']:,.{digits}f}"
                if name != "nes" and metric != "spearman":
                    mean, low, high = found["difference"]
                    cell += f" ({mean:+,.{digits}f} [{low:+,.{digits}f}, {high:+,.{digits}f}])"
                cells.append(cell)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def options_of() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("detector")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path)
    source.add_argument("--faces", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--lime", type=int, default=192, help="images for lime-adv")
    parser.add_argument("--rise", type=int, default=256, help="images for rise-adv")
    parser.add_argument("--top", type=int, default=1, help="attack so many regions together")
    parser.add_argument("--pgd", action="store_true", help="needs torch (pip install '.[export]')")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Make samples, explain, judge, write what was found."""
    options = options_of()
    model = None
    started = time.perf_counter()
    with whyfake.load_detector(options.detector, device="cpu") as detector:
        if options.pairs is not None:
            frames = from_pairs(options.pairs, detector, options.frames)
        else:
            frames = from_faces(options.faces, detector, options.frames)
        if options.pgd:
            from onnx_torch import TorchDetector

            model = TorchDetector(options.detector)
            away = model.distance(detector, frames[0].pixels)
            if away > 1e-4:
                sys.exit(f"torch is {away:.2g} from ONNX Runtime on {options.detector}: no PGD")
        explainers = {"lime-adv": Lime(samples=options.lime), "rise-adv": Rise(masks=options.rise)}
        costs, jobs = [], []
        for index, frame in enumerate(frames):
            samples, cost = samples_of(frame, detector, model, options.seed)
            costs.append(cost)
            asking = explained(frame, detector, samples, explainers, options.top, options.seed)
            jobs.append(Job(index, frame.pixels, asking))
            print(f"{frame.name}: sampled", file=sys.stderr)
        rows: dict[int, Any] = {}
        for event in run(detector, iter(jobs)):
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Delivered) and not event.last:
                rows[event.key] = event.value | {"samples": costs[event.key]}
        report = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "detector": detector.card.name,
            "detector_sha256": detector.sha256,
            "pictures": "pairs" if options.pairs else "self-blends of unseen people",
            "seed": options.seed,
            "adversaries": ADVERSARIES,
            "images_per_explanation": {"lime-adv": options.lime, "rise-adv": options.rise},
            "top": options.top,
            "judges": {name: dataclasses.asdict(attack) for name, attack in JUDGES.items()},
            "images": detector.images_seen,
            "torch_from_onnxruntime": away if options.pgd else None,
            "seconds": round(time.perf_counter() - started, 1),
            "load": os.getloadavg(),
            "machine": {"cpu": platform.machine(), "cores": os.cpu_count()},
            "versions": {n: version(n) for n in ("whyfake", "numpy", "onnxruntime")},
        }
    ordered = [rows[index] for index in sorted(rows)]
    report["summary"], report["frames"] = summarise(ordered), ordered
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "adversaries.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (options.out / "adversaries.md").write_text(table(report["summary"]), "utf-8")
    print(table(report["summary"]))


if __name__ == "__main__":
    main()
