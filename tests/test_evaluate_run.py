"""Evaluations of a detector whose truth is planted: counts, resumption, independence, tables."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import METHODS, entries, results, small
from PIL import Image
from toys import PATCH, SIZE, planted_frame

import whyfake
from whyfake import Detector, load_detector
from whyfake.evaluate.manifest import Entry
from whyfake.evaluation import Done, Stored, evaluate
from whyfake.evaluation.facts import gather
from whyfake.evaluation.run import task_of
from whyfake.evaluation.state import array_of
from whyfake.evaluation.tables import tables
from whyfake.ledger import Ledger
from whyfake.making import Maker


@pytest.fixture(scope="module")
def whole(forged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger of an evaluation that ran through."""
    place = tmp_path_factory.mktemp("whole")
    with load_detector(forged / "toy.onnx", device="cpu") as opened:
        with Ledger(place, write=True) as ledger:
            events = list(evaluate(opened, entries(forged), small(seeds=(0, 1)), ledger))
            assert [e for e in events if isinstance(e, Done) and e.error] == []
            asked = sum(r.images for r in results(ledger).values())
            assert asked == opened.images_seen  # every image is some result's
        with Ledger(place) as ledger:
            yield ledger


# --- the truth is known


def test_a_planted_detector_is_found_by_the_methods(whole: Ledger) -> None:
    facts = gather(whole, *whole.detectors())

    def mean(method: str, metric: str) -> float:
        return float(np.mean([f.values[metric] for f in facts.of(method)]))

    for method in METHODS:
        assert mean(method, "precision_1") == 1
        assert mean(method, "nes_sufficiency_3") > mean("random", "nes_sufficiency_3")
        assert mean(method, "energy") > mean("gaussian", "energy")
    assert mean("face-parts", "precision_1") == 1
    assert len(facts.facts) == 4 * (len(METHODS) + 3)


def test_a_canvas_is_scored_as_the_detector_scores_the_hidden_frame(
    forged: Path, planted: Detector, whole: Ledger
) -> None:
    """Asked by itself: the same for all methods, and what stands in the table."""
    facts = gather(whole, *whole.detectors())
    path = str(forged / "p1.png")
    mine = [fact.values for fact in facts.facts if fact.path == path]
    task = task_of(entries(forged)[1], planted)
    maker = Maker(task.frame, planted, 0)
    for curve, name in (("deletion", "zero"), ("insertion", "blur")):
        hidden = maker.baseline(name, np.zeros(SIZE, np.int32))
        score = float(np.exp(planted.log_probs(hidden[None])[0, 1]))
        for values in mine:  # the two differ by 7e-4 of it
            assert values[f"{curve}_canvas"] == pytest.approx(score, rel=1e-5, abs=0)
    [table] = [t for t in tables(facts) if t.title == "Deletion and insertion"]
    assert table.columns[2:] == [
        "deletion",
        "deletion's canvas",
        "insertion",
        "insertion's canvas",
    ]


# --- what is asked, and what is not


def test_explanations_are_those_of_whyfake_explain(
    forged: Path, planted: Detector, whole: Ledger
) -> None:
    """To the bit, and for as many images."""
    frame = task_of(entries(forged)[1], planted).hash
    of_frame = [r for r in results(whole).values() if r.frame == frame]
    for method, seed in itertools.product(("lime-adv", "shap-adv"), (0, 1)):
        own = whyfake.explain(
            planted,
            forged / "p1.png",
            method=method,
            seed=seed,
            settings=small().settings,
        )
        wanted = ("explanation", method, seed)
        [same] = [r for r in of_frame if (r.kind, r.method, r.seed) == wanted]
        assert same.value["region_scores"] == own.region_scores.tolist()
        assert np.array_equal(array_of(same, SIZE), own.heatmap)
        assert same.images == own.image_counts["explainer"]


