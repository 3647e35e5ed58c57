"""Where copies are composed makes no difference, and is chosen by what is faster."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import KINDS, batch_of
from toys import conv_detector, planted_frame

import whyfake
from whyfake.errors import EngineError, UsageError, WhyfakeError
from whyfake.explainers import Nes
from whyfake.perturbation import FloatArray, Pixels
from whyfake.runtime import Delivered, Job, choosing, run
from whyfake.runtime.engine import Engine
from whyfake.runtime.onnxruntime_composition import OrtCanvas

SIZE = (32, 48)


# --- the whole way


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conv")
    conv_detector(folder, SIZE).close()
    return folder / "conv.onnx"


@pytest.mark.parametrize("batch", [1, 7])
def test_explanations_are_the_same_wherever_copies_are_composed(model: Path, batch: int) -> None:
    frames = [planted_frame((8, 16, 16, 32), SIZE, seed=seed) for seed in range(3)]
    budget = whyfake.Settings(nes=Nes(steps=2, pairs=6)).with_budget(60)
    found = {}
    for compose in ("host", "device"):
        with whyfake.load_detector(model, device="cpu", batch=batch, compose=compose) as detector:
            made = whyfake.explain_many(detector, frames, method="all", settings=budget)
            found[compose] = sorted(made, key=lambda e: (e.frame.tobytes(), e.method))
            assert detector.engine.composition == compose
            assert detector.images_seen == sum(e.images for e in found[compose])
            moved = detector.engine.bytes_up / (detector.images_seen * 3 * SIZE[0] * SIZE[1] * 4)
            assert moved > 0.99 if compose == "host" else moved < 0.6
    for host, device in zip(found["host"], found["device"], strict=True):
        assert (host.method, host.images) == (device.method, device.images)
        assert (host.detector["composition"], device.detector["composition"]) == ("host", "device")
        np.testing.assert_allclose(device.heatmap, host.heatmap, atol=1e-4)
        np.testing.assert_allclose(device.region_scores, host.region_scores, atol=1e-4)


def test_log_probs_and_asking_alone(model: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((11, 3, *SIZE), np.float32)
    frame, batch = images[0], batch_of("grids", rng, 5, SIZE)
    with (
        whyfake.load_detector(model, device="cpu", batch=4) as host,
        whyfake.load_detector(model, device="cpu", batch=4, compose="device") as device,
    ):
        np.testing.assert_allclose(device.log_probs(images), host.log_probs(images), atol=1e-5)
        np.testing.assert_allclose(device.ask(batch, frame), host.ask(batch, frame), atol=1e-5)
        assert device.images_seen == host.images_seen == 16


@pytest.mark.gpu
def test_a_gpu_composes_as_the_host_does(model: Path) -> None:
    """Through ONNX Runtime's CUDA provider: every kind, with a tail, in float32."""
    rng = np.random.default_rng(0)
    frame = rng.random((3, *SIZE), np.float32)
    try:
        device = whyfake.load_detector(model, device="cuda", batch=8, compose="device")
    except WhyfakeError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    with device, whyfake.load_detector(model, device="cpu") as host:
        for kind in KINDS:
            batch = batch_of(kind, rng, 19, SIZE)
            np.testing.assert_allclose(device.ask(batch, frame), host.ask(batch, frame), atol=1e-4)


# --- which it is


def test_a_cpu_composes_on_the_host_unmeasured(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "composition_rates", lambda *_: pytest.fail("measured"))
    with whyfake.load_detector(model, device="cpu") as detector:
        assert detector.engine.compositions == ("host", "device")
        assert detector.settle_composition() == detector.engine.composition == "host"


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ({"host": 90.0, "device": 100.0}, "device"),
        ({"host": 104.0, "device": 100.0}, "device"),
        ({"host": 106.0, "device": 100.0}, "host"),
    ],
)
def test_elsewhere_it_is_measured_once_and_the_faster_is_taken(
    model: Path, monkeypatch: pytest.MonkeyPatch, rates: dict[str, float], chosen: str
) -> None:
    asked = []
    monkeypatch.setattr(choosing, "composition_rates", lambda d: asked.append(d) or rates)
    with whyfake.load_detector(model, device="cpu") as detector:
        detector.engine.device = "cuda:0"
        detector.log_probs(np.zeros((2, 3, *SIZE), np.float32))
        detector.log_probs(np.zeros((2, 3, *SIZE), np.float32))
        assert detector.engine.composition == chosen
        assert "device 100 images/s" in detector.engine.composition_why
        assert asked == [detector]


def test_rates_are_of_both_ways_and_cost_nothing(model: Path) -> None:
    with whyfake.load_detector(model, device="cpu", batch=3) as detector:
        rates = choosing.composition_rates(detector, 0.02)
        assert set(rates) == {"host", "device"}
        assert min(rates.values()) > 0
        assert detector.images_seen == 0


def test_a_device_that_fails_is_not_chosen(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise EngineError("no builder here")

    with whyfake.load_detector(model, device="cpu") as detector:
        detector.engine.device = "cuda:0"
        monkeypatch.setattr(detector.engine, "upload", fail)
        assert detector.settle_composition() == "host"
        assert detector.engine.composition_why == "the device could not: no builder here"
        assert np.isfinite(detector.log_probs(np.zeros((1, 3, *SIZE), np.float32))).all()


def test_a_failing_composition_fails_its_frame_alone(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtCanvas._show

    def show(self: OrtCanvas, images: FloatArray, row: int) -> None:
        if images.max() > 5:
            raise EngineError("the device is gone")
        real(self, images, row)

    monkeypatch.setattr(OrtCanvas, "_show", show)

    def ask(value: float) -> Generator[Any, Any, float]:
        answer = yield Pixels(np.full((4, 3, *SIZE), value, np.float32))
        return float(answer.sum())

    frame = np.zeros((3, *SIZE), np.float32)
    with whyfake.load_detector(model, device="cpu", batch=2, compose="device") as detector:
        jobs = [Job(value, frame, ask(value)) for value in (0.5, 9.0, 0.25)]
        events = {event.key: event for event in run(detector, jobs)}
    assert [isinstance(events[key], Delivered) for key in (0.5, 9.0, 0.25)] == [True, False, True]


def test_where_it_may_not_be(model: Path) -> None:
    with pytest.raises(UsageError, match="unknown compose 'gpu'"):
        whyfake.load_detector(model, compose="gpu")

    class Plain(Engine):
        name, device, batch, lanes, inputs = "plain", "cpu", 1, 1, ()

        def _run(self, arrays: Any) -> Any:
            return {}

        def close(self) -> None:
            pass

    with whyfake.load_detector(model, device="cpu") as detector:
        with pytest.raises(UsageError, match="host"):
            whyfake.Detector(Plain(), detector.card, compose="device")
        with pytest.raises(EngineError, match="cannot compose on its device"):
            Plain().canvas()
