"""Shared by all tests: where the research material stands, if it does, and whether there is a GPU.

REQUIRE_GPU=1 turns every skip of a test marked `gpu` into a failure: for machines that have one.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from emulated_cuda import COMPILER, build

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
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


@functools.cache
def import_timm() -> Any:
    """timm, or skip the tests that need it.

    timm imports torchvision, whose wheel for CUDA has no operators beside a torch for CPUs: it asks
    for the schemas of two at its import, which are defined for it here.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    try:
        return pytest.importorskip("timm")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", "timm")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("timm")


_KEPT: list[Any] = []  # a torch.library.Library takes its definitions with it
