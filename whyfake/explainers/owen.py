"""Owen: Owen values of the regions, over a hierarchy of regions (Owen 1977)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..perturbation import FloatArray
from .base import Asking, LabelMap, Scene, Target
from .shap import Shap
from .shapes import Shape


@dataclass(frozen=True)
class Owen(Shap):
    """SHAP's recursion over regions: each region's mean effect over the orders that its hierarchy
    allows, where what belongs together appears together.

    The hierarchy joins regions that are near each other and alike in colour, by Ward's criterion.
    Options and costs are those of SHAP. Where the budget ends, what is left of a branch goes evenly
    to its regions, as in package `shap`. The values add up to the rise of the score from baseline
    to frame.
    """

    name: ClassVar[str] = "owen"
    baseline: ClassVar[str] = "blur"

    def explain(self, frame: FloatArray, target: Target, scene: Scene) -> Asking:
        """A coroutine: the Owen value of each region, painted on the regions."""
        found = yield from super().explain(frame, target, scene)
        flat = scene.regions.ravel()
        heat: NDArray[np.float64] = found.heatmap.ravel().astype(np.float64)
        values = np.asarray(np.bincount(flat, weights=heat), np.float64)
        painted = values.astype(np.float32)[scene.regions]
        return dataclasses.replace(found, heatmap=painted, region_scores=values)

    def _whole(self, frame: FloatArray, scene: Scene) -> Shape:
        return branches(scene.regions, hierarchy(frame, scene.regions))

    def _sizes(self, regions: LabelMap) -> NDArray[np.intp]:
        return np.ones(int(regions.max()) + 1, np.intp)  # a region's value is the sum of its heat


def hierarchy(frame: FloatArray, regions: LabelMap) -> NDArray[np.float64]:
    """How the regions of a frame (3, h, w) join: SciPy's linkage matrix (R − 1, 4).

    Each is a point in five dimensions: its centroid, in units of the frame's longer side, and its
    mean colour in [0, 1]. Ward's criterion keeps branches compact and of like size, which is what
    makes the budget go far. Draws nothing.
    """
    from scipy.cluster.hierarchy import ward

    flat = regions.ravel()
    areas = np.bincount(flat)
    if len(areas) == 1:
        return np.zeros((0, 4))
    rows, columns = np.indices(regions.shape) / max(regions.shape)
    sums = [np.bincount(flat, weights=plane.ravel()) for plane in (rows, columns, *frame)]
    linkage: NDArray[np.float64] = ward((np.array(sums) / areas).T)
    return linkage


def branches(regions: LabelMap, linkage: NDArray[np.float64]) -> Branch:
    """The root of the hierarchy that a linkage matrix (R − 1, 4) describes."""
    count = len(linkage) + 1
    made = [Branch(regions, (label,)) for label in range(count)]
    for left, right in linkage[:, :2].astype(int):
        one, two = made[left], made[right]
        made.append(Branch(regions, one.members + two.members, (one, two)))
    return made[-1]


@dataclass(frozen=True, eq=False)
class Branch:
    """Regions that are visible or hidden as one; `parts` are its halves, None for a region."""

    regions: LabelMap
    members: tuple[int, ...]
    parts: tuple[Branch, Branch] | None = None

    @property
    def pixels(self) -> Any:
        """Where its regions lie, (h, w) of true and false."""
        inside = np.zeros(self.regions.max() + 1, bool)
        inside[list(self.members)] = True
        return inside[self.regions]

    @property
    def share(self) -> NDArray[np.float64]:
        """The same for every region, spread evenly over its pixels."""
        inside = self.regions[self.pixels]
        return np.asarray(1 / (len(self.members) * np.bincount(inside)[inside]))

    def halves(self) -> tuple[Branch, Branch] | None:
        """The two branches that it joins; None for a region."""
        return self.parts
