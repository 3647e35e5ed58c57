"""Pictures of noise, and reading them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whyfake.media import Picture, load_picture

Rgb = NDArray[np.uint8]
H, W = 18, 26


def noise(*shape: int, top: int = 256, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(len(shape)).integers(0, top, shape, dtype=dtype)


def load(path: Path) -> Rgb:
    """Read with every warning an error (pytest's setting), and check what always holds."""
    picture = load_picture(path)
    assert isinstance(picture, Picture)
    assert picture.source == str(path)
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.ndim == 3
    assert picture.rgb.shape[2] == 3
    assert picture.rgb.flags.c_contiguous
    assert picture.size == picture.rgb.shape[:2]
    return picture.rgb
