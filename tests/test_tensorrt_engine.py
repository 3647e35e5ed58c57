"""Engine files: opened, checked, run and closed, with TensorRT and the GPU played by stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import MAGIC, FakeTensorRt
from numpy_device import NumpyDevice
from toys import conv_detector, planted_frame
from typer.testing import CliRunner

import whyfake
from whyfake.card import find_card
from whyfake.cli import app
from whyfake.errors import CardError, DetectorError, EngineError, UsageError
from whyfake.export.adopt import canonical
from whyfake.inspection import inspect_model
from whyfake.onnx_graph import load_graph
from whyfake.runtime import tensorrt_engine
from whyfake.runtime.load import engine_card_path
from whyfake.tensorrt_api import TensorRt

SIZE = (32, 48)


class Machine:
    """A GPU with TensorRT, and an engine of the convolutional toy that was built for both."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int] = SIZE
    ) -> None:
        self.device = NumpyDevice()
        self.trt = FakeTensorRt(self.device)
        self.opened: list[int] = []
        self.folder = folder
        monkeypatch.setenv("WHYFAKE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(tensorrt_engine, "open_cuda", self._open)
        monkeypatch.setattr(
            tensorrt_engine, "load_tensorrt", lambda flavour, _: TensorRt(flavour, self.trt)
        )
        conv_detector(folder, size).close()
        self.onnx = folder / "conv.onnx"
        graph, info = load_graph(self.onnx)
        card, _ = find_card(self.onnx, info.metadata)
        model, self.card = canonical(graph, info, card, "conv.onnx")
        self.graph = model
        self.engine = folder / "conv.engine"
        self.write(MAGIC + model.SerializeToString())

    def _open(self, index: int) -> Any:
        self.opened.append(index)
        return self.device

    def write(self, content: bytes, **changes: Any) -> None:
        import hashlib

        record = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "flavour": "tensorrt",
            "version": FakeTensorRt.__version__,
            "precision": "fp32",
            "gpu": "NumPy device",
            "compute_capability": "9.0",
            "platform": "Linux x86_64",
            "profile": {"min": 1, "best": 4, "max": 16},
            "parity": {},
            "command": "whyfake build conv.onnx --out conv.engine",
            **changes,
        }
        self.engine.write_bytes(content)
        card = {**self.card.to_dict(), "engine": record}
        engine_card_path(self.engine).write_text(json.dumps(card))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_an_engine_answers_like_its_graph(machine: Machine) -> None:
    """Through page-locked buffers, streams and recorded executions; batches larger and smaller."""
    images = np.random.default_rng(0).random((11, 3, *SIZE), np.float32)
    with whyfake.load_detector(machine.onnx, device="cpu") as original:
        wanted = original.log_probs(images)
    with whyfake.load_detector(machine.engine) as detector:
        assert detector.engine.device == "tensorrt:0"
        assert detector.engine.batch == 4, "the batch that it is tuned for"
        np.testing.assert_allclose(detector.log_probs(images), wanted, atol=1e-6)
        assert detector.images_seen == 11
    assert machine.device.allocated == 0
    assert machine.device.closed
    assert machine.device.launches > 0


def test_explanations_are_those_of_the_graph(machine: Machine) -> None:
    frame = planted_frame((8, 16, 16, 32), SIZE, seed=3)
    with whyfake.load_detector(machine.onnx, device="cpu") as original:
        wanted = whyfake.explain(original, frame, method="lime")
    with whyfake.load_detector(machine.engine, device="tensorrt:0") as detector:
        got = whyfake.explain(detector, frame, method="lime")
        assert got.images == detector.images_seen
    np.testing.assert_allclose(got.region_scores, wanted.region_scores, atol=1e-5)
    assert got.detector["engine"] == "TensorRT 10.16.1.11"


def test_an_engine_is_inspected_without_a_gpu(machine: Machine) -> None:
    report = inspect_model(machine.engine)
    assert report["engine"]["version"] == "10.16.1.11"
    assert report["card"]["classes"] == ["real", "fake"]
    assert report["sha256"] == report["engine"]["sha256"]
    assert not machine.opened
    done = CliRunner().invoke(app, ["inspect", str(machine.engine)])
    assert done.exit_code == 0
    assert "NumPy device (compute capability 9.0) under TensorRT 10.16.1.11" in done.stdout
    assert "1 to 16, tuned for 4" in done.stdout


