"""The ONNX Runtime back-end: devices are what was asked for, or an error; never a quiet other one.

There is no GPU here: a stand-in for the package plays the ways in which CUDA fails, as they were
read off onnxruntime 1.31.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from toys import PATCH, SIZE, conv_detector, planted_detector

from whyfake import load_detector
from whyfake.errors import DetectorError, EngineError, MissingExtraError, UsageError
from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.runtime import onnxruntime_engine
from whyfake.runtime.onnxruntime_engine import Binding, OnnxRuntimeEngine

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class FakeSession:
    """What the engine uses of an InferenceSession."""

    def __init__(self, wanted: list[Any], in_use: list[str], batch: int | str) -> None:
        self.wanted = wanted
        self._in_use = in_use
        self._batch = batch
        self.fallback = True

    def disable_fallback(self) -> None:
        self.fallback = False

    def get_providers(self) -> list[str]:
        return self._in_use

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=PIXELS, shape=[self._batch, 3, 4, 6])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=SCORES)]

    def io_binding(self) -> Any:
        return SimpleNamespace(bind_output=lambda *_: None)

    def run(self, outputs: list[str], arrays: dict[str, Any]) -> list[Any]:
        assert not self.fallback
        assert CUDA not in self._in_use, "on a GPU the input is bound"
        return [np.zeros((len(arrays[PIXELS]), 2), np.float32)]


class FakeOnnxRuntime:
    """The package, with CUDA listed or not, and failing or not; it keeps what it was asked for."""

    __version__ = "1.31.1"

    class OrtValue:
        @staticmethod
        def ortvalue_from_shape_and_type(*_: Any) -> Any:
            raise RuntimeError("CUDA failure 700:\n an illegal memory access")

    def __init__(self, listed: bool, cuda: str, batch: int | str = "N") -> None:
        self.listed = listed
        self.cuda = cuda  # "works", "falls back" or "raises"
        self.batch = batch
        self.asked: list[list[Any]] = []
        self.options: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU] if self.listed else [CPU]

    def SessionOptions(self) -> Any:  # noqa: N802 - onnxruntime's name
        self.options.append(onnxruntime.SessionOptions())  # the real one: it refuses what it lacks
        return self.options[-1]

    def InferenceSession(  # noqa: N802
        self, model: Any, options: Any, *, providers: list[Any], enable_fallback: int
    ) -> FakeSession:
        assert enable_fallback == 0, "it would go on with the CPU, and say so on stdout"
        self.asked.append(providers)
        names = [name for name, _ in providers]
        if CUDA in names and self.cuda == "raises":
            raise RuntimeError("cudaErrorNoDevice:\n  no CUDA-capable device is detected")
        if CUDA in names and self.cuda == "falls back":
            names = [CPU]
        return FakeSession(providers, names, self.batch)


Install = Callable[..., FakeOnnxRuntime]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a stand-in in the place of onnxruntime."""

    def put(**kwargs: Any) -> FakeOnnxRuntime:
        fake = FakeOnnxRuntime(**kwargs)
        monkeypatch.setattr(onnxruntime_engine, "require", lambda *_: fake)
        return fake

    return put


def one_line(error: BaseException, *parts: str) -> None:
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)


# --- CUDA that was asked for


def test_cuda_that_works(install: Install) -> None:
    fake = install(listed=True, cuda="works")
    engine = OnnxRuntimeEngine(b"model", device="cuda:1", threads=3)
    assert engine.device == "cuda:1"
    assert fake.asked == [[(CUDA, {"device_id": 1, "use_tf32": 0})]]
    assert (engine.batch, engine.lanes) == (64, 2)
    assert OnnxRuntimeEngine(b"model", device="cuda").device == "cuda:0"
    assert OnnxRuntimeEngine(b"model", device="cuda", batch=8).batch == 8


def test_cuda_of_a_package_without_it(install: Install) -> None:
    fake = install(listed=False, cuda="works")
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeEngine(b"model", device="cuda")
    one_line(caught.value, "no CUDA provider", "pip install 'whyfake[gpu]'", "--device cpu")
    assert fake.asked == []


def test_cuda_that_falls_back_inside_onnxruntime(install: Install) -> None:
    """A driver or library is missing: the session opens, on the CPU, and only its list tells."""
    fake = install(listed=True, cuda="falls back")
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeEngine(b"model", device="cuda:2")
    one_line(caught.value, "CUDA device 2 cannot be used", "fell back to the CPU", "--device cpu")
    assert [name for providers in fake.asked for name, _ in providers] == [CUDA]


