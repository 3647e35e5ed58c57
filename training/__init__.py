"""Trains the detector that whyfake ships, on self-blended faces: `python -m training --help`."""