def test_one_detection_and_one_sample_serve_all(whole: Ledger) -> None:
    found = list(results(whole).values())
    kinds = [(r.frame, r.kind, r.seed) for r in found if r.kind in ("detection", "sample")]
    assert len(kinds) == len(set(kinds))
    assert sum(kind == "detection" for _, kind, _ in kinds) == 6
    assert sum(kind == "sample" for _, kind, _ in kinds) == 4 * 2  # a frame, a seed
    attacked = [
        (r.frame, r.method, tuple(r.settings["labels"])) for r in found if r.kind == "attack"
    ]
    assert len(attacked) == len(set(attacked))
    assert len(attacked) < 4 * 2 * 3 * (len(METHODS) + 3)  # methods that agree share an attack


def test_real_and_misclassified_frames_stand_apart(forged: Path, whole: Ledger) -> None:
    facts = gather(whole, *whole.detectors())
    status = {Path(p.row.path).name: (p.status, p.correct) for p in facts.pictures}
    assert status["plain.png"] == ("misclassified", False)
    assert status["other.png"] == ("real", True)
    assert status["p0.png"] == ("judged", True)
    frames = {p.row.path: p.row.frame for p in facts.pictures}
    only = {r.kind for r in results(whole).values() if r.frame == frames[str(forged / "plain.png")]}
    assert only == {"detection"}


def test_a_second_run_asks_nothing(forged: Path, tmp_path: Path, planted: Detector) -> None:
    plan = small()
    with Ledger(tmp_path, write=True) as ledger:
        list(evaluate(planted, entries(forged), plan, ledger))
        first, seen = results(ledger), planted.images_seen
        events = list(evaluate(planted, entries(forged), plan, ledger))
        assert planted.images_seen == seen
        assert all(isinstance(e, Done) and e.resumed for e in events)
        more = dataclasses.replace(plan, methods=(*METHODS, "rise"))
        again = list(evaluate(planted, entries(forged), more, ledger))
        fresh = [e.record for e in again if isinstance(e, Stored)]
        assert {r.method for r in fresh if r.kind == "explanation"} == {"rise"}
        assert {r.kind for r in fresh} <= {
            "explanation",
            "localisation",
            "curves",
            "attack",
            "radius",
        }
        assert {k: v for k, v in results(ledger).items() if k in first} == first


@pytest.mark.parametrize("stop", [1, 9, 40])
def test_stopped_anywhere_it_goes_on_to_the_same_end(
    forged: Path, tmp_path: Path, planted: Detector, stop: int
) -> None:
    two = entries(forged)[:2]
    plan = small(controls=("random",), radii=(8 / 255, 16 / 255))
    with Ledger(tmp_path / "through", write=True) as ledger:
        list(evaluate(planted, two, plan, ledger))
        expected = results(ledger)
    with Ledger(tmp_path / "stopped", write=True) as ledger:
        running = evaluate(planted, two, plan, ledger)
        before = [next(running) for _ in range(stop)]
        running.close()  # type: ignore[attr-defined]
        stored = results(ledger)
        # a picture that is under way is in no table yet
        facts = gather(ledger, planted.sha256)
        ended = sum(isinstance(e, Done) for e in before)
        assert len({fact.path for fact in facts.facts}) == ended
        assert [p.status for p in facts.pictures].count("judged") == ended
        assert len(stored) >= sum(isinstance(e, Stored) for e in before)
        seen = planted.images_seen
        list(evaluate(planted, two, plan, ledger))
        assert results(ledger) == expected
        # what was stored is not asked again
        fresh = sum(r.images for r in expected.values()) - sum(r.images for r in stored.values())
        assert planted.images_seen - seen == fresh


