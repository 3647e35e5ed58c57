"""How fast a detector is by itself, and how much of that reaches each method."""

from .bench import Bench, Opening, RawRate, bench
from .methods import MANY, MethodRun, Shortened

__all__ = ["MANY", "Bench", "MethodRun", "Opening", "RawRate", "Shortened", "bench"]
