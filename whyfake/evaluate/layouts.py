"""Manifests from data sets as they lie on disk: FaceForensics++, DFDC and Celeb-DF, as face crops.

All three come as videos; these layouts are those of their extracted faces, a folder of pictures a
video, named for it (`000_003`, or `000_003.mp4` as the paper's code has it).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ..errors import ManifestError
from .manifest import FAKE, REAL, Entry, Manifest, checked

FRAMES = 10
"""Pictures a video, as in the paper."""
FF_CLASSES = ("NeuralTextures", "Face2Face", "Deepfakes", "FaceSwap")
"""The forgeries of the paper's five classes, in the order of its labels 1 to 4; 0 is real."""
_FF_LIST = ["relative_path", "bin_label", "mc_label"]
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

Item = TypeVar("Item")


def sampled(items: Sequence[Item], count: int = FRAMES) -> list[Item]:
    """`count` of a video's pictures, or all if there are fewer, spread as the paper's code does.

    Every round(n / count)-th; where that leaves too few, the neighbours of the first ones as well.
    """
    step = max(round(len(items) / count), 1)
    chosen = list(range(0, len(items), step))[:count]
    if len(chosen) < count <= len(items):
        chosen += [index + 1 for index in chosen[: count - len(chosen)]]
    return [items[index] for index in sorted(chosen)]


def faceforensics(
    root: str | Path,
    *,
    compression: str = "c23",
    frames: int = FRAMES,
    listed: str | Path | None = None,
) -> Manifest:
    """FaceForensics++: `manipulated_sequences/KIND/c23/{videos,frames,faces}/VIDEO/*.png`.

    Originals are in `original_sequences/youtube`. Labels and groups are KIND, or real; kinds beyond
    the paper's four are left alone. `listed` is the paper's space-separated list (relative_path
    bin_label mc_label), whose pictures are then sampled in its order. Raises ManifestError.
    """
    root = _folder(root)
    if listed is not None:
        videos = _listed(root, Path(listed))
    else:
        videos = {}
        for kind in ("youtube", *FF_CLASSES):
            part = "original_sequences" if kind == "youtube" else "manipulated_sequences"
            for video in _videos(root / part / kind / compression):
                videos[video] = (REAL if kind == "youtube" else kind, _pictures(video))
        if not videos:
            raise ManifestError(
                f"{root}: no folders of face crops there: wanted manipulated_sequences/KIND/"
                f"{compression}/{{videos,frames,faces}}/VIDEO/*.png"
            )
    return _manifest(videos, frames)


def _listed(root: Path, path: Path) -> dict[Path, tuple[str, list[Path]]]:
    """Videos of the paper's list with label and pictures, in its order."""
    videos: dict[Path, tuple[str, list[Path]]] = {}
    labels = (REAL, *FF_CLASSES)
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream, delimiter=" "))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from None
    if not rows or rows[0][:3] != _FF_LIST:
        raise ManifestError(f"{path}: the first line must be '{' '.join(_FF_LIST)}'")
    for line, row in enumerate(rows[1:], 2):
        if len(row) < 3 or row[2] not in ("0", "1", "2", "3", "4"):
            raise ManifestError(f"{path}, line {line}: wanted a path and two labels, got {row}")
        picture = root / row[0]
        videos.setdefault(picture.parent, (labels[int(row[2])], []))[1].append(picture)
    return videos


def dfdc(root: str | Path, *, frames: int = FRAMES) -> Manifest:
    """DFDC: folders with a `metadata.json` ({video: {label: FAKE | REAL}}) and a folder per video.

    Videos of the metadata without a folder are problems. Raises ManifestError.
    """
    root = _folder(root)
    videos: dict[Path, tuple[str, list[Path]]] = {}
    missing = []
    for listing in sorted(root.rglob("metadata.json")):
        for name, facts in _metadata(listing).items():
            label = str(facts.get("label", "")) if isinstance(facts, dict) else ""
            if label not in ("FAKE", "REAL"):
                raise ManifestError(f"{listing}: {name} has no label FAKE or REAL")
            video = _video(listing.parent, name)
            if video is None:
                missing.append(f"{listing.parent / name}: no folder of its face crops")
            else:
                videos[video] = (label.lower(), _pictures(video))
    if not videos:
        raise ManifestError(
            f"{root}: no metadata.json with folders of face crops beside it (one a video)"
        )
    return _manifest(videos, frames, missing)


def celeb_df(root: str | Path, *, frames: int = FRAMES) -> Manifest:
    """Celeb-DF: `{Celeb-real,YouTube-real,Celeb-synthesis}/VIDEO/*.png`.

    Where `List_of_testing_videos.txt` is there, only the videos it names. Raises ManifestError.
    """
    root = _folder(root)
    listing = root / "List_of_testing_videos.txt"
    videos: dict[Path, tuple[str, list[Path]]] = {}
    missing = []
    kinds = {"Celeb-real": REAL, "YouTube-real": REAL, "Celeb-synthesis": FAKE}
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").split("\n"):
            _, _, name = line.strip().partition(" ")
            if not name:
                continue
            kind = name.partition("/")[0]
            if kind not in kinds:
                raise ManifestError(f"{listing}: '{line}' names none of {', '.join(kinds)}")
            video = _video(root / kind, name.partition("/")[2])
            if video is None:
                missing.append(f"{root / name}: no folder of its face crops")
            else:
                videos[video] = (kinds[kind], _pictures(video))
    else:
        for kind, label in kinds.items():
            for video in _videos(root / kind):
                videos[video] = (label, _pictures(video))
    if not videos:
        raise ManifestError(f"{root}: no folders of face crops in {', '.join(kinds)}")
    return _manifest(videos, frames, missing)


LAYOUTS: dict[str, Callable[..., Manifest]] = {
    "ffpp": faceforensics,
    "dfdc": dfdc,
    "celeb-df": celeb_df,
}


def _manifest(
    videos: dict[Path, tuple[str, list[Path]]], frames: int, missing: Sequence[str] = ()
) -> Manifest:
    entries, problems = [], list(missing)
    for video, (label, pictures) in videos.items():
        if not pictures:
            problems.append(f"{video}: no pictures in it")
        for picture in sampled(pictures, frames):
            entries.append(Entry(str(picture.absolute()), label, label, str(video.absolute())))
    return checked(entries, problems)


def _folder(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise ManifestError(f"{root}: there is no such folder")
    return Path(root)


def _videos(folder: Path) -> Iterator[Path]:
    """Folders of pictures in a folder, or in its `videos`, `frames` or `faces`."""
    for inside in (folder / "videos", folder / "frames", folder / "faces", folder):
        if inside.is_dir():
            yield from sorted(path for path in inside.iterdir() if path.is_dir())
            return


def _video(folder: Path, name: str) -> Path | None:
    """The folder of a video's pictures: named for it with or without its ending."""
    for inside in (folder, folder / "videos", folder / "frames", folder / "faces"):
        for candidate in (inside / name, inside / Path(name).stem):
            if candidate.is_dir():
                return candidate
    return None


def _pictures(video: Path) -> list[Path]:
    return sorted(path for path in video.iterdir() if path.suffix.lower() in _PICTURES)


def _metadata(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ManifestError(f"{path}: wanted an object {{video: facts}}")
    return data
