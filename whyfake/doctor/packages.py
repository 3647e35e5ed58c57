"""The packages that whyfake uses, whether they are installed, load, and let each other live."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..compiled import library
from .check import ABSENT, BROKEN, MISSING, NOTE, OK, Ask, Check
from .child import Answer


@dataclass(frozen=True)
class Package:
    """A distribution, the module that is loaded to try it, and what it is for.

    `extra` is whyfake's extra that brings it, None where whyfake always needs it. Where `module` is
    empty other checks load it, and say what installs it. `also` are distributions that bring the
    same module.
    """

    name: str
    module: str
    purpose: str
    extra: str | None = None
    also: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'whyfake[{self.extra}]'" if self.extra else f"pip install {self.name}"

    def found(self) -> tuple[str, str] | None:
        """The installed distribution and its version, by its metadata; None where there is none."""
        names = ((name, version_of(name)) for name in (self.name, *self.also))
        return next(((name, version) for name, version in names if version), None)


_OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
PACKAGES = (
    Package("numpy", "numpy", "arithmetic"),
    Package("scipy", "scipy.stats.qmc", "Sobol' sequences"),
    Package("onnx", "onnx", "reading detectors"),
    Package("opencv-python-headless", "cv2", "resizing, blur", also=_OPENCV),
    Package("scikit-image", "skimage.segmentation", "regions"),
    Package("pillow", "PIL.Image", "decoding pictures"),
    Package("typer", "typer", "the command line"),
    Package("rich", "rich.console", "tables and progress"),
    Package("threadpoolctl", "threadpoolctl", "keeping threads apart"),
    *([Package("tomli", "tomli", "settings files")] if sys.version_info < (3, 11) else []),
    Package("onnxruntime", "", "running detectors", "cpu", also=ONNXRUNTIME[1:]),
    Package("tensorrt", "", "engines", "gpu", also=("tensorrt-cu13", "tensorrt-cu12")),
    Package("tensorrt-rtx", "", "engines on GeForce and RTX cards", "rtx"),
    Package("cuda-bindings", "cuda.bindings.driver", "device memory", "gpu"),
    Package("pycuda", "pycuda", "device memory, in place of cuda-bindings", "pycuda"),
    Package("torch", "torch", "exporting checkpoints, training", "export"),
    Package("timm", "timm", "exporting checkpoints by architecture", "export"),
    Package("onnxscript", "onnxscript", "exporting checkpoints", "export"),
    Package("safetensors", "safetensors", "exporting checkpoints", "export"),
    Package("av", "av", "video", "video"),
)
CONFLICTS = (
    ONNXRUNTIME,
    ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings"),
    ("tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
)
"""Distributions that bring the same module: the one installed last overwrites the others' files."""


def version_of(name: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def start_imports(ask: Ask) -> dict[str, Future[Answer]]:
    """Start loading them: those that whyfake always needs in one child, the others apart."""
    base = [package.module for package in PACKAGES if package.extra is None]
    started = {"": ask("imports", base)}
    for package in PACKAGES:
        if package.extra and package.module and package.found():
            started[package.module] = ask("imports", [package.module])
    return started


def package_checks(started: dict[str, Future[Answer]], ask: Ask, *, gpu: bool) -> list[Check]:
    """What came of it; `gpu`: whether there is one, so that what needs one is worth installing.

    Where the common child crashed, each of its packages is loaded apart: one is the culprit.
    """
    together = started.pop("").result()
    said: dict[str, Any] = dict(together.value or {})
    if together.error is not None:
        for package in PACKAGES:
            if package.extra is None:
                started[package.module] = ask("imports", [package.module])
    for module, future in started.items():
        answer = future.result()
        said[module] = answer.error or answer.value[module]
    rows = [package for package in PACKAGES if package.module]
    return [_check(p, said.get(p.module), gpu) for p in rows] + conflicts(gpu=gpu)


def _check(package: Package, error: str | None, gpu: bool) -> Check:
    found = package.found()
    if found is None:
        status = ABSENT if package.extra else MISSING
        mend = package.install if gpu or package.extra not in ("gpu", "pycuda") else None
        return Check("packages", package.name, status, f"not installed: {package.purpose}", mend)
    name, version = found
    said = version if name == package.name else f"{name} {version}"
    if error is not None:
        mend = f"pip install --force-reinstall {name}=={version}"
        return Check("packages", package.name, BROKEN, f"{said}: {error}", mend)
    return Check("packages", package.name, OK, f"{said}: {package.purpose}")


def conflicts(*, gpu: bool) -> list[Check]:
    """Installed packages that overwrite each other's files."""
    checks = []
    for names in CONFLICTS:
        found = [name for name in names if version_of(name)]
        if len(found) > 1:
            keep = "onnxruntime" if names is ONNXRUNTIME and not gpu else found[-1]
            mend = f"pip uninstall -y {' '.join(found)} && pip install {keep}"
            detail = f"{' and '.join(found)} are both installed and overwrite each other's files"
            checks.append(Check("packages", " + ".join(found), BROKEN, detail, mend))
    return checks


def compiled_check() -> Check:
    """Whether the library is there that composes copies and finds superpixels."""
    if library() is not None:
        return Check("packages", "compiled", OK, "composes copies, finds superpixels")
    detail = "not compiled: NumPy and scikit-image serve, to the same bits but slower"
    mend = (
        "apt-get install gcc libc6-dev && "
        "pip install --force-reinstall --no-deps --no-cache-dir whyfake"
    )
    return Check("packages", "compiled", NOTE, detail, mend)


def install_onnxruntime(*, gpu: bool) -> str:
    """The command that brings the ONNX Runtime for this machine, in place of another one."""
    if not gpu:
        return "pip install 'whyfake[cpu]'"
    other = version_of("onnxruntime") is not None
    return ("pip uninstall -y onnxruntime && " if other else "") + "pip install 'whyfake[gpu]'"


def versions() -> dict[str, str | None]:
    """Every distribution that counts, by name; None where it is not installed."""
    return {name: version_of(name) for p in PACKAGES for name in (p.name, *p.also)}
