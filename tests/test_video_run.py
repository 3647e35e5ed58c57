"""From a clip to its folder: what is in it, what it cost, and that it can be gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import (
    FAST,
    brightness_detector,
    rows_of,
    walking,
    without_seconds,
    write_clip,
)

pytest.importorskip("av")

from whyfake import Detector, Explanation, explain_video
from whyfake.errors import OutputError
from whyfake.explainers import Lime
from whyfake.settings import Settings
from whyfake.video import FaceDone

pytestmark = pytest.mark.usefixtures("cascade")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the face is in each frame of that clip: quicker than looking for it."""
    path = tmp_path_factory.mktemp("boxes") / "boxes.json"
    faces = {k: [[40 + k, 60, 56, 56]] for k in range(60) if not 20 <= k < 40}
    path.write_text(json.dumps(faces))
    return path


@pytest.fixture(scope="module")
def how(boxes: Path) -> dict[str, Any]:
    """A quick run: four faces, given boxes, no overlay."""
    return {"every": 10, "settings": FAST, "boxes": boxes, "overlay": None}


@pytest.fixture(scope="module")
def whole(
    brightness: Detector,
    away: Path,
    how: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What that run leaves when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    explain_video(brightness, away, folder, **how)
    return folder


def test_a_clip_becomes_a_folder(brightness: Detector, away: Path, tmp_path: Path) -> None:
    """Times, gap, track, scores, counts, files: each held to what the clip was made of."""
    before = brightness.images_seen
    result = explain_video(
        brightness, away, tmp_path / "out", every=10, method="rise,lime-adv", settings=FAST
    )
    asked = brightness.images_seen - before
    folder, summary = result.folder, result.summary
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "survey.jsonl", "frames", "frames.jsonl", "summary.json", "overlay.webm",
        "report.html",
    }  # fmt: skip
    rows = rows_of(folder)
    assert [row["frame"] for row in rows] == [0, 10, 20, 30, 40, 50]
    np.testing.assert_allclose([row["time"] for row in rows], np.arange(6) * 0.4)
    assert [row["flags"] for row in rows[2:4]] == [["no face"], ["no face"]]
    assert [row["track"] for row in rows] == [1, 1, None, None, 1, 1]
    assert summary["no_face"] == 2
    assert summary["images"]["total"] == sum(row["images"] for row in rows) == asked
    faces = [row for row in rows if row["track"]]
    for row in faces:
        # the portrait's face is in the middle of its 96 pixels
        x, y, width, height = row["box"]
        assert abs(x + width / 2 - (20 + row["frame"] + 48)) < 14
        assert abs(y + height / 2 - 88) < 14
        assert row["predicted"] == "fake"
        assert row["explained"]
        assert list(row["methods"]) == ["rise", "lime-adv"]
        for name, method in row["methods"].items():
            stored = Explanation.load(folder / "frames" / row["id"] / name)
            assert stored.images == method["images"]
            assert stored.settings.get("start") == (row["start"] if name == "lime-adv" else None)
            assert stored.regions[0]["region"] == method["top_regions"][0]["region"]
            assert stored.scores["fake"] == pytest.approx(row["p_fake"], abs=1e-6)
            for path in method["files"].values():
                assert (folder / path).is_file()
        assert (folder / row["files"]["crop"]).is_file()
    assert [row["start"] for row in faces] == [None, "000000-t1", "000010-t1", "000040-t1"]


def test_a_run_that_is_finished_asks_nothing_again(
    brightness: Detector, away: Path, how: dict[str, Any], whole: Path
) -> None:
    before, text = brightness.images_seen, (whole / "frames.jsonl").read_bytes()
    summary = json.loads((whole / "summary.json").read_text())
    drawn = explain_video(brightness, away, whole, **{**how, "overlay": "webm"}).folder
    film = (drawn / "overlay.webm").stat().st_mtime_ns
    again = explain_video(brightness, away, whole, **{**how, "overlay": "webm"})
    assert (drawn / "overlay.webm").stat().st_mtime_ns == film  # nor drawn
    assert brightness.images_seen == before
    assert (whole / "frames.jsonl").read_bytes() == text
    assert again.summary == summary


