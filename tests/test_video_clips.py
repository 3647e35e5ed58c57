"""Clips of other kinds: two faces that cross, none, one frame, ready crops; and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toys
from clips import FAST, rows_of, scene, write_clip

pytest.importorskip("av")

from whyfake import Detector, explain_video
from whyfake.errors import UsageError, VideoError
from whyfake.explainers import Lime
from whyfake.settings import Settings

pytestmark = pytest.mark.usefixtures("cascade")


def test_two_faces_that_cross(brightness: Detector, tmp_path: Path) -> None:
    """Two tracks for two people, from the first frame to the last, and a line for each."""
    frames = [
        scene([(4 + 2 * index, 40, False), (140 - 2 * index, 40, True)]) for index in range(68)
    ]
    path = write_clip(tmp_path / "cross.mp4", frames)
    result = explain_video(
        brightness, path, tmp_path / "out", every=4, settings=FAST, explain="top:3"
    )
    tracks: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(result.folder):
        if row["track"]:
            tracks.setdefault(row["track"], []).append(row)
    first, last = ([row["box"][0] for row in rows] for rows in list(tracks.values())[:2])
    assert len(tracks) == 2
    assert {first[0] < first[-1], last[0] < last[-1]} == {True, False}
    assert min(len(rows) for rows in tracks.values()) >= 8


def test_a_clip_without_any_face(brightness: Detector, tmp_path: Path) -> None:
    """A page that says so, exit without error, nothing asked."""
    path = write_clip(tmp_path / "empty.mp4", [scene([])] * 12)
    before = brightness.images_seen
    result = explain_video(brightness, path, tmp_path / "out", every=4, settings=FAST)
    assert brightness.images_seen == before
    assert result.summary["faces"] == 0
    assert any("no face was found" in note for note in result.summary["notes"])
    assert "No face was found in empty.mp4" in (result.folder / "report.html").read_text()
    assert (result.folder / "overlay.webm").is_file()


def test_one_frame_is_a_clip(brightness: Detector, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "one.mp4", [scene([(60, 40, False)])])
    result = explain_video(brightness, path, tmp_path / "out", settings=FAST, explain="all")
    assert result.summary["explained"] == 1


def test_ready_crops_are_explained_as_whyfake_explain_does(tmp_path: Path) -> None:
    """`--no-face`: the frame is the crop. The planted patch is the best region of every frame."""
    frames = [toys.planted_frame(toys.PATCH, toys.SIZE, seed) for seed in (1, 1, 2)]
    path = write_clip(tmp_path / "crops.mp4", frames)
    with toys.planted_detector(tmp_path / "toy", toys.PATCH, toys.SIZE) as planted:
        result = explain_video(
            planted, path, tmp_path / "out", frames=3, no_face=True, explain="all",
            settings=Settings(lime=Lime(samples=200), regions="grid:8"),
        )  # fmt: skip
    rows = rows_of(result.folder)
    assert [row["crop"]["width"] for row in rows] == [64] * 3
    top, bottom, left, right = toys.PATCH
    for row in rows:
        x0, y0, x1, y1 = row["methods"]["lime-adv"]["top_regions"][0]["box"]
        assert left <= x0 < x1 <= right
        assert top <= y0 < y1 <= bottom


def test_a_box_outside_the_frame_is_an_error(
    brightness: Detector, away: Path, tmp_path: Path
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"10": [[500, 20, 40, 40]]}')
    with pytest.raises(VideoError, match=r"frame 10: the face box .* lies outside the frame"):
        explain_video(brightness, away, tmp_path / "out", every=10, settings=FAST, boxes=boxes)


def test_aligning_needs_landmarks(brightness: Detector, away: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--align needs eyes, and cascade gives none"):
        explain_video(brightness, away, tmp_path / "out", every=10, settings=FAST, align=True)
