"""One frame's state during its evaluation: what it is, what the ledger holds of it, its draws."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..explainers import Nes, is_signed, trusted_nes
from ..ledger import Record, result_key
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
    """One frame's state: what is known of it, and the stage of its draws."""

    task: Task
    detector: Detector
    plan: Plan
    known: Mapping[str, Record]
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        self.hash = self.task.hash

    def rng(self, seed: int, stage: str) -> np.random.Generator:
        """The draws that `whyfake explain` makes: of seed, frame and stage, of nothing else."""
        frame = int.from_bytes(bytes.fromhex(self.hash)[:8], "little")
        return np.random.default_rng([seed, frame, zlib.crc32(stage.encode())])

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
        (value, blob), images = yield from _counted(make)
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
        yield record
        return record


def trusted(state: FrameState, nes: Nes, seed: int) -> Generator[Any, FloatArray, Nes]:
    """NES with a larger σ where the detector's arithmetic asks for one, chosen once a frame."""
    detector = state.detector
    if detector.exact:
        return nes

    def make() -> Asking:
        chosen, trust = yield from trusted_nes(
            nes,
            state.task.frame,
            detector.real,
            seed=seed,
            rng=state.rng(seed, "sigma"),
            precision=detector.engine.precision,
        )
        return {"sigma": chosen.sigma, "trust": trust}, None

    settings = {"sigma": nes.sigma, "pairs": nes.pairs, "noise": nes.noise, "epsilon": nes.epsilon}
    record = yield from state.once("sigma", "nes", settings, seed, make())
    return replace(nes, sigma=record.value["sigma"])


def array_of(record: Record, shape: Sequence[int]) -> FloatArray:
    """The float32 array that a record holds, compressed, as its blob."""
    assert record.blob is not None
    array: FloatArray = np.frombuffer(zlib.decompress(record.blob), np.float32)
    return array.reshape(tuple(shape))


def _counted(coroutine: Asking) -> Generator[Any, FloatArray, tuple[Any, int]]:
    """Delegate to a coroutine that only asks; its result, and how many images it asked for."""
    images, answer = 0, None
    while True:
        try:
            batch = coroutine.send(answer)  # type: ignore[arg-type]
        except StopIteration as stop:
            return stop.value, images
        images += len(batch)
        answer = yield batch
