"""The GPUs: what the driver shows, and what it means when it shows none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .check import ABSENT, BROKEN, OK, Check
from .child import Answer


class Gpus:
    """What the driver said. No GPU is a fact, not a fault; one that does not answer is a fault."""

    def __init__(self, answer: Answer, *, nodes: list[str], kernel: str | None) -> None:
        value = answer.value or {"gpus": [], "cuda": None, "package": None}
        self.found: list[dict[str, Any]] = value["gpus"]
        self.cuda: str | None = value["cuda"]
        self.package: str | None = value["package"]
        self.kernel = kernel
        self.checks = [self._one(item) for item in self.found] or [self._none(answer, nodes)]

    def _one(self, item: dict[str, Any]) -> Check:
        detail = (
            f"{item['name']}, compute capability {item['compute_capability']}, "
            f"{item['memory'] / 2**30:.1f} GiB; driver {self.kernel or 'of unknown version'}, "
            f"CUDA {self.cuda}; asked by {self.package}"
        )
        return Check("gpu", f"gpu {item['index']}", OK, detail)

    def _none(self, answer: Answer, nodes: list[str]) -> Check:
        why = answer.error or "the driver shows no GPU"
        if answer.kind == "MissingExtraError":
            signs = bool(nodes or self.kernel)
            why = "there is a driver, but nothing is installed to ask it" if signs else "none seen"
            return Check("gpu", "gpu", ABSENT, why, "pip install cuda-bindings" if signs else None)
        if nodes or answer.kind in ("crash", "timeout"):
            detail = f"{why} (device files: {', '.join(nodes) or 'none'})"
            return Check("gpu", "gpu", BROKEN, detail, "nvidia-smi")
        if self.kernel is not None:
            detail = f"{why}; the host has driver {self.kernel}, but its GPUs are not in here"
            return Check("gpu", "gpu", ABSENT, detail, "docker run --gpus all …")
        return Check("gpu", "gpu", ABSENT, why)


def device_nodes(root: Path = Path("/dev")) -> list[str]:
    """Device files of an NVIDIA GPU: of a card, of a Jetson, of WSL."""
    patterns = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg")
    return sorted(str(path) for pattern in patterns for path in root.glob(pattern))


def kernel_driver(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of the kernel's NVIDIA driver, such as 580.95.05."""
    try:
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", file.read_text(errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def jetson(file: Path = Path("/etc/nv_tegra_release")) -> str | None:
    """The Jetson Linux release, such as `R36 (release), REVISION: 4.3, …`; None elsewhere."""
    try:
        return file.read_text(errors="replace").splitlines()[0].strip("# ")
    except (OSError, IndexError):
        return None
