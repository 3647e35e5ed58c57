"""Finding faces: the built-in cascade, YuNet, given boxes; and where YuNet's file is looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import portrait, scene

from whyfake.errors import UsageError, VideoError
from whyfake.media import make_finder
from whyfake.media.faces import Cascade, Face, GivenBoxes, WholeFrame, YuNet, face_model


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No face model anywhere."""
    monkeypatch.delenv("WHYFAKE_FACE_MODEL", raising=False)
    monkeypatch.delenv("WHYFAKE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def centre(face: Face) -> tuple[float, float]:
    x, y, width, height = face.box
    return x + width / 2, y + height / 2


@pytest.mark.parametrize(("left", "top"), [(10, 20), (120, 60)])
def test_the_cascade_finds_a_portrait_where_it_is(left: int, top: int) -> None:
    """In a wide frame, so that rows and columns cannot be swapped; the face is mid-portrait."""
    (face,) = Cascade().find(scene([(left, top, False)]), 0)
    x, y = centre(face)
    assert abs(x - (left + 48)) < 14
    assert abs(y - (top + 48)) < 14
    assert face.landmarks is None


def test_the_cascade_finds_none_where_there_is_none() -> None:
    assert Cascade().find(scene([]), 0) == []
    assert Cascade().find(np.full((20, 300, 3), 90, np.uint8), 0) == []


def test_the_cascade_scales_large_frames_back() -> None:
    """Twice 960 pixels wide: found on a smaller copy, given in the frame's own pixels."""
    import cv2

    small = scene([(40, 30, False)])
    large = cv2.resize(small, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    (face,) = Cascade().find(large, 0)
    x, y = centre(face)
    assert abs(x / 8 - 88) < 14
    assert abs(y / 8 - 78) < 14


@pytest.mark.shared_data
def test_yunet_finds_box_and_landmarks(shared: Path) -> None:
    """In a frame over its working size: scaled down and back; eyes over nose over mouth."""
    import cv2

    finder = make_finder(model=shared / "face_detector" / "face_detection_yunet_2023mar.onnx")
    assert finder.name == "yunet"
    assert len(finder.digest) == 64
    for factor in (1, 8):
        frame = cv2.resize(scene([(100, 50, False)]), None, fx=factor, fy=factor)
        (face,) = finder.find(frame, 0)
        x, y = (value / factor for value in centre(face))
        assert abs(x - 148) < 14
        assert abs(y - 98) < 14
        assert face.confidence is not None
        assert 0.6 <= face.confidence <= 1
        points = np.array(face.landmarks) / factor
        assert points.shape == (5, 2)
        assert points[0, 0] < points[2, 0] < points[1, 0]
        assert points[:2, 1].max() < points[2, 1] < points[3:, 1].min()


@pytest.mark.shared_data
def test_frame_size_may_change_between_calls(shared: Path) -> None:
    finder = YuNet(shared / "face_detector" / "face_detection_yunet_2023mar.onnx")
    assert len(finder.find(scene([(100, 50, False)]), 0)) == 1
    assert len(finder.find(np.asarray(portrait(200)), 1)) == 1


def test_a_file_that_is_no_yunet_model_is_said(nowhere: Path) -> None:
    path = nowhere / "wrong.onnx"
    path.write_bytes(b"this is no model")
    with pytest.raises(VideoError, match="not a YuNet face model that OpenCV reads"):
        make_finder(model=path)


def test_yunet_is_looked_for_in_three_places(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert face_model(None) is None
    assert make_finder().name == "cascade"
    cached = nowhere / "cache" / "whyfake" / "face_detection_yunet_2023mar.onnx"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert face_model(None) == cached
    named = nowhere / "named.onnx"
    monkeypatch.setenv("WHYFAKE_FACE_MODEL", str(named))
    with pytest.raises(UsageError, match="WHYFAKE_FACE_MODEL: there is no file"):
        face_model(None)
    named.touch()
    assert face_model(None) == named
    given = nowhere / "given.onnx"
    with pytest.raises(UsageError, match="--face-model: there is no file"):
        face_model(given)
    given.touch()
    assert face_model(given) == given


def test_only_one_way_to_faces_at_a_time(nowhere: Path) -> None:
    with pytest.raises(UsageError, match="give one of"):
        make_finder(model=nowhere / "m.onnx", whole=True)


def test_the_whole_frame() -> None:
    (face,) = WholeFrame().find(np.zeros((40, 64, 3), np.uint8), 7)
    assert face.box == (0, 0, 64, 40)


FRAME = np.zeros((40, 64, 3), np.uint8)
POINTS = [[1, 2], [3, 2], [2, 3], [1, 4], [3, 4]]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"3": [[1, 2, 30, 20], [5, 6, 7, 8]]}),
        json.dumps([{"frame": 3, "box": [1, 2, 30, 20]}, {"frame": 3, "box": [5, 6, 7, 8]}]),
        '{"frame": 3, "box": [1, 2, 30, 20]}\n\n{"frame": 3, "box": [5, 6, 7, 8]}\n',
    ],
    ids=["by frame", "objects", "lines"],
)
def test_given_boxes(nowhere: Path, text: str) -> None:
    path = nowhere / "boxes.json"
    path.write_text(text)
    finder = GivenBoxes(path)
    assert [face.box for face in finder.find(FRAME, 3)] == [(1, 2, 30, 20), (5, 6, 7, 8)]
    assert finder.find(FRAME, 2) == []
    assert not finder.landmarks


def test_given_boxes_keep_tracks_and_landmarks(nowhere: Path) -> None:
    """As frames.jsonl has them, lines without a face among them."""
    path = nowhere / "frames.jsonl"
    rows: list[dict[str, Any]] = [
        {"frame": 0, "box": None, "track": None},
        {"frame": 4, "box": [1, 2, 3, 4], "track": 9, "landmarks": POINTS, "confidence": 0.5},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finder = GivenBoxes(path)
    (face,) = finder.find(FRAME, 4)
    assert (face.track, face.confidence) == (9, 0.5)
    assert face.landmarks == tuple(map(tuple, POINTS))
    assert finder.landmarks
    assert finder.find(FRAME, 0) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "neither JSON nor JSON lines"),
        ("3", "wanted frame numbers with their boxes"),
        ('{"1": 5}', "wanted frame numbers with their boxes"),
        ('[{"frame": 1}]', "entry 1 is no frame with a box"),
        ('[{"frame": 1, "box": [1, 2, 0, 4]}]', "entry 1 is no frame with a box"),
        ('[{"frame": 1, "box": [1, 2, 3]}]', "entry 1 is no frame with a box"),
        ('[{"frame": 1, "box": [1, 2, 3, 4], "landmarks": [[1, 2]]}]', "1 landmarks, wanted 5"),
        ('[{"frame": "x", "box": [1, 2, 3, 4]}]', "entry 1 is no frame with a box"),
    ],
)
def test_wrong_boxes_are_said(nowhere: Path, text: str, words: str) -> None:
    path = nowhere / "boxes.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        GivenBoxes(path)
