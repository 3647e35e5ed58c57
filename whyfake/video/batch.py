"""Several clips: a folder of results for each, and the folders that hold results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError


def clip_folders(clips: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each clip, once, with its folder in `out`: its name, made longer where two share it.

    The same clips get the same folders, in whichever order they are named.
    """
    paths = list(dict.fromkeys(path.absolute() for path in clips))
    stems = [path.stem for path in paths]
    found = []
    for path in paths:
        name = path.stem
        if stems.count(name) > 1:
            name += f"-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        found.append((path, out / name))
    return found


def result_folders(folders: Sequence[Path]) -> list[Path]:
    """The clips' folders among and in `folders`. Raises OutputError where there are none."""
    found: list[Path] = []
    for folder in folders:
        inside = [folder] if (folder / "frames.jsonl").is_file() else []
        if not inside and folder.is_dir():
            inside = sorted(path.parent for path in folder.glob("*/frames.jsonl"))
        if not inside:
            raise OutputError(
                f"{folder}: no results of a clip there (frames.jsonl); whyfake video makes them"
            )
        found += inside
    return list(dict.fromkeys(found))
