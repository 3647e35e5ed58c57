"""What all explainers share: the target they explain, what they return, how options are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, unknown
from ..later import Later
from ..perturbation import FloatArray, PerturbationBatch

Score = Literal["probability", "log_odds"]
SCORES: tuple[str, ...] = ("probability", "log_odds")

LabelMap = NDArray[np.int32]
Asking = Generator[PerturbationBatch, FloatArray, "Attribution"]

CHUNK = 2048
"""Copies asked for at a time: memory stays the same however many samples are wanted."""


@dataclass(frozen=True)
class Target:
    """The explained class, or set of classes: `columns` of the log-probabilities."""

    name: str
    columns: tuple[int, ...]

    def score(self, log_probs: FloatArray, kind: str = "probability") -> NDArray[np.float64]:
        """The target's score (N,) from log-probabilities (N, C), in float64.

        `probability`, or `log_odds` = log p − log(1 − p), which also separates scores that
        differ only in the last digits below one.
        """
        inside = np.logaddexp.reduce(log_probs[:, list(self.columns)].astype(np.float64), axis=1)
        if kind == "probability":
            return np.asarray(np.exp(inside))
        rest = [c for c in range(log_probs.shape[1]) if c not in self.columns]
        outside = np.logaddexp.reduce(log_probs[:, rest].astype(np.float64), axis=1)
        return np.asarray(inside - outside)


@dataclass(frozen=True, eq=False)
class Attribution:
    """An explainer's result: `heatmap` (h, w) float32, and scores per region where it has them.

    `region_scores` (R,) float64 is None where the method works on a grid of its own. `confidence`:
    the chance that as many new questions put the same regions first; None where not estimated.
    """

    heatmap: FloatArray
    region_scores: NDArray[np.float64] | None = None
    confidence: float | None = None


class Scene:
    """All that an explainer is given beside the frame (3, h, w).

    `baseline` (3, h, w): what hidden pixels show. `regions` (h, w): labels 0 … R−1, or how they
    will be found once they are needed. `rng`: the only source of randomness.
    """

    def __init__(
        self, baseline: FloatArray, regions: LabelMap | Later[LabelMap], rng: np.random.Generator
    ) -> None:
        self.baseline = baseline
        self.rng = rng
        self._regions = regions

    @property
    def regions(self) -> LabelMap:
        """The regions (h, w)."""
        return labels_of(self._regions)


def labels_of(regions: LabelMap | Later[LabelMap]) -> LabelMap:
    """The regions (h, w), found now if need be."""
    return regions.get() if isinstance(regions, Later) else regions


class Explainer(Protocol):
    """Options in the constructor, data in the call; see `whyfake.explainers.EXPLAINERS`."""

    name: ClassVar[str]
    baseline: ClassVar[str]
    """The baseline of its original form."""
    signed: ClassVar[bool]
    """Whether its heat has a sign: below zero speaks against the target."""

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine that asks about perturbed copies and returns an Attribution."""
        ...

    def images(self) -> int:
        """The most images it asks for."""
        ...

    def with_budget(self, images: int) -> Explainer:
        """The same method asking for about that many images."""
        ...


def check(ok: bool, owner: str, wanted: str, got: Any) -> None:
    """Raise UsageError `owner: wanted, got …` unless ok."""
    if not ok:
        raise UsageError(f"{owner}: {wanted}, got {got}")


def check_score(owner: str, score: str) -> None:
    """Raise UsageError unless `score` names a score that explainers can explain."""
    check_choice(owner, "score", score, SCORES)


def check_choice(owner: str, name: str, got: str, known: Sequence[str]) -> None:
    """Raise UsageError unless option `name` is one of `known`."""
    if got not in known:
        raise UsageError(f"{owner}: {unknown(name, got, known)}")


LATER = {"later": True}
"""Metadata of an option that earlier versions did not have, and whose default changes nothing."""


def options(item: Any) -> dict[str, Any]:
    """An explainer's or attack's options as plain JSON types.

    LATER ones are left out at their default: results of earlier versions keep their keys.
    """
    found: dict[str, Any] = {}
    for option in dataclasses.fields(item):
        value = getattr(item, option.name)
        if not (option.metadata.get("later") and value == option.default):
            found[option.name] = options(value) if dataclasses.is_dataclass(value) else value
    return found


def region_means(heatmap: FloatArray, regions: LabelMap) -> NDArray[np.float64]:
    """The mean heat of each region (R,)."""
    flat = regions.ravel()
    areas = np.bincount(flat)
    sums = np.bincount(flat, weights=heatmap.ravel().astype(np.float64))
    return np.asarray(sums / np.maximum(areas, 1))


def chunks(total: int, size: int = CHUNK) -> Sequence[tuple[int, int]]:
    """(start, stop) pairs that cover 0 … total in steps of `size`."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]
