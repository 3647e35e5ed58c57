"""The emulated CUDA driver of tests/native: built with a C compiler, used as libcuda.so.1.

A process that is to use it is started with `environment(folder)`; inside, `Emulator` asks it what
is alive and tells it what to fail. See tests/native/fake_cuda.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

NATIVE = Path(__file__).resolve().parent / "native"
COMPILER = shutil.which("cc") or shutil.which("gcc")
ALIVE = ("contexts", "memory", "bytes", "pinned", "streams", "events", "graphs", "pending")


def build(folder: Path, *options: str, stubs: bool = True) -> Path:
    """Compile libcuda.so.1 into `folder`.

    pycuda is linked against more of the driver than it calls for us; `stubs` adds what it lacks.
    """
    assert COMPILER is not None
    stub = folder / "stubs.c"
    lines = [f"int {name}(void) {{ return 801; }}" for name in _wanted_by_pycuda() if stubs]
    stub.write_text("\n".join(lines) + "\n")
    command = [COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-O1", "-shared", "-fPIC"]
    command += ["-pthread", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", *options]
    # what the driver defines comes before the stubs of the same names
    command += ["-Wl,--allow-multiple-definition", "-o", str(folder / "libcuda.so.1")]
    sources = [*sorted(NATIVE.glob("*.c")), stub]
    subprocess.run([*command, *map(str, sources), "-ldl"], check=True)
    return folder


def _wanted_by_pycuda() -> list[str]:
    spec = importlib.util.find_spec("pycuda")
    if spec is None or spec.origin is None:
        return []
    [library] = Path(spec.origin).parent.glob("_driver*.so")
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    names = (line.split()[-1] for line in listed.stdout.splitlines())
    return sorted({name.split("@")[0] for name in names if name.startswith("cu")})


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """For a process that finds the emulated driver, or with an empty folder none at all."""
    fake = {f"FAKE_CUDA_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), **fake}


class Emulator:
    """What the emulated driver tells about itself, in a process that uses it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.fake_cuda_count.restype = ctypes.c_long
        self.library.fake_cuda_violations.restype = ctypes.c_char_p
        self._functions: list[Any] = []

    def alive(self) -> dict[str, int]:
        """How many of each thing are alive; only what is not zero."""
        counts = {what: self.count(what) for what in ALIVE}
        return {what: count for what, count in counts.items() if count}

    def count(self, what: str) -> int:
        count = int(self.library.fake_cuda_count(what.encode()))
        assert count >= 0, what
        return count

    def violations(self) -> str:
        """What was done that corrupts memory on a GPU."""
        return str(self.library.fake_cuda_violations().decode())

    def fail(self, routine: str, code: int, call: int = 1) -> None:
        """Let the `call`-th call of a routine from now on fail; 0 for all of them."""
        self.library.fake_cuda_fail(routine.encode(), ctypes.c_long(call), code)

    def crash(self, code: int) -> None:
        """What a kernel does that ends in an error: nothing in the contexts works from now on."""
        self.library.fake_cuda_crash(code)

    def compute(self, stream: int, function: Callable[[], None]) -> None:
        """Put a function into a stream, as if it were a kernel; device pointers can be read."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self._functions.append(kind(lambda _: function()))
        code = self.library.fake_cuda_call(ctypes.c_void_p(stream), self._functions[-1], None)
        assert code == 0

    def shuffle(self, seed: int) -> None:
        """Let streams advance at random: that finds buffers that are overwritten too early, as
        doing everything late finds those that are read too early. 0 ends it.
        """
        self.library.fake_cuda_shuffle(seed)

    def current(self) -> int:
        """This thread's context, for the driver."""
        context = ctypes.c_void_p()
        assert self.library.cuCtxGetCurrent(ctypes.byref(context)) == 0
        return context.value or 0

    def set_current(self, context: int) -> None:
        assert self.library.cuCtxSetCurrent(ctypes.c_void_p(context)) == 0

    def retain(self, device: int) -> int:
        """Take part in a primary context, as torch does."""
        context = ctypes.c_void_p()
        assert self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
        return context.value or 0

    def release(self, device: int) -> None:
        assert self.library.cuDevicePrimaryCtxRelease_v2(device) == 0

    def hold(self) -> None:
        """Let the next synchronize wait for `let_go`, two seconds at the most."""
        self.library.fake_cuda_hold()

    def let_go(self) -> None:
        self.library.fake_cuda_let_go()
