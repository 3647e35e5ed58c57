"""The CUDA device: its behaviour with each package, and all the ways in which there is none.

There is no GPU here: tests/native is a driver without one, and the behaviour (tests/device) runs on
it in a process of its own. Where there is a GPU, the same runs on that.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from emulated_cuda import build, environment

from whyfake.errors import EngineError, MissingExtraError, UsageError
from whyfake.runtime import cuda_packages
from whyfake.runtime.cuda import open_cuda

TESTS = Path(__file__).resolve().parent
PACKAGES = ["cuda-bindings", "pycuda"]
EXPECTED_SKIPS = ("pycuda has no graphs", "this package has graphs", "pycuda keeps a stack")
OPEN = """
import whyfake.runtime.cuda as module
try:
    with module.open_cuda({index}, {package!r}) as cuda:
        cuda.synchronize(cuda.stream())
        print("works:", cuda.package)
except module.EngineError as error:
    print(error)
"""


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if importlib.util.find_spec({"pycuda": "pycuda", "cuda-bindings": "cuda"}[name]) is None:
        pytest.skip(f"{name} is not installed")
    return name


def python(code: str, environ: dict[str, str]) -> str:
    """What a process prints; it must end well, and have nothing to complain about."""
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def opened(environ: dict[str, str], package: str | None, index: int = 0) -> str:
    """The message of an attempt to open a device, one line."""
    message = python(OPEN.format(index=index, package=package), environ)
    assert "\n" not in message
    return message


# --- behaviour


def run_behaviour(environ: dict[str, str], package: str) -> str:
    files = sorted(map(str, (TESTS / "device").glob("behaviour_*.py")))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *files],
        env={**environ, "CUDA_PACKAGE": package},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_behaviour_on_the_emulated_driver(emulated_driver: Path, package: str) -> None:
    environ = environment(emulated_driver, devices=3, memory=64 << 20)
    report = run_behaviour({**environ, "CUDA_EMULATED": "1"}, package)
    passed = re.search(r"(\d+) passed", report)
    assert passed is not None
    assert int(passed[1]) >= 80  # none got lost on the way
    for line in report.splitlines():
        assert not line.startswith("SKIPPED") or line.split(": ", 1)[1].startswith(EXPECTED_SKIPS)


@pytest.mark.gpu
def test_behaviour_on_a_gpu(package: str) -> None:
    report = run_behaviour({**os.environ, "CUDA_EMULATED": "0"}, package)
    passed = re.search(r"(\d+) passed", report)
    assert passed is not None
    assert int(passed[1]) >= 25


@pytest.mark.parametrize("required", [False, True])
def test_a_gpu_may_be_required(tmp_path: Path, required: bool) -> None:
    """REQUIRE_GPU=1 turns skips into failures, of which there is one reason: no driver."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(TESTS / "test_cuda.py")],
        env={**environment(tmp_path), "REQUIRE_GPU": "1" if required else "0"},
        capture_output=True,
        text=True,
    )
    if "passed" in done.stdout:
        pytest.skip("there is a GPU here")
    assert done.returncode == int(required)
    assert "needs an NVIDIA GPU: " in done.stdout
    assert ("REQUIRE_GPU=1, and skipped" in done.stdout) == required


# --- no device


def test_no_driver(tmp_path: Path, package: str) -> None:
    environ = environment(tmp_path)
    if "works" in python("import ctypes.util as c; print(c.find_library('cuda') and 'works')", {}):
        pytest.skip("there is a driver here")
    for asked in (package, None):
        message = opened(environ, asked)
        assert message.startswith("there is no NVIDIA driver here (libcuda.so.1: cannot open")
        assert message.endswith("install it, or start the container with --gpus all")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (100, "CUDA_ERROR_NO_DEVICE, .*: there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES"),
        (34, "CUDA_ERROR_STUB_LIBRARY, .*: libcuda.so.1 is the toolkit's stub, not a driver"),
        (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, .*: the driver was updated .*: reboot"),
        (999, "CUDA_ERROR_UNKNOWN, unknown error"),
        (12345, "code 12345, which this driver has no words for"),
    ],
)
def test_a_driver_that_does_not_start(
    emulated_driver: Path, package: str, code: int, message: str
) -> None:
    """pycuda would end the process at a code that the driver has no words for."""
    for asked in (package, None):
        said = opened(environment(emulated_driver, init=code), asked)
        assert re.fullmatch(f"cuInit failed: {message}.*", said)


def test_a_driver_without_devices(emulated_driver: Path) -> None:
    environ = environment(emulated_driver, devices=0)
    assert python("from whyfake.runtime.cuda import devices; print(devices())", environ) == "[]"


@pytest.mark.parametrize(("count", "have"), [(1, "one, GPU 0"), (2, "2, GPU 0 to 1")])
def test_an_index_out_of_range(emulated_driver: Path, package: str, count: int, have: str) -> None:
    message = opened(environment(emulated_driver, devices=count), package, index=count)
    assert message == f"there is no GPU {count} here: CUDA shows {have}"