def test_cuda_that_raises(install: Install) -> None:
    fake = install(listed=True, cuda="raises")
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeEngine(b"model", device="cuda:7")
    one_line(caught.value, "CUDA device 7 cannot be used", "no CUDA-capable device")
    assert [name for providers in fake.asked for name, _ in providers] == [CUDA]


def test_cuda_that_fails_in_the_middle_of_a_run(install: Install) -> None:
    install(listed=True, cuda="works")
    engine = OnnxRuntimeEngine(b"model", device="cuda", batch=2)
    with pytest.raises(EngineError) as caught:
        engine.run({PIXELS: np.zeros((2, 3, 4, 6), np.float32)})
    one_line(caught.value, "onnxruntime failed on a batch", "illegal memory access")


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider' is not in")
def test_the_real_package_that_only_claims_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime lists CUDA on machines without a GPU; here it is made to."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("for the CPU package")
    planted_detector(tmp_path, PATCH, SIZE).close()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(EngineError, match="CUDA device 0 cannot be used"):
        load_detector(tmp_path / "toy.onnx", device="cuda")
    with load_detector(tmp_path / "toy.onnx", device="auto") as detector:
        assert detector.engine.device == "cpu"


# --- ONNX Runtime's TensorRT provider, and inputs that stay on the device

TENSORRT = "TensorrtExecutionProvider"


