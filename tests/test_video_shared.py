"""On a real deepfake, its original and a real talking head (not part of the project)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")

from whyfake import Detector, explain_video, load_detector
from whyfake.explainers import Lime
from whyfake.settings import Settings
from whyfake.video import ClipResult

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def meso4() -> Iterator[Detector]:
    from outside import SHARED

    with load_detector(SHARED / "detectors" / "meso4_df.onnx", device="cpu") as detector:
        yield detector


def explained(shared: Path, detector: Detector, name: str, out: Path, **how: Any) -> ClipResult:
    return explain_video(
        detector,
        shared / "videos" / name,
        out,
        overlay=None,
        face_model=shared / "face_detector" / "face_detection_yunet_2023mar.onnx",
        **how,
    )


def rows(result: ClipResult) -> list[dict[str, Any]]:
    text = (result.folder / "frames.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_deepfake_is_explained_for_at_most_half(
    meso4: Detector, shared: Path, tmp_path: Path
) -> None:
    """One face from first to last, all fake, all flipped; the best regions are eyes, mouth, nose.

    Four seconds lie between the frames: the neighbour helps even so. Nearer ones cost less still.
    """
    name = "deepfakes_519_515.mp4"
    warm = explained(shared, meso4, name, tmp_path / "warm", every=100)
    cold = explained(shared, meso4, name, tmp_path / "cold", every=100, warm=False)
    for result in (warm, cold):
        assert [row["frame"] for row in rows(result)] == list(range(0, 751, 100))
        assert {row["track"] for row in rows(result)} == {1}
        assert result.summary["tracks"][0]["called_fake"] == 8
        assert all(row["methods"]["lime-adv"]["flipped"] for row in rows(result))
        best = [row["methods"]["lime-adv"]["top_regions"][0]["part"] for row in rows(result)]
        assert sum(part in ("right eye", "left eye", "mouth", "nose") for part in best) >= 7
    assert [row["p_fake"] for row in rows(warm)] == [row["p_fake"] for row in rows(cold)]
    assert warm.summary["images"]["adversary"] < cold.summary["images"]["adversary"] / 2
    neighbour = warm.summary["adversary_by_start"]["neighbour"]["images_per_frame"]
    alone = cold.summary["adversary_by_start"]["own frame"]["images_per_frame"]
    assert 502 + neighbour <= (502 + alone) / 2


@pytest.mark.parametrize("name", ["original_519.mp4", "real_talking_head.mp4"])
def test_real_clips_are_mostly_called_real(
    meso4: Detector, shared: Path, tmp_path: Path, name: str
) -> None:
    """And cost next to nothing: what is called real is not explained."""
    settings = Settings(lime=Lime(samples=40))
    result = explained(shared, meso4, name, tmp_path / "out", frames=10, settings=settings)
    (track,) = result.summary["tracks"]
    assert track["sampled"] == 10
    assert track["called_fake"] <= 2
    assert result.summary["explained"] == track["called_fake"]
    assert result.summary["images"]["detection"] == 10 + track["called_fake"]
