"""report.html of a clip: gathers what its folder holds, for `whyfake.report.clip_page`."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import OutputError
from ..explanation import Explanation
from ..files import write_file
from ..media import load_picture
from ..report.clip_page import ClipPage, clip_page
from ..report.layers import crop_layer, difference_layer, heat_layer, outline_layer
from ..report.overlay import percent
from ..report.scene import Curve
from .folder import ClipFolder, lines_of
from .parts import PARTS
from .smooth import stored_smooth

MOST_SHOWN = 240
"""Frames whose pictures are inside the page; of more, so many are taken, evenly."""
_MOST_DATA = 4 << 20  # bytes of frames.jsonl that go into the page

Row = dict[str, Any]


def write_page(folder: ClipFolder) -> None:
    """Write report.html from frames.jsonl, summary.json and the explanations. Costs no images.

    Raises OutputError where they are missing or damaged.
    """
    summary = folder.read_json("summary.json")
    if summary is None:
        raise OutputError(f"{folder.path}: no summary.json there; run whyfake video again")
    rows = list(lines_of(folder.path / "frames.jsonl"))
    write_file(folder.path / "report.html", clip_page(_page(folder, summary, rows)).encode())


def _page(folder: ClipFolder, summary: Row, rows: list[Row]) -> ClipPage:
    run = summary["run"]
    methods: list[str] = run["methods"]
    faces = [row for row in rows if row["track"] is not None]
    explained = [row for row in faces if row["explained"]]
    curves: dict[int, Curve] = {}
    for row in faces:
        curve = curves.setdefault(row["track"], Curve(row["track"]))
        curve.points.append((row["time"], row["p_fake"], row["explained"]))
    shown = _thinned(faces)
    parts, columns = _parts(explained, methods[0])
    overlay = next((n for n in ("overlay.webm", "overlay.mp4") if (folder.path / n).exists()), None)
    return ClipPage(
        title=_title(summary),
        lead=_lead(summary, explained, methods[0]),
        flags=_flags(summary, rows, len(shown), len(faces)),
        frames=[_frame(folder, row, summary) for row in shown],
        tracks=[(t["track"], _track(t, summary["tracks"])) for t in summary["tracks"]],
        methods=methods,
        curves=list(curves.values()),
        gaps=[row["time"] for row in rows if row["track"] is None],
        duration=summary["clip"]["duration"],
        columns=COLUMNS,
        rows=[cells for row in rows for cells in _cells(row, {r["id"] for r in shown})],
        parts_method=methods[0] if explained else "",
        parts=parts,
        columns_of_parts=columns,
        facts=_facts(summary),
        settings=json.dumps(run, indent=1, ensure_ascii=False),
        files=_files(folder, overlay),
        data_link=_data(folder),
        overlay=overlay,
        notes=(
            "An explanation shows what moved this detector's score, right or wrong. It is no "
            "evidence of forgery by itself.",
        ),
    )


def _title(summary: Row) -> str:
    fake = any(track["called_fake"] for track in summary["tracks"])
    name = summary["clip"]["name"]
    if not summary["tracks"]:
        return f"No face was found in {name}"
    return f"Why is {name} called fake?" if fake else f"{name} is called real"


def _lead(summary: Row, explained: list[Row], method: str) -> list[str]:
    clip = summary["clip"]
    lines = [
        f"{clip['duration']:.1f} seconds, {clip['frames']:,} frames of "
        f"{clip['width']}×{clip['height']}; the detector was asked about the faces in "
        f"{summary['sampled_frames']} of them, and {summary['explained']} "
        f"face{'s are' if summary['explained'] != 1 else ' is'} explained."
    ]
    for track in summary["tracks"]:
        lines.append(
            f"Face {track['track']}, {track['first']:.1f} s to {track['last']:.1f} s: called fake "
            f"in {track['called_fake']} of {track['sampled']} frames, P(fake) "
            f"{percent(track['mean_p_fake'])} on average."
        )
    first = [_best_part(row, method) for row in explained]
    known = [part for part in first if part is not None]
    if known:
        counts = sorted({p: known.count(p) for p in known}.items(), key=lambda c: (-c[1], c[0]))
        words = ", ".join(f"{part} in {count}" for part, count in counts[:4])
        lines.append(f"The best region of {method} lies on: {words}, of {len(known)} frames.")
    return lines


def _best_part(row: Row, method: str) -> str | None:
    regions = row["methods"][method]["top_regions"]
    return regions[0]["part"] if regions else None


def _flags(summary: Row, rows: list[Row], shown: int, faces: int) -> list[str]:
    """What a reader must know before looking at anything."""
    lines = [summary["notice"]] if summary["notice"] else []
    lines += summary["notes"]
    said = {
        "no face": "no face was found",
        "not flipped": "the adversarial sample is still called fake: its explanation hides less "
        "than it should",
        "close decision": "the decision is close (under 60 %)",
        "low face confidence": "the face finder was unsure (under 80 %)",
        "crop reaches over the border": "more than a tenth of the crop lies beyond the frame",
        "failed": "the explanation failed",
    }
    for flag, text in said.items():
        times = [row["time"] for row in rows if flag in row["flags"]]
        if times:
            count = f"{len(times)} of {len(rows)} samples" if len(rows) > 1 else "the one sample"
            lines.append(f"In {count} {text}: {_times(times)}.")
    if summary["run"]["finder"] == "cascade":
        lines.append("Faces were found by the built-in cascade: frontal ones only, no landmarks.")
    if summary["smooth"]:
        lines.append(
            f"The heat shown is smoothed over {summary['smooth']:g} s along each track; outlines "
            "and numbers are those of single frames."
        )
    if shown < faces:
        lines.append(
            f"The viewer holds {shown} of {faces:,} faces, evenly spread; the table has all."
        )
    return lines


def _times(times: list[float]) -> str:
    words = [f"{time:.2f} s" for time in times[:6]]
    return ", ".join(words) + (f" and {len(times) - 6} more" if len(times) > 6 else "")


def _thinned(faces: list[Row]) -> list[Row]:
    if len(faces) <= MOST_SHOWN:
        return faces
    # explained ones first: a face that was only scored has little to show
    pool = [row for row in faces if row["explained"]]
    pool = pool if len(pool) >= MOST_SHOWN else faces
    picked = np.linspace(0, len(pool) - 1, MOST_SHOWN).round().astype(int)
    return [pool[index] for index in picked]


def _track(track: Row, tracks: list[Row]) -> str:
    number = f"face {track['track']}"
    return number if len(tracks) == 1 else f"{number} ({percent(track['mean_p_fake'])} fake)"


def _frame(folder: ClipFolder, row: Row, summary: Row) -> Row:
    """What the viewer needs of a face: its pictures, and words that need no formatting."""
    crop, size = crop_layer(load_picture(folder.path / row["files"]["crop"]).rgb)
    frame: Row = {
        "id": row["id"],
        "time": round(row["time"], 3),
        "at": round(100 * row["time"] / max(summary["clip"]["duration"], 1e-9), 3),
        "track": row["track"],
        "decided": f"{row['predicted']} {percent(row['scores'][row['predicted']])}",
        "explained": row["explained"],
        "why": "" if row["explained"] else row.get("error", "This face was scored, not explained."),
        "width": size[1],
        "height": size[0],
        "crop": crop,
        "difference": None,
        "facts": [["frame", str(row["frame"])]],
        "methods": {},
    }
    if row["confidence"] is not None:
        frame["facts"].append(["face confidence", f"{row['confidence']:.2f}"])
    if row["flags"]:
        frame["facts"].append(["flags", ", ".join(row["flags"])])
    for name, method in (row.get("methods") or {}).items():
        where = folder.frame(row["id"])
        explanation = Explanation.load(where / name)
        heat = stored_smooth(folder, row["id"], name) if summary["smooth"] else None
        if frame["difference"] is None:
            frame["difference"] = difference_layer(explanation)
        frame["methods"][name] = {
            "heat": heat_layer(explanation, heat),
            "outlines": outline_layer(explanation, size),
            "regions": [
                {key: region[key] for key in ("rank", "region", "score", "part")}
                for region in method["top_regions"]
            ],
            "facts": _method_facts(method, row),
            "short": _short(method),
        }
    return frame


def _method_facts(method: Row, row: Row) -> list[list[str]]:
    facts = [["explains", f"{method['target']} ({percent(method['p_target'])})"]]
    adversary = method["adversary"]
    if adversary is None:
        facts.append(["hidden pixels show", method["baseline"]])
    else:
        facts.append(["adversarial sample", _fate(adversary)])
        facts.append(["its change", f"at most {adversary['linf'] * 255:.1f} of 255 a pixel"])
        facts.append(["began at", "its own frame" if row["start"] is None else row["start"]])
    facts += [["note", note] for note in method["notes"]]
    return [*facts, ["images asked", f"{method['images']:,}"]]


def _fate(adversary: Row) -> str:
    steps = f"{adversary['steps']} step{'' if adversary['steps'] == 1 else 's'}"
    return f"called real after {steps}" if adversary["flipped"] else f"NOT flipped in {steps}"


def _short(method: Row) -> str:
    parts = [r["part"] or f"region {r['region']}" for r in method["top_regions"][:3]]
    return ", ".join(dict.fromkeys(parts)) or "no region speaks for the target"


COLUMNS = (
    "seconds",
    "frame",
    "face",
    "called",
    "P(fake)",
    "method",
    "best regions",
    "flipped",
    "steps",
    "change /255",
    "began at",
    "images",
    "flags",
)


def _cells(row: Row, shown: set[str]) -> list[list[str | tuple[str, str, str]]]:
    """The table's rows of one face."""
    flags = ", ".join(row["flags"])
    time = f"{row['time']:.3f}"
    if row["track"] is None:
        return [[time, str(row["frame"]), "none", *[""] * 8, "0", flags]]
    start = [time, str(row["frame"]), str(row["track"]), row["predicted"], f"{row['p_fake']:.4f}"]
    if not row["explained"]:
        return [[*start, *[""] * 6, "1", flags]]
    lines: list[list[str | tuple[str, str, str]]] = []
    for name, method in row["methods"].items():
        adversary = method["adversary"]
        made = ["", "", "", ""]
        if adversary is not None:
            made = [
                "yes" if adversary["flipped"] else "NO",
                str(adversary["steps"]),
                f"{adversary['linf'] * 255:.1f}",
                row["start"] or "own frame",
            ]
        best = ", ".join(
            f"{r['part'] or r['region']} {r['score']:.2g}" for r in method["top_regions"][:3]
        )
        link = (time, row["id"], name) if row["id"] in shown else time
        lines.append([link, *start[1:], name, best, *made, f"{method['images']:,}", flags])
    return lines


