"""`whyfake build`: by TensorRT for RTX, which needs no GPU, and on a GPU that is played."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import MAGIC, FakeTensorRt
from numpy_device import NumpyDevice
from toys import conv_detector
from typer.testing import CliRunner

import whyfake
from whyfake import building
from whyfake.building import BuildRequest, build_engine
from whyfake.cli import app
from whyfake.errors import DetectorError, EngineError, OutputError, UsageError
from whyfake.export.engine import BuildOptions, Plan, plan_from_onnx
from whyfake.export.parity import parity_inputs
from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.runtime import cuda, tensorrt_engine
from whyfake.runtime.load import engine_card_path
from whyfake.tensorrt_api import TensorRt, load_tensorrt

SIZE = (32, 48)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHYFAKE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    conv_detector(tmp_path, SIZE).close()
    return tmp_path / "conv.onnx"


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


# --- with TensorRT for RTX


@pytest.fixture
def rtx() -> TensorRt:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX: pip install tensorrt-rtx")
    return load_tensorrt("rtx", "a test")


@pytest.mark.trt
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8"])
def test_every_precision_builds(rtx: TensorRt, toy: Path, tmp_path: Path, precision: str) -> None:
    args = ["build", str(toy), "-o", str(tmp_path / "d.engine"), "--precision", precision, "--json"]
    if precision == "int8":
        faces = tmp_path / "faces"
        faces.mkdir()
        for index, image in enumerate(parity_inputs(SIZE, 16)):
            write_png(faces / f"{index}.png", image)
        args += ["--calibration", str(faces)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    card = json.loads(engine_card_path(tmp_path / "d.engine").read_text())
    assert said["card"] == card
    record = card["engine"]
    assert record["precision"] == precision
    assert (record["flavour"], record["version"]) == ("rtx", rtx.version)
    assert record["profile"] == {"min": 1, "best": 64, "max": 256}
    assert f"--precision {precision}" in record["command"]
    assert (tmp_path / "d.engine").stat().st_size == said["bytes"] > 10_000
    parity = record["parity"]
    if precision in ("fp32", "tf32"):
        assert parity["how"].startswith("not measured")
    else:
        assert parity["how"] == "predicted on the CPU"
        assert 1e-6 < parity["max_abs"] < 1
        assert parity["nes"]["correlation"] > 0.5
    assert "no GPU here that it fits" in done.stderr


def write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray((image.transpose(1, 2, 0) * 255).astype(np.uint8)).save(path)


@pytest.mark.trt
def test_progress_is_told_and_the_engine_has_the_profile_asked_for(rtx: TensorRt) -> None:
    model = one_op_graph("Relu")
    told: list[tuple[str, float]] = []
    plan = plan_from_onnx(
        model.SerializeToString(),
        rtx,
        BuildOptions(best_batch=3, max_batch=5),
        progress=lambda phase, share: told.append((phase, share)),
    )
    assert len(plan.engine) > 1000
    assert all(0 <= share <= 1 for _, share in told)


def one_op_graph(op: str, batch: int | str = "N", **attributes: Any) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    shape = [batch, 3, 4, 6]
    graph = helper.make_graph(
        [helper.make_node(op, [PIXELS], [SCORES], **attributes)],
        "g",
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.trt
def test_a_graph_that_tensorrt_cannot_take_is_named(rtx: TensorRt) -> None:
    with pytest.raises(DetectorError, match=r"cannot take this graph: .*Det") as caught:
        plan_from_onnx(one_op_graph("Det").SerializeToString(), rtx, BuildOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.trt
def test_a_fixed_batch_must_be_asked_for(rtx: TensorRt) -> None:
    model = one_op_graph("Relu", batch=4).SerializeToString()
    with pytest.raises(DetectorError, match=r"batch is fixed at 4.*--max-batch 4"):
        plan_from_onnx(model, rtx, BuildOptions())
    plan_from_onnx(model, rtx, BuildOptions(best_batch=4, max_batch=4))


@pytest.mark.trt
def test_ctrl_c_cancels_a_build_and_leaves_nothing(rtx: TensorRt, tmp_path: Path) -> None:
    """A real process, interrupted once TensorRT is at work; the build is made slow by its model."""
    script = (
        "import sys, time\n"
        "from whyfake.export import engine\n"
        "report = engine._Build.report\n"
        "def slow(self):\n"
        "    report(self)\n"
        "    if self._phase: print('building', flush=True)\n"
        "engine._Build.report = slow\n"
        "build = engine._Build._build\n"
        "def late(self):\n"
        "    self._phase = ('waiting', 0.0)\n"
        "    while not self.cancelled: time.sleep(0.01)\n"
        "    return build(self)\n"
        "engine._Build._build = late\n"
        "from whyfake.cli import main\n"
        f"sys.argv = ['whyfake', 'build', 'bundled', '--precision', 'fp32', '-o', "
        f"{str(tmp_path / 'd.engine')!r}]\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "WHYFAKE_CACHE": str(tmp_path / "cache")},
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "building"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped; what was finished is whole" in errors
    assert "Traceback" not in errors
    assert files_in(tmp_path) == set()


# --- what is wrong is said, and nothing is left


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"out": Path("d.onnx")}, r"ends in .engine, .plan, .trt, such as d.engine"),
        ({"max_batch": 4, "best_batch": 8}, "best batch ≤ max batch, got 8 and 4"),
        ({"precision": "int8"}, "needs calibration pictures"),
        ({"flavour": "cudnn"}, "unknown TensorRT flavour 'cudnn'"),
    ],
)
def test_wrong_requests(toy: Path, changes: dict[str, Any], message: str) -> None:
    request = {"model": str(toy), "out": toy.with_suffix(".engine"), "precision": "fp32", **changes}
    with pytest.raises(UsageError, match=message):
        build_engine(BuildRequest(**request))


def test_neither_tensorrt_is_installed(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=r"whyfake\[gpu\]'.*whyfake\[rtx\]'"):
        build_engine(BuildRequest(str(toy), toy.with_suffix(".engine")))


def test_full_tensorrt_without_a_gpu_is_one_line(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the driver first: TensorRT itself would end the process."""
    monkeypatch.setattr(building, "load_tensorrt", lambda *_: TensorRt("tensorrt", FakeTensorRt(0)))

    def none() -> Any:
        raise EngineError("no NVIDIA driver here")

    for devices, why in ((none, "no NVIDIA driver here"), (list, "the driver shows no GPU")):
        monkeypatch.setattr(cuda, "devices", devices)
        with pytest.raises(EngineError, match=rf"here \({why}\).*--flavour rtx") as caught:
            build_engine(BuildRequest(str(toy), toy.with_suffix(".engine")))
        assert "\n" not in str(caught.value)
    assert not toy.with_suffix(".engine").exists()


