"""Explains a batch of pictures into a folder: each result is saved the moment it is there."""

from __future__ import annotations

import glob
import os
import sys
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
    """Absolute paths of the pictures that are meant, each once.

    A folder stands for the picture files in it, in name order; a pattern with `*`, `?` or `[…]`
    for what it matches (`**` goes into folders); a .txt file for the lines in it, and `-` for those
    on standard input: a path each, as it would be given on the command line. Raises PictureError
    where there are none.
    """
    found: list[str] = []
    for path in paths:
        if str(path) == "-":
            found += _listed(sys.stdin.buffer.read(), "standard input")
        elif path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise PictureError(f"{path}: no pictures in that folder ({', '.join(SUFFIXES)})")
            found += [str(p.absolute()) for p in inside]
        elif path.suffix.lower() == ".txt" and path.is_file():
            found += _listed(path.read_bytes(), str(path))
        elif not path.exists() and glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                raise PictureError(f"{path}: no file matches that pattern")
            found += [str(Path(match).absolute()) for match in matches if Path(match).is_file()]
        else:
            found.append(str(path.absolute()))
    return list(dict.fromkeys(found))


def _listed(content: bytes, where: str) -> list[str]:
    """The paths in a list, one a line; bytes that are not UTF-8 name files all the same."""
    lines = [os.fsdecode(line).strip() for line in content.splitlines()]
    paths = [str(Path(line).absolute()) for line in lines if line]
    if not paths:
        raise PictureError(f"{where}: no picture is named there, one path a line is wanted")
    return paths


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
