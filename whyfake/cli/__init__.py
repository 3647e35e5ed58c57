"""The command line: parse, call, print. Everything else is imported when a command needs it."""

from __future__ import annotations

from . import bench as bench
from . import build as build
from . import doctor as doctor
from . import evaluate as evaluate
from . import explain as explain  # each of these modules adds its commands to `app`
from . import export as export
from . import video as video
from .app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the command `whyfake`."""
    app()
