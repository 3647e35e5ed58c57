"""Every metric of an evaluation tells the perfect explanation from the inverted one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from evaluations import small
from toys import PATCH, SIZE, planted_frame

from whyfake import Detector
from whyfake.evaluate.verdict import Case
from whyfake.evaluation.judging import attacks, curves, localise
from whyfake.evaluation.state import FrameState, Ranked, Task
from whyfake.explainers import Nes, Target, region_map, region_means
from whyfake.media import fit_to
from whyfake.runtime import Delivered, Job, run


@pytest.fixture(scope="module")
def judged(forged: Path, planted: Detector) -> dict[str, dict[str, float]]:
    """What every metric says of the perfect, a random and the inverted explanation."""
    frame = fit_to(planted_frame(PATCH, SIZE, 0), planted.size)
    top, bottom, left, right = PATCH
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    regions = region_map("grid:8", frame)
    perfect = mask.astype(np.float32)
    random_heat = np.random.default_rng(2).random(64).astype(np.float32)[regions]
    heats = {"perfect": perfect, "random": random_heat, "inverted": 1 - perfect}
    square = dataclasses.replace(small().square, queries=1500)
    plan = dataclasses.replace(
        small(), attack=Nes(steps=40, pairs=30), square=square, tops=(1, 3, 4)
    )
    task = Task(frame, "fake", mask)
    log_probs = planted.log_probs(frame[None])[0]
    target = Target("fake", (1,))
    found: dict[str, dict[str, float]] = {}
    for name, heat in heats.items():
        item = Ranked(name, {"name": name}, heat, region_means(heat, regions))
        state = FrameState(task, planted, plan, {})
        case = Case(frame, regions, log_probs, target, planted.real, (1,), 0)
        values: dict[str, float] = {}
        jobs = (
            localise(state, regions, item),
            curves(state, regions, target, item),
            attacks(state, case, [item]),
        )
        for event in run(planted, (Job(n, frame, job) for n, job in enumerate(jobs))):
            assert isinstance(event, Delivered)
            record = event.value
            if record is None:
                continue
            if record.kind == "attack":
                labels = len(record.settings["labels"])
                budget = (plan.attack if record.method == "nes" else square).images()
                value = record.value
                values[f"{record.method}_flip_{labels}"] = (
                    value["images"] if value["flipped"] else budget
                )
                values[f"{record.method}_drop_{labels}"] = (
                    value["score_before"] - value["score_after"]
                )
                values[f"{record.method}_accuracy_{labels}"] = value["correct"]
            elif record.kind == "radius":
                smallest = record.value["smallest"]
                values[f"radius_{len(record.settings['labels'])}"] = smallest or 1.0
            else:
                values |= {k: v for k, v in record.value.items() if isinstance(v, float)}
        found[name] = values
    return found


@pytest.mark.parametrize(
    ("metric", "sign"),
    [
        ("energy", 1),
        ("above", 1),
        ("pointing", 1),
        ("overlap", 1),
        ("precision_1", 1),
        ("precision_3", 1),
        ("deletion", -1),
        ("insertion", 1),
        ("nes_flip_4", -1),
        ("nes_drop_1", 1),
        ("nes_drop_3", 1),
        ("nes_accuracy_4", -1),
        ("radius_4", -1),
        ("square_drop_4", 1),
        ("square_flip_4", -1),
    ],
)
def test_every_metric_knows_the_truth(
    judged: dict[str, dict[str, float]], metric: str, sign: int
) -> None:
    """The perfect explanation is best, the inverted worst, a random one nowhere beyond them."""
    perfect, random_one, inverted = (
        sign * judged[name][metric] for name in ("perfect", "random", "inverted")
    )
    assert perfect > inverted
    assert perfect >= random_one >= inverted
