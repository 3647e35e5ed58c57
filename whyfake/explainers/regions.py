"""Cuts a frame into regions: label maps (h, w) int32 with labels 0 … R−1, every one in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import compiled
from ..errors import UsageError, unknown
from ..perturbation import FloatArray
from .base import LabelMap

KINDS = ("slic:N", "grid:N", "quickshift", "FILE.npy")


def region_map(spec: str, frame: FloatArray) -> LabelMap:
    """Regions of a frame (3, h, w) as `spec` says.

    `slic:50` (about 50 superpixels), `grid:8` (8×8 cells), `quickshift` (LIME's own), or a `.npy`
    file holding integer labels (h, w). Costs no images. Raises UsageError.
    """
    kind, count = parse_regions(spec)
    height, width = frame.shape[1:]
    if kind == "slic":
        return slic(frame, count)
    if kind == "grid":
        return grid(height, width, count)
    if kind == "quickshift":
        return quickshift(frame)
    return from_file(spec, height, width)


def parse_regions(spec: str) -> tuple[str, int]:
    """Kind and number of `spec`: `slic:50` is ("slic", 50). Raises UsageError."""
    kind, _, count = spec.partition(":")
    if kind in ("slic", "grid"):
        number = count or {"slic": "50", "grid": "8"}[kind]
        if not number.isdecimal() or int(number) < 1:
            raise UsageError(f"regions: '{spec}' must give a number of 1 or more after the colon")
        return kind, int(number)
    if spec == "quickshift":
        return spec, 0
    if spec.endswith(".npy"):
        if not Path(spec).is_file():
            raise UsageError(f"regions: there is no file '{spec}'")
        return "file", 0
    raise UsageError(unknown("regions", spec, KINDS))


def contiguous(labels: NDArray[Any]) -> LabelMap:
    """The same regions, relabelled 0 … R−1 without gaps, in the order of their old labels."""
    lowest, highest = int(labels.min()), int(labels.max())
    if highest - lowest < labels.size:  # a table of all labels is much faster than to sort pixels
        shifted = (labels - lowest).astype(np.intp)
        numbers = np.cumsum(np.bincount(shifted.ravel()) > 0) - 1
        return numbers.astype(np.int32)[shifted]
    _, inverse = np.unique(labels, return_inverse=True)
    relabelled: LabelMap = inverse.reshape(labels.shape).astype(np.int32)
    return relabelled


def slic(frame: FloatArray, count: int = 50) -> LabelMap:
    """SLIC superpixels (Achanta 2012, as scikit-image): about `count` of them, or far fewer."""
    found = compiled.superpixels(frame, count)
    if found is None:
        from skimage.segmentation import slic as skimage_slic

        found = skimage_slic(frame.transpose(1, 2, 0), n_segments=count, start_label=0)
    return contiguous(found)


def quickshift(frame: FloatArray) -> LabelMap:
    """Quickshift superpixels with the settings of package `lime`."""
    from skimage.segmentation import quickshift as skimage_quickshift

    image = frame.transpose(1, 2, 0).astype(np.float64)
    return contiguous(skimage_quickshift(image, kernel_size=4, max_dist=200, ratio=0.2, rng=42))


def grid(height: int, width: int, cells: int = 8) -> LabelMap:
    """cells × cells rectangles, as even as whole pixels allow. Raises UsageError."""
    if cells > min(height, width):
        raise UsageError(f"a grid of {cells}×{cells} cells does not fit {height}×{width} pixels")
    rows = np.arange(height) * cells // height
    columns = np.arange(width) * cells // width
    labels: LabelMap = (rows[:, None] * cells + columns).astype(np.int32)
    return labels


def from_file(path: str | Path, height: int, width: int) -> LabelMap:
    """A user's label map; it must have the detector's size. Raises UsageError."""
    try:
        with open(path, "rb") as stream:
            labels = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"regions: cannot read '{path}': {error}") from None
    if labels.shape != (height, width) or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"regions: '{path}' must hold integers of shape ({height}, {width}), "
            f"the detector's size; got {labels.dtype} {labels.shape}"
        )
    return contiguous(labels)