def test_results_do_not_depend_on_what_else_is_in_flight(
    forged: Path, tmp_path: Path, whole: Ledger
) -> None:
    """One picture alone, in batches of another size, on one thread: the same bits."""
    with (
        load_detector(forged / "toy.onnx", device="cpu", threads=1, batch=64) as other,
        Ledger(tmp_path, write=True) as ledger,
    ):
        list(evaluate(other, entries(forged)[2:3], small(seeds=(0, 1)), ledger))
        alone = results(ledger)
    every = results(whole)
    assert len(alone) > 50
    for key, record in alone.items():
        for name, value in record.value.items():
            if isinstance(value, float):  # scores differ in the last bits between batch sizes
                assert value == pytest.approx(every[key].value[name], abs=1e-5)
        if record.kind == "attack":
            assert record.value["steps"] == every[key].value["steps"]


def test_a_picture_that_cannot_be_read_fails_alone_and_is_tried_again(
    forged: Path, tmp_path: Path, planted: Detector
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    good = entries(forged)[0]
    broken = Entry(str(bad), "fake", "a", "c")
    black = dataclasses.replace(entries(forged)[1], mask=str(forged / "black.png"))
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(forged / "black.png")
    plan = small(parts=frozenset({"masks"}))
    with Ledger(tmp_path / "l", write=True) as ledger:
        events = list(evaluate(planted, [broken, black, good], plan, ledger))
        ends = {Path(e.path).name: e.error for e in events if isinstance(e, Done)}
        assert ends["p0.png"] is None
        assert "is not a picture that can be read" in str(ends["bad.png"])
        assert "is black: nothing is marked" in str(ends["p1.png"])
        [table] = [t for t in tables(gather(ledger, planted.sha256)) if t.title == "Pictures"]
        assert table.rows[-1][table.columns.index("failed")] == 2
        Image.fromarray(planted_frame(PATCH, SIZE, 9)).save(bad)
        events = list(evaluate(planted, [broken, black, good], plan, ledger))
        ends = {Path(e.path).name: e.error for e in events if isinstance(e, Done)}
        assert ends["bad.png"] is None
        statuses = {p.status for p in gather(ledger, planted.sha256).pictures}
        assert statuses == {"judged", "failed"}


# --- tables


def test_tables_hold_the_means_of_their_facts(whole: Ledger) -> None:
    facts = gather(whole, *whole.detectors())
    made = {table.title: table for table in tables(facts)}
    assert list(made)[:3] == ["Pictures", "Images to flip (nes)", "Accuracy over radii (nes)"]
    flips = made["Images to flip (nes)"]
    every = [*METHODS, "random", "gaussian", "face-parts"]
    assert [row[:2] for row in flips.rows] == [[g, m] for g in ("all", "a", "b") for m in every]
    for row in flips.rows:
        mine = facts.of(str(row[1]), None if row[0] == "all" else str(row[0]))
        values = [f.values["nes_to_flip_1"] for f in mine]
        cell: Any = row[flips.columns.index("images, top-1")]
        assert cell.mean == pytest.approx(np.mean(values))
        assert cell.count == (4 if row[0] == "all" else 2)
        assert cell.low <= cell.mean <= cell.high
    paper = made["Accuracy and sufficiency (nes)"]
    assert {row[0] for row in paper.rows} == {"a", "b", "all"}
    stable = made["Stability over seeds"]
    assert [row[0] for row in stable.rows] == list(METHODS)  # controls are asked with one seed
    cost = made["Cost"]
    assert [row[0] for row in cost.rows] == list(METHODS)


def test_two_settings_of_one_method_are_told_apart(
    forged: Path, tmp_path: Path, planted: Detector
) -> None:
    one = small(methods=("lime",), controls=(), parts=frozenset({"masks"}))
    two = dataclasses.replace(one, settings=one.settings.with_budget(64))
    with Ledger(tmp_path, write=True) as ledger:
        for plan in (one, two):
            list(evaluate(planted, entries(forged)[:1], plan, ledger))
        names = gather(ledger, planted.sha256).methods
    assert len(names) == 2
    assert all(name.startswith("lime#") for name in names)
