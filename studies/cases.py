"""Forgeries whose forged pixels are known, and that a detector was taken in by for that reason.

Two sources. *Pairs* of one frame, real and fake, of FaceForensics++: the whole fake, and the real
frame with only the fake's eyes, mouth or nose pasted in. *Self-blends* of people whom no detector
here was trained on: the whole face, or one part of it, blended with a changed copy of itself. A
prior on the centre of a face crop knows nothing of the parts.

A case is kept if the detector calls the original real and the forgery fake: then what was forged is
what decided. What was left out is counted.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.faces import read_faces
from whyfake.evaluate.forge import self_blend
from whyfake.media import fit_to, load_picture
from whyfake.runtime import Detector

Rgb = NDArray[np.uint8]
COLUMNS = ("rex", "rey", "lex", "ley", "nx", "ny", "rmx", "rmy", "lmx", "lmy")
SWAPS = ("eyes", "mouth", "nose")
BLENDS = ("face", "eyes", "mouth", "nose")
SPLIT_SEED = 0
"""That of the bundled detector's training, which never saw the people of the split `test`."""


@dataclass(frozen=True)
class Case:
    """A forgery: `fake` and `real` uint8 (H, W, 3), the forged pixels (H, W), five landmarks.

    `landmarks` (5, 2): right eye, left eye, nose, right and left corner of the mouth, x and y in
    pixels. `clip` names what is not independent: a clip's frames, a person's forgeries.
    """

    name: str
    group: str
    clip: str
    real: Rgb
    fake: Rgb
    mask: NDArray[np.bool_]
    landmarks: NDArray[np.float64]


def part_mask(
    size: tuple[int, int], landmarks: NDArray[np.float64], part: str
) -> NDArray[np.float64]:
    """Soft ellipses over a part of the face (h, w): 1 inside, 0 outside.

    `part` is eyes, right-eye, left-eye, mouth or nose; sizes are shares of the eyes' distance.
    """
    right, left, nose, *corners = landmarks
    apart = float(np.linalg.norm(left - right))
    ellipses = {
        "eyes": [(right, 0.36, 0.26), (left, 0.36, 0.26)],
        "right-eye": [(right, 0.36, 0.26)],
        "left-eye": [(left, 0.36, 0.26)],
        "mouth": [(np.mean(corners, axis=0), 0.62, 0.36)],
        "nose": [(nose - [0, 0.12 * apart], 0.3, 0.36)],
    }[part]
    rows, columns = np.indices(size)
    mask = np.zeros(size)
    for (x, y), wide, high in ellipses:
        distance = np.hypot((columns - x) / (wide * apart), (rows - y) / (high * apart))
        mask = np.maximum(mask, np.clip((1.15 - distance) / 0.3, 0, 1))
    return mask


def paste(onto: Rgb, source: Rgb, weight: NDArray[np.float64]) -> Rgb:
    """`onto` with `source` where `weight` (H, W) is 1, mixed in between."""
    mixed = onto + weight[..., None] * (source.astype(np.float64) - onto)
    return np.rint(mixed).astype(np.uint8)


def pair_cases(pairs: Path, seed: int) -> dict[str, Iterator[Case]]:
    """By group: the whole fakes of a folder of pairs, and its part swaps, in an order drawn by
    `seed` (neighbouring frames are nearly one).
    """
    with open(pairs.parent / "index.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["method"] == pairs.name]
    order = np.random.default_rng([seed, 1]).permutation(len(rows))

    def cases(part: str) -> Iterator[Case]:
        for index in order:
            name = f"{int(rows[index]['frame']):04d}"
            marks = np.array([float(rows[index][key]) for key in COLUMNS]).reshape(5, 2)
            real, fake = (load_picture(pairs / k / f"{name}.png").rgb for k in ("real", "fake"))
            if part == "whole":
                mask = load_picture(pairs / "mask" / f"{name}.png").rgb.max(axis=2) > 127
            else:
                weight = part_mask(real.shape[:2], marks, part)
                fake, mask = paste(real, fake, weight), weight > 0.5
            group = f"{pairs.name}-{part}"
            yield Case(f"{group}-{name}", group, pairs.name, real, fake, mask, marks)

    return {f"{pairs.name}-{part}": cases(part) for part in ("whole", *SWAPS)}


def blend_cases(faces: Path, seed: int) -> dict[str, Iterator[Case]]:
    """By group: self-blends of one picture of each unseen person."""
    people = {face.identity: face for face in reversed(read_faces(faces, "test", SPLIT_SEED))}
    order = np.random.default_rng([seed, 2]).permutation(sorted(people))

    def cases(part: str) -> Iterator[Case]:
        for number, identity in enumerate(order):
            face = people[identity]
            points = face.landmarks.astype(np.float64)
            eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
            marks = np.stack([*eyes, points[30], points[48], points[54]])
            made = self_blend(
                face.rgb, face.landmarks, part=part, seed=[seed, number, BLENDS.index(part)]
            )
            group = f"blend-{part}"
            name = f"{group}-{identity}"
            yield Case(name, group, identity, made.original, made.image, made.region, marks)

    return {f"blend-{part}": cases(part) for part in BLENDS}


def kept(detector: Detector, cases: Iterator[Case], counts: Counter[str]) -> Iterator[Case]:
    """The cases that count; `counts` adds up what became of all. Two images a case."""
    for case in cases:
        frames = np.stack([fit_to(rgb, detector.size) for rgb in (case.real, case.fake)])
        real, fake = (int(c) in detector.real for c in detector.log_probs(frames).argmax(axis=1))
        fate = "used" if real and not fake else "missed" if fake else "original called fake"
        counts[fate] += 1
        if fate == "used":
            yield case


def choose(
    detector: Detector, sources: dict[str, Iterator[Case]], most: int
) -> tuple[list[Case], dict[str, Counter[str]]]:
    """Up to `most` cases of each group, in turns, so that a run that is stopped has some of all.

    Beside them, by group, what became of every case that was looked at.
    """
    counts: dict[str, Counter[str]] = {group: Counter() for group in sources}
    found = []
    for group, cases in sources.items():
        usable = kept(detector, cases, counts[group])
        found.append([case for case, _ in zip(usable, range(most), strict=False)])
    turns = [case for turn in zip_longest(*found) for case in turn if case is not None]
    return turns, counts


def write_manifest(cases: list[Case], folder: Path) -> Path:
    """Write forgeries, originals, masks and the manifest that `whyfake evaluate` reads; its path.

    `cases.json` beside it says of each forgery which picture is its original.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, known = [], {}
    for case in cases:
        paths = [(folder / f"{case.name}{end}.png").absolute() for end in ("", "-real", "-mask")]
        pictures = (case.fake, case.real, (case.mask * 255).astype(np.uint8))
        for path, picture in zip(paths, pictures, strict=True):
            Image.fromarray(picture).save(path)
        numbers = " ".join(f"{value:g}" for value in case.landmarks.ravel())
        rows.append([paths[0], "fake", case.group, case.clip, paths[2], numbers])
        known[str(paths[0])] = {"real": str(paths[1]), "landmarks": case.landmarks.tolist()}
    (folder / "cases.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    path = folder / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "group", "clip", "mask", "landmarks"])
        writer.writerows(rows)
    return path
