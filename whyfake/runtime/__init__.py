"""Runs the detector: engines, the detector that counts, and the two drivers of coroutines."""

from .detector import Detector
from .gate import Gate
from .jobs import Delivered, Failed, Job, Promise
from .load import load_detector
from .scheduler import drive, run

__all__ = [
    "Delivered",
    "Detector",
    "Failed",
    "Gate",
    "Job",
    "Promise",
    "drive",
    "load_detector",
    "run",
]
