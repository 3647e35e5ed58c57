"""Frames in: pictures from disk, brought to the detector's size."""

from .pictures import Picture, fit_to, load_picture, picture_from_array, printable, resize

__all__ = ["Picture", "fit_to", "load_picture", "picture_from_array", "printable", "resize"]