def test_rtx_compiles_its_kernels_before_they_are_recorded(machine: Machine) -> None:
    """Otherwise a CUDA graph would keep the general kernels that RTX begins with."""
    with whyfake.load_detector(machine.engine):
        assert machine.trt.contexts == [None]
    machine.device.closed = False
    strategies = SimpleNamespace(EAGER="eager", LAZY="lazy")
    machine.trt.DynamicShapesKernelSpecializationStrategy = strategies  # type: ignore[attr-defined]
    with whyfake.load_detector(machine.engine):
        settings = machine.trt.contexts[-1]
        assert settings.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_which_gpu_and_which_batch(machine: Machine) -> None:
    with whyfake.load_detector(machine.engine, device="tensorrt:3", batch=16) as detector:
        assert machine.opened == [3]
        assert detector.engine.batch == 16
        assert detector.engine.device == "tensorrt:3"
    machine.device.closed = False
    with pytest.raises(UsageError, match="takes batches of 1 to 16, not 17"):
        whyfake.load_detector(machine.engine, batch=17)


Break = Callable[[Machine], None]
REBUILD = "whyfake build conv.onnx --out conv.engine"


@pytest.mark.parametrize(
    ("spoil", "error", "parts"),
    [
        (
            lambda m: m.write(m.engine.read_bytes(), version="10.3.0"),
            EngineError,
            ["was built by TensorRT 10.3.0, here is 10.16.1.11", REBUILD],
        ),
        (
            lambda m: m.write(m.engine.read_bytes(), compute_capability="8.7", gpu="Orin"),
            EngineError,
            ["compute capability 8.7 (Orin), here is NumPy device with 9.0", REBUILD],
        ),
        (
            lambda m: m.write(b"something else"),
            EngineError,
            ["cannot load", "Magic tag does not match (engine.cpp)", REBUILD],
        ),
        (
            lambda m: m.engine.write_bytes(b"another"),
            CardError,
            ["is the card of another engine", "whyfake build"],
        ),
        (
            lambda m: engine_card_path(m.engine).unlink(),
            CardError,
            ["has no card beside it", "conv.engine.card.json"],
        ),
        (
            lambda m: engine_card_path(m.engine).write_text(json.dumps(m.card.to_dict())),
            CardError,
            ["is not an engine's card"],
        ),
        (
            lambda m: engine_card_path(m.engine).write_text(
                json.dumps({**m.card.to_dict(), "engine": {"sha256": "0"}})
            ),
            CardError,
            ["'engine.flavour' is missing"],
        ),
        (lambda m: m.engine.unlink(), DetectorError, ["there is no such file"]),
        (
            lambda m: setattr(m.trt, "scratch", 1 << 40),
            EngineError,
            ["needs 1,048,576 MB", "smaller --max-batch"],
        ),
        (
            lambda m: setattr(m.device, "total_memory", 100_000),
            EngineError,
            ["out of memory"],
        ),
    ],
    ids=lambda value: "",
)
def test_what_does_not_fit_is_said_and_nothing_is_left(
    machine: Machine, spoil: Break, error: type[Exception], parts: list[str]
) -> None:
    spoil(machine)
    with pytest.raises(error) as caught:
        whyfake.load_detector(machine.engine)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert machine.device.closed or not machine.opened


def test_engines_run_on_tensorrt_only_and_tensorrt_runs_engines_only(machine: Machine) -> None:
    for device in ("cpu", "cuda", "ort-tensorrt:1"):
        with pytest.raises(UsageError, match="is a TensorRT engine, which --device"):
            whyfake.load_detector(machine.engine, device=device)
    with pytest.raises(UsageError, match=r"whyfake build .*conv.onnx --out conv.engine"):
        whyfake.load_detector(machine.onnx, device="tensorrt")


def test_a_picture_of_another_size_than_the_card_says(machine: Machine) -> None:
    content = machine.engine.read_bytes()
    machine.card = whyfake.DetectorCard.from_dict(
        {**machine.card.to_dict(), "input": {"height": 48, "width": 32}}
    )
    machine.write(content)
    with pytest.raises(CardError, match=r"takes pictures \(3, 32, 48\), the card says"):
        whyfake.load_detector(machine.engine)
    assert machine.device.closed


def test_tensors_of_another_maker_are_refused(machine: Machine) -> None:
    machine.graph.graph.output[0].name = "probabilities"
    machine.graph.graph.node[-1].output[0] = "probabilities"
    machine.write(MAGIC + machine.graph.SerializeToString())
    with pytest.raises(EngineError, match="was not made by whyfake build"):
        whyfake.load_detector(machine.engine)


def test_a_closed_engine_says_so(machine: Machine) -> None:
    detector = whyfake.load_detector(machine.engine)
    detector.close()
    detector.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        detector.log_probs(np.zeros((1, 3, *SIZE), np.float32))
