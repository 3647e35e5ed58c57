"""Does an explanation tell the truth? Forgeries with a known mask, and metrics against it."""

from .forge import Forgery, SelfBlend, ellipse_mask, landmark_mask, self_blend
from .localisation import energy_above_floor, energy_in_mask, top_region_precision

__all__ = [
    "Forgery",
    "SelfBlend",
    "ellipse_mask",
    "energy_above_floor",
    "energy_in_mask",
    "landmark_mask",
    "self_blend",
    "top_region_precision",
]
