"""What comes out: heat map, ranked regions, the adversarial sample, and how it was all made."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OutputError
from .files import write_folder
from .perturbation import FloatArray

SCHEMA = 1
FAKE = "fake"
"""The target that stands for every class but *real*."""
_ARRAYS = ("frame", "heatmap", "region_map", "region_scores", "adversarial")


@dataclass(frozen=True)
class Adversary:
    """How the adversarial sample came out.

    `score_before` and `score_after` are the probability of *real*; `linf` is the largest change of
    a pixel value in [0, 1]; `images` is what making it cost; `method` what made it.
    """

    flipped: bool
    steps: int
    images: int
    linf: float
    score_before: float
    score_after: float
    method: str = "nes"


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a detector decided as it did on one frame.

    Arrays at the detector's resolution: `frame` (3, h, w) float32 RGB in [0, 1]; `heatmap` (h, w)
    float32, larger speaks for the target; `region_map` (h, w) int32, labels 0 … R−1;
    `region_scores` (R,) float32; `adversarial` (3, h, w) float32 or None.

    `images` is every picture shown to the detector for this explanation, by purpose in
    `image_counts`. `seconds` is this explanation's share of the run's wall-clock time. `notes` says
    in words what a reader must know (not flipped, nothing to flip). `signed`: whether the heat has
    a sign, so that below zero speaks against the target. `confidence` is the chance that as many
    new questions put the same regions first (`settings` says how many), None where it was not
    estimated.
    """

    source: str
    source_size: tuple[int, int]
    method: str
    baseline: str
    target: str
    predicted: str
    classes: tuple[str, ...]
    real: tuple[str, ...]
    scores: Mapping[str, float]
    frame: FloatArray
    heatmap: FloatArray
    region_map: NDArray[np.int32]
    region_scores: FloatArray
    adversary: Adversary | None
    adversarial: FloatArray | None
    images: int
    image_counts: Mapping[str, int]
    seconds: float
    seed: int
    settings: Mapping[str, Any]
    detector: Mapping[str, Any]
    versions: Mapping[str, str]
    signed: bool
    notes: tuple[str, ...] = field(default=())
    confidence: float | None = None

    @property
    def regions(self) -> list[dict[str, Any]]:
        """Regions, best first: rank (from 1), region (label), score, area (pixels), box.

        `box` is [left, top, right, bottom] in pixels of the detector's frame, right and bottom
        exclusive. Equal scores rank by label.
        """
        order = np.argsort(-self.region_scores, kind="stable")
        boxes = _boxes(self.region_map, len(self.region_scores))
        areas = np.bincount(self.region_map.ravel(), minlength=len(self.region_scores))
        return [
            {
                "rank": rank,
                "region": int(label),
                "score": float(self.region_scores[label]),
                "area": int(areas[label]),
                "box": boxes[label],
            }
            for rank, label in enumerate(order, 1)
        ]

    @property
    def called_real(self) -> bool:
        """Whether the detector's decision is a class that means *real*."""
        return self.predicted in self.real

    @property
    def p_target(self) -> float:
        """The probability of the explained class; for `fake`, of everything but *real*."""
        if self.target == FAKE:
            return sum(p for name, p in self.scores.items() if name not in self.real)
        return self.scores[self.target]

    def heatmap_at(self, height: int, width: int) -> FloatArray:
        """The heat map resized to another picture size, such as `source_size`, bilinearly."""
        import cv2

        resized: FloatArray = cv2.resize(
            self.heatmap, (width, height), interpolation=cv2.INTER_LINEAR
        )
        return resized

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, as JSON types: what explanation.json holds and `--json` prints."""
        data: dict[str, Any] = {"schema": SCHEMA}
        for item in fields(self):
            if item.name not in _ARRAYS and item.name != "adversary":
                data[item.name] = getattr(self, item.name)
        data["adversary"] = None if self.adversary is None else asdict(self.adversary)
        data["regions"] = self.regions
        plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
        return plain

    def save(self, folder: str | Path, extra: Mapping[str, bytes] | None = None) -> None:
        """Write explanation.json, arrays.npz and `extra` files: all of them, or none.

        Raises OutputError.
        """
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        stream = io.BytesIO()
        # as np.savez_compressed does, but lightly: its level takes twice as long, for a sixth
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in arrays.items():
                if array is not None:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_folder(
            folder,
            {
                "explanation.json": text.encode(),
                "arrays.npz": stream.getvalue(),
                **(extra or {}),
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> Explanation:
        """Read back what `save` wrote. Raises OutputError if it is missing or damaged."""
        folder = Path(folder)
        try:
            data = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
            # opened here: np.load leaves a damaged file open
            with open(folder / "arrays.npz", "rb") as stream, np.load(stream) as stored:
                arrays = {name: stored[name] for name in stored.files}
            if data.pop("schema") != SCHEMA:
                raise OutputError(f"{folder}: written by a newer whyfake (schema is not {SCHEMA})")
            del data["regions"]
            adversary = data.pop("adversary")
            # not written at first, when these two alone had signs
            data.setdefault("signed", data["method"].removesuffix("-adv") in ("lime", "shap"))
            for name in ("source_size", "classes", "real", "notes"):
                data[name] = tuple(data[name])
            return cls(
                **data,
                adversary=None if adversary is None else Adversary(**adversary),
                **{"adversarial": None, **arrays},
            )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise OutputError(f"{folder}: no readable explanation there: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Explanation):
            return NotImplemented
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name in _ARRAYS and mine is not None and theirs is not None:
                if mine.dtype != theirs.dtype or not np.array_equal(mine, theirs):
                    return False
            elif mine is None or theirs is None:
                if mine is not theirs:
                    return False
            elif mine != theirs:
                return False
        return True

    __hash__ = None  # type: ignore[assignment]


def _boxes(labels: NDArray[np.int32], count: int) -> list[list[int]]:
    """[left, top, right, bottom] of each region; zeros for a label that does not occur."""
    height, width = labels.shape
    rows, columns = np.indices(labels.shape)
    flat = labels.ravel()
    low = np.full((2, count), max(height, width))
    high = np.zeros((2, count), int)
    for axis, values in enumerate((columns.ravel(), rows.ravel())):
        np.minimum.at(low[axis], flat, values)
        np.maximum.at(high[axis], flat, values + 1)
    low[:, high[0] == 0] = 0
    boxes: list[list[int]] = np.concatenate([low, high]).T.tolist()
    return boxes
