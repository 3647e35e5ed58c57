"""The most memory that this process held at once, since it was last asked to forget."""

from __future__ import annotations

from pathlib import Path


def forget_peak() -> bool:
    """Begin the peak anew; False where the system cannot (it is Linux that can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mb() -> float | None:
    """The peak in MB since then; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = status.partition("VmHWM:")[2].split()
    return int(found[0]) / 1024 if found else None
