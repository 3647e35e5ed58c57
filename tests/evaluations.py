"""Small evaluations of a detector whose truth is planted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from toys import PATCH, SIZE, planted_detector, planted_frame

from whyfake.evaluate.manifest import Entry, read_manifest
from whyfake.evaluation import Plan, make_plan
from whyfake.explainers import Nes
from whyfake.ledger import Ledger, Record
from whyfake.settings import Settings

METHODS = ("lime", "lime-adv", "shap-adv")


def planted_folder(root: Path) -> Path:
    """A detector, forged frames with their mask, a frame that is called real, a manifest."""
    planted_detector(root, PATCH, SIZE).close()
    mask = np.zeros((*SIZE, 3), np.uint8)
    top, bottom, left, right = PATCH
    mask[top:bottom, left:right] = 255
    Image.fromarray(mask).save(root / "mask.png")
    rows = ["path,label,group,clip,mask,landmarks"]
    marks = "26 14 36 14 31 17 28 19 34 19"  # eyes and mouth inside the patch
    for index in range(4):
        Image.fromarray(planted_frame(PATCH, SIZE, index)).save(root / f"p{index}.png")
        rows.append(f"p{index}.png,fake,{'ab'[index % 2]},c{index},mask.png,{marks}")
    Image.fromarray(np.full((*SIZE, 3), 120, np.uint8)).save(root / "plain.png")
    Image.fromarray(np.full((*SIZE, 3), 110, np.uint8)).save(root / "other.png")
    rows += ["plain.png,fake,b,c9,,", "other.png,real,originals,c9,,"]
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    return root


def small(**changes: Any) -> Plan:
    """All suites at budgets that a test can afford."""
    settings = Settings(regions="grid:8", nes=Nes(steps=30, pairs=8)).with_budget(130)
    plan = make_plan(METHODS, settings=settings)
    square = dataclasses.replace(plan.square, queries=40)
    return dataclasses.replace(
        plan, attack=Nes(steps=20, pairs=8), square=square, curve_parts=8, **changes
    )


def entries(folder: Path) -> tuple[Entry, ...]:
    return read_manifest(folder / "m.csv").entries


def results(ledger: Ledger) -> dict[str, Record]:
    """All results of the one detector, without what differs from run to run."""
    [sha] = ledger.detectors()
    found = ledger.results(sha, blobs=True)
    return {r.key: dataclasses.replace(r, seconds=0.0) for r in found}
