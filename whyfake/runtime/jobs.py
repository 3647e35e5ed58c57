"""What `run` is given and hands out: jobs, their deliveries and failures, promises between them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ..errors import WhyfakeError
from ..perturbation import FloatArray

Asking = Generator[Any, FloatArray, Any]
"""Yields PerturbationBatch to ask and anything else to deliver; is sent log-probabilities."""


@dataclass(frozen=True)
class Job:
    """A frame (3, h, w) and the coroutine that asks about it; `key` comes back with its results."""

    key: Any
    frame: FloatArray
    coroutine: Asking


@dataclass(frozen=True)
class Delivered:
    """Something that a job yielded, or (`last`) returned.

    `seconds` is this job's share of the run's time since its last delivery.
    """

    key: Any
    value: Any
    seconds: float
    last: bool


@dataclass(frozen=True)
class Failed:
    """A job that ended with an error; the other jobs go on."""

    key: Any
    error: WhyfakeError


class Promise:
    """A value that one coroutine makes and another waits for.

    The waiting coroutine yields it and then reads `value`; the other calls `keep`, whatever becomes
    of it. Jobs come in an order in which whoever keeps a promise starts before who waits for it.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self.kept = False

    def keep(self, value: Any) -> None:
        """Set the value, once; keeping it again changes nothing."""
        if not self.kept:
            self.value, self.kept = value, True
