"""Smooths heat maps along a track; the raw ones stay as they are."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import OutputError
from ..explanation import Explanation
from ..files import write_file
from ..perturbation import FloatArray
from .folder import ClipFolder, lines_of

REACH = 2.0
"""Spreads beyond which a neighbour counts for nothing."""


def smooth_heat(folder: ClipFolder, methods: list[str], spread: float) -> None:
    """Write `frames/ID/smoothed-METHOD.npy` (h, w) float32 for every explained face.

    A Gaussian mean in time, `spread` seconds wide, over the faces of the same track that were
    explained for the same target, in the crop's own pixels: crops follow the face, so its parts
    stay where they are. Costs no images; holds only the maps within reach. Raises OutputError.
    """
    tracks: dict[int, list[dict[str, Any]]] = {}
    for row in lines_of(folder.path / "frames.jsonl"):
        if row["explained"]:
            short = {"id": row["id"], "time": row["time"]}
            short["targets"] = {name: m["target"] for name, m in row["methods"].items()}
            tracks.setdefault(row["track"], []).append(short)
    for rows in tracks.values():
        for method in methods:
            for identity, heat in _smoothed(folder, rows, method, spread):
                stream = io.BytesIO()
                np.save(stream, heat)
                write_file(folder.frame(identity) / f"smoothed-{method}.npy", stream.getvalue())


def stored_smooth(folder: ClipFolder, identity: str, method: str) -> FloatArray:
    """A face's smoothed heat (h, w). Raises OutputError where there is none."""
    path = folder.frame(identity) / f"smoothed-{method}.npy"
    try:
        heat: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: no smoothed heat there: {error}; run again") from None
    return heat


def _smoothed(
    folder: ClipFolder, rows: list[dict[str, Any]], method: str, spread: float
) -> Iterator[tuple[str, FloatArray]]:
    window: deque[tuple[dict[str, Any], FloatArray]] = deque()
    ahead = iter(rows)
    coming = next(ahead, None)
    for row in rows:
        while coming is not None and coming["time"] <= row["time"] + REACH * spread:
            heat = Explanation.load(folder.frame(coming["id"]) / method).heatmap
            window.append((coming, heat))
            coming = next(ahead, None)
        while window[0][0]["time"] < row["time"] - REACH * spread:
            window.popleft()
        total, weights = np.zeros(window[0][1].shape), 0.0
        for other, heat in window:
            if other["targets"][method] == row["targets"][method]:
                weight = float(np.exp(-0.5 * ((other["time"] - row["time"]) / spread) ** 2))
                total += weight * heat
                weights += weight
        yield row["id"], (total / weights).astype(np.float32)
