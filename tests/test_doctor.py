"""The doctor: what it makes of what it finds, and the command as a user runs it."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from whyfake.doctor import engines, folder_checks, packages
from whyfake.doctor.check import Check
from whyfake.doctor.child import Answer, Children
from whyfake.doctor.engines import detector_checks, provider_checks, tensorrt_checks, unfit
from whyfake.doctor.gpu import Gpus, device_nodes, jetson, kernel_driver
from whyfake.doctor.packages import Package, conflicts, package_checks, start_imports
from whyfake.doctor.probes import RELU, provider
from whyfake.tensorrt_api import INSTALL

COMMAND = Path(sys.executable).with_name("whyfake")
SEGFAULT, HANG = "import ctypes; ctypes.string_at(0)", "import time; time.sleep(300)"


def install(folder: Path, name: str, version: str, code: str | None = None) -> None:
    """A package as pip would leave it: metadata, and a module of its name."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if code is not None:
        (folder / f"{name.replace('-', '_')}.py").write_text(code)


def answers(**said: Answer) -> Any:
    """An `ask` that has its answers ready, by function and first argument."""

    def ask(function: str, *arguments: Any) -> Future[Answer]:
        future: Future[Answer] = Future()
        future.set_result(said["_".join([function, *map(str, arguments[:1])]).replace("-", "_")])
        return future

    return ask


