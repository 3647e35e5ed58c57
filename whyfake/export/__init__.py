"""From a checkpoint, a program or somebody's ONNX file to one that takes pixels and gives logits.

`whyfake/exporting.py` joins these parts, runs them against their source and writes the file.
"""
