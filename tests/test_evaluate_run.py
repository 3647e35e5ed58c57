"""Evaluations of a detector whose truth is planted: right answers, resumption, counts, tables."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toys import PATCH, SIZE, planted_detector, planted_frame
from typer.testing import CliRunner

import whyfake
from whyfake import Detector, load_detector
from whyfake.cli import app
from whyfake.evaluate.manifest import Entry, read_manifest
from whyfake.evaluate.verdict import Case
from whyfake.evaluation import Done, Plan, Stored, evaluate, make_plan
from whyfake.evaluation.facts import gather
from whyfake.evaluation.judging import attacks, curves, localise
from whyfake.evaluation.run import task_of
from whyfake.evaluation.state import FrameState, Ranked, Task, array_of
from whyfake.evaluation.tables import tables
from whyfake.explainers import Nes, Target, region_map, region_means
from whyfake.ledger import Ledger, Record
from whyfake.media import fit_to
from whyfake.runtime import Delivered, Job, run
from whyfake.settings import Settings

METHODS = ("lime", "lime-adv", "shap-adv")
COMMAND = Path(sys.executable).with_name("whyfake")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, forged frames with their mask, a frame that is called real, a manifest."""
    root = tmp_path_factory.mktemp("planted")
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


@pytest.fixture(scope="module")
def detector(folder: Path) -> Iterator[Detector]:
    with load_detector(folder / "toy.onnx", device="cpu") as opened:
        yield opened


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


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger of an evaluation that ran through."""
    place = tmp_path_factory.mktemp("whole")
    with load_detector(folder / "toy.onnx", device="cpu") as opened:
        with Ledger(place, write=True) as ledger:
            events = list(evaluate(opened, entries(folder), small(seeds=(0, 1)), ledger))
            assert [e for e in events if isinstance(e, Done) and e.error] == []
            asked = sum(r.images for r in results(ledger).values())
            assert asked == opened.images_seen  # every image is some result's
        with Ledger(place) as ledger:
            yield ledger


# --- the truth is known


@pytest.fixture(scope="module")
def judged(folder: Path, detector: Detector) -> dict[str, dict[str, float]]:
    """What every metric says of the perfect, a random and the inverted explanation."""
    frame = fit_to(planted_frame(PATCH, SIZE, 0), detector.size)
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
    log_probs = detector.log_probs(frame[None])[0]
    target = Target("fake", (1,))
    found: dict[str, dict[str, float]] = {}
    for name, heat in heats.items():
        item = Ranked(name, {"name": name}, heat, region_means(heat, regions))
        state = FrameState(task, detector, plan, {})
        case = Case(frame, regions, log_probs, target, detector.real, (1,), 0)
        values: dict[str, float] = {}
        jobs = (
            localise(state, regions, item),
            curves(state, regions, target, item),
            attacks(state, case, [item]),
        )
        for event in run(detector, (Job(n, frame, job) for n, job in enumerate(jobs))):
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


# --- what is asked, and what is not


def test_explanations_are_those_of_whyfake_explain(
    folder: Path, detector: Detector, whole: Ledger
) -> None:
    """To the bit, and for as many images."""
    frame = task_of(entries(folder)[1], detector).hash
    of_frame = [r for r in results(whole).values() if r.frame == frame]
    for method, seed in itertools.product(("lime-adv", "shap-adv"), (0, 1)):
        own = whyfake.explain(
            detector, folder / "p1.png", method=method, seed=seed, settings=small().settings
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


def test_real_and_misclassified_frames_stand_apart(folder: Path, whole: Ledger) -> None:
    facts = gather(whole, *whole.detectors())
    status = {Path(p.row.path).name: (p.status, p.correct) for p in facts.pictures}
    assert status["plain.png"] == ("misclassified", False)
    assert status["other.png"] == ("real", True)
    assert status["p0.png"] == ("judged", True)
    frames = {p.row.path: p.row.frame for p in facts.pictures}
    only = {r.kind for r in results(whole).values() if r.frame == frames[str(folder / "plain.png")]}
    assert only == {"detection"}


def test_a_second_run_asks_nothing(folder: Path, tmp_path: Path, detector: Detector) -> None:
    plan = small()
    with Ledger(tmp_path, write=True) as ledger:
        list(evaluate(detector, entries(folder), plan, ledger))
        first, seen = results(ledger), detector.images_seen
        events = list(evaluate(detector, entries(folder), plan, ledger))
        assert detector.images_seen == seen
        assert all(isinstance(e, Done) and e.resumed for e in events)
        more = dataclasses.replace(plan, methods=(*METHODS, "rise"))
        again = list(evaluate(detector, entries(folder), more, ledger))
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
    folder: Path, tmp_path: Path, detector: Detector, stop: int
) -> None:
    two = entries(folder)[:2]
    plan = small(controls=("random",), radii=(8 / 255, 16 / 255))
    with Ledger(tmp_path / "through", write=True) as ledger:
        list(evaluate(detector, two, plan, ledger))
        expected = results(ledger)
    with Ledger(tmp_path / "stopped", write=True) as ledger:
        running = evaluate(detector, two, plan, ledger)
        before = [next(running) for _ in range(stop)]
        running.close()  # type: ignore[attr-defined]
        stored = results(ledger)
        # a picture that is under way is in no table yet
        facts = gather(ledger, detector.sha256)
        ended = sum(isinstance(e, Done) for e in before)
        assert len({fact.path for fact in facts.facts}) == ended
        assert [p.status for p in facts.pictures].count("judged") == ended
        assert len(stored) >= sum(isinstance(e, Stored) for e in before)
        seen = detector.images_seen
        list(evaluate(detector, two, plan, ledger))
        assert results(ledger) == expected
        # what was stored is not asked again
        fresh = sum(r.images for r in expected.values()) - sum(r.images for r in stored.values())
        assert detector.images_seen - seen == fresh


def test_results_do_not_depend_on_what_else_is_in_flight(
    folder: Path, tmp_path: Path, whole: Ledger
) -> None:
    """One picture alone, in batches of another size, on one thread: the same bits."""
    with (
        load_detector(folder / "toy.onnx", device="cpu", threads=1, batch=64) as other,
        Ledger(tmp_path, write=True) as ledger,
    ):
        list(evaluate(other, entries(folder)[2:3], small(seeds=(0, 1)), ledger))
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
    folder: Path, tmp_path: Path, detector: Detector
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    good = entries(folder)[0]
    broken = Entry(str(bad), "fake", "a", "c")
    black = dataclasses.replace(entries(folder)[1], mask=str(folder / "black.png"))
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "black.png")
    plan = small(parts=frozenset({"masks"}))
    with Ledger(tmp_path / "l", write=True) as ledger:
        events = list(evaluate(detector, [broken, black, good], plan, ledger))
        ends = {Path(e.path).name: e.error for e in events if isinstance(e, Done)}
        assert ends["p0.png"] is None
        assert "is not a picture that can be read" in str(ends["bad.png"])
        assert "is black: nothing is marked" in str(ends["p1.png"])
        [table] = [t for t in tables(gather(ledger, detector.sha256)) if t.title == "Pictures"]
        assert table.rows[-1][table.columns.index("failed")] == 2
        Image.fromarray(planted_frame(PATCH, SIZE, 9)).save(bad)
        events = list(evaluate(detector, [broken, black, good], plan, ledger))
        ends = {Path(e.path).name: e.error for e in events if isinstance(e, Done)}
        assert ends["bad.png"] is None
        statuses = {p.status for p in gather(ledger, detector.sha256).pictures}
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
    folder: Path, tmp_path: Path, detector: Detector
) -> None:
    one = small(methods=("lime",), controls=(), parts=frozenset({"masks"}))
    two = dataclasses.replace(one, settings=one.settings.with_budget(64))
    with Ledger(tmp_path, write=True) as ledger:
        for plan in (one, two):
            list(evaluate(detector, entries(folder)[:1], plan, ledger))
        names = gather(ledger, detector.sha256).methods
    assert len(names) == 2
    assert all(name.startswith("lime#") for name in names)


# --- the command


def command(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.stderr
    return result.stdout, result.stderr


def test_the_command_and_its_tables(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    base = ("evaluate", folder / "m.csv", "-d", folder / "toy.onnx", "-m", "lime", "-o", out)
    options = ("--suite", "localisation", "--samples", "70", "--device", "cpu")
    text, errors = command(*base, *options)
    assert "## Localisation" in text
    assert "| all | lime | 4 |" in text
    assert "images asked" in errors
    assert command("table", out)[0] == text
    rows = list(csv.reader(io.StringIO(command("table", out, "--format", "csv")[0])))
    assert rows[0][:3] == ["table", "group", "pictures"]
    means = {row[2]: row for row in rows if row and row[:2] == ["Localisation", "all"]}
    assert float(means["gaussian"][4]) > 0
    page = command("table", out, "-f", "html")[0]
    assert page.count("<table>") == page.count("</table>") >= 3
    assert "http" not in page
    tex = command("table", out, "-f", "latex")[0]
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") >= 3
    _, errors = command("table", out, "-f", "xml", code=2)
    assert "unknown format 'xml'" in errors
    lines = command(
        *base, "--suite", "localisation", "--samples", "64", "--json", "--device", "cpu"
    )
    parsed = [json.loads(line) for line in lines[0].splitlines()]
    assert {line["kind"] for line in parsed} == {"explanation", "localisation"}


def test_nothing_is_asked_where_the_manifest_is_wrong(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path,label\n{folder}/p0.png,fake\nnone.png,fake\n")
    out = tmp_path / "out"
    base = ("evaluate", tmp_path / "m.csv", "-d", folder / "toy.onnx", "-m", "lime", "-o", out)
    options = ("--suite", "localisation", "--samples", "64", "--device", "cpu")
    _, errors = command(*base, *options, code=1)
    assert "none.png: there is no such file" in errors
    assert not out.exists()
    text, errors = command(*base, *options, "--skip-bad", code=1)
    assert "1 left out:" in errors
    assert errors.rstrip().endswith("none.png: there is no such file")
    assert "| all | 1 |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the pictures by one of MANIFEST"),
        (("m.csv", "--dfdc", "x"), "got MANIFEST and --dfdc"),
        (("m.csv", "--ffpp-list", "x"), "give its folder by --ffpp"),
        (("m.csv", "--suite", "flips"), "unknown suite 'flips': did you mean 'flip-rate'"),
        (("m.csv", "-m", "grad-cam"), "unknown method 'grad-cam'"),
    ],
)
def test_wrong_command_lines(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    _, errors = command("evaluate", *arguments, "-d", folder / "toy.onnx", code=2)
    assert message in errors


def test_merging_two_machines(folder: Path, tmp_path: Path, detector: Detector) -> None:
    plan = small(methods=("lime",), controls=("random",), parts=frozenset({"masks"}))
    both = entries(folder)[:2]
    for name, some in (("one", both[:1]), ("two", both[1:]), ("all", both)):
        with Ledger(tmp_path / name, write=True) as ledger:
            list(evaluate(detector, some, plan, ledger))
    out, _ = command("merge", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "merged")
    assert out.count("results taken over") == 2
    with Ledger(tmp_path / "merged") as merged, Ledger(tmp_path / "all") as expected:
        assert results(merged) == results(expected)
        assert merged.pictures(detector.sha256) == expected.pictures(detector.sha256)


@pytest.mark.slow
def test_twenty_random_kills_of_the_command(folder: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments; in the end, the same results as of a run that was left alone."""
    rng = random.Random(0)
    base = [str(COMMAND), "evaluate", str(folder / "m.csv"), "-d", str(folder / "toy.onnx")]
    base += ["-m", "lime,lime-adv", "--suite", "flip-rate", "--samples", "64", "--device", "cpu"]
    subprocess.run([*base, "-o", str(tmp_path / "through")], check=True, capture_output=True)
    sizes = []
    for _ in range(20):
        running = subprocess.Popen(
            [*base, "-o", str(tmp_path / "killed")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(1.0, 4.0))
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        if (tmp_path / "killed" / "ledger.sqlite3").exists():
            with Ledger(tmp_path / "killed", write=True) as ledger:
                sizes.append(len(results(ledger)) if ledger.detectors() else 0)
    assert sizes == sorted(sizes)  # nothing that was stored is lost
    subprocess.run([*base, "-o", str(tmp_path / "killed")], check=True, capture_output=True)
    with Ledger(tmp_path / "through") as through, Ledger(tmp_path / "killed") as killed:
        assert results(killed) == results(through)
