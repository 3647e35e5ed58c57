"""`whyfake doctor` as a user runs it: on a machine that works, one that does not, one with GPUs."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import emulated_cuda
import jsonschema
import pytest
from test_doctor import SEGFAULT, install
from typer.testing import CliRunner

from whyfake.cli import app
from whyfake.doctor import engines, packages
from whyfake.doctor.gpu import device_nodes
from whyfake.doctor.probes import gpus

COMMAND = Path(sys.executable).with_name("whyfake")


def check_schema(report: dict[str, Any]) -> None:
    text = importlib.resources.files("whyfake").joinpath("schema/doctor.schema.json").read_text()
    jsonschema.validate(report, json.loads(text))


def test_a_working_machine_is_exit_code_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """All probes for real; of packages, only those that whyfake always needs."""
    base = tuple(p for p in packages.PACKAGES if p.extra is None or p.name == "onnxruntime")
    monkeypatch.setattr(packages, "PACKAGES", base)
    monkeypatch.setattr(engines, "TITLES", {})
    result = CliRunner().invoke(app, ["doctor", "--json"])
    report = json.loads(result.stdout)
    check_schema(report)
    checks = {check["name"]: check["status"] for check in report["checks"]}
    assert checks["CPUExecutionProvider"] == checks["bundled detector on cpu"] == "ok"
    assert report["ok"] == (result.exit_code == 0)
    assert result.exit_code == 0, report["checks"]


def test_a_broken_machine_is_exit_code_1_and_no_traceback(tmp_path: Path) -> None:
    """A segfaulting timm, no onnxruntime at all, a TensorRT without its libraries."""
    install(tmp_path, "timm", "9.9", SEGFAULT)
    install(tmp_path, "tensorrt", "10.16.1.11", "import ctypes; ctypes.CDLL('libnvinfer.so.10')")
    gone = "raise ModuleNotFoundError(\"No module named 'onnxruntime'\", name='onnxruntime')"
    (tmp_path / "onnxruntime.py").write_text(gone)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = [str(COMMAND), "doctor"]
    done = subprocess.run([*run, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    report = json.loads(done.stdout)
    check_schema(report)
    checks = {(check["group"], check["name"]): check for check in report["checks"]}
    assert len(checks) == len(report["checks"])
    assert checks["packages", "timm"]["detail"] == "9.9: crashed with SIGSEGV"
    assert checks["onnxruntime", "onnxruntime"]["status"] == "missing"
    tensorrt = checks["tensorrt", "TensorRT"]
    assert tensorrt["status"] == "broken"
    assert "libnvinfer.so.10" in tensorrt["detail"]
    assert checks["detector", "bundled detector on cpu"]["status"] == "missing"
    assert report["packages"]["timm"] == "9.9"


def test_without_a_driver_the_gpus_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings")
    from whyfake.errors import EngineError

    if device_nodes():
        assert gpus()["gpus"]
    else:
        with pytest.raises(EngineError, match="no NVIDIA driver"):
            gpus()


@pytest.mark.skipif(emulated_cuda.COMPILER is None, reason="needs a C compiler")
def test_with_a_driver_the_gpus_are_named_and_nothing_ends_the_command(tmp_path: Path) -> None:
    """The driver is the emulated one, on which TensorRT may crash: that is told, not suffered."""
    pytest.importorskip("cuda.bindings")
    environment = emulated_cuda.environment(emulated_cuda.build(tmp_path), devices=2)
    run = [str(COMMAND), "doctor", "--json"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    report = json.loads(done.stdout)
    check_schema(report)
    assert [gpu["index"] for gpu in report["gpus"]] == [0, 1]
    assert re.fullmatch(r"\d+\.\d+", report["driver"]["cuda"])
    checks = {(check["group"], check["name"]): check for check in report["checks"]}
    assert checks["gpu", "gpu 0"]["status"] == checks["gpu", "gpu 1"]["status"] == "ok"
    assert checks["onnxruntime", "CPUExecutionProvider"]["status"] == "ok"
    assert done.returncode == (0 if report["ok"] else 1)
