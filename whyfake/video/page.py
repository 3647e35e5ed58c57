"""report.html of a clip: placeholder while the path is laid."""

from __future__ import annotations

from .folder import ClipFolder


def write_page(folder: ClipFolder) -> None:
    """Write report.html."""
