"""What summary.json says: the clip, its tracks, what was asked, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..media import ClipInfo
from ..runtime import Detector
from .folder import ClipFolder, lines_of
from .survey import end_of


def summarise(
    folder: ClipFolder, info: ClipInfo, detector: Detector, failed: dict[str, str]
) -> dict[str, Any]:
    """The summary of what stands in frames.jsonl. Costs no images."""
    end = end_of(folder) or {"frames": 0, "notes": []}
    tracks: dict[int, dict[str, Any]] = {}
    counts = {"sampled_frames": 0, "no_face": 0, "faces": 0, "explained": 0}
    images = {"total": 0, "detection": 0, "adversary": 0, "explainer": 0}
    starts = {"own frame": _Start(), "neighbour": _Start()}
    last_frame, seconds = -1, 0.0
    for row in lines_of(folder.path / "frames.jsonl"):
        counts["sampled_frames"] += row["frame"] != last_frame
        last_frame = row["frame"]
        images["total"] += row["images"]
        if row["track"] is None:
            counts["no_face"] += 1
            continue
        counts["faces"] += 1
        images["detection"] += 1
        _add(tracks, row, detector.card.real)
        if row["explained"]:
            counts["explained"] += 1
            seconds += row["seconds"]
            for method in row["methods"].values():
                for purpose, number in method["image_counts"].items():
                    images[purpose] += number
            starts["own frame" if row["start"] is None else "neighbour"].add(row)
    notes = list(end["notes"])
    if not counts["faces"]:
        notes.append("no face was found in any sampled frame: nothing could be explained")
    explained = max(counts["explained"], 1)
    return {
        "schema": 1,
        "clip": {
            "name": folder_clip_name(folder),
            "width": info.width,
            "height": info.height,
            "rate": f"{info.rate.numerator}/{info.rate.denominator}",
            "fps": round(float(info.rate), 4),
            "frames": end["frames"],
            "duration": round(info.duration, 6),
            "variable_rate": info.variable,
            "rotation": info.rotation,
            "codec": info.codec,
        },
        **counts,
        "tracks": [_closed(track) for _, track in sorted(tracks.items())],
        "images": images,
        "images_per_explained": round(
            (images["total"] - counts["faces"]) / explained + 1 if counts["explained"] else 0.0, 2
        ),
        "adversary_by_start": {name: start.to_dict() for name, start in starts.items()},
        "failed": [{"id": name, "error": error} for name, error in failed.items()],
        "notes": notes,
        "notice": detector.card.notice,
        "real": list(detector.card.real),
        "seconds": round(seconds, 3),
        "run": folder.run(),
    }


def folder_clip_name(folder: ClipFolder) -> str:
    """The name of the clip that the folder is about."""
    run = folder.run() or {}
    return str(run.get("clip", {}).get("name", folder.path.name))


class _Start:
    """Adversarial samples by where they began: at their own frame, or with a neighbour's."""

    def __init__(self) -> None:
        self.frames = self.images = self.flipped = self.steps = 0

    def add(self, row: dict[str, Any]) -> None:
        made = [m for m in row["methods"].values() if m["image_counts"].get("adversary")]
        for method in made:
            self.frames += 1
            self.images += method["image_counts"]["adversary"]
            self.steps += method["adversary"]["steps"]
            self.flipped += method["adversary"]["flipped"]

    def to_dict(self) -> dict[str, Any]:
        frames = max(self.frames, 1)
        return {
            "frames": self.frames,
            "flipped": self.flipped,
            "images_per_frame": round(self.images / frames, 2),
            "steps_per_frame": round(self.steps / frames, 2),
        }


def _add(tracks: dict[int, dict[str, Any]], row: dict[str, Any], real: tuple[str, ...]) -> None:
    track = tracks.setdefault(
        row["track"],
        {
            "track": row["track"],
            "first": row["time"],
            "last": row["time"],
            "sampled": 0,
            "explained": 0,
            "called_fake": 0,
            "p_fake": [],
        },
    )
    track["last"] = row["time"]
    track["sampled"] += 1
    track["explained"] += row["explained"]
    track["called_fake"] += row["predicted"] not in real
    track["p_fake"].append(row["p_fake"])


def _closed(track: dict[str, Any]) -> dict[str, Any]:
    scores: Iterable[float] = track.pop("p_fake")
    values = list(scores)
    return {
        **track,
        "mean_p_fake": round(sum(values) / len(values), 6),
        "least_p_fake": round(min(values), 6),
        "most_p_fake": round(max(values), 6),
    }
