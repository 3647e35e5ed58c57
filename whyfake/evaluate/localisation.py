"""How well heat and regions agree with the mask of what was manipulated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray


def energy_in_mask(heatmap: FloatArray, mask: NDArray[np.bool_]) -> float:
    """The share of positive heat (h, w) that lies inside the mask (h, w), in [0, 1].

    NaN where there is no positive heat. A map that is the same everywhere scores the mask's share
    of the area. The energy-based pointing game of Wang et al. 2020 (Score-CAM).
    """
    positive = np.maximum(heatmap.astype(np.float64), 0)
    total = positive.sum()
    return float(positive[mask].sum() / total) if total > 0 else float("nan")


def top_region_precision(
    region_map: NDArray[np.integer[Any]], region: int, mask: NDArray[np.bool_]
) -> float:
    """The share of one region's pixels that lie inside the mask, in [0, 1]."""
    return float(mask[region_map == region].mean())


def energy_above_floor(heatmap: FloatArray, mask: NDArray[np.bool_], *, signed: bool) -> float:
    """Energy in the mask as heat is drawn: an unsigned map is measured from its minimum.

    RISE's map is a mean score everywhere, with a relief on it; measured from zero, the mean would
    drown the relief. A signed map (LIME, SHAP) has its own zero. NaN if there is no relief.
    """
    floor = np.float32(0) if signed else heatmap.min()
    return energy_in_mask(heatmap - floor, mask)


def pointing_game(heatmap: FloatArray, mask: NDArray[np.bool_]) -> float:
    """Whether the hottest pixel lies inside the mask: the share of its ties that do, in [0, 1]."""
    return float(mask[heatmap == heatmap.max()].mean())


def top_regions_precision(
    region_map: NDArray[np.integer[Any]], labels: list[int], mask: NDArray[np.bool_]
) -> float:
    """The share of the top regions' pixels that lie inside the mask; NaN without regions."""
    inside = np.isin(region_map, labels)
    return float(mask[inside].mean()) if inside.any() else float("nan")


def overlap(heatmap: FloatArray, mask: NDArray[np.bool_]) -> float:
    """Intersection over union of the mask and as many of the hottest pixels, in [0, 1].

    Pixels as hot as the last one share the places that are left, so ties have no order.
    """
    flat, truth = heatmap.ravel(), mask.ravel()
    count = int(truth.sum())
    limit = np.partition(flat, len(flat) - count)[len(flat) - count]
    above, tied = flat > limit, flat == limit
    share = (count - int(above.sum())) / int(tied.sum())
    common = float(truth[above].sum() + share * truth[tied].sum())
    return common / (2 * count - common)