# --- packages


def test_neither_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, name, None)  # also what another test has imported
    for package, wanted, extra in (
        (None, "pycuda or cuda-bindings", "gpu"),
        ("cuda-bindings", "cuda-bindings", "gpu"),
        ("pycuda", "pycuda", "pycuda"),
    ):
        with pytest.raises(MissingExtraError) as caught:
            open_cuda(0, package)
        assert str(caught.value) == (
            f"using a GPU needs the package {wanted}, which is not installed: "
            f"pip install 'whyfake[{extra}]'"
        )


def test_a_package_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match=r"unknown CUDA package 'cupy': .*pycuda, cuda-bindings"):
        open_cuda(0, "cupy")


@pytest.fixture
def broken_pycuda(tmp_path: Path) -> str:
    """A folder with a pycuda that was built for something else."""
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('undefined symbol: cuX')")
    return str(tmp_path)


def test_a_broken_pycuda_does_not_stand_in_the_way(
    emulated_driver: Path, broken_pycuda: str
) -> None:
    environ = {**environment(emulated_driver), "PYTHONPATH": broken_pycuda}
    assert opened(environ, None).startswith("works: cuda-bindings ")
    said = opened(environ, "pycuda")
    assert said == "the GPU cannot be used: pycuda says: undefined symbol: cuX"


def test_when_none_works_each_has_its_say(
    emulated_driver: Path, broken_pycuda: str, tmp_path: Path
) -> None:
    old = build(tmp_path, "-DFAKE_CUDA_OLD")
    environ = {**environment(old, version=11040), "PYTHONPATH": broken_pycuda}
    said = opened(environ, None)
    assert said.startswith(
        "the GPU cannot be used: pycuda says: undefined symbol: cuX; cuda-bindings "
    )
    assert "does not fit the driver (CUDA 11.4), " in said
    assert said.endswith("update the driver, or install the cuda-bindings of its version")


def test_a_driver_that_is_too_old(tmp_path: Path) -> None:
    old = environment(build(tmp_path, "-DFAKE_CUDA_OLD"), version=11040)
    assert "does not fit the driver (CUDA 11.4), " in opened(old, "cuda-bindings")


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="pycuda is not installed")
def test_pycuda_built_for_a_newer_driver(tmp_path: Path) -> None:
    """It lacks a symbol, and says so; the other package is taken where none is named."""
    environ = environment(build(tmp_path, stubs=False))
    environ["PYTHONWARNINGS"] = "ignore"  # pycuda warns as well
    said = opened(environ, "pycuda")
    assert re.fullmatch(
        r"the GPU cannot be used: pycuda says: .*_driver.*\.so: undefined symbol: cu\w+", said
    )
    assert opened(environ, None).startswith("works: cuda-bindings ")


@pytest.mark.parametrize("version", ["12.9.0", "12.8.0", "12.9.1", "13.5.0"])
def test_cuda_bindings_that_keep_other_threads_waiting(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Found with 12.8.0 and 12.9.0 by the test of just that in tests/device."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(cuda_packages, "Libcuda", Mock())
    refused = "pip install 'cuda-bindings>=12.9.1'" if version < "12.9.1" else "no such driver"
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=ImportError("no such driver")))
    with pytest.raises(EngineError, match=re.escape(refused)):
        open_cuda(0, "cuda-bindings")


# --- the end of the process


@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_python_may_end_with_everything_open(
    emulated_driver: Path, package: str, where: str
) -> None:
    """Nothing to complain about, and a view of pinned memory can be read to the last."""
    code = f"""
import atexit, threading
from whyfake.runtime.cuda import open_cuda
def last():
    assert array.sum() == 45
    print("read")
atexit.register(last)
def use():
    global cuda, array
    cuda = open_cuda(0, {package!r})
    cuda.allocate(10), cuda.event()
    array = cuda.pinned(10, "int64")
    array[:] = range(10)
    cuda.upload(cuda.allocate(80), array, cuda.stream())
if {where == "here"}:
    use()
else:
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
print("used")
"""
    assert python(code, environment(emulated_driver)) == "used\nread"


def test_ctrl_c_while_waiting(emulated_driver: Path, package: str) -> None:
    """It comes out as itself, with everything freed: pycuda would end the process."""
    code = f"""
import sys, threading
sys.path.insert(0, {str(TESTS)!r})
from emulated_cuda import Emulator
from whyfake.runtime.cuda import open_cuda
emulator = Emulator()
try:
    with open_cuda(0, {package!r}) as cuda:
        stream = cuda.stream()
        cuda.upload(cuda.allocate(80), cuda.pinned(80, "uint8"), stream)
        emulator.hold()
        threading.Timer(0.5, emulator.let_go).start()
        print("waiting", flush=True)
        cuda.synchronize(stream)
except KeyboardInterrupt:
    print("interrupted", emulator.alive(), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(emulated_driver),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "interrupted {}\n", "")
