"""The real Python bindings of TensorRT, loaded without TensorRT, and what they offer, as data.

As a script (`python tensorrt_bindings.py MODULE FOLDER STUB…`) it loads the stubs, imports the
module and prints its API as JSON: that happens in a process of its own, one a version.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

VERSIONS = ("10.3", "10.16", "11.4")
"""Folders in $WHYFAKE_TRT_BINDINGS: JetPack 6's, the last 10, and the newest of today."""
_STUBS = Path(__file__).parent / "native" / "tensorrt_stubs.c"
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def split_arguments(text: str) -> list[str]:
    """Split at the commas that no bracket or quote encloses."""
    parts, depth, quote = [""], 0, ""
    for mark in text:
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        depth += (mark in "([{<") - (mark in ")]}>")
        if mark == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += mark
    return [part.strip() for part in parts if part.strip()]


def signatures(doc: str) -> list[dict[str, Any]]:
    """The signatures in a docstring of pybind11: of every overload the parameters and result."""
    lines = doc.strip().splitlines()
    if len(lines) > 1 and lines[1].startswith("Overloaded"):
        lines = [m[1] for line in lines if (m := re.match(r"\d+\. (\w+\(.*)", line))]
    else:
        lines = lines[:1]
    found = []
    for line in lines:
        match = re.fullmatch(r"\w*\((.*)\) -> (.*)", line.replace("->", " -> ").replace("  ", " "))
        if match is None:
            continue
        parameters = [
            {"name": re.split(r"[:=]", part)[0].strip(), "default": bool(re.search(r"[^=]=", part))}
            for part in split_arguments(match[1])
        ]
        found.append({"parameters": parameters, "returns": match[2].strip()})
    return found


def describe_member(owner: type, name: str) -> dict[str, Any]:
    """One attribute of a class: its kind, whether it can be set, signatures, type."""
    member = inspect.getattr_static(owner, name)
    if isinstance(member, property):
        said = signatures((member.fget.__doc__ if member.fget else "") or "")
        returns = said[0]["returns"] if said else ""
        return {"kind": "property", "set": member.fset is not None, "returns": returns}
    if isinstance(member, type):
        return {"kind": "class"}
    if isinstance(getattr(owner, name), owner):
        return {"kind": "member"}  # of an enum
    value = getattr(owner, name)
    if callable(value):
        return {"kind": "method", "signatures": signatures(value.__doc__ or "")}
    return {"kind": "value", "type": type(value).__name__}


def describe(module: Any) -> dict[str, Any]:
    """What a module of TensorRT offers: classes with their members, functions, other values."""
    classes, functions, values = {}, {}, []
    for name in dir(module):
        value = getattr(module, name)
        if isinstance(value, type):
            names = [n for n in dir(value) if not n.startswith("__") or n == "__init__"]
            classes[name] = {member: describe_member(value, member) for member in names}
        elif inspect.isfunction(value):
            parameters = [
                {"name": p.name, "default": p.default is not p.empty}
                for p in inspect.signature(value).parameters.values()
            ]
            functions[name] = [{"parameters": parameters, "returns": ""}]
        elif callable(value):
            functions[name] = signatures(value.__doc__ or "")
        else:
            values.append(name)
    return {
        "version": module.__version__,
        "classes": classes,
        "functions": functions,
        "values": values,
    }


def _why_not(folder: Path) -> str | None:
    """Why bindings cannot be imported by this Python; None where they can."""
    if not (folder / "tensorrt_bindings" / "tensorrt.so").is_file():
        return f"{folder} holds no bindings: pip install --no-deps --target, as .ci/run does"
    tags = "".join(file.read_text() for file in folder.glob("*.dist-info/WHEEL"))
    here = f"cp{sys.version_info.major}{sys.version_info.minor}-"
    if here not in tags:
        return f"{folder} is for another Python than {here[:-1]}"
    return None


def _stubs(folder: Path, into: Path) -> list[Path]:
    """The three libraries that the bindings of a folder ask for, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    asked = (folder / "tensorrt_bindings" / "tensorrt.so").read_bytes()
    made = []
    for name in _LIBRARIES:
        match = re.search(rb"lib%s\.so\.\d+" % name.encode(), asked)
        assert match is not None, f"{folder} asks for no lib{name}"
        soname = match[0].decode()
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(into / soname)]
        subprocess.run([*command, str(_STUBS)], check=True)
        made.append(into / soname)
    return made


@cache
def bindings_api(version: str, work: Path) -> dict[str, Any]:
    """The API of a version in $WHYFAKE_TRT_BINDINGS. Skips where that is not set."""
    place = os.environ.get("WHYFAKE_TRT_BINDINGS")
    if not place:
        pytest.skip("needs TensorRT's bindings in $WHYFAKE_TRT_BINDINGS (.ci/run fetches them)")
    folder = Path(place) / version
    reason = _why_not(folder)
    assert reason is None, reason
    stubs = [str(stub) for stub in _stubs(folder, work)]
    return _asked("tensorrt_bindings", str(folder), *stubs)


@cache
def rtx_api() -> dict[str, Any]:
    """The API of the installed TensorRT for RTX. Skips where there is none."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra `rtx`")
    return _asked("tensorrt_rtx", "")


def _asked(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    api: dict[str, Any] = json.loads(done.stdout)
    return api


if __name__ == "__main__":
    for library in sys.argv[3:]:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    if sys.argv[2]:
        sys.path.insert(0, sys.argv[2])
    sys.stdout.write(json.dumps(describe(__import__(sys.argv[1]))))
