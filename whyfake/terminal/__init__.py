"""What the command line prints: progress on stderr, tables or JSON lines on stdout."""

from __future__ import annotations

import sys

from rich.console import Console


def stdout() -> Console:
    """The terminal, or 140 columns where the output is a file or a pipe."""
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, highlight=False, markup=False, emoji=False)
