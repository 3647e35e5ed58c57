"""Evaluations on a detector whose arithmetic is coarse: NES's σ is chosen, kept, and asked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from half import HALF_SIZE, half_detector

import whyfake
from whyfake.evaluation import make_plan
from whyfake.evaluation.frame import judge_frame
from whyfake.evaluation.state import Task, array_of
from whyfake.explainers import Nes
from whyfake.ledger import Record
from whyfake.runtime import Delivered, Detector, Job, run
from whyfake.settings import Settings


def coarse() -> Detector:
    return half_detector(np.float16, offset=400.0)


def judged(detector: Detector, rgb: np.ndarray, known: Mapping[str, Record]) -> list[Record]:
    frame = np.ascontiguousarray(rgb.transpose(2, 0, 1) / np.float32(255))
    settings = Settings(regions="grid:4", nes=Nes(steps=5, pairs=8)).with_budget(40)
    plan = make_plan("lime-adv", suite="paper", settings=settings)
    square = dataclasses.replace(plan.square, queries=20)
    plan = dataclasses.replace(plan, attack=Nes(steps=2, pairs=8), square=square)
    job = Job("f", frame, judge_frame(Task(frame, "fake"), detector, plan, known))
    events = list(run(detector, [job]))
    assert all(isinstance(event, Delivered) for event in events)
    return [e.value for e in events if isinstance(e, Delivered) and e.value is not None]


def fake_picture(detector: Detector) -> np.ndarray:
    """A picture that the detector calls fake."""
    for seed in range(20):
        rgb = np.random.default_rng(seed).integers(0, 256, (*HALF_SIZE, 3), np.uint8)
        frame = (rgb.transpose(2, 0, 1) / np.float32(255))[None]
        if detector.log_probs(np.ascontiguousarray(frame)).argmax() == 1:
            return rgb
    raise AssertionError("no picture is called fake")


def test_sigma_is_chosen_once_and_is_that_of_whyfake_explain() -> None:
    with coarse() as detector:
        rgb = fake_picture(detector)
        records = judged(detector, rgb, {})
        chosen = [record for record in records if record.kind == "sigma"]
        # that of the sample and that of the judge have the same settings: one record, asked once
        assert len(chosen) == 1
        assert chosen[0].value["sigma"] > Nes().sigma
        assert chosen[0].images > 0
        settings = Settings(regions="grid:4", nes=Nes(steps=5, pairs=8)).with_budget(40)
        own = whyfake.explain(detector, rgb, method="lime-adv", settings=settings)
        assert own.settings["nes"]["sigma"] == chosen[0].value["sigma"]
        [sample] = [record for record in records if record.kind == "sample"]
        assert np.array_equal(array_of(sample, (3, *HALF_SIZE)), own.adversarial)


def test_a_known_sigma_is_not_asked_again() -> None:
    with coarse() as detector:
        rgb = fake_picture(detector)
        known = {record.key: record for record in judged(detector, rgb, {})}
        before = detector.images_seen
        assert judged(detector, rgb, known) == []
        assert detector.images_seen == before
        without = {key: record for key, record in known.items() if record.kind == "sample"}
        again = judged(detector, rgb, without)
        assert "sample" not in [record.kind for record in again]
