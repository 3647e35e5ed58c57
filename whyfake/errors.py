"""Everything that can go wrong, as one tree; a message says what was got, wanted and mends it.

WhyfakeError                 exit code 1: the input or the data
├── PictureError             a picture that cannot be read, or has no use
├── VideoError               a clip that cannot be read, or has no frames
├── ManifestError            a list of pictures to evaluate on that is not usable
├── CardError                a detector card that is missing, incomplete, or contradicts its graph
├── DetectorError            a model file that cannot be used, or scores that make no sense
├── EngineError              a back-end or device that is not there, or failed
│   └── MissingExtraError    an optional package is not installed
├── OutputError              results that cannot be written, or read back
└── UsageError               exit code 2: a wrong option, name or setting
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType


class WhyfakeError(Exception):
    """The base of all errors that whyfake raises on purpose."""

    exit_code = 1


class PictureError(WhyfakeError):
    """A picture that cannot be read, or that is of no use (too small, too large)."""


class VideoError(WhyfakeError):
    """A clip that cannot be read, or that has no frames; a face model of no use."""


class ManifestError(WhyfakeError):
    """A list of pictures to evaluate on: missing files, unknown labels, empty groups."""


class CardError(WhyfakeError):
    """A detector card that is missing, incomplete, or at odds with the graph."""


class DetectorError(WhyfakeError):
    """A model file that cannot be used, or scores that make no sense (NaN)."""


class EngineError(WhyfakeError):
    """A back-end or device that is not there, or that failed."""


class MissingExtraError(EngineError):
    """An optional package is not installed; the message gives the command that installs it."""


class OutputError(WhyfakeError):
    """Results that cannot be written, or cannot be read back."""


class UsageError(WhyfakeError):
    """A wrong option, name or setting: the caller's to mend."""

    exit_code = 2


def unknown(kind: str, got: str, known: Iterable[str]) -> str:
    """Say that `got` is no known `kind`, with the nearest known name and the whole list."""
    names = list(known)
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(got.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"did you mean '{lowered[near[0]]}'? " if near else ""
    return f"unknown {kind} '{got}': {hint}Known: {', '.join(names)}"


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    A package that is present but broken raises its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the package '{module}', which is not installed: "
            f"pip install 'whyfake[{extra}]'"
        ) from None


def one_line(error: BaseException, limit: int = 300) -> str:
    """What an error of another package says, on one line; its kind where it says nothing."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return text[:limit] or type(error).__name__