def _parts(explained: Sequence[Row], method: str) -> tuple[list[str], list[dict[str, float]]]:
    """The parts that any best region lies on, and for each frame their shares."""
    columns = []
    for row in explained:
        regions = [r for r in row["methods"][method]["top_regions"] if r["part"] is not None]
        total = sum(abs(r["score"]) for r in regions)
        shares: dict[str, float] = {}
        for region in regions:
            share = abs(region["score"]) / max(total, 1e-12)
            shares[region["part"]] = shares.get(region["part"], 0.0) + share
        columns.append(shares)
    used = {part for shares in columns for part in shares}
    return [part for part in PARTS if part in used], columns


def _facts(summary: Row) -> list[tuple[str, str]]:
    run, images, clip = summary["run"], summary["images"], summary["clip"]
    detector, starts = run["detector"], summary["adversary_by_start"]
    sampling = ", ".join(f"{key} {value:g}" for key, value in run["sampling"].items())
    facts = [
        ("Clip", f"{clip['name']}, {clip['codec']}, {clip['fps']:g} frames a second"),
        ("Detector", f"{detector['name']} ({detector['sha256'][:12]})"),
        ("Run by", f"{detector['engine']}, {detector['device']}"),
        ("Methods", ", ".join(run["methods"])),
        ("Frames", f"{sampling}; explained: {run['explain']}"),
        ("Faces", f"{run['finder']}, {run['faces']}, crop {run['margin']:g} × the face"),
        ("Seed", str(run["seed"])),
        (
            "Images asked",
            f"{images['total']:,} ({images['detection']:,} to score, {images['adversary']:,} for "
            f"adversarial samples, {images['explainer']:,} by the methods)",
        ),
    ]
    for name, words in (("own frame", "begun at the frame"), ("neighbour", "begun at a neighbour")):
        start = starts[name]
        if start["frames"]:
            facts.append(
                (
                    f"Samples {words}",
                    f"{start['flipped']} of {start['frames']} flipped, "
                    f"{start['images_per_frame']:.0f} images a frame",
                )
            )
    return [*facts, ("whyfake", run["whyfake"])]


def _files(folder: ClipFolder, overlay: str | None) -> list[tuple[str, str]]:
    known = [
        ("frames.jsonl", "a line a sampled face"),
        ("summary.json", "the clip, its tracks, what was asked"),
        ("run.json", "every setting"),
        ("survey.jsonl", "every look for faces"),
    ]
    if overlay is not None:
        known.append((overlay, "the clip with its heat"))
    return [(name, what) for name, what in known if (folder.path / name).exists()]


def _data(folder: ClipFolder) -> str | None:
    """frames.jsonl as a link that holds it; None where that would weigh too much."""
    content = (folder.path / "frames.jsonl").read_bytes()
    if len(content) > _MOST_DATA:
        return None
    return "data:application/jsonl;base64," + base64.b64encode(content).decode()
