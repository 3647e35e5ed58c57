"""One thing that the doctor looked at."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from .child import Answer

OK, NOTE, ABSENT, MISSING, BROKEN = STATUSES = ("ok", "note", "absent", "missing", "broken")
"""`note`: works, with something to know. `absent`: not there, and nothing needs it. `missing`: not
there, and whyfake cannot run without it. `broken`: there, and does not work."""
BAD = (MISSING, BROKEN)

Ask = Callable[..., "Future[Answer]"]
"""`ask(function of probes.py, *arguments)` starts a probe."""


@dataclass(frozen=True)
class Check:
    """What was found. `mend` is the one command that mends it, None where there is none."""

    group: str
    name: str
    status: str
    detail: str
    mend: str | None = None
