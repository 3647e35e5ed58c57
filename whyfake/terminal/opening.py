"""Opens the detector for a command, at the layout that its results began with if there are any."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ..runtime import Detector, load_detector
from ..runtime.layout import layout_from_record


def open_aloud(
    model: str,
    *,
    card: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    planned: int = 0,
    begun: Mapping[str, Any] | None = None,
) -> Detector:
    """The detector. `begun` is the record of it in results that this run goes on with: their layout
    holds, for one set of results has one. Without them the layout that is remembered holds, or one
    that is measured now, where `planned` images are worth it. Raises what load_detector does.
    """
    if begun is not None:
        layout = layout_from_record(begun, threads)
        return load_detector(
            model, card=card, device=device, threads=threads, layout=layout, tune=False
        )
    detector = load_detector(model, card=card, device=device, threads=threads, planned=planned)
    say_layout(detector)
    return detector


def tune_aloud(detector: Detector, planned: int) -> None:
    """Measure the layout if `planned` images are worth it, and say what was found."""
    detector.tune(planned)
    say_layout(detector)


def say_layout(detector: Detector) -> None:
    """One line on stderr if the layout was measured just now."""
    found = detector.layout
    if found.how != "measured":
        return
    kept = f"not remembered: {found.note}" if found.note else "remembered on this machine"
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(
        f"layout measured, and {kept}: {found.layout}", style="dim", soft_wrap=True
    )


def first_record(files: Iterable[Path]) -> Mapping[str, Any] | None:
    """The detector's record in the first of these JSON files that has one."""
    for path in files:
        try:
            record = json.loads(path.read_text("utf-8"))["detector"]
        except (OSError, ValueError, KeyError, TypeError):  # whoever reads it in earnest complains
            continue
        if isinstance(record, dict):
            return record
    return None