def test_tensorrt_provider_gets_its_caches_and_profile(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One profile of one batch, which every batch has; caches where the user's caches are."""
    monkeypatch.setenv("WHYFAKE_CACHE", str(tmp_path))
    fake = install(listed=True, cuda="works")
    monkeypatch.setattr(fake, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    engine = OnnxRuntimeEngine(b"model", device="ort-tensorrt:1", batch=16, size=(224, 160))
    assert (engine.device, engine.batch, engine.precision) == ("ort-tensorrt:1", 16, "tf32")
    [(name, options), (second, _)] = fake.asked[-1]
    assert (name, second) == (TENSORRT, CUDA)
    shape = f"{PIXELS}:16x3x224x160"
    assert {options[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")} == {shape}
    assert options["device_id"] == 1
    assert options["trt_engine_cache_path"] == str(tmp_path / "ort-tensorrt")
    assert (tmp_path / "ort-tensorrt").is_dir()


def test_tensorrt_provider_that_is_not_there(install: Install) -> None:
    install(listed=True, cuda="works")
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeEngine(b"model", device="ort-tensorrt")
    one_line(caught.value, "no TensorRT provider", "--device cpu")


def test_a_bound_input_gives_what_a_plain_run_gives(tmp_path: Path) -> None:
    """On the CPU, where binding works too; batches of several sizes, one after the other."""
    with conv_detector(tmp_path) as detector:
        session = detector.engine._session  # type: ignore[attr-defined]
        binding = Binding(onnxruntime, session, "cpu", 0)
        rng = np.random.default_rng(0)
        for count in (2, 5, 5, 1):
            images = rng.random((count, 3, 32, 48), np.float32)
            [bound] = binding.run(images)
            [plain] = session.run(None, {PIXELS: images})
            np.testing.assert_array_equal(bound, plain)


# --- auto says what it took


@pytest.mark.parametrize(
    ("listed", "cuda", "device"),
    [
        (True, "works", "cuda:0"),
        (True, "falls back", "cpu"),
        (True, "raises", "cpu"),
        (False, "works", "cpu"),
    ],
)
def test_auto_takes_cuda_if_it_works(
    install: Install, listed: bool, cuda: str, device: str
) -> None:
    fake = install(listed=listed, cuda=cuda)
    engine = OnnxRuntimeEngine(b"model", threads=3)
    assert engine.device == device
    if device == "cpu":  # a session of its own, fed as a CPU likes it
        assert fake.asked[-1] == [(CPU, {})]
        assert (engine.batch, engine.lanes) == (1, 3)
        scores = engine.run({PIXELS: np.zeros((1, 3, 4, 6), np.float32)})
        assert scores[SCORES].shape == (1, 2)
    else:
        assert (engine.batch, engine.lanes) == (64, 2)


def test_cpu_never_asks_for_cuda(install: Install) -> None:
    fake = install(listed=True, cuda="works")
    assert OnnxRuntimeEngine(b"model", device="cpu").device == "cpu"
    assert fake.asked == [[(CPU, {})]]


# --- the session


def test_the_real_session_may_not_fall_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime's own retry on the CPU (EPFail) is off, and so is what it prints to stdout."""
    from onnxruntime.capi import _pybind_state

    with planted_detector(tmp_path, PATCH, SIZE) as detector:
        session = detector.engine._session  # type: ignore[attr-defined]
        real = session._sess

        class Failing:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def run(self, *args: Any) -> Any:
                raise _pybind_state.EPFail("the device is gone")

        session._sess = Failing()
        with pytest.raises(EngineError, match="failed on a batch: the device is gone"):
            detector.log_probs(np.zeros((1, 3, *SIZE), np.float32))
        session._sess = real
    assert capsys.readouterr() == ("", "")


def test_one_thread_a_session_on_the_cpu(install: Install) -> None:
    fake = install(listed=False, cuda="works")
    engine = OnnxRuntimeEngine(b"model", device="cpu", threads=5)
    assert engine.lanes == 5
    assert fake.options[0].intra_op_num_threads == 1
    assert fake.options[0].inter_op_num_threads == 1


def test_int8_products_that_do_not_overflow(install: Install) -> None:
    """Without this a CPU that lacks VNNI adds pairs of products up in 16 bits, and saturates."""
    fake = install(listed=False, cuda="works")
    OnnxRuntimeEngine(b"model", device="cpu")
    assert fake.options[0].get_session_config_entry("session.x64quantprecision") == "1"


def test_all_cores_that_the_process_may_use(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(listed=False, cuda="works")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert OnnxRuntimeEngine(b"model").lanes == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert OnnxRuntimeEngine(b"model").lanes == 6


@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_a_fixed_batch_is_kept_on_every_device(install: Install, device: str) -> None:
    install(listed=True, cuda="works", batch=4)
    assert OnnxRuntimeEngine(b"model", device=device).batch == 4
    assert OnnxRuntimeEngine(b"model", device=device, batch=4).batch == 4
    with pytest.raises(UsageError, match="fixes its batch at 4; it cannot run at 8"):
        OnnxRuntimeEngine(b"model", device=device, batch=8)


@pytest.mark.parametrize(
    "device", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "cpu:0", "auto:1", "", " cpu"]
)
def test_unknown_devices(install: Install, device: str) -> None:
    install(listed=True, cuda="works")
    with pytest.raises(UsageError, match="device must be auto, cpu, cuda, tensorrt or ort"):
        OnnxRuntimeEngine(b"model", device=device)


@pytest.mark.parametrize("option", ["threads", "batch"])
def test_counts_start_at_one(install: Install, option: str) -> None:
    install(listed=False, cuda="works")
    for count in (0, -2):
        with pytest.raises(UsageError, match=f"{option} must be 1 or more, got {count}"):
            OnnxRuntimeEngine(b"model", **{option: count})  # type: ignore[arg-type]


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError) as caught:
        OnnxRuntimeEngine(b"model")
    one_line(caught.value, "'onnxruntime', which is not installed: pip install 'whyfake[cpu]'")


def test_a_model_that_is_none() -> None:
    with pytest.raises(DetectorError) as caught:
        OnnxRuntimeEngine(b"no model at all", device="cpu", name="odd.onnx")
    one_line(caught.value, "odd.onnx: onnxruntime cannot load it")


def test_batches_are_checked(tmp_path: Path) -> None:
    with planted_detector(tmp_path, PATCH, SIZE, engine_batch=2) as detector:
        engine = detector.engine
        good = np.zeros((2, 3, *SIZE), np.float32)
        assert engine.run({PIXELS: good})[SCORES].shape == (2, 2)
        for arrays, message in (
            ({"x": good}, "wanted inputs"),
            ({}, "wanted inputs"),
            ({PIXELS: good[:1]}, "with 2 rows"),
            ({PIXELS: good[..., ::-1]}, "must be contiguous"),
            ({PIXELS: good[:, :2].copy()}, "failed on a batch"),
            ({PIXELS: good.astype(np.float64)}, "failed on a batch"),
        ):
            with pytest.raises(EngineError, match=message) as caught:
                engine.run(arrays)
            one_line(caught.value)
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.run({PIXELS: good})
