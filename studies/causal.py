"""Which part of a face decides, and do explanations say so? After `studies.truth`, on its folder:

    python -m studies.causal OUT --detector DETECTOR.onnx

For every whole-face forgery that was judged, single parts are swapped between the forgery and its
original, and the detector is asked what that does: the log-odds of *fake* gained when the fake's
part is pasted onto the real frame, and lost when the real part is pasted onto the fake. Their mean
is the part's effect. An explanation's heat in a part is its mean over the part's pixels. Then:

- eyes over nose, mouth over nose: how often the heat of the one exceeds that of the other, beside
  how often the detector's effects do, and how often the two agree, case by case;
- rank: Spearman between effects and heats of right eye, left eye, mouth and nose.

Writes causal.json and causal.md into OUT. Ten images a case.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import whyfake
from whyfake.evaluate.bootstrap import Estimate, mean_interval
from whyfake.evaluate.controls import centred_gaussian
from whyfake.evaluate.stability import spearman
from whyfake.evaluation.state import array_of
from whyfake.explainers import Target
from whyfake.ledger import Ledger, PictureRow
from whyfake.media import fit_to, load_picture
from whyfake.report.tables import Cell, Table, markdown
from whyfake.runtime import Detector

from .cases import Rgb, part_mask, paste

PARTS = ("right-eye", "left-eye", "mouth", "nose")
WHOLE = ("-whole", "blend-face")
PAIRS = (("eyes", "nose"), ("mouth", "nose"))
GAUSSIAN, EFFECT = "gaussian", "the detector"

Values = dict[str, float]


def effects(
    detector: Detector, real: Rgb, fake: Rgb, masks: dict[str, NDArray[np.float64]]
) -> Values:
    """Each part's effect on the log-odds of *fake*; 2 + 2·parts images."""
    columns = tuple(c for c in range(len(detector.card.classes)) if c not in detector.real)
    pictures = [real, fake]
    for mask in masks.values():
        pictures += [paste(real, fake, mask), paste(fake, real, mask)]
    frames = np.stack([fit_to(picture, detector.size) for picture in pictures])
    odds = Target("fake", columns).score(detector.log_probs(frames), "log_odds")
    gained, lost = odds[2::2] - odds[0], odds[1] - odds[3::2]
    return dict(zip(masks, ((gained + lost) / 2).tolist(), strict=True))


def heats(heatmap: NDArray[np.float32], masks: dict[str, NDArray[np.float64]]) -> Values:
    """The mean heat in each part; masks are brought to the map's size."""
    found = {}
    for part, mask in masks.items():
        weight = fit_to(np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2), heatmap.shape)[0]
        found[part] = float((heatmap * weight).sum() / weight.sum())
    return found


def maps_of(ledger: Ledger, detector: Detector, row: PictureRow) -> dict[str, NDArray[np.float32]]:
    """The first seed's heat map of each method, and the control that looks at nothing."""
    assert row.frame is not None
    known = ledger.of_frame(detector.sha256, row.frame).values()
    made = [record for record in known if record.kind == "explanation" and record.blob is not None]
    first = min(record.seed for record in made)
    maps = {r.method: array_of(r, detector.size) for r in made if r.seed == first}
    return maps | {GAUSSIAN: centred_gaussian(*detector.size)}


def case_values(
    detector: Detector, row: PictureRow, known: dict[str, Any], ledger: Ledger
) -> dict[str, Values]:
    """What one case says: the detector's effects, and the heats of each method."""
    marks = np.array(known["landmarks"])
    real, fake = load_picture(known["real"]).rgb, load_picture(row.path).rgb
    masks = {part: part_mask(real.shape[:2], marks, part) for part in (*PARTS, "eyes")}
    found = {EFFECT: effects(detector, real, fake, masks)}
    for method, heatmap in maps_of(ledger, detector, row).items():
        found[method] = heats(heatmap, masks)
    return found


def compared(cases: list[tuple[str, dict[str, Values]]]) -> tuple[Table, list[dict[str, Any]]]:
    """The table of all methods, and its numbers."""
    clips = [clip for clip, _ in cases]
    methods = [m for m in (EFFECT, *whyfake.METHODS, GAUSSIAN) if m in cases[0][1]]
    rows: list[list[Cell]] = []
    plain = []
    for method in methods:
        found: dict[str, Estimate] = {}
        for better, worse in PAIRS:
            above = [found_of[method][better] > found_of[method][worse] for _, found_of in cases]
            truth = [found_of[EFFECT][better] > found_of[EFFECT][worse] for _, found_of in cases]
            found[f"{better} over {worse}"] = mean_interval(np.array(above, float), clips)
            if method != EFFECT:
                agree = np.equal(above, truth).astype(float)
                found[f"agrees, {better}"] = mean_interval(agree, clips)
        if method != EFFECT:
            ranks = [
                spearman(*(np.array([v[m][part] for part in PARTS]) for m in (EFFECT, method)))
                for _, v in cases
            ]
            found["rank"] = mean_interval(ranks, clips)
        columns = ["eyes over nose", "agrees, eyes", "mouth over nose", "agrees, mouth", "rank"]
        rows.append([method, len(cases), *(found.get(name, "") for name in columns)])
        plain.append({"method": method, **{k: vars(e) for k, e in found.items()}})
    note = (
        "How often heat (for the detector: its own response to swapped parts) puts one part over "
        "another, how often that agrees with the detector on the same case, and the rank "
        "correlation over both eyes, mouth and nose. 95 % intervals over clips or people."
    )
    return Table("Which part decides", ["method", "cases", *columns], rows, note), plain


def main() -> None:
    """Ask, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="a folder of studies.truth")
    parser.add_argument("--detector", default="bundled")
    options = parser.parse_args()
    known = json.loads((options.out / "cases" / "cases.json").read_text(encoding="utf-8"))
    with whyfake.load_detector(options.detector) as detector, Ledger(options.out) as ledger:
        whole = [
            row
            for row in ledger.pictures(detector.sha256)
            if row.complete and row.path in known and any(end in row.group for end in WHOLE)
        ]
        if not whole:
            parser.error(f"{options.out} holds no whole-face forgery that was judged")
        cases = [
            (row.group, row.clip, case_values(detector, row, known[row.path], ledger))
            for row in whole
        ]
        name = detector.card.name
    report: dict[str, Any] = {"detector": name, "groups": {}, "cases": []}
    made = []
    for group in sorted({group for group, _, _ in cases}):
        table, plain = compared([(clip, values) for g, clip, values in cases if g == group])
        made.append(Table(f"{table.title}: {group}", table.columns, table.rows, table.note))
        report["groups"][group] = plain
    report["cases"] = [
        {"path": Path(row.path).name, "group": row.group, "values": values}
        for row, (_, _, values) in zip(whole, cases, strict=True)
    ]
    (options.out / "causal.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.out / "causal.md").write_text(markdown(made), encoding="utf-8")
    print(markdown(made))


if __name__ == "__main__":
    main()
