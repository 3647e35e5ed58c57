"""Frames in: pictures from disk, clips, the faces in them; brought to the detector's size."""

from .crop import Crop, crop_of
from .faces import Face, Finder, make_finder
from .pictures import Picture, fit_to, load_picture, picture_from_array, printable, resize
from .track import Tracker
from .video import ClipFrame, ClipInfo, Sampling, probe, read_frames

__all__ = [
    "ClipFrame",
    "ClipInfo",
    "Crop",
    "Face",
    "Finder",
    "Picture",
    "Sampling",
    "Tracker",
    "crop_of",
    "fit_to",
    "load_picture",
    "make_finder",
    "picture_from_array",
    "printable",
    "probe",
    "read_frames",
    "resize",
]
