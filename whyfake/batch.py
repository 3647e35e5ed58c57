"""Explains a batch of pictures into a folder: each result is saved the moment it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import PictureError, WhyfakeError
from .explanation import Explanation
from .pipeline import Outcome, explain_events
from .request import Request
from .results import Results
from .runtime import Detector

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""The files that count as pictures in a folder; a file that is named itself may have any suffix."""


@dataclass(frozen=True)
class Saved:
    """An explanation and the folder that it was saved to."""

    explanation: Explanation
    folder: Path


@dataclass(frozen=True)
class Failure:
    """A picture that could not be explained."""

    source: str
    error: WhyfakeError


@dataclass(frozen=True)
class PictureDone:
    """A picture's last method is done (or it failed)."""

    source: str


def expand(paths: Sequence[Path]) -> list[str]:
    """Absolute paths of pictures, folders replaced by the picture files in them, in name order.

    A file that is named twice counts once. Raises PictureError for a folder without pictures.
    """
    found: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise PictureError(f"{path}: no pictures in that folder ({', '.join(SUFFIXES)})")
            found += [str(p.absolute()) for p in inside]
        else:
            found.append(str(path.absolute()))
    return list(dict.fromkeys(found))


def explain_to_folder(
    detector: Detector,
    sources: Sequence[str],
    request: Request,
    results: Results,
    tick: Callable[[], None] | None = None,
) -> Iterator[Saved | Failure | PictureDone]:
    """Explain pictures and save each explanation as it comes; a failing picture is reported.

    A picture explained by several methods also gets `strip.png`, all of them side by side.
    Raises OutputError as soon as a result cannot be written.
    """
    of_picture: dict[int, list[Explanation]] = {}
    for outcome in explain_events(detector, sources, request, tick):
        yield from _save(outcome, results, of_picture)


def _save(
    outcome: Outcome, results: Results, of_picture: dict[int, list[Explanation]]
) -> Iterable[Saved | Failure | PictureDone]:
    if isinstance(outcome.value, WhyfakeError):
        yield Failure(outcome.source, outcome.value)
    elif outcome.value is not None:
        folder = results.save(outcome.value)
        of_picture.setdefault(outcome.index, []).append(outcome.value)
        yield Saved(outcome.value, folder)
    if outcome.last:
        done = of_picture.pop(outcome.index, [])
        if len(done) > 1:
            results.save_strip(done)
        yield PictureDone(outcome.source)
