"""A detector whose arithmetic is really coarse: NumPy computes it in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from whyfake.card import DetectorCard
from whyfake.onnx_graph import PIXELS, SCORES
from whyfake.runtime import Detector
from whyfake.runtime.engine import Arrays, Engine

HALF_SIZE = (24, 36)


class HalfEngine(Engine):
    """A small network computed by NumPy in float16 throughout, or in float32.

    logits [0, Σ v·tanh(x·w)] of the picture's 4×4 blocks: every product, sum and tanh is rounded to
    the type. The sum is carried around `offset`, where the last bit of fp16 is offset/1024 or more.
    """

    name, device, batch, lanes, inputs = "numpy", "cpu", 8, 1, (PIXELS,)

    def __init__(self, dtype: Any, offset: float = 400.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.precision = "fp16" if self.dtype == np.float16 else "fp32"
        self._offset = self.dtype.type(offset)
        self._w = (rng.normal(0, 0.3, (48, 8))).astype(self.dtype)
        self._v = (rng.normal(0, 1.6, (8, 54))).astype(self.dtype)

    def _run(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
        x = arrays[PIXELS].astype(self.dtype).reshape(-1, 3, 6, 4, 9, 4)
        blocks = x.transpose(0, 2, 4, 1, 3, 5).reshape(len(x), 54, 48)
        hidden = np.tanh(blocks @ self._w).transpose(0, 2, 1)
        score = (hidden * self._v).reshape(len(x), -1).sum(axis=1, dtype=self.dtype)
        score = (score + self._offset) - self._offset
        return {SCORES: np.stack([np.zeros_like(score), score], axis=1).astype(np.float32)}

    def close(self) -> None:
        pass


def half_detector(dtype: Any, **kwargs: Any) -> Detector:
    card = DetectorCard.from_dict(
        {
            "name": "half",
            "input": {"height": HALF_SIZE[0], "width": HALF_SIZE[1]},
            "output": {"activation": "logits"},
            "classes": ["real", "fake"],
            "real": ["real"],
        }
    )
    return Detector(HalfEngine(dtype, **kwargs), card)
