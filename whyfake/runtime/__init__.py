"""Runs the detector: engines, the detector that counts, and the two drivers of coroutines."""

from .detector import Detector
from .load import load_detector
from .scheduler import Delivered, Failed, Job, Promise, drive, run

__all__ = ["Delivered", "Detector", "Failed", "Job", "Promise", "drive", "load_detector", "run"]