def one(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


H100 = {"index": 0, "name": "H100", "compute_capability": "9.0", "memory": 80 * 2**30}
RTX4090 = {"index": 0, "name": "RTX 4090", "compute_capability": "8.9", "memory": 24 * 2**30}
NO_DRIVER = Answer(error="there is no NVIDIA driver here", kind="EngineError")


def shown(*cards: dict[str, Any]) -> Gpus:
    said = {"gpus": list(cards), "cuda": "13.0", "package": "cuda-bindings 13.5.0"}
    return Gpus(Answer(said), nodes=["/dev/nvidia0"], kernel="580.95.05")


NONE = Gpus(NO_DRIVER, nodes=[], kernel=None)


# --- packages


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for fake packages, which are all that the doctor asks about."""
    monkeypatch.syspath_prepend(tmp_path)
    rows = (
        Package("fake-base", "fake_base", "one"),
        Package("fake-other", "fake_other", "two"),
        Package("fake-extra", "fake_extra", "three", "export", also=("fake-also",)),
    )
    monkeypatch.setattr(packages, "PACKAGES", rows)
    return tmp_path


def looked_at(timeout: float = 30.0) -> dict[str, Check]:
    with Children() as children:

        def ask(function: str, *arguments: Any) -> Future[Answer]:
            future: Future[Answer] = Future()
            name = f"whyfake.doctor.probes:{function}"
            future.set_result(children.ask(name, *arguments, timeout=timeout))
            return future

        return {c.name: c for c in package_checks(start_imports(ask), ask, gpu=False)}


def test_packages_that_load_are_ok_and_an_alternative_is_named(table: Path) -> None:
    install(table, "fake-base", "1.2", "")
    install(table, "fake-other", "2.0", "")
    install(table, "fake-also", "3.0")
    (table / "fake_extra.py").write_text("")
    found = looked_at()
    assert {check.status for check in found.values()} == {"ok"}
    assert found["fake-base"].detail == "1.2: one"
    assert found["fake-extra"].detail == "fake-also 3.0: three"


def test_what_is_not_installed_is_missing_or_absent_with_its_command(table: Path) -> None:
    install(table, "fake-base", "1.2", "")
    found = looked_at()
    missing, absent = found["fake-other"], found["fake-extra"]
    assert (missing.status, missing.mend) == ("missing", "pip install fake-other")
    assert (absent.status, absent.mend) == ("absent", "pip install 'whyfake[export]'")


BREAKS = [
    (SEGFAULT, "1.2: crashed with SIGSEGV"),
    ("raise RuntimeError('for another\\nNumPy')", "RuntimeError: for another NumPy"),
    ("import sys; sys.exit('no licence')", "1.2: SystemExit: no licence"),
    ("import libgone", "1.2: ModuleNotFoundError: No module named 'libgone'"),
]


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("fake-extra", HANG, "1.2: gave no answer in 3 s"),
        *((name, *how) for name in ("fake-base", "fake-extra") for how in BREAKS),
    ],
)
def test_a_broken_package_is_told_apart_from_its_neighbours(
    table: Path, name: str, code: str, said: str
) -> None:
    for other in ("fake-base", "fake-other", "fake-extra"):
        install(table, other, "1.2", code if other == name else "")
    found = looked_at(timeout=3)
    assert [n for n, check in found.items() if check.status != "ok"] == [name]
    assert found[name].status == "broken"
    assert said in found[name].detail
    assert found[name].mend == f"pip install --force-reinstall {name}==1.2"


def test_two_onnxruntimes_overwrite_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert conflicts(gpu=True) == []
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "onnxruntime", "1.31.0")
    install(tmp_path, "onnxruntime-gpu", "1.31.0")
    for gpu, keep in ((True, "onnxruntime-gpu"), (False, "onnxruntime")):
        (check,) = conflicts(gpu=gpu)
        assert check.status == "broken"
        assert "onnxruntime and onnxruntime-gpu are both installed" in check.detail
        remove = "pip uninstall -y onnxruntime onnxruntime-gpu"
        assert check.mend == f"{remove} && pip install {keep}"


def test_every_extra_that_is_recommended_exists() -> None:
    project = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    extras = {package.extra for package in packages.PACKAGES if package.extra}
    extras |= set(re.findall(r"whyfake\[(\w+)\]", " ".join(INSTALL.values())))
    assert {extra for extra in extras if f"\n{extra} = [" not in project} == set()


# --- the driver


def test_gpus_are_named_with_driver_and_memory() -> None:
    (check,) = shown(H100).checks
    assert check.status == "ok"
    for said in ("H100", "9.0", "80.0 GiB", "580.95.05", "CUDA 13.0", "cuda-bindings"):
        assert said in check.detail


@pytest.mark.parametrize(
    ("answer", "nodes", "kernel", "status", "mend"),
    [
        (NO_DRIVER, [], None, "absent", None),
        (Answer({"gpus": [], "cuda": None, "package": None}), [], None, "absent", None),
        (NO_DRIVER, ["/dev/nvidia0"], "580.1", "broken", "nvidia-smi"),
        (NO_DRIVER, [], "580.1", "absent", "docker run --gpus all …"),
        (Answer(error="crashed with SIGSEGV", kind="crash"), [], None, "broken", "nvidia-smi"),
        (Answer(error="no answer", kind="timeout"), [], None, "broken", "nvidia-smi"),
        (Answer(error="x", kind="MissingExtraError"), [], None, "absent", None),
        (
            Answer(error="x", kind="MissingExtraError"),
            ["/dev/nvidia0"],
            "580.1",
            "absent",
            "pip install cuda-bindings",
        ),
    ],
)
def test_no_gpu_is_a_fact_and_one_that_does_not_answer_a_fault(
    answer: Answer, nodes: list[str], kernel: str | None, status: str, mend: str | None
) -> None:
    (check,) = Gpus(answer, nodes=nodes, kernel=kernel).checks
    assert (check.status, check.mend) == (status, mend)


def test_what_linux_shows_of_a_gpu(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia12", "nvidiactl", "nvidia-uvm", "nvhost-gpu", "null"):
        (tmp_path / name).touch()
    names = [Path(node).name for node in device_nodes(tmp_path)]
    assert names == ["nvhost-gpu", "nvidia0", "nvidia12"]
    file = tmp_path / "version"
    assert kernel_driver(file) is None
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\n")
    assert kernel_driver(file) == "580.95.05"
    file.write_text("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\nmore\n")
    assert jetson(file) == "R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic"
    assert jetson(tmp_path / "none") is None


# --- engines


def test_the_relu_that_providers_run_is_what_its_recipe_gives() -> None:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 4])
        for name in ("whyfake_pixels", "whyfake_scores")
    ]
    node = helper.make_node("Relu", ["whyfake_pixels"], ["whyfake_scores"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset)
    assert model.SerializeToString() == RELU


def test_the_cpu_provider_really_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHYFAKE_CACHE", os.environ.get("WHYFAKE_CACHE", ""))  # restored after
    assert provider("cpu").startswith("onnxruntime 1.")


def test_a_listed_provider_that_does_not_load_is_no_provider() -> None:
    listed = Answer(list(engines.PROVIDERS))
    ask = answers(
        provider_cpu=Answer("onnxruntime 1.31"),
        provider_cuda=Answer(error="libcublas.so.13 not found", kind="EngineError"),
        provider_ort_tensorrt=Answer(error="libnvinfer.so.10 not found", kind="EngineError"),
    )
    there = provider_checks(listed, shown(H100), ask)
    assert [check.status for check in there] == ["ok", "broken", "absent"]
    assert there[1].mend == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert there[2].mend == "pip install 'tensorrt>=10.13,<11'"
    without = provider_checks(listed, NONE, ask)
    assert [check.status for check in without] == ["ok", "absent", "absent"]


@pytest.mark.parametrize(
    ("version", "status", "mend"),
    [
        ("11.4.0.106", "absent", "pip install 'tensorrt>=10.13,<11'"),
        ("10.16.1.11", "broken", "export LD_LIBRARY_PATH={}/tensorrt_libs:$LD_LIBRARY_PATH"),
    ],
)
def test_onnxruntimes_tensorrt_wants_tensorrt_10_where_it_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, status: str, mend: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "tensorrt", version)
    (tmp_path / "tensorrt_libs").mkdir()
    (tmp_path / "tensorrt_libs" / "__init__.py").touch()
    failed = Answer(error="libnvinfer.so.10 not found", kind="EngineError")
    ask = answers(provider_ort_tensorrt=failed)
    checks = provider_checks(Answer(["TensorrtExecutionProvider"]), shown(H100), ask)
    check = one(checks, "TensorrtExecutionProvider")
    assert (check.status, check.mend) == (status, mend.format(tmp_path))


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(error="No module named 'onnxruntime'", kind="ModuleNotFoundError"), "missing"),
        (Answer(error="crashed with SIGILL", kind="crash"), "broken"),
        (Answer(error="undefined symbol", kind="ImportError"), "broken"),
    ],
)
def test_without_onnxruntime_nothing_works(answer: Answer, status: str) -> None:
    (check,) = provider_checks(answer, NONE, answers())
    assert check.status == status
    assert check.mend


@pytest.mark.parametrize(
    ("flavour", "version", "capability", "fits"),
    [
        ("rtx", "1.7.1", "9.0", False),
        ("rtx", "1.7.1", "8.0", False),
        ("rtx", "1.7.1", "8.9", True),
        ("rtx", "1.7.1", "12.0", True),
        ("tensorrt", "10.3.0", "8.7", True),
        ("tensorrt", "10.16.1.11", "7.0", False),
        ("tensorrt", "10.3.0", "10.0", False),
        ("tensorrt", "10.13.3", "11.0", True),
        ("tensorrt", "", "9.0", True),
    ],
)
def test_which_tensorrt_serves_which_gpu(
    flavour: str, version: str, capability: str, fits: bool
) -> None:
    assert (unfit(flavour, version, capability) is None) == fits


def test_tensorrt_that_crashes_misfits_or_is_absent() -> None:
    absent = Answer(error="not installed", kind="MissingExtraError")
    rtx = Answer({"version": "1.7.1.116", "builds": True})
    crash = Answer(error="crashed with SIGSEGV", kind="crash")
    ours, theirs = tensorrt_checks(shown(H100), answers(tensorrt_tensorrt=crash, tensorrt_rtx=rtx))
    assert (ours.status, ours.detail) == ("broken", "crashed with SIGSEGV")
    assert theirs.status == "note"
    assert "serves GeForce and RTX cards only" in theirs.detail
    ours, theirs = tensorrt_checks(
        shown(RTX4090), answers(tensorrt_tensorrt=absent, tensorrt_rtx=rtx)
    )
    assert (ours.status, theirs.status) == ("absent", "ok")
    assert ours.mend is not None
    assert "whyfake[gpu]" in ours.mend
    ours, theirs = tensorrt_checks(NONE, answers(tensorrt_tensorrt=absent, tensorrt_rtx=rtx))
    assert (ours.status, ours.mend, theirs.status) == ("absent", None, "note")


def test_devices_that_disagree_are_broken() -> None:
    works = [Check("onnxruntime", name, "ok", "") for name in list(engines.PROVIDERS)[:2]]
    said = {"p": [0.2, 0.8], "seconds": 0.1, "engine": "onnxruntime 1.31"}
    near, far = {**said, "p": [0.205, 0.795]}, {**said, "p": [0.3, 0.7]}
    for other, status in ((near, "ok"), (far, "broken")):
        ask = answers(detector_cpu=Answer(said), detector_cuda=Answer(other))
        ours, theirs = detector_checks(works, ask)
        assert (ours.status, theirs.status) == ("ok", status)
    missing = Answer(error="needs onnxruntime", kind="MissingExtraError")
    (check,) = detector_checks([], answers(detector_cpu=missing))
    assert (check.status, check.mend) == ("missing", "pip install 'whyfake[cpu]'")


# --- folders


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHYFAKE_CACHE", str(tmp_path / "cache"))
    assert [check.status for check in folder_checks()] == ["ok", "ok", "ok"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("WHYFAKE_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    temporary, cache, _ = folder_checks()
    assert (temporary.status, temporary.mend) == ("broken", "export TMPDIR=FOLDER")
    assert (cache.status, cache.mend) == ("note", "export WHYFAKE_CACHE=FOLDER")