@pytest.mark.trt
def test_rtx_on_a_card_that_it_does_not_serve_builds_as_without_one(
    rtx: TensorRt, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper = {"index": 0, "name": "NVIDIA H100", "compute_capability": (9, 0)}
    monkeypatch.setattr(cuda, "devices", lambda: [hopper])
    built = build_engine(BuildRequest(str(toy), toy.with_suffix(".engine"), "bf16", max_flips=1.0))
    assert built.card.engine["gpu"] is None
    assert built.card.engine["parity"]["how"] == "predicted on the CPU"


# --- on a GPU that is played


class Gpu:
    """TensorRT and a GPU; engines are their graphs. `spoil` changes a graph as it is built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = NumpyDevice()
        self.trt = FakeTensorRt(self.device)
        self.built: list[BuildOptions] = []
        self.caches: list[bytes | None] = []
        self.spoil: Any = None
        self.entered = 0
        tensorrt = TensorRt("tensorrt", self.trt)
        monkeypatch.setattr(building, "load_tensorrt", lambda *_: tensorrt)
        monkeypatch.setattr(tensorrt_engine, "load_tensorrt", lambda *_: tensorrt)
        monkeypatch.setattr(tensorrt_engine, "open_cuda", self._open)
        monkeypatch.setattr(building, "plan_from_onnx", self._build)
        found = {"index": 0, "name": "NumPy device", "compute_capability": (9, 0)}
        monkeypatch.setattr(cuda, "devices", lambda: [found])
        monkeypatch.setattr(cuda, "open_cuda", self._open)

    def _open(self, index: int) -> NumpyDevice:
        self.device.closed = False
        return self.device

    def _build(
        self,
        model: bytes,
        tensorrt: Any,
        options: BuildOptions,
        *,
        timing_cache: bytes | None,
        progress: Any,
        within: Any,
    ) -> Plan:
        with within():
            self.entered += 1
        self.built.append(options)
        self.caches.append(timing_cache)
        self.trt.best, self.trt.most = options.best_batch, options.max_batch
        if self.spoil is not None:
            model = self.spoil(model)
        return Plan(MAGIC + model, b"timings")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_parity_is_measured_and_the_engine_runs(gpu: Gpu, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.engine"
    built = build_engine(BuildRequest(str(toy), out, "fp32", max_batch=8, best_batch=4))
    parity = built.card.engine["parity"]
    assert parity["how"] == "measured on NumPy device"
    assert parity["max_abs"] < 1e-5
    assert parity["flips"] == 0
    assert parity["nes"] == {
        "frames": 4,
        "refused": 0,
        "sigma": 0.001,
        "correlation": pytest.approx(1, abs=1e-4),
    }
    assert gpu.entered == 1, "the GPU is current in the thread that builds"
    assert built.card.engine["gpu"] == "NumPy device"
    assert built.card.engine["compute_capability"] == "9.0"
    assert gpu.device.allocated == 0
    frame = np.zeros((*SIZE, 3), np.uint8)
    with whyfake.load_detector(out) as detector, whyfake.load_detector(toy, device="cpu") as plain:
        assert detector.engine.batch == 4
        got = whyfake.explain(detector, frame, method="sobol")
        want = whyfake.explain(plain, frame, method="sobol")
    np.testing.assert_allclose(got.heatmap, want.heatmap, atol=1e-4)


def test_the_fastest_batch_is_found_and_built_for(
    gpu: Gpu, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest of those within 3 % of the fastest; one more build, for it."""
    rates = {1: 100.0, 8: 500.0, 16: 980.0, 32: 1000.0, 64: 900.0, 100: 990.0}
    asked: list[int] = []

    def rate(detector: Any) -> float:
        asked.append(detector.engine.batch)
        return rates[detector.engine.batch]

    monkeypatch.setattr(building, "throughput", rate)
    built = build_engine(BuildRequest(str(toy), tmp_path / "d.engine", "fp32", max_batch=100))
    assert asked == [1, 8, 16, 32, 64, 100]
    assert [options.best_batch for options in gpu.built] == [64, 16]
    assert built.card.engine["profile"] == {"min": 1, "best": 16, "max": 100}


def test_an_engine_that_decides_otherwise_is_not_written(
    gpu: Gpu, toy: Path, tmp_path: Path
) -> None:
    def swap(model: bytes) -> bytes:
        changed = onnx.load_model_from_string(model)
        changed.graph.node[-1].output[0] = "before"
        changed.graph.node.append(
            onnx.helper.make_node("Gather", ["before", "order"], [SCORES], axis=1)
        )
        changed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 0]), "order"))
        return changed.SerializeToString()

    gpu.spoil = swap
    before = files_in(tmp_path)
    with pytest.raises(EngineError, match=r"decides otherwise than float32 on 64 of 64 pictures"):
        build_engine(BuildRequest(str(toy), tmp_path / "d.engine", "fp32", max_batch=8))
    assert files_in(tmp_path) == before
    assert gpu.device.allocated == 0


def test_timings_are_kept_for_the_next_build(gpu: Gpu, toy: Path, tmp_path: Path) -> None:
    request = BuildRequest(str(toy), tmp_path / "d.engine", "fp32", max_batch=8, best_batch=4)
    build_engine(request)
    build_engine(request)
    assert gpu.caches == [None, b"timings"]
    [cache] = (tmp_path / "cache" / "timing").iterdir()
    assert cache.name == "tensorrt-10.16.1.11-NumPy-device.cache"


def test_a_gpu_that_is_not_there(gpu: Gpu, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="there is no GPU 3, only 1: 0 to 0"):
        build_engine(BuildRequest(str(toy), tmp_path / "d.engine", "fp32", index=3))


def test_a_folder_that_cannot_be_written(gpu: Gpu, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        build_engine(BuildRequest(str(toy), tmp_path / "file" / "d.engine", "fp32", max_batch=4))
