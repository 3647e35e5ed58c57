"""TensorRT, or TensorRT for RTX, behind one name, and its messages as text for errors.

Both have the same API where whyfake uses it (10.3 to 11.4, and RTX 1.x). TensorRT's failures are
quiet: a call returns False or None and says why to a logger, so every call here has one.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from .errors import EngineError, MissingExtraError, UsageError, unknown

MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Flavour → Python module, the preferred one first."""
INSTALL = {
    "tensorrt": "pip install 'whyfake[gpu]'",
    "rtx": "pip install 'whyfake[rtx]'",
}


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT: `flavour` is `tensorrt` or `rtx`, `module` the Python module."""

    flavour: str
    module: Any

    @property
    def version(self) -> str:
        """Such as `10.16.1.11`."""
        return str(self.module.__version__)

    def __str__(self) -> str:
        return f"{TITLES[self.flavour]} {self.version}"


RTX_CARDS = ("7.5", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that TensorRT for RTX serves, by the support matrices of 1.0 to 1.5."""

TITLES = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}


def load_tensorrt(flavour: str | None, purpose: str) -> TensorRt:
    """Import a flavour, or the first that is installed.

    Raises MissingExtraError, EngineError where it is installed but does not load, and UsageError
    for an unknown flavour.
    """
    if flavour is not None and flavour not in MODULES:
        raise UsageError(unknown("TensorRT flavour", flavour, MODULES))
    for name in [flavour] if flavour else MODULES:
        found = _import(name)
        if found is not None:
            return TensorRt(name, found)
    names = [flavour] if flavour else list(MODULES)
    commands = ", or ".join(INSTALL[name] for name in names)
    missing = " or ".join(TITLES[name] for name in names)
    raise MissingExtraError(f"{purpose} needs {missing}, which is not installed: {commands}")


def _import(flavour: str) -> Any:
    """The module; None where it is not installed."""
    name = MODULES[flavour]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise EngineError(
            f"{TITLES[flavour]} is installed but incomplete ({error}): {INSTALL[flavour]}"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineError(
            f"{TITLES[flavour]} is installed but does not load ({reason}): {INSTALL[flavour]}"
        ) from None


def message_log(trt: Any) -> Any:
    """TensorRT's logger, emptied: it keeps warnings and errors, `reason()` says the last errors.

    There is one a process: TensorRT goes on with the first logger that it was given.
    """
    log = _only_log(trt)
    log.errors.clear()
    log.warnings.clear()
    return log


@functools.cache
def _only_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(text)

        def reason(self) -> str:
            said = self.errors or self.warnings
            return "; ".join(" ".join(text.split()) for text in said[-2:]) or "it did not say why"

    return Log()
