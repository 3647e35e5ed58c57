"""Shared by tests: the research material, GPUs, caches, working folders, how other packages run.

REQUIRE_GPU=1 turns every skip of a test marked `gpu` into a failure: for machines that have one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from emulated_cuda import COMPILER, build
from outside import SHARED

if TYPE_CHECKING:
    from training.fit import Fit
    from whyfake import Detector

_ASK = "from whyfake.runtime.cuda import devices; assert devices(), 'the driver shows no GPU'"


@pytest.hookimpl(trylast=True)  # after those of -k and -m have left out what need not be asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs ../shared, or a GPU, where that is absent."""
    if not SHARED.is_dir():
        _skip(items, "shared_data", "needs the research frames in ../shared")
    if any(item.get_closest_marker("gpu") for item in items):
        # in a process of its own: a driver, once asked, stays with its process
        asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True)
        if asked.returncode:
            said = asked.stderr.strip().rpartition("\n")[2]
            _skip(items, "gpu", f"needs an NVIDIA GPU: {said}")


def _skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """A skip of what needs a GPU is a failure where one is required."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_GPU") == "1" and item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_GPU=1, and skipped: {report.longrepr[2]}"


@pytest.fixture
def shared() -> Path:
    """The folder of real detectors and frames."""
    return SHARED


@pytest.fixture(scope="session")
def emulated_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the emulated CUDA driver; see emulated_cuda.environment."""
    if COMPILER is None:
        pytest.skip("needs a C compiler")
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, Any, None]:
    """No test reads the user's cache, or writes there: a remembered layout would change scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHYFAKE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor what another test has remembered."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    monkeypatch.setenv("WHYFAKE_CACHE", str(tmp_path_factory.getbasetemp() / "caches" / name))


@pytest.fixture
def graphs_run(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that ONNX Runtime is given by `load_detector`, as they come."""
    import onnx

    from whyfake.runtime import load
    from whyfake.runtime.onnxruntime_engine import OnnxRuntimeEngine

    graphs = []

    def noted(content: bytes, **options: Any) -> OnnxRuntimeEngine:
        graphs.append(onnx.load_model_from_string(content))
        return OnnxRuntimeEngine(content, **options)

    monkeypatch.setattr(load, "OnnxRuntimeEngine", noted)
    return graphs


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Package `shap` runs its small loops as they are: compiling them takes ten times as long.

    It decides that when it is imported, so every test that imports it needs this.
    """
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy.onnx, its card, and pictures: p0 to p3 it calls fake, plain not."""
    import numpy as np
    from PIL import Image
    from toys import PATCH, SIZE, planted_detector, planted_frame

    folder = tmp_path_factory.mktemp("planted")
    planted_detector(folder, PATCH, SIZE).close()
    for index in range(4):
        Image.fromarray(planted_frame(PATCH, SIZE, index)).save(folder / f"p{index}.png")
    plain = np.full((*SIZE, 3), 120, np.uint8)
    Image.fromarray(plain).save(folder / "plain.png")
    return folder


@pytest.fixture
def toy(toy_folder: Path, here: Path) -> Path:
    """The same, copied into the working folder; the detector's path."""
    for path in toy_folder.iterdir():
        shutil.copy(path, here)
    return here / "toy.onnx"


@pytest.fixture
def cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces are found by the cascade, whatever this machine's user has."""
    monkeypatch.delenv("WHYFAKE_FACE_MODEL", raising=False)
    monkeypatch.delenv("WHYFAKE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def models_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the working folder a models.py, imported afresh in each test."""
    from torch_models import MODELS

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("models.py").write_text(MODELS)
    yield
    sys.modules.pop("models", None)


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forged frames with their masks, two that are called real, a manifest, a detector."""
    from evaluations import planted_folder

    return planted_folder(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def planted(forged: Path) -> Iterator[Detector]:
    """The detector in that folder."""
    import whyfake

    with whyfake.load_detector(forged / "toy.onnx", device="cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    """Calls the crop of the portrait that walks through the clips fake, just; a darker one real."""
    from clips import brightness_detector

    with brightness_detector(tmp_path_factory.mktemp("toy"), 0.65) as found:
        yield found


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip in which the portrait walks away and back."""
    from clips import away_and_back, write_clip

    return write_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", away_and_back())


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic faces as the training reads them."""
    from training_toys import synthetic_folder

    return synthetic_folder(tmp_path_factory.mktemp("data") / "faces")


@pytest.fixture(scope="module")
def two_rounds(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A training run that nothing interrupted."""
    from training_toys import RECIPE

    from training.fit import fit

    return fit(crops, tmp_path_factory.mktemp("run"), RECIPE, "cpu", workers=0)