def test_what_is_only_shown_may_change(
    brightness: Detector, away: Path, how: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """Smoothing and overlay are no settings of the results: nothing is asked for them."""
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    before = brightness.images_seen
    explain_video(brightness, away, folder, **{**how, "smooth": 0.5, "overlay": "mp4"})
    assert brightness.images_seen == before
    assert "The heat shown is smoothed over 0.5 s" in (folder / "report.html").read_text()
    assert (folder / "overlay.mp4").is_file()
    explain_video(brightness, away, folder, **how)
    assert "smoothed" not in (folder / "report.html").read_text().split("<script")[0]


class StopError(Exception):
    """Ends a run from within."""


class Stopping:
    """A watcher that stops the run at its nth call of any kind."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def _count(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise StopError

    stage = step = show = _count

    def tick(self) -> None:
        """Ticks come by the clock: not counted, so that a test is the same each time."""


@pytest.mark.parametrize("calls", [1, 30, 62, 64, 65, 66, 67])
def test_stopped_anywhere_and_gone_on_with_is_the_same_to_the_byte(
    brightness: Detector,
    away: Path,
    how: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    calls: int,
) -> None:
    """While looking and between faces; and no finished face is asked about twice."""
    before = brightness.images_seen
    with pytest.raises(StopError):
        explain_video(brightness, away, tmp_path / "out", watcher=Stopping(calls), **how)
    spent = brightness.images_seen - before
    kept = sum(
        json.loads(path.read_text())["images"] - 1
        for path in (tmp_path / "out").glob("frames/*/frame.json")
    )
    survey = tmp_path / "out" / "survey.jsonl"
    scored = survey.read_text().count('"scores"') if survey.exists() else 0
    result = explain_video(brightness, away, tmp_path / "out", **how)
    assert without_seconds(result.folder) == without_seconds(whole)
    total = result.summary["images"]["total"]
    assert brightness.images_seen - before - spent == total - kept - scored
    for row in rows_of(whole):
        for method in row.get("methods", {}).values():
            path = method["files"]["arrays"]
            with np.load(whole / path) as one, np.load(result.folder / path) as two:
                for name in one.files:
                    np.testing.assert_array_equal(one[name], two[name])


def test_a_torn_line_is_made_again(
    brightness: Detector, away: Path, how: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """A kill in the midst of a write: half a line at the survey's end, a folder without its end."""
    folder, text = tmp_path / "out", without_seconds(whole)
    content = (whole / "survey.jsonl").read_bytes()
    for cut in (len(content) * 2 // 3, content.rindex(b'{"end"'), 10):
        shutil.copytree(whole, folder)
        (folder / "survey.jsonl").write_bytes(content[:cut])
        (folder / "frames" / "000050-t1" / "frame.json").unlink()
        shutil.rmtree(folder / "frames" / "000010-t1")
        explain_video(brightness, away, folder, **how)
        assert without_seconds(folder) == text
        assert (folder / "survey.jsonl").read_bytes() == content
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed: 0, now 1"),
        ({"every": 20}, "sampling.every: 10, now 20"),
        ({"explain": "all"}, 'explain: "fake", now "all"'),
        ({"method": "rise"}, "methods"),
        ({"margin": 2.0}, "margin: 1.2, now 2.0"),
        ({"warm": False}, "warm_start: true, now false"),
        ({"settings": Settings()}, "settings.nes.pairs: 16, now 40"),
    ],
)
def test_other_settings_are_an_error_and_not_a_mix(
    brightness: Detector,
    away: Path,
    how: dict[str, Any],
    whole: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(OutputError, match="made with other settings") as caught:
        explain_video(brightness, away, whole, **{**how, **change})
    assert words in str(caught.value)


def test_another_clip_or_detector_is_an_error(
    brightness: Detector, away: Path, how: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    other = write_clip(tmp_path / "walk.mp4", walking(12))
    with pytest.raises(OutputError, match=r"clip\.sha256"):
        explain_video(brightness, other, whole, **how)
    with (
        brightness_detector(tmp_path / "other", 0.5) as another,
        pytest.raises(OutputError, match=r"detector\.sha256"),
    ):
        explain_video(another, away, whole, **how)


def test_two_at_once_in_one_folder_are_refused(
    brightness: Detector, away: Path, how: dict[str, Any], tmp_path: Path
) -> None:
    class Second(Stopping):
        def show(self, event: object) -> None:
            with pytest.raises(OutputError, match="another whyfake is writing there"):
                explain_video(brightness, away, tmp_path / "out", **how)

    explain_video(brightness, away, tmp_path / "out", watcher=Second(10_000), **how)


def test_warm_and_cold_flip_alike_and_warm_is_cheaper(
    brightness: Detector, away: Path, how: dict[str, Any], tmp_path: Path
) -> None:
    how = {**how, "every": 4}
    warm = explain_video(brightness, away, tmp_path / "warm", **how).summary
    cold = explain_video(brightness, away, tmp_path / "cold", warm=False, **how).summary
    assert warm["explained"] == cold["explained"] == 10
    starts = warm["adversary_by_start"]
    assert starts["own frame"]["frames"] == 1
    assert starts["neighbour"]["frames"] == 9
    assert cold["adversary_by_start"]["neighbour"]["frames"] == 0
    assert starts["own frame"]["flipped"] + starts["neighbour"]["flipped"] == 10
    assert cold["adversary_by_start"]["own frame"]["flipped"] == 10
    assert warm["images"]["adversary"] < cold["images"]["adversary"] / 2
    assert warm["images"]["explainer"] == cold["images"]["explainer"]


@pytest.mark.parametrize(("explain", "explained"), [("all", 4), ("top:2", 2), ("fake", 4)])
def test_which_faces_are_explained(
    brightness: Detector,
    away: Path,
    how: dict[str, Any],
    tmp_path: Path,
    explain: str,
    explained: int,
) -> None:
    result = explain_video(brightness, away, tmp_path / "out", explain=explain, **how)
    rows = [row for row in rows_of(result.folder) if row["track"]]
    assert sum(row["explained"] for row in rows) == explained
    if explain == "top:2":
        best = sorted(rows, key=lambda row: -row["p_fake"])[:2]
        assert all(row["explained"] for row in best)


def test_faces_that_are_called_real(away: Path, how: dict[str, Any], tmp_path: Path) -> None:
    """None is explained by default; with `all` they are, without a sample and without a chain."""
    with brightness_detector(tmp_path / "toy", 0.9) as strict:
        result = explain_video(strict, away, tmp_path / "a", **how)
        assert result.summary["explained"] == 0
        assert result.summary["images"]["total"] == 4
        result = explain_video(strict, away, tmp_path / "b", explain="all", **how)
    for row in rows_of(result.folder):
        if row["track"]:
            assert row["start"] is None
            assert row["methods"]["lime-adv"]["adversary"] is None
            assert row["methods"]["lime-adv"]["flipped"] is None


def test_given_boxes_are_where_the_crops_are(
    brightness: Detector, away: Path, how: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """The lines of one run serve as boxes for another: same crops, same scores."""
    again = {**how, "boxes": whole / "frames.jsonl"}
    second = explain_video(brightness, away, tmp_path / "out", **again)
    assert without_seconds(whole) == without_seconds(second.folder)


def test_a_face_that_fails_is_named_and_the_rest_goes_on(
    brightness: Detector,
    away: Path,
    how: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its neighbour begins at its own frame; the next run tries it again."""
    from whyfake.errors import DetectorError

    original, calls = Lime.explain, []

    def failing(self: Lime, frame: Any, target: Any, given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise DetectorError("planted")
        return (yield from original(self, frame, target, given))

    monkeypatch.setattr(Lime, "explain", failing)
    result = explain_video(brightness, away, tmp_path / "out", **how)
    assert [str(failure.error) for failure in result.failures] == ["planted"]
    assert result.summary["failed"][0]["error"] == "planted"
    (failed,) = [row for row in rows_of(result.folder) if "failed" in row["flags"]]
    assert failed["error"] == "planted"
    # its sample had been made before LIME failed: the next frame has it all the same
    starts = [row["start"] for row in rows_of(result.folder) if row["explained"]]
    assert starts[0] is None
    assert "the explanation failed" in (result.folder / "report.html").read_text()
    monkeypatch.undo()
    monkeypatch.delenv("WHYFAKE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    again = explain_video(brightness, away, tmp_path / "out", **how)
    assert again.failures == ()
    assert again.summary["explained"] == 4


def test_smoothed_heat_is_beside_the_raw(
    brightness: Detector, away: Path, how: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    """Closed form: a Gaussian mean over the track's maps within two spreads."""
    result = explain_video(brightness, away, tmp_path / "out", smooth=0.3, **how)
    rows = [row for row in rows_of(result.folder) if row["explained"]]
    frames = result.folder / "frames"
    heats = [Explanation.load(frames / row["id"] / "lime-adv").heatmap for row in rows]
    times = np.array([row["time"] for row in rows])
    for row, time in zip(rows, times, strict=True):
        weights = np.exp(-0.5 * ((times - time) / 0.3) ** 2) * (abs(times - time) <= 0.6 + 1e-9)
        expected = np.tensordot(weights / weights.sum(), np.stack(heats), axes=1)
        found = np.load(frames / row["id"] / "smoothed-lime-adv.npy")
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert without_seconds(whole) == without_seconds(result.folder)


def test_events_name_what_is_done(brightness: Detector, away: Path, tmp_path: Path) -> None:
    """Progress: every stage in order, every frame, every face with its line."""
    stages, faces, steps = [], [], []

    class Watching(Stopping):
        def stage(self, name: str, total: int) -> None:
            stages.append((name, total))

        def step(self, done: int) -> None:
            steps.append(done)

        def show(self, event: Any) -> None:
            assert isinstance(event, FaceDone)
            faces.append(event.record)

    result = explain_video(
        brightness, away, tmp_path / "out", every=10, settings=FAST, watcher=Watching(0)
    )
    assert stages == [
        ("reading", 0),
        ("looking for faces", 60),
        ("explaining", 4),
        ("drawing", 60),
        ("writing the page", 0),
    ]
    assert steps == [*range(60), *range(60)]
    by_id = {row["id"]: row for row in rows_of(result.folder)}
    assert all(by_id[record["id"]] == record for record in faces)
