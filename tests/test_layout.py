"""How a detector is fed: what is tried, when another layout than the rule's wins, what is kept."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from toys import PATCH, SIZE, planted_detector, planted_frame
from typer.testing import CliRunner

import whyfake
from whyfake.cli import app
from whyfake.errors import EngineError
from whyfake.files import cache_root
from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.runtime.engine import Arrays, Engine
from whyfake.runtime.layout import (
    Rate,
    choose,
    layout_from_record,
    machine_key,
    measure,
    remember,
    remembered,
)
from whyfake.runtime.throughput import Bare, Layout, Speed, layouts

RULE = Layout(1, 2)


class Sleeping(Engine):
    """An engine whose runs take a time that its layout gives."""

    name, device, inputs = "sleeping", "cpu", (PIXELS,)

    def __init__(self, layout: Layout, seconds: float = 0.001, *, free: bool = True) -> None:
        self.batch, self.lanes, self.threads = layout.batch, layout.lanes, layout.threads
        self.free_batch = free
        self.seconds = seconds
        self.together = self.closed = 0
        self._busy = 0
        self._lock = threading.Lock()

    def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        with self._lock:
            self._busy += 1
            self.together = max(self.together, self._busy)
        time.sleep(self.seconds)
        with self._lock:
            self._busy -= 1
        return {SCORES: np.zeros((self.batch, 2), np.float32)}

    def close(self) -> None:
        self.closed += 1


def test_rate_counts_the_pictures_of_all_lanes() -> None:
    engine = Sleeping(Layout(4, 3), 0.01)
    with Bare(lambda layout: engine, SIZE) as bare:
        speed = bare.measure(Layout(4, 3), 0.1)
    # sleeping takes 10 ms or more, never less: 3 lanes of 4 pictures each 10 ms at the very best
    assert 0 < speed.images_s <= 3 * 4 / 0.01
    assert engine.together == 3
    assert engine.closed == 1
    assert speed.cpu_s is not None
    assert speed.cpu_s < 0.01  # it sleeps


def test_engines_are_used_again_where_only_batch_and_lanes_differ() -> None:
    opened: list[Sleeping] = []

    def open_engine(layout: Layout) -> Engine:
        opened.append(Sleeping(layout))
        return opened[-1]

    with Bare(open_engine, SIZE) as bare:
        for layout in layouts((1, 2, 4), 2, on_gpu=False):
            bare.measure(layout, 0.001)
    assert sorted(engine.threads for engine in opened) == [1, 2]
    assert all(engine.closed == 1 for engine in opened)


def test_an_engine_that_fails_in_one_lane_is_an_error_not_a_hang() -> None:
    class Failing(Sleeping):
        def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
            raise EngineError("broken")

    with Bare(Failing, SIZE) as bare, pytest.raises(EngineError, match="broken"):
        bare.measure(Layout(1, 3), 0.01)


class Scripted(Bare):
    """Rates as written: the rule's is 100."""

    def __init__(self, rates: list[float]) -> None:
        self._rates = iter(rates)

    def measure(self, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        assert composed
        return Speed(100.0 if layout == RULE else next(self._rates), None)


@pytest.mark.parametrize(
    ("rates", "wins"),
    [
        ([110, 110, 110, 110, 110], True),
        ([102, 102, 102, 102, 102], False),  # faster, not clearly
        ([200, 200, 101, 101, 101], False),  # two lucky rounds
        ([110, 110, 110, 99, 99], False),  # not often enough
        ([110, 110, 110, 110, 90], True),
    ],
)
def test_another_layout_wins_only_clearly_and_again(rates: list[float], wins: bool) -> None:
    other = Layout(2, 2)
    assert choose(Scripted(rates), [other, RULE], RULE, 1.0, composed=True) == (
        other if wins else RULE
    )


def test_of_several_candidates_the_one_that_is_usually_the_fastest() -> None:
    steady, lucky = Layout(2, 2), Layout(4, 2)
    rates = [120, 300, 120, 110, 120, 110, 120, 110, 120, 110]
    assert choose(Scripted(rates), [steady, lucky], RULE, 1.0, composed=True) == steady
    assert choose(Scripted(rates), [RULE], RULE, 1.0, composed=True) == RULE


def test_a_measurement_finds_a_layout_that_is_much_faster() -> None:
    """A run takes 5 ms whatever its batch: eight pictures at a time are eight times as fast."""
    engine = Sleeping(RULE, 0.005)
    found = measure(lambda layout: Sleeping(layout, 0.005), RULE, SIZE, engine, seconds=0.4)
    assert found.how == "measured"
    assert (found.layout.batch, found.layout.lanes) == (8, 2)
    assert {rate.layout for rate in found.rates} == set(layouts((1, 2, 4, 8), 2, on_gpu=False))


def test_one_lane_of_all_cores_must_be_faster_with_pictures_to_compose() -> None:
    """Bare it is a ninth faster; but while it composes, for some milliseconds, nothing runs."""
    one = Layout(1, 1, 2)

    def open_engine(layout: Layout) -> Engine:
        return Sleeping(layout, 0.009 if layout == one else 0.020)

    with Bare(open_engine, (1400, 1400)) as bare:
        assert choose(bare, [one], RULE, 2.0, composed=False) == one
        assert choose(bare, [one], RULE, 2.0, composed=True) == RULE


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_lanes_compose_where_the_host_does(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU pictures may be composed on the device: there the engine alone is measured."""
    told = []

    def note(self: Bare, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        told.append(composed)
        return Speed(100.0 + 50 * (layout != RULE), None)

    monkeypatch.setattr(Bare, "measure", note)
    engine = Sleeping(RULE)
    engine.device = device
    assert measure(Sleeping, RULE, SIZE, engine).layout != RULE
    assert len(told) > len(layouts((1, 2, 4, 8), 2, on_gpu=False))
    assert set(told) == {device == "cpu"}


def test_a_fixed_batch_is_kept() -> None:
    engine = Sleeping(Layout(3, 2), free=False)
    found = measure(
        lambda layout: Sleeping(layout, free=False), Layout(3, 2), SIZE, engine, seconds=0.1
    )
    assert {rate.layout.batch for rate in found.rates} == {3}


def key(**changes: Any) -> dict[str, Any]:
    return machine_key("ab", Sleeping(RULE), None) | changes


def test_what_is_remembered_comes_back_and_only_for_its_own() -> None:
    layout = Layout(4, 1, 2)
    path = remember(key(), layout, (Rate(layout, 12.345),))
    assert path.is_relative_to(cache_root())
    assert remembered(key()) == layout
    for other in ({"detector": "cd"}, {"processor": "x"}, {"cores": 999}, {"engine": "newer"}):
        assert remembered(key(**other)) is None
    assert json.loads(path.read_text())["measured"][0]["images_s"] == 12.35


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"layout": {"batch": 0, "lanes": 1, "threads": 1}, "key": KEY}',
        b'{"layout": {"batch": 2.5, "lanes": 1, "threads": 1}, "key": KEY}',
        b'{"layout": {"batch": 2, "lanes": 1, "threads": 1, "more": 1}, "key": KEY}',
        b'{"layout": {"batch": 2, "lanes": 1, "threads": 1}, "key": {}}',
    ],
)
def test_a_file_that_is_broken_or_anothers_is_as_none(content: bytes) -> None:
    mine = key(detector="broken")
    path = remember(mine, Layout(2, 1), ())
    assert remembered(mine) == Layout(2, 1)
    path.write_bytes(content.replace(b"KEY", json.dumps(mine).encode()))
    assert remembered(mine) is None


def toy(folder: Path) -> Path:
    planted_detector(folder, PATCH, SIZE).close()
    return folder / "toy.onnx"


def test_a_detector_opens_at_what_is_remembered_unless_told_not_to(tmp_path: Path) -> None:
    model = toy(tmp_path)
    with whyfake.load_detector(model, device="cpu") as detector:
        assert detector.layout.how == "rule"
        assert detector.layout_record == {}
        mine = detector.layout.key
        rule = (detector.engine.batch, detector.engine.threads)
    assert mine is not None
    remember(mine, Layout(4, 1, 2), ())
    with whyfake.load_detector(model, device="cpu") as detector:
        assert (detector.engine.batch, detector.engine.lanes, detector.engine.threads) == (4, 1, 2)
        assert detector.layout.how == "remembered"
        assert detector.layout_record == {"batch": 4, "threads": 2}
    with whyfake.load_detector(model, device="cpu", tune=False) as detector:
        assert (detector.engine.batch, detector.engine.threads) == rule
    with whyfake.load_detector(model, device="cpu", threads=1) as detector:
        assert detector.layout.how == "rule"  # that was found for another number of cores


def test_a_short_run_measures_nothing_and_a_long_one_remembers(tmp_path: Path) -> None:
    model = toy(tmp_path)
    with whyfake.load_detector(model, device="cpu", planned=1) as detector:
        assert detector.layout.how == "rule"
    with whyfake.load_detector(model, device="cpu", planned=10**12) as detector:
        assert detector.layout.how == "measured"
        assert detector.images_seen == 0
        layout = detector.layout.layout
    with whyfake.load_detector(model, device="cpu", planned=10**12) as detector:
        assert detector.layout.how == "remembered"
        assert detector.layout.layout == layout


@pytest.mark.parametrize(
    ("record", "layout"),
    [
        ({}, None),
        ({"batch": 4}, Layout(4, 6)),
        ({"batch": 4, "threads": 3}, Layout(4, 2, 3)),
        ({"batch": 4, "threads": 9}, Layout(4, 1, 9)),
        ({"batch": 64, "device": "cuda:0"}, Layout(64, 2)),
        ({"batch": "4"}, None),
        ({"batch": True}, None),
    ],
)
def test_results_say_the_layout_that_they_began_with(record: Any, layout: Layout | None) -> None:
    assert layout_from_record(record, 6) == layout


def test_what_is_gone_on_with_keeps_the_layout_that_it_began_with(tmp_path: Path) -> None:
    model = toy(tmp_path)
    for index in range(2):
        Image.fromarray(planted_frame(PATCH, SIZE, index)).save(tmp_path / f"p{index}.png")

    def batch_of(out: str, picture: int, *more: str) -> int:
        command = ["explain", str(tmp_path / "p0.png"), *more, "-d", str(model), "-m", "lime"]
        command += ["--device", "cpu", "--samples", "8", "-o", str(tmp_path / out)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        record = tmp_path / out / f"p{picture}" / "lime" / "explanation.json"
        return int(json.loads(record.read_text())["detector"]["batch"])

    assert batch_of("out", 0) == 1
    with whyfake.load_detector(model, device="cpu", tune=False) as detector:
        assert detector.layout.key is not None
        remember(detector.layout.key, Layout(4, 2), ())
    assert batch_of("new", 0) == 4
    assert batch_of("out", 1, str(tmp_path / "p1.png"), "--resume") == 1
