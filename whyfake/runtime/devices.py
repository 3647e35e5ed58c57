"""Where a detector runs, as the user says it: `cpu`, `cuda:1`, `tensorrt`, `auto`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError

KINDS = ("auto", "cpu", "cuda", "tensorrt", "ort-tensorrt")
"""`cuda` and `ort-tensorrt` are ONNX Runtime's providers; `tensorrt` runs engine files itself."""


@dataclass(frozen=True)
class Device:
    """A kind out of KINDS and, for GPUs, which one."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind in ("auto", "cpu") else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """A device from `auto`, `cpu`, `cuda`, `cuda:N`, `tensorrt:N` …. Raises UsageError."""
    match = re.fullmatch(r"(auto|cpu)|(cuda|tensorrt|ort-tensorrt)(?::([0-9]{1,4}))?", text)
    if match is None:
        raise UsageError(
            "device must be auto, cpu, cuda, tensorrt or ort-tensorrt, the last three also with a "
            f"number (cuda:1), got '{text}'"
        )
    plain, gpu, index = match.groups()
    return Device(plain) if plain else Device(gpu, int(index or 0))
