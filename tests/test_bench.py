"""`whyfake bench`: what it measures adds up, what it finds is kept, and Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from toys import PATCH, SIZE, make_card, planted_detector, save_model
from typer.testing import CliRunner

import whyfake
from whyfake.benching import MANY, Bench, MethodRun, Opening, RawRate, Shortened, bench, methods
from whyfake.benching.roofline import flops_a_picture, peak
from whyfake.cli import app
from whyfake.errors import EngineError
from whyfake.files import cache_root
from whyfake.runtime.layout import remembered
from whyfake.runtime.throughput import Bare, Layout, Speed, layout_of


@pytest.fixture
def rule(toy: Path) -> Layout:
    with whyfake.load_detector(toy, device="cpu", tune=False) as detector:
        return layout_of(detector.engine)


@pytest.fixture
def soon_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not hang on which of a toy's layouts is taken for the fastest."""
    module = import_module("whyfake.benching.bench")  # the package's `bench` is its function
    monkeypatch.setattr(module, "CHOOSING", 0.5)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    planted_detector(tmp_path, PATCH, SIZE).close()
    return tmp_path / "toy.onnx"


@pytest.mark.usefixtures("soon_chosen")
def test_the_command(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = ["bench", str(toy), "--device", "cpu", "--quick", "-m", "lime,rise-adv"]
    result = CliRunner().invoke(app, [*command, "--images", "64", "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads(out.read_text())
    assert [(run["method"], run["frames"]) for run in found["runs"]] == [
        ("lime", 1),
        ("rise-adv", 1),
    ]
    for run in found["runs"]:
        expected = run["images"] / run["raw_images_s"] / run["seconds"]
        assert run["efficiency"] == pytest.approx(expected, rel=0.01)  # both are rounded
        assert set(run["host"]) == {
            *("composing", "running", "handing_back", "resuming", "waiting")
        }
        assert all(seconds >= 0 for seconds in run["host"].values())
        # every picture goes to the engine once; rows that fill up a batch go too
        assert run["bytes_in"] >= run["images"] * 3 * SIZE[0] * SIZE[1] * 4
    assert found["runs"][0]["images"] == 65  # the frame, and --images
    best = max(found["raw"], key=lambda row: row["images_s"])
    assert found["best"] == best["layout"]
    cost = 2 * 3 * SIZE[0] * SIZE[1] * 2
    assert found["gflops"] == pytest.approx(cost / 1e9)
    assert best["flop_s"] == pytest.approx(best["images_s"] * cost, rel=1e-3)
    with whyfake.load_detector(toy, device="cpu") as detector:
        assert detector.layout.key is not None
        layout = remembered(detector.layout.key)
    assert layout is not None
    assert vars(layout) == found["used"]


@pytest.mark.usefixtures("soon_chosen")
def test_a_table_is_printed(toy: Path) -> None:
    command = ["bench", str(toy), "--device", "cpu", "--quick", "-m", "shap", "--images", "16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for words in ("batch 32", "fastest", "efficiency", "shap", "methods run at", "remembered in"):
        assert words in result.stdout


def test_one_frame_alone_is_measured_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Shortened] = []

    def keep(opening: Opening, wanted: Shortened, out: Path | None, *, as_json: bool) -> None:
        asked.append(wanted)

    monkeypatch.setattr("whyfake.terminal.bench.bench_aloud", keep)
    for flags in ([], ["--one-frame"], ["--quick"]):
        assert CliRunner().invoke(app, ["bench", *flags]).exit_code == 0
    assert [(wanted.many, wanted.seconds) for wanted in asked] == [
        (True, 1.0), (False, 1.0), (False, 0.3)
    ]  # fmt: skip


@pytest.mark.parametrize(("images", "share"), [(None, 256), (64, 64), (32_000, 1000)])
def test_each_of_many_frames_is_asked_a_share_that_outweighs_its_superpixels(
    images: int | None, share: int
) -> None:
    wanted = Shortened(images=images)
    one, many = wanted.settings(1), wanted.settings(MANY)
    for method in ("lime", "shap", "rise"):
        asked = many.explainer(method).images()
        assert share - 1 <= asked <= min(share + 1, one.explainer(method).images())
    assert many.sobol.images() <= 1.5 * max(share, 200)  # SOBOL has a least design
    assert MANY * many.nes.images() < max(1.1 * one.nes.images(), MANY * 83)


def test_many_frames_are_measured_too(toy: Path) -> None:
    wanted = Shortened(methods=("lime",), images=32, seconds=0.02, repeats=2)
    events = list(bench(Opening(str(toy), device="cpu"), wanted))
    whole = events[-1]
    assert isinstance(whole, Bench)
    runs = [event for event in events if isinstance(event, MethodRun)]
    assert [run.frames for run in runs] == [1, 1, MANY, MANY]
    assert runs[2].images == MANY * 33
    assert whole.median("lime", 1) == pytest.approx((runs[0].efficiency + runs[1].efficiency) / 2)
    assert whole.median("rise", 1) is None


def test_a_layout_that_the_table_crowned_by_noise_flatters_no_method(
    toy: Path, rule: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the table batch 32 is the fastest; beside the methods it is half as fast as the rule's."""
    crowned = Layout(32, rule.lanes)
    speeds = {crowned: 2000.0}
    told: list[bool] = []

    def measure(self: Bare, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        told.append(composed)
        return Speed(speeds.get(layout, 1000.0), 1e-3)

    monkeypatch.setattr(Bare, "measure", measure)
    found = []
    for event in bench(Opening(str(toy), device="cpu"), Shortened(("lime",), 32, many=False)):
        found.append(event)
        if sum(isinstance(earlier, RawRate) for earlier in found) == 12:  # the table is whole
            speeds.update({crowned: 1000.0, rule: 2000.0})
    whole = found[-1]
    assert isinstance(whole, Bench)
    assert whole.best == crowned
    assert [run.raw_images_s for run in whole.runs] == [2000.0]
    # the table, and what runs are held to, are of the bare engine; what is chosen composes
    in_table, rounds = 3 * 12, told.count(True)
    assert rounds >= 10
    assert told[in_table : in_table + rounds] == [True] * rounds


def test_a_lucky_measurement_of_another_layout_holds_no_run_back(
    toy: Path, rule: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs are held to the layout that is the fastest by its median."""
    crowned = Layout(32, rule.lanes)
    beside: list[float] = []

    def measure(self: Bare, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        if layout != crowned:
            return Speed(1500.0, 1e-3)
        if not beside:
            return Speed(2000.0, 1e-3)
        return Speed(beside.pop(), 1e-3)

    monkeypatch.setattr(Bare, "measure", measure)

    def step(text: str, done: int, total: int) -> None:
        if text.startswith("lime"):  # right before and after each of three runs
            beside[:] = [4000.0] * 2 if done == 1 else [1000.0] * 2

    wanted = Shortened(("lime",), 32, repeats=3, many=False)
    whole = list(bench(Opening(str(toy), device="cpu"), wanted, step))[-1]
    assert isinstance(whole, Bench)
    assert whole.best == crowned
    assert [run.raw_images_s for run in whole.runs] == [1500.0] * 3


def test_the_bare_engine_is_measured_amid_a_run_whose_clock_stands_still(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slows down amid a run does so for both; measuring costs the run no time."""
    paused, runs = [], []
    real_measure, real_explain = Bare.measure, methods._explain

    def measure(self: Bare, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        start = time.perf_counter()
        speed = real_measure(self, layout, seconds, composed=composed)
        if threading.current_thread().name == "beside":  # amid the run
            time.sleep(0.05)
            paused.append((start, time.perf_counter()))
        return speed

    def timed(*arguments: Any) -> bool:
        start = time.perf_counter()
        real = real_explain(*arguments)
        runs.append((start, time.perf_counter()))
        return real

    monkeypatch.setattr(Bare, "measure", measure)
    monkeypatch.setattr(methods, "_explain", timed)
    wanted = Shortened(("rise",), 4000, seconds=0.05, many=False)
    [whole] = [
        event
        for event in bench(Opening(str(toy), device="cpu", threads=2), wanted)
        if isinstance(event, Bench)
    ]
    began, ended = runs[-1]
    # the last measurement may outlast the run, and holds nothing up then
    amid = [stop - start for start, stop in paused if began <= start and stop <= ended]
    assert amid
    counted = ended - began - 0.95 * sum(amid)
    assert whole.runs[0].seconds < counted
    assert sum(whole.runs[0].host.values()) < whole.used.lanes * counted


def test_an_engine_that_fails_amid_a_run_is_an_error(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[str] = []

    def measure(self: Bare, layout: Layout, seconds: float, *, composed: bool = False) -> Speed:
        if threading.current_thread().name == "beside":
            raise EngineError("the device is gone")
        return Speed(1000.0, 1e-3)

    monkeypatch.setattr(Bare, "measure", measure)
    wanted = Shortened(("rise",), 4000, seconds=0.05, many=False)
    with pytest.raises(EngineError, match="the device is gone"):
        list(bench(Opening(str(toy), device="cpu"), wanted, lambda text, *_: beside.append(text)))
    assert beside[-1] == "rise, 1 frame"


def test_stopped_amid_the_raw_measurement_it_leaves_nothing(toy: Path) -> None:
    def stop(text: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    events = bench(Opening(str(toy), device="cpu"), Shortened(seconds=0.02), stop)
    with pytest.raises(KeyboardInterrupt):
        list(events)
    assert not (cache_root() / "layouts").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing.onnx"], 1, "nothing.onnx"),
        (["bundled", "-m", "lyme"], 2, "lyme"),
        (["bundled", "--device", "gpu"], 2, "device must be"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], code: int, words: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_flops_of_a_grouped_strided_convolution_and_a_gemm(tmp_path: Path) -> None:
    weights = {
        "w": np.zeros((8, 3, 3, 5), np.float32),
        "g": np.zeros((8, 2, 1, 1), np.float32),
        "m": np.zeros((8, 2), np.float32),
        "b": np.zeros(2, np.float32),
    }
    nodes: list[Any] = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 2, 1, 2], strides=[2, 1]),
        helper.make_node("Conv", ["c", "g"], ["d"], group=4),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "b"], ["y"]),
    ]
    size = (12, 20)
    path = save_model(tmp_path, nodes, weights, size=size, columns=2, card=make_card(size))
    pixels = 6 * 20
    assert flops_a_picture(path) == 2 * (pixels * 8 * 45 + pixels * 8 * 2 + 8 * 2)


@pytest.mark.parametrize(
    ("gpu", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "fp16", 989),
        ("NVIDIA H100 PCIe", "fp16", 756),
        ("Tesla T4", "tf32", None),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA L4", "fp16", 121),
        ("NVIDIA L40S", "fp16", 362),
        ("Orin", "fp16", None),
        ("", "fp32", None),
    ],
)
def test_peaks(gpu: str, precision: str, tflops: float | None) -> None:
    assert peak(gpu, precision) == (None if tflops is None else tflops * 1e12)


def test_a_raw_rate_has_no_fraction_without_a_peak() -> None:
    from whyfake.benching.bench import _raw_rate
    from whyfake.runtime.throughput import Layout

    layout = Layout(1, 1)
    assert _raw_rate(layout, 10.0, 2.0, None) == RawRate(layout, 10.0, 20.0, None)
    assert _raw_rate(layout, 10.0, 2.0, 40.0).fraction == 0.5
    assert _raw_rate(layout, 10.0, None, 40.0).fraction is None
