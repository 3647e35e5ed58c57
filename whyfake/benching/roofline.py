"""What a picture costs in floating-point operations, and what GPUs can do at best."""

from __future__ import annotations

from pathlib import Path

from ..onnx_flops import flops, infer
from ..onnx_graph import load_graph

PEAKS: dict[str, dict[str, float]] = {
    "H200": {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989},
    "H100 PCIe": {"fp32": 51, "tf32": 378, "fp16": 756, "bf16": 756},
    "H100": {"fp32": 67, "tf32": 495, "fp16": 989, "bf16": 989},
    "A100": {"fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312},
    "L40S": {"fp32": 91.6, "tf32": 183, "fp16": 362, "bf16": 362},
    "L4": {"fp32": 30.3, "tf32": 60, "fp16": 121, "bf16": 121},
    "T4": {"fp32": 8.1, "fp16": 65},
}
"""Dense TFLOP/s by NVIDIA's data sheets, by what the GPU's name contains; the first match holds."""


def peak(gpu: str, precision: str) -> float | None:
    """The most FLOP/s of a GPU at a precision; None where that is not known."""
    for name, rates in PEAKS.items():
        if all(part in gpu.replace("-", " ").split() for part in name.split()):
            return rates[precision] * 1e12 if precision in rates else None
    return None


def flops_a_picture(path: str | Path) -> float | None:
    """Operations for one picture, as `onnx_flops.flops` counts them.

    None where the graph has a shape that cannot be inferred, or loops. Raises DetectorError.
    """
    model, _ = load_graph(path)
    shapes = infer(model)
    costs = [flops(node, shapes) for node in model.graph.node]
    known = [cost for cost in costs if cost is not None]
    return (sum(known) or None) if len(known) == len(costs) else None
