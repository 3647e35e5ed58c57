"""One frame's state during its evaluation: what it is, what the ledger holds of it, its draws."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..explainers import Attack, is_signed, nes_in, with_nes
from ..ledger import Record, result_key
from ..making import Maker, counted
from ..perturbation import FloatArray
from ..runtime import Detector
from .plan import Plan

Asking = Generator[Any, FloatArray, Any]
"""Yields PerturbationBatch to ask, and Record as results."""


@dataclass(frozen=True, eq=False)
class Task:
    """A frame to evaluate: (3, h, w), its label, and where known its mask (h, w) and landmarks.

    `landmarks` are (x, y) as shares of width and height.
    """

    frame: FloatArray
    label: str
    mask: NDArray[np.bool_] | None = None
    landmarks: Sequence[tuple[float, float]] | None = None

    @property
    def hash(self) -> str:
        """The frame's SHA-256: what its results are keyed by."""
        return hashlib.sha256(self.frame.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Ranked:
    """An explanation or a control as the judges see it."""

    method: str
    settings: dict[str, Any]
    heatmap: FloatArray
    region_scores: NDArray[np.float64]

    @property
    def signed(self) -> bool:
        """Whether below zero speaks against the target."""
        return is_signed(self.method)


@dataclass(eq=False)
class FrameState:
    """One frame's state: what is known of it, and what makes its explanations.

    `known` grows by what this run finds: nothing is asked twice.
    """

    task: Task
    detector: Detector
    plan: Plan
    known: dict[str, Record]
    hash: str = field(init=False)
    _makers: dict[int, Maker] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.hash = self.task.hash

    def maker(self, seed: int) -> Maker:
        """What makes this frame's explanations under a seed."""
        if seed not in self._makers:
            self._makers[seed] = Maker(self.task.frame, self.detector, seed)
        return self._makers[seed]

    def width(self, rows: int) -> int:
        """How many coroutines that ask `rows` at a time fill the engine's lanes."""
        engine = self.detector.engine
        return max(1, engine.lanes * engine.batch // rows)

    def once(
        self,
        kind: str,
        method: str,
        settings: dict[str, Any],
        seed: int,
        make: Generator[Any, FloatArray, tuple[dict[str, Any], bytes | None]],
    ) -> Generator[Any, FloatArray, Record]:
        """A result from the ledger, or made, counted and handed out."""
        key = result_key(self.detector.sha256, self.hash, kind, method, settings, seed)
        if key in self.known:
            make.close()
            return self.known[key]
        (value, blob), images = yield from counted(make)
        record = Record(
            self.detector.sha256,
            self.hash,
            kind,
            method,
            settings,
            seed,
            value,
            blob,
            images,
            key=key,
        )
        self.known[key] = record
        yield record
        return record


def trusted(state: FrameState, attack: Attack, seed: int) -> Generator[Any, FloatArray, Attack]:
    """An attack with a larger σ where the detector's arithmetic asks for one, chosen once a frame.

    One that takes no differences comes back as it is.
    """
    nes = nes_in(attack)
    if nes is None or state.detector.exact:
        return attack

    def make() -> Asking:
        chosen, trust = yield from state.maker(seed).trusted(nes)
        found = nes_in(chosen)
        assert found is not None
        return {"sigma": found.sigma, "trust": trust}, None

    settings: dict[str, Any] = {
        "sigma": nes.sigma,
        "pairs": nes.pairs,
        "noise": nes.noise,
        "epsilon": nes.epsilon,
    }
    if nes.cell != 1:
        settings["cell"] = nes.cell
    if nes.differences != "central":
        settings["differences"] = nes.differences
    record = yield from state.once("sigma", "nes", settings, seed, make())
    return with_nes(attack, replace(nes, sigma=record.value["sigma"]))


def array_of(record: Record, shape: Sequence[int]) -> FloatArray:
    """The float32 array that a record holds, compressed, as its blob."""
    assert record.blob is not None
    array: FloatArray = np.frombuffer(zlib.decompress(record.blob), np.float32)
    return array.reshape(tuple(shape))
