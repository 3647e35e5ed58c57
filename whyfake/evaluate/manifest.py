"""The pictures that an evaluation is made on: a CSV file, checked as a whole before any question.

path,label,group,clip,mask,landmarks
fake/0001.png,Deepfakes,Deepfakes,000_003,mask/0001.png,99.6 107.1 158.7 107.6 …
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ManifestError, unknown

REAL, FAKE = "real", "fake"
COLUMNS = ("path", "label", "group", "clip", "mask", "landmarks")
_SHOWN = 12  # problems that one message lists


@dataclass(frozen=True)
class Entry:
    """One picture and what is true of it.

    `label` is real, fake, or a class of the detector; `group` is what tables are broken down by;
    frames of one `clip` are not independent; `mask` is a picture, white where it was manipulated;
    `landmarks` (right eye, left eye, nose, right and left mouth corner) are (x, y) in its pixels.
    """

    path: str
    label: str
    group: str
    clip: str
    mask: str | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Manifest:
    """Pictures in their order, and what was wrong with those that were left out, a line each."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()


def read_manifest(path: str | Path) -> Manifest:
    """A manifest from a CSV file; paths in it are relative to its folder.

    Columns: `path`, `label` (or `class`), and if wanted `group` (else the label), `clip` (else
    every picture is its own), `mask`, `landmarks` (ten numbers). No picture is opened. Raises
    ManifestError where the file as a whole cannot be used; bad rows are `problems`.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            _check_columns(path, reader.fieldnames)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: not a CSV file in UTF-8: {error}") from None
    entries, problems = [], []
    for line, row in rows:
        try:
            entries.append(_entry(row, path.parent))
        except ManifestError as error:
            problems.append(f"{path.name}, line {line}: {error}")
    return checked(entries, problems)


def _check_columns(path: Path, columns: Sequence[str] | None) -> None:
    known = (*COLUMNS, "class")
    found = [name.strip().lower() for name in columns or ()]
    if "path" not in found or not {"label", "class"} & set(found):
        raise ManifestError(
            f"{path}: the first line must name the columns path and label (or class), and if "
            f"wanted {', '.join(COLUMNS[2:])}, comma-separated; got {', '.join(found) or 'nothing'}"
        )
    for name in found:
        if name not in known:
            raise ManifestError(f"{path}: {unknown('column', name, known)}")
    if columns is not None and isinstance(columns, list):
        columns[:] = found


def _entry(row: dict[str | None, object], folder: Path) -> Entry:
    if None in row or None in row.values():
        raise ManifestError("has more or fewer cells than there are columns")
    cells = {str(key): str(value).strip() for key, value in row.items()}
    label = cells.get("label") or cells.get("class", "")
    if not cells["path"]:
        raise ManifestError("the path is empty")
    if not label:
        raise ManifestError(f"{cells['path']}: the label is empty")
    if "group" in cells and not cells["group"]:
        raise ManifestError(f"{cells['path']}: the group is empty")
    picture = str((folder / cells["path"]).absolute())
    mask = cells.get("mask")
    return Entry(
        path=picture,
        label=label,
        group=cells.get("group") or label,
        clip=cells.get("clip") or picture,
        mask=str((folder / mask).absolute()) if mask else None,
        landmarks=_landmarks(cells["path"], cells.get("landmarks", "")),
    )


def _landmarks(path: str, text: str) -> tuple[tuple[float, float], ...] | None:
    if not text:
        return None
    try:
        numbers = [float(part) for part in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != 10 or not all(math.isfinite(number) for number in numbers):
        raise ManifestError(
            f"{path}: landmarks must be ten numbers, x and y of the right eye, left eye, nose, "
            f"right and left mouth corner, with spaces between them; got '{text}'"
        )
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def checked(entries: Iterable[Entry], problems: Iterable[str] = ()) -> Manifest:
    """A manifest without entries whose files are missing or that are named twice."""
    kept, found = [], list(problems)
    entries = list(entries)
    times = Counter(entry.path for entry in entries)
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            continue
        seen.add(entry.path)
        if times[entry.path] > 1:
            found.append(f"{entry.path}: named {times[entry.path]} times")
        elif not Path(entry.path).is_file():
            found.append(f"{entry.path}: there is no such file")
        elif entry.mask is not None and not Path(entry.mask).is_file():
            found.append(f"{entry.path}: its mask {entry.mask} is not there")
        else:
            kept.append(entry)
    return Manifest(tuple(kept), (*found, *_emptied(entries, kept)))


def _emptied(before: Sequence[Entry], kept: Sequence[Entry]) -> Iterator[str]:
    """A problem for each group of which nothing is left."""
    left = {entry.group for entry in kept}
    for group in dict.fromkeys(entry.group for entry in before):
        if group not in left:
            yield f"group '{group}' is empty: none of its pictures can be used"


def fitted(manifest: Manifest, classes: Sequence[str], real: Sequence[str]) -> Manifest:
    """The manifest with labels as the detector spells them; labels it does not have are problems.

    `real` and `fake` fit every detector. On one without kinds of forgery (classes real and fake by
    whatever name), any other label is refused: it would only guess.
    """
    spelled = {name.lower(): name for name in classes}
    kept, problems = [], list(manifest.problems)
    for entry in manifest.entries:
        label = entry.label.lower()
        if label in (REAL, FAKE):
            kept.append(replace(entry, label=label))
        elif label in spelled:
            name = spelled[label]
            kept.append(replace(entry, label=REAL if name in real else name))
        else:
            known = dict.fromkeys((REAL, FAKE, *classes))
            problems.append(f"{entry.path}: {unknown('label', entry.label, known)}")
    return Manifest(tuple(kept), (*problems, *_emptied(manifest.entries, kept)))


def refuse(manifest: Manifest, *, skip_bad: bool) -> None:
    """Raise ManifestError for problems that may not be skipped, and where nothing is left."""
    problems = manifest.problems
    if problems and not (skip_bad and manifest.entries):
        shown = "\n  ".join(problems[:_SHOWN])
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        mend = "mend them, or leave them out with --skip-bad"
        if not manifest.entries:
            mend = "no picture is left"
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise ManifestError(f"{count} in the list of pictures: {mend}\n  {shown}{more}")
    if not manifest.entries:
        raise ManifestError("the list of pictures is empty")
