"""Does an explanation tell the truth? Metrics of explanations against what is known to be true."""

from .localisation import energy_in_mask, top_region_precision

__all__ = ["energy_in_mask", "top_region_precision"]
